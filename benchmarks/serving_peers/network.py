"""The network that every peer serves: JPEG bytes to the best classes, by Pillow and ONNX Runtime.

``python network.py FOLDER`` compares its probabilities with those of the Keras network.
"""

import io
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

THREADS = 2
TOP = 5
TOLERANCE = 1e-3


class Network:
    """FOLDER/network.onnx with FOLDER/rule.json: the preprocessing and the labels."""

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
        path = str(folder / "network.onnx")
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        rule = json.loads((folder / "rule.json").read_text())
        self._labels = rule["labels"]
        self._size, self._crop = rule["size"], rule["crop"]
        self._keeps_aspect = rule["resize"] == "shorter"
        self._mode = {"rgb": "RGB", "grayscale": "L"}[rule["color_mode"]]
        std = np.array(rule["std"], np.float32)
        self._gain = 1 / (255 * std)
        self._bias = -np.array(rule["mean"], np.float32) / std

    def prepare(self, data: bytes) -> np.ndarray:
        """An encoded image as the network takes it, float32 [H, W, C]."""
        image = Image.open(io.BytesIO(data))
        if image.mode != self._mode:
            image = image.convert(self._mode)
        height, width = self._size
        # What is cut out, in pixels of the photo: only that is resized.
        across, down = image.width * self._crop, image.height * self._crop
        if self._keeps_aspect:
            pixel = min(across / width, down / height)
            across, down = pixel * width, pixel * height
        left, top = (image.width - across) / 2, (image.height - down) / 2
        box = (left, top, left + across, top + down)
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box))
        prepared = np.multiply(pixels.reshape(height, width, -1), self._gain, dtype=np.float32)
        prepared += self._bias
        return prepared

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Float32 [N, H, W, C] -> [N, K]."""
        (logits,) = self._session.run(None, {self._input: images})
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)

    def best(self, images: np.ndarray) -> list[tuple[list[str], list[float]]]:
        """The best classes of each image, and their scores."""
        rows = self.probabilities(images)
        order = np.argsort(-rows, axis=1)[:, :TOP]
        return [
            ([self._labels[place] for place in places], row[places].tolist())
            for row, places in zip(rows, order, strict=True)
        ]

    def classify(self, data: bytes) -> tuple[list[str], list[float]]:
        """The same for one encoded image."""
        return self.best(self.prepare(data)[None])[0]


def check(folder: Path) -> None:
    with np.load(folder / "check.npz") as arrays:
        found = Network(folder).probabilities(arrays["prepared"])
        difference = float(np.abs(found - arrays["probabilities"]).max())
    print(difference)
    if not difference <= TOLERANCE:
        raise SystemExit(f"{folder}: the ONNX network's probabilities are {difference:.2g} off")


if __name__ == "__main__":
    check(Path(sys.argv[1]))
