"""BN-Inception against the release in Caffe, written out in NumPy."""

from functools import partial

import keras
import numpy as np
import pytest
from inceptions import assert_gives, settle
from residual import Weights, conv_bn, max_pool, relu, weights_of

from keras_cls.architectures import build_model

MODULES = [f"inception_{m}" for m in ("3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b")]


def forward(w: Weights, images: np.ndarray) -> np.ndarray:
    """Images [N, H, W, C] -> logits; filters, and which branches there are, from the weights."""
    x = relu(conv_bn(w, "conv1_7x7_s2", images.astype("f8"), 2))
    x = max_pool(x, "rounded up")
    x = relu(conv_bn(w, "conv2_3x3_reduce", x, 1))
    x = relu(conv_bn(w, "conv2_3x3", x, 1))
    x = max_pool(x, "rounded up")
    for name in MODULES:
        x = module(w, name, x)
    return x.mean((1, 2)) @ w["logits/kernel"] + w["logits/bias"]


def module(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    def chain(*names: str, stride: int = 1) -> np.ndarray:
        y = x
        for layer in names:
            y = relu(conv_bn(w, f"{name}_{layer}", y, stride if layer == names[-1] else 1))
        return y

    stride = 2 if name in ("inception_3c", "inception_4e") else 1
    branches = [
        chain("3x3_reduce", "3x3", stride=stride),
        chain("double_3x3_reduce", "double_3x3_1", "double_3x3_2", stride=stride),
    ]
    if stride == 2:
        # Caffe's rounding, or the same size as the convolutions where that differs.
        odd = [side % 2 for side in x.shape[1:3]]
        assert odd in ([0, 0], [1, 1]), "the NumPy pooling treats both sides alike"
        branches += [max_pool(x, "centred" if any(odd) else "rounded up")]
    else:
        windows = neighbours(x)
        pooled = windows.max(0) if name == "inception_5b" else windows.sum(0) / 9
        projected = conv_bn(w, f"{name}_pool_proj", pooled, 1)
        branches = [chain("1x1"), *branches, relu(projected)]
    y = np.concatenate(branches, -1)
    if f"{name}_se_reduce/kernel" in w:
        gate = y.mean((1, 2)) @ w[f"{name}_se_reduce/kernel"][0, 0] + w[f"{name}_se_reduce/bias"]
        gate = relu(gate) @ w[f"{name}_se_expand/kernel"][0, 0] + w[f"{name}_se_expand/bias"]
        y = y / (1 + np.exp(-gate))[:, None, None]
    return y


def neighbours(x: np.ndarray) -> np.ndarray:
    """Each pixel's 3x3 neighbourhood: [9, N, H, W, C], zero over the edge."""
    height, width = x.shape[1:3]
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return np.stack([x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)])


@pytest.mark.parametrize("name", ["bn_inception", "se_bn_inception"])
@pytest.mark.parametrize("size", [(64, 96), (75, 43)])
def test_equals_the_release(name: str, size: tuple[int, int]) -> None:
    model = build_model(name, 50, (*size, 3))
    settle(model, seed=1)
    assert_gives(model, partial(forward, weights_of(model)))


def test_gates_follow_every_module() -> None:
    model = build_model("se_bn_inception")
    for name in MODULES:
        scale = model.get_layer(f"{name}_se_scale")
        assert scale.input[0] is model.get_layer(name).output
        channels = scale.output.shape[-1]
        assert model.get_layer(f"{name}_se_reduce").filters == channels // 16
    features = build_model("se_bn_inception", features=True)
    assert features.output["inception_3b"] is features.get_layer("inception_3b_se_scale").output


def test_has_no_dropout() -> None:
    layers = build_model("bn_inception").layers
    assert not [layer for layer in layers if isinstance(layer, keras.layers.Dropout)]
