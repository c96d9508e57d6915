"""The CIFAR networks against a forward pass written out in NumPy."""

import keras
import numpy as np
import pytest

from keras_cls.architectures import build_model, model_spec

Weights = dict[str, np.ndarray]


def conv(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """3x3, one pixel of padding on every side."""
    height, width = x.shape[1:3]
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        x[:, i : i + height : stride, j : j + width : stride] @ kernel[i, j]
        for i in range(3)
        for j in range(3)
    )


def conv_bn(w: Weights, name: str, x: np.ndarray, stride: int = 1) -> np.ndarray:
    x = conv(x, w[f"{name}/kernel"], stride)
    mean, variance = w[f"{name}_bn/moving_mean"], w[f"{name}_bn/moving_variance"]
    return (x - mean) / np.sqrt(variance + 1e-5) * w[f"{name}_bn/gamma"] + w[f"{name}_bn/beta"]


def forward(w: Weights, units: int, shortcuts: bool, x: np.ndarray) -> np.ndarray:
    x = np.maximum(conv_bn(w, "conv1", x), 0)
    for stage in (2, 3, 4):
        for unit in range(1, units + 1):
            stride = 2 if stage > 2 and unit == 1 else 1
            y = np.maximum(conv_bn(w, f"conv{stage}_{unit}_conv1", x, stride), 0)
            y = conv_bn(w, f"conv{stage}_{unit}_conv2", y)
            if shortcuts:
                side = (y.shape[-1] - x.shape[-1]) // 2
                y = y + np.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (side, side)))
            x = np.maximum(y, 0)
    return x.mean((1, 2)) @ w["logits/kernel"] + w["logits/bias"]


@pytest.mark.parametrize("name", ["resnet20_cifar10", "resnet56_cifar10", "plain20_cifar10"])
@pytest.mark.parametrize("size", [(32, 32), (19, 14)])
def test_equals_numpy(name: str, size: tuple[int, int]) -> None:
    model = build_model(name, input_shape=(*size, 3))
    random = np.random.default_rng(0)
    for variable in model.variables:
        if variable.name != "kernel":
            low, high = (0.5, 1.5) if variable.name in ("gamma", "moving_variance") else (-0.5, 0.5)
            variable.assign(random.uniform(low, high, variable.shape))
    weights = {v.path: keras.ops.convert_to_numpy(v).astype("f8") for v in model.variables}
    images = random.normal(size=(3, *size, 3))
    expected = forward(weights, model_spec(name).units, name.startswith("resnet"), images)
    logits = model(images.astype("f4"), training=False).numpy()
    assert np.abs(logits - expected).max() <= 1e-4 * max(1, np.abs(expected).max())
