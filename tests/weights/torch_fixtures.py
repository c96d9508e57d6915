"""Reading tests/weights/fixtures: what timm and torchvision themselves give for drawn weights."""

import gzip
import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_weights import draw, draw_images

from keras_cls.weights import create_model, provenance
from keras_cls.weights.source import Source

FOLDER = Path(__file__).parent / "fixtures"

Logits = Mapping[tuple[int, int], np.ndarray]


@dataclass(frozen=True)
class Fixture:
    """A network of a library: its tensors' shapes, and logits by image height and width."""

    shapes: Mapping[str, tuple[int, ...]]
    logits: Logits
    auxiliary_logits: Logits

    def draw(self) -> dict[str, np.ndarray]:
        """Its tensors with the weights that the logits are of."""
        return {name: draw(name, shape) for name, shape in self.shapes.items()}


def read_fixture(source: str, name: str) -> Fixture:
    content = json.loads(gzip.decompress((FOLDER / f"{source}-{name}.json.gz").read_bytes()))
    return Fixture(
        {key: tuple(shape) for key, shape in content["tensors"].items()},
        _by_size(content["logits"]),
        _by_size(content.get("auxiliary_logits", {})),
    )


def _by_size(logits: dict[str, list[float]]) -> Logits:
    sizes = {text: tuple(map(int, text.split("x"))) for text in logits}
    return {(sizes[text][0], sizes[text][1]): np.array(row) for text, row in logits.items()}


def images(height: int, width: int) -> np.ndarray:
    """The image that the logits are of, float32 [1, height, width, 3]."""
    return draw_images(height, width).transpose(0, 2, 3, 1)


def assert_same_logits(found: object, expected: np.ndarray) -> None:
    bound = 1e-4 * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(np.asarray(found)[0], expected, atol=bound, rtol=0)


def cases(source: Source, default: Container[tuple[str, tuple[int, int]]]) -> Iterator[Any]:
    """A network of the source and an image size each; those not in ``default`` are slow."""
    for name, release in source.releases.items():
        fixture = read_fixture(source.name, release.name)
        for size in fixture.logits:
            marks = () if (name, size) in default else pytest.mark.slow
            yield pytest.param(name, fixture, size, marks=marks, id=f"{name}-{size[0]}x{size[1]}")


def assert_gives_the_logits(
    source: Source, name: str, fixture: Fixture, size: tuple[int, int], file: Path
) -> None:
    """``file`` holds the fixture's weights; it is removed once they are loaded."""
    model = create_model(name, input_shape=(*size, 3), weights=file)
    file.unlink()
    assert_same_logits(model(images(*size), training=False), fixture.logits[size])
    found = provenance(model)
    assert found is not None
    assert (found.source, found.classes) == (source.name, "imagenet")
    assert found.preprocessing == source.releases[name].preprocessing.adapted_to((*size, 3))
