"""The published CIFAR-10 weights give their published accuracy."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_cls.architectures import model_spec
from keras_cls.weights import akamaster, create_model


@pytest.fixture(scope="module")
def cifar10_test(data_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images [5000, 32, 32, 3], scaled as the weights expect, and labels [5000]."""
    labels = np.load(data_dir / "cifar10" / "test_public_labels.npy")
    sheet = np.asarray(Image.open(data_dir / "cifar10" / "test_public.webp").convert("RGB"))
    rows, columns = sheet.shape[0] // 32, sheet.shape[1] // 32
    tiles = sheet.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
    scale = model_spec("resnet20_cifar10").preprocessing
    images = (tiles[: len(labels)] / 255 - scale.mean) / scale.std
    return images.astype("float32"), labels


@pytest.mark.data
@pytest.mark.parametrize(
    ("depth", "accuracy"), [(20, 92.1), pytest.param(56, 93.7, marks=pytest.mark.slow)]
)
def test_published_accuracy(
    depth: int, accuracy: float, data_dir: Path, cifar10_test: tuple[np.ndarray, np.ndarray]
) -> None:
    images, labels = cifar10_test
    weights = data_dir / "weights" / f"cifar10_resnet{depth}.npz"
    model = create_model(f"resnet{depth}_cifar10", weights=weights)
    found = model.predict(images, batch_size=500, verbose=0).argmax(1)
    assert 100 * (found == labels).mean() == pytest.approx(accuracy, abs=0.1)


def test_names_of_unknown_layers_are_a_bug() -> None:
    with pytest.raises(ValueError, match="conv9"):
        akamaster.module("conv9")
