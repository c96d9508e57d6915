"""Caffe's layers by their definitions, to run the released prototxt files with our weights."""

from math import ceil
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def randomise_biases(model: keras.Model, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.name == "bias":
            variable.assign(random.uniform(-0.5, 0.5, variable.shape))


def pool(x: np.ndarray, kind: str, size: int = 3, stride: int = 2, pad: int = 0) -> np.ndarray:
    """pooling_layer.cpp: outputs are rounded up, windows clipped to the image."""
    outputs = [ceil((side + 2 * pad - size) / stride) + 1 for side in x.shape[1:3]]
    if pad:
        outputs = [
            count - ((count - 1) * stride >= side + pad)
            for count, side in zip(outputs, x.shape[1:3], strict=True)
        ]
    rows = []
    for i in range(outputs[0]):
        row = []
        for j in range(outputs[1]):
            starts = i * stride - pad, j * stride - pad
            ends = [
                min(start + size, side + pad)
                for start, side in zip(starts, x.shape[1:3], strict=True)
            ]
            count = (ends[0] - starts[0]) * (ends[1] - starts[1])
            window = x[:, max(starts[0], 0) : ends[0], max(starts[1], 0) : ends[1]]
            row.append(window.max((1, 2)) if kind == "MAX" else window.sum((1, 2)) / count)
        rows.append(np.stack(row, 1))
    return np.stack(rows, 1)


def lrn(x: np.ndarray, k: float = 1, alpha: float = 1e-4, beta: float = 0.75) -> np.ndarray:
    """lrn_layer.cpp with local_size 5: alpha is divided by it."""
    squares = np.pad(x**2, ((0, 0), (0, 0), (0, 0), (2, 2)))
    energy = sum(squares[..., shift : shift + x.shape[-1]] for shift in range(5))
    return x / (k + alpha / 5 * energy) ** beta


class Layers:
    """The layers with weights, which are those of a Keras model by their names."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model

    def conv(
        self, x: np.ndarray, name: str, stride: int = 1, pad: int = 0, group: int = 1
    ) -> np.ndarray:
        """Convolution and ReLU."""
        kernel, bias = self.model.get_layer(name).get_weights()
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        parts = [
            tf.nn.conv2d(some_x, some_kernel, stride, "VALID")
            for some_x, some_kernel in zip(
                np.split(x, group, -1), np.split(kernel, group, -1), strict=True
            )
        ]
        return np.maximum(np.concatenate(parts, -1) + bias, 0)

    def inner_product(self, x: np.ndarray, name: str) -> np.ndarray:
        kernel, bias = self.model.get_layer(name).get_weights()
        x = x.reshape(len(x), -1)
        return x @ kernel.reshape(x.shape[1], -1) + bias


def assert_close(found: Any, expected: np.ndarray) -> None:
    found = np.asarray(found)
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 1e-2
    assert expected.std() > 1e-3
    assert np.abs(found - expected).max() <= 1e-4 * max(1, np.abs(expected).max())
