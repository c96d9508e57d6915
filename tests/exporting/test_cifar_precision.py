"""What smaller numbers cost, on real images: the table of docs/saved_model.md."""

import numpy as np
import pytest
from real_data import cifar10

import keras_cls
from keras_cls.exporting.calibration import METHODS
from keras_cls.exporting.verification import SessionModel

pytestmark = [pytest.mark.data, pytest.mark.slow]

ACCURACY = {20: 92.12, 56: 93.70}
LOST = {"bfloat16": 0.2, "int8": 0.5}


@pytest.mark.parametrize("depth", [20, 56])
@pytest.mark.parametrize(
    ("precision", "method"), [("bfloat16", "mse"), *(("int8", method) for method in METHODS)]
)
def test_accuracy_is_kept(data_dir, tmp_path, depth, precision, method):
    folder = data_dir / "cifar10"
    weights = data_dir / "weights" / f"cifar10_resnet{depth}.npz"
    network = keras_cls.create_model(f"resnet{depth}_cifar10", weights=weights)
    classifier = keras_cls.Classifier(network, (folder / "classes.txt").read_text().split())
    version = keras_cls.export(
        classifier,
        tmp_path / "model",
        precision=precision,
        calibration=cifar10(folder, "train_1"),
        calibration_method=method,
    )
    images, targets = cifar10(folder, "test_public")
    with SessionModel(version) as run:
        found = np.concatenate(
            [
                run("images", {"images": images[start : start + 500]})["probabilities"]
                for start in range(0, len(images), 500)
            ]
        )
    accuracy = 100 * np.mean(found.argmax(axis=1) == targets)
    print(depth, precision, method, accuracy)
    assert accuracy >= ACCURACY[depth] - LOST[precision]
