"""torchvision's and timm's own logits, for weights drawn by a rule and loaded from a file."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from drawn_weights import draw, draw_images

from keras_cls.weights import create_model
from keras_cls.weights.torchvision import SOURCE, module

FIXTURES = Path(__file__).parent / "fixtures"
DEFAULT = ("resnet18", "resnet50", "resnext50_32x4d")


def cases():
    for name in SOURCE.releases:
        for source in ("timm", "torchvision"):
            if (FIXTURES / f"{source}-{name}.json.gz").exists():
                marks = () if name in DEFAULT and source == "timm" else pytest.mark.slow
                yield pytest.param(source, name, marks=marks)


@pytest.mark.parametrize(("source", "name"), cases())
def test_gives_the_logits_of_the_source(source: str, name: str, tmp_path: Path) -> None:
    fixture = json.loads(gzip.decompress((FIXTURES / f"{source}-{name}.json.gz").read_bytes()))
    file = tmp_path / f"{name}.npz"
    np.savez(file, **{key: draw(key, tuple(shape)) for key, shape in fixture["tensors"].items()})
    for size, expected in fixture["logits"].items():
        height, width = map(int, size.split("x"))
        model = create_model(name, input_shape=(height, width, 3), weights=file)
        images = draw_images(height, width).transpose(0, 2, 3, 1)
        found = model(images, training=False).numpy()[0]
        bound = 1e-4 * max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(found, expected, atol=bound, rtol=0)


def test_names_of_unknown_layers_are_a_bug() -> None:
    with pytest.raises(ValueError, match="pool1"):
        module("pool1")
