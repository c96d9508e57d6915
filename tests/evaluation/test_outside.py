"""The harness against an independent one: a LiteRT model of MobileNetV2 and a plain loop.

The plain loop reads and resizes with Pillow, which rounds to whole grey levels in between; ours
does not. Images whose answer hangs on that may fall either way.
"""

import csv

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_cls.evaluation import evaluate
from keras_cls.preprocessing import Preprocessing

pytestmark = [
    pytest.mark.data,
    pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated"),
]

FLIPS = 3  # of 250: images that the rounding of pixels may turn; 0 and 1 were seen


class LiteRT:
    """A quantized LiteRT model with a background class, as the evaluation wants to be asked."""

    # The network takes the pixels themselves.
    preprocessing = Preprocessing(size=224, crop=0.875, mean=(0.0,), std=(1 / 255,))

    def __init__(self, file, labels):
        self.labels = labels
        self._interpreter = tf.lite.Interpreter(str(file), num_threads=2)
        self._interpreter.allocate_tensors()

    def forward(self, batch):
        scores = np.stack([self.scores(np.rint(image).astype(np.uint8)) for image in batch])
        return (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)

    def scores(self, pixels):
        """uint8 [224, 224, 3] -> float64 [1000], without the background."""
        interpreter = self._interpreter
        (inputs,), (outputs,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.set_tensor(inputs["index"], pixels[None])
        interpreter.invoke()
        return interpreter.get_tensor(outputs["index"])[0, 1:].astype(np.float64) + 1e-3


def central_crop(file):
    """Short side to 256, the central 224 x 224: as Pillow does it."""
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    width, height = image.size
    shorter = min(width, height)
    size = (width * 256 // shorter, height * 256 // shorter)
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
    return np.asarray(image.crop((left, top, left + 224, top + 224)))


@pytest.fixture(scope="module")
def gallery(data_dir, tmp_path_factory):
    """The manifest of the photos by WordNet id, the files and their classes."""
    with (data_dir / "gallery" / "labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    files = [data_dir / "gallery" / "photos" / row["file"] for row in rows]
    classes = [int(row["index"]) for row in rows]
    manifest = tmp_path_factory.mktemp("gallery") / "photos.csv"
    with manifest.open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [
                ("file", "label"),
                *((str(f), f"class {c}") for f, c in zip(files, classes, strict=True)),
            ]
        )
    return manifest, files, np.array(classes)


@pytest.mark.parametrize(
    "name", ["mobilenet_v2_1.0_224_quant.tflite", "tf2_mobilenet_v2_1.0_224_ptq.tflite"]
)
def test_mobilenet_on_the_gallery(data_dir, gallery, name, record_property):
    manifest, files, classes = gallery
    scorer = LiteRT(data_dir / "weights" / name, [f"class {n}" for n in range(1000)])
    result = evaluate(scorer, manifest)

    rows = np.stack([scorer.scores(central_crop(file)) for file in files])
    order = np.argsort(-rows, axis=1, kind="stable")
    top1 = int((order[:, 0] == classes).sum())
    top5 = int((order[:, :5] == classes[:, None]).any(axis=1).sum())
    ours1, ours5 = round(result.top1 * 250), round(result.top5 * 250)
    record_property("top1", (ours1, top1))
    record_property("top5", (ours5, top5))
    print(f"{name}: top-1 {ours1} and {top1}, top-5 {ours5} and {top5} of 250")
    assert result.count == 250
    assert abs(ours1 - top1) <= FLIPS
    assert abs(ours5 - top5) <= FLIPS
