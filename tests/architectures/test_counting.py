"""Multiply-adds against counts by hand."""

import keras
import pytest

from keras_cls.architectures import count_multiply_adds
from keras_cls.errors import ConfigError

L = keras.layers


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (L.Conv2D(6, 3, padding="same"), 8 * 10 * 3 * 3 * 4 * 6),
        (L.Conv2D(6, 3, strides=2), 3 * 4 * 3 * 3 * 4 * 6),
        (L.Conv2D(6, (1, 3), groups=2), 8 * 8 * 3 * 2 * 6),
        (L.DepthwiseConv2D(3, depth_multiplier=2), 6 * 8 * 3 * 3 * 4 * 2),
        (L.SeparableConv2D(5, 3, strides=2), 3 * 4 * (3 * 3 * 4 + 4 * 5)),
        (L.Dense(7), 8 * 10 * 4 * 7),
        (L.BatchNormalization(), 0),
        (L.MaxPooling2D(), 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, L.Layer) else "",
)
def test_counts_by_hand(layer: keras.layers.Layer, expected: int) -> None:
    images = keras.Input((8, 10, 4))
    assert count_multiply_adds(keras.Model(images, layer(images))) == expected


def test_counts_nested_models() -> None:
    inner = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(2, 1), L.Flatten()])
    images = keras.Input((8, 8, 3))
    model = keras.Model(images, L.Dense(5)(inner(images)))
    assert count_multiply_adds(model) == 8 * 8 * 3 * 2 + 8 * 8 * 2 * 5


def test_open_sizes_cannot_be_counted() -> None:
    images = keras.Input((None, None, 3))
    model = keras.Model(images, L.Conv2D(2, 1, name="open")(images))
    with pytest.raises(ConfigError, match="open: expected a fixed output size"):
        count_multiply_adds(model)
