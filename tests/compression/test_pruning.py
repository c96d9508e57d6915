"""Pruned twins have the zeros they were asked for, and so has the Keras 3 model."""

import keras
import numpy as np
import pytest
import tf_keras
from small_networks import drawn, outputs, trained

from keras_cls.compression import (
    ConstantSparsity,
    PolynomialDecay,
    Pruning,
    copy_back,
    prunable,
    pruning_callbacks,
    strip_pruning,
    twin_of,
)
from keras_cls.compression.pruning import _Schedule, lamp_scores
from keras_cls.errors import ConfigError


def pruned(name: str, settings: Pruning, steps: int = 4) -> tuple[keras.Model, tf_keras.Model]:
    """A Keras 3 model with its pruned twin's weights, and that twin."""
    model, images = drawn(name)
    twin = prunable(twin_of(model), settings)
    stripped = strip_pruning(trained(twin, images, steps, pruning_callbacks()))
    copy_back(stripped, model)
    for found, expected in zip(outputs(model, images), outputs(stripped, images), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    return model, stripped


def kernels(model: keras.Model) -> dict[str, np.ndarray]:
    """Of convolutions and dense layers, [.., C, filters]; pointwise ones of separable ones."""
    found = {}
    for layer in model.layers:
        for variable in layer.weights:
            plain = variable.name == "kernel" and "depthwise" not in layer.name
            if variable.name == "pointwise_kernel" or plain:
                found[layer.name] = keras.ops.convert_to_numpy(variable)
    return found


@pytest.mark.parametrize(
    ("name", "sparsity", "schedule"),
    [
        ("lenet5", 0.5, ConstantSparsity()),
        ("lenet5", 0.9, PolynomialDecay(end_step=3, initial_sparsity=0.3, frequency=2)),
        pytest.param("resnet20_cifar10", 0.75, PolynomialDecay(end_step=2), marks=pytest.mark.slow),
        pytest.param("googlenet", 0.6, ConstantSparsity(), marks=pytest.mark.slow),
        pytest.param("resnext50_32x4d", 0.6, ConstantSparsity(), marks=pytest.mark.slow),
        pytest.param("nasnet_cifar10", 0.6, ConstantSparsity(), marks=pytest.mark.slow),
    ],
)
def test_each_kernel_has_the_share_of_zeros(
    name: str, sparsity: float, schedule: ConstantSparsity | PolynomialDecay
) -> None:
    model, stripped = pruned(name, Pruning(sparsity, schedule))
    found = kernels(model)
    assert len(found) > 4
    for layer, kernel in found.items():
        assert np.mean(kernel == 0) == pytest.approx(sparsity, abs=1 / kernel.size + 1e-6), layer
        twins = stripped.get_layer(layer)
        twin = getattr(twins, "pointwise_kernel", None)
        np.testing.assert_array_equal(kernel, (twins.kernel if twin is None else twin).numpy())


def test_layers_may_have_a_share_of_their_own() -> None:
    model, _ = pruned("lenet5", Pruning(0.5, by_layer={"C3": 0.9, "F6": 0}))
    found = {name: np.mean(kernel == 0) for name, kernel in kernels(model).items()}
    assert found.pop("C3") == pytest.approx(0.9, abs=0.01)
    assert found.pop("F6") == 0
    assert all(share == pytest.approx(0.5, abs=0.01) for share in found.values())


def test_layers_with_weights_to_spare_get_more_of_the_zeros() -> None:
    model, _ = pruned("lenet5", Pruning(0.8, allocation="lamp"))
    found = kernels(model)
    zeros = sum(np.sum(kernel == 0) for kernel in found.values())
    assert zeros / sum(kernel.size for kernel in found.values()) == pytest.approx(0.8, abs=0.01)
    shares = {name: np.mean(kernel == 0) for name, kernel in found.items()}
    assert shares["C5"] > 0.8 > shares["C1"], "the largest kernel, and the smallest"
    assert max(shares.values()) < 1


def test_lamp_scores_are_those_of_the_paper() -> None:
    kernel = np.array([[3.0, -1.0], [0.0, 2.0]])
    # Sorted: 0, 1, 4, 9; each over the sum from itself on.
    np.testing.assert_allclose(lamp_scores(kernel), [0 / 14, 1 / 14, 4 / 13, 9 / 9])


def test_a_layer_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"by_layer names \['conv9'\], which it does not have"):
        prunable(twin_of(drawn("lenet5")[0]), Pruning(by_layer={"conv9": 0.9}))


@pytest.mark.parametrize(
    "name", ["lenet5", pytest.param("resnet20_cifar10", marks=pytest.mark.slow)]
)
def test_two_of_four_input_channels_are_zero(name: str) -> None:
    model, _ = pruned(name, Pruning(0.0, two_of_four=True), steps=2)
    found = kernels(model)
    in_fours = {layer: k for layer, k in found.items() if k.shape[-2] % 4 == 0}
    assert 1 < len(in_fours) < len(found)
    for layer, kernel in found.items():
        if layer not in in_fours:
            assert (kernel != 0).all()
            continue
        groups = np.moveaxis(kernel, -2, -1).reshape(-1, 4)
        assert (np.sum(groups == 0, axis=1) == 2).all(), layer


def test_frozen_layers_and_depthwise_kernels_stay() -> None:
    inputs = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(8, 3, name="frozen", trainable=False)(inputs)
    x = keras.layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = keras.layers.Conv2D(8, 3, name="free")(x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 4)).astype("float32")
    twin = prunable(twin_of(model), Pruning(0.5))
    copy_back(strip_pruning(trained(twin, images, 1, pruning_callbacks())), model)
    zeros = {layer.name: np.mean(layer.kernel == 0) for layer in model.layers if layer.weights}
    assert zeros == {"frozen": 0, "depthwise": 0, "free": 0.5}


def test_the_schedule_ends_where_it_should() -> None:
    schedule = _Schedule(Pruning(0.8, PolynomialDecay(7, begin_step=2, frequency=3)), 0.8)
    due, shares = zip(*(schedule(step) for step in range(1, 12)), strict=True)
    assert [int(step) for step in np.flatnonzero(due)] == [2, 5, 7]
    assert float(shares[2]) == 0
    assert float(shares[7]) == float(shares[10]) == pytest.approx(0.8)
    assert float(shares[5]) == pytest.approx(0.8 * (1 - 0.4**3))


def test_a_wrapped_twin_does_not_go_back() -> None:
    model, _ = drawn("lenet5")
    with pytest.raises(ValueError, match="stripped of pruning"):
        copy_back(prunable(twin_of(model)), model)


def test_what_cannot_be_pruned() -> None:
    class Subclassed(tf_keras.Model):
        def call(self, x: object) -> object:
            return x

    with pytest.raises(ConfigError, match="functional tf_keras model"):
        prunable(Subclassed())
    with pytest.raises(ConfigError, match="functional tf_keras model"):
        prunable(drawn("lenet5")[0])
    inputs = keras.Input((4, 4, 3))
    with pytest.raises(ConfigError, match="no layer has a kernel"):
        prunable(twin_of(keras.Model(inputs, keras.layers.Flatten()(inputs))))
