"""The network of arXiv 2404.00498: its first layer, its first weights, its numbers."""

import math
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_cls.architectures import build_model
from keras_cls.architectures.airbench import Identity, whiten
from keras_cls.errors import DataError

# The error function, exact to a double.
erf = np.vectorize(math.erf)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return build_model("airbench94_cifar10")


def smooth_images(count: int) -> np.ndarray:
    noise = np.random.default_rng(3).normal(size=(count, 32, 32, 3))
    return (noise.cumsum(1).cumsum(2) / 10).astype("float32")


def test_whitened_patches_are_white(model: keras.Model) -> None:
    images = smooth_images(40)
    whiten(model, images)
    layer = model.get_layer("whitening")
    found = layer(images).numpy().reshape(-1, 24) - layer.bias.numpy()
    np.testing.assert_allclose(found[:, 12:], -found[:, :12], atol=1e-4)
    covariance = found[:, :12].T @ found[:, :12] / len(found)
    np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), 0, atol=1e-2)
    # Directions of hardly any variance stay below one, as epsilon is added to it.
    assert np.all(np.diag(covariance) < 1.01)
    assert np.diag(covariance)[0] == pytest.approx(1, abs=0.01)
    deviations = 1 / np.linalg.norm(layer.kernel.numpy().reshape(12, 24)[:, :12], axis=0)
    assert np.all(np.diff(deviations) <= 1e-6)  # the strongest first


@pytest.mark.parametrize("shape", [(0, 32, 32, 3), (2, 32, 32, 1), (32, 32, 3)])
def test_whitening_says_what_it_needs(model: keras.Model, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"expected \[N, H, W, 3\].*found shape"):
        whiten(model, np.zeros(shape, "float32"))


def test_only_the_whitening_kernel_is_not_trained(model: keras.Model, tmp_path: Path) -> None:
    model.save(tmp_path / "model.keras")
    for network in (model, keras.saving.load_model(tmp_path / "model.keras")):
        frozen = {v.path for v in network.non_trainable_variables if "moving" not in v.name}
        assert frozen == {"whitening/kernel"}


def test_convolutions_start_as_identities() -> None:
    images = np.random.default_rng(0).normal(size=(2, 6, 5, 4)).astype("float32")
    layer = keras.layers.Conv2D(7, 3, padding="same", kernel_initializer=Identity(seed=1))
    outputs = layer(images).numpy()
    np.testing.assert_allclose(outputs[..., :4], images, atol=1e-6)
    others = layer.kernel.numpy()[..., 4:]
    limit = 1 / math.sqrt(9 * 4)
    assert 0.8 * limit < np.abs(others).max() <= limit
    np.testing.assert_array_equal(Identity(seed=1)((3, 3, 4, 7)), layer.kernel)
    fewer = np.asarray(Identity()((3, 3, 4, 2)))
    assert fewer.sum() == 2 and fewer[1, 1, 0, 0] == fewer[1, 1, 1, 1] == 1


def test_equals_numpy(model: keras.Model) -> None:
    random = np.random.default_rng(5)
    for variable in model.variables:
        if variable.name != "kernel":
            low, high = (0.5, 1.5) if variable.name == "moving_variance" else (-0.5, 0.5)
            variable.assign(random.uniform(low, high, variable.shape))
    w = {v.path: keras.ops.convert_to_numpy(v).astype("f8") for v in model.variables}
    images = random.normal(size=(2, 32, 32, 3))

    def convolved(x: np.ndarray, name: str, pad: int) -> np.ndarray:
        kernel = w[f"{name}/kernel"]
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        side = len(kernel)
        height, width = x.shape[1] - side + 1, x.shape[2] - side + 1
        return sum(
            x[:, i : i + height, j : j + width] @ kernel[i, j]
            for i in range(side)
            for j in range(side)
        )

    def gelu(x: np.ndarray) -> np.ndarray:
        return x * 0.5 * (1 + erf(x / math.sqrt(2)))

    def normalized(x: np.ndarray, name: str) -> np.ndarray:
        deviation = np.sqrt(w[f"{name}/moving_variance"] + 1e-12)
        return gelu((x - w[f"{name}/moving_mean"]) / deviation + w[f"{name}/beta"])

    x = gelu(convolved(images, "whitening", 0) + w["whitening/bias"])
    for block in ("block1", "block2", "block3"):
        x = convolved(x, f"{block}_conv1", 1)
        side = x.shape[1] // 2
        x = x[:, : 2 * side, : 2 * side].reshape(2, side, 2, side, 2, -1).max((2, 4))
        x = normalized(x, f"{block}_conv1_bn")
        x = normalized(convolved(x, f"{block}_conv2", 1), f"{block}_conv2_bn")
    expected = x.max((1, 2)) @ w["logits/kernel"] / 9
    logits = model(images.astype("f4")).numpy()
    assert np.abs(logits - expected).max() <= 1e-4 * max(1, np.abs(expected).max())
