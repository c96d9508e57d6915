"""Small classifiers and image folders that many tests share."""

import io
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from keras_cls.classifier import Classifier
from keras_cls.preprocessing import Preprocessing

LABELS = ["blue", "green", "red"]
COLOURS = {"blue": (30, 40, 220), "green": (20, 200, 60), "red": (220, 30, 30)}


def small_classifier(
    channels=3, size=(24, 20), labels=LABELS, seed=0, multi_label=False, **rule
) -> Classifier:
    """A convolution, batch normalization and a dense layer with random weights."""
    keras.utils.set_random_seed(seed)
    mode = {1: "grayscale", 3: "rgb", 4: "rgba"}[channels]
    rule = {"mean": (0.4,), "std": (0.3,), **rule}
    inputs = keras.Input((*size, channels), name="images")
    x = keras.layers.Conv2D(8, 3, strides=2, name="conv1")(inputs)
    x = keras.layers.BatchNormalization(name="conv1_bn")(x)
    x = keras.layers.ReLU(name="conv1_relu")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    outputs = keras.layers.Dense(len(labels), name="logits")(x)
    model = keras.Model(inputs, outputs, name="small")
    preprocessing = Preprocessing(size=size, color_mode=mode, **rule)
    return Classifier(model, labels, preprocessing, multi_label=multi_label)


def photo(label="red", height=40, width=50, seed=0) -> np.ndarray:
    """A noisy picture in a class's colour, uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(-25, 26, (height, width, 3))
    return np.clip(np.array(COLOURS[label]) + noise, 0, 255).astype(np.uint8)


def pixels(count: int = 6) -> np.ndarray:
    """Pictures of all colours at a small classifier's input size, uint8 [count, 24, 20, 3]."""
    return np.stack([photo(LABELS[i % 3], 24, 20, seed=i) for i in range(count)])


def encoded(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    """The picture as the bytes of a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind, **options)
    return buffer.getvalue()


def colour_folder(folder: Path, per_class: int = 6, kind: str = "jpg") -> Path:
    """A folder of class folders with pictures in each class's colour."""
    for label in LABELS:
        for number in range(per_class):
            file = folder / label / f"{number:02d}.{kind}"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = photo(label, height=30 + number, seed=number)
            file.write_bytes(encoded(pixels, {"jpg": "JPEG", "png": "PNG"}[kind]))
    return folder


def answers_elsewhere(version: Path, images: np.ndarray, **environment: str) -> np.ndarray:
    """An export's probabilities for pixels, in a process with this environment."""
    script = (
        "import sys, numpy as np\n"
        "from keras_cls.exporting.verification import SessionModel\n"
        "with SessionModel(sys.argv[1]) as run:\n"
        "    found = run('images', {'images': np.load(sys.argv[2])})\n"
        "np.save(sys.argv[3], found['probabilities'])\n"
    )
    given, found = version.parent / "given.npy", version.parent / "found.npy"
    np.save(given, images)
    command = [sys.executable, "-c", script, version, given, found]
    subprocess.run(command, check=True, env={**os.environ, **environment})
    return np.load(found)
