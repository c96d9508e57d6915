"""What benchmarks/serving.py serves: a network as SavedModels and as ONNX, and photos for it.

The weights are random, for the time of an answer does not depend on them. Photos are real ones
where the public images are there, else smooth noise.
"""

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.peers import convert_to_onnx, environment
from benchmarks.real_images import data_folder, gallery_photos, has_data, read_mnist
from benchmarks.tables import ROOT

ONNX = ("onnx==1.23.2", "tf2onnx==1.17.0")
PHOTOS = 8
CALIBRATION = 8
SIZES = {"lenet5": (28, 28), "resnet50": (500, 375)}
"""Width and height of the photos for each network."""


@dataclass(frozen=True)
class Artefacts:
    """The files of one network, in a folder.

    Attributes:
        name: of the network, which is what servers call the model as well.
        folder: where all is.
    """

    name: str
    folder: Path

    @property
    def photos(self) -> list[Path]:
        """The JPEG files."""
        return sorted((self.folder / "photos").iterdir())

    @property
    def onnx(self) -> Path:
        """The folder for the peers: network.onnx, rule.json, check.npz."""
        return self.folder / "onnx"

    def model(self, precision: str) -> Path:
        """The folder of versions."""
        return self.folder / precision / self.name


def write_artefacts(name: str, folder: Path, precisions: Sequence[str], *, onnx: bool) -> Artefacts:
    """Write all of it; the photos are real ones if there are any.

    Args:
        name: of the network.
        folder: where to.
        precisions: of the SavedModels.
        onnx: for the peers as well.
    """
    made = Artefacts(name, folder)
    write_photos(name, folder / "photos")
    command = [sys.executable, "-m", "benchmarks.serving_models", name, folder, *precisions]
    subprocess.run(command, check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
    if onnx:
        python = environment("serving/onnx", ONNX)
        convert_to_onnx(python, folder / "keras", made.onnx / "network.onnx")
    return made


def photos_are_real(name: str) -> bool:
    """Whether :func:`write_photos` has real ones."""
    return has_data("mnist" if name == "lenet5" else "gallery")


def write_photos(name: str, folder: Path) -> None:
    """Some JPEG files such as the network is asked about."""
    folder.mkdir(parents=True)
    for number, data in enumerate(_photos(name)):
        (folder / f"{number}.jpg").write_bytes(data)


def _photos(name: str) -> list[bytes]:
    if not photos_are_real(name):
        random = np.random.default_rng(0)
        noise = random.integers(0, 256, (PHOTOS, 12, 16, 3), dtype=np.uint8)
        bicubic = Image.Resampling.BICUBIC
        return [_jpeg(Image.fromarray(each).resize(SIZES[name], bicubic)) for each in noise]
    if name == "lenet5":
        digits = read_mnist(data_folder("mnist"))["test_images"][:PHOTOS]
        return [_jpeg(Image.fromarray(each)) for each in digits]
    return [path.read_bytes() for path in gallery_photos(SIZES[name])[:PHOTOS]]


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def _write(name: str, folder: Path, precisions: Sequence[str]) -> None:
    """The SavedModels and what else is made with Keras, in a process of its own."""
    import keras

    import keras_cls

    keras.utils.set_random_seed(0)
    model = keras_cls.create_model(name)
    labels = [f"class {number}" for number in range(model.output_shape[-1])]
    classifier = keras_cls.Classifier(model, labels)
    photos = [path.read_bytes() for path in Artefacts(name, folder).photos]
    prepared = np.stack([classifier.prepared(photo) for photo in photos])
    _settle(model, prepared)
    for precision in precisions:
        # Random weights: how far the answers are apart says nothing.
        keras_cls.export(
            classifier,
            folder / precision / name,
            precision=precision,
            calibration=photos[:CALIBRATION],
            verify="report",
        )
    model.export(folder / "keras", verbose=False)
    peers = Artefacts(name, folder).onnx
    peers.mkdir()
    probabilities = classifier.forward(prepared)
    np.savez(peers / "check.npz", prepared=prepared, probabilities=probabilities)
    rule = classifier.preprocessing.to_dict() | {"labels": labels}
    (peers / "rule.json").write_text(json.dumps(rule))


def _settle(model: Any, prepared: np.ndarray) -> None:
    """Give batch normalization statistics of these images, so that the answers mean something.

    And offsets, as training does: TensorFlow's optimizer removes what adds zero.
    """
    random = np.random.default_rng(0)
    layers = [layer for layer in model.layers if hasattr(layer, "moving_mean")]
    kept = [layer.momentum for layer in layers]
    for layer in layers:
        layer.beta.assign(random.uniform(-0.2, 0.2, layer.beta.shape))
        layer.momentum = 0.0
    model(prepared, training=True)
    for layer, momentum in zip(layers, kept, strict=True):
        layer.momentum = momentum


if __name__ == "__main__":
    network, target, *kinds = sys.argv[1:]
    _write(network, Path(target), kinds)
