"""Quantization-aware twins: what is rounded where, and that they can be trained."""

import keras
import numpy as np
import pytest
import tf_keras
from small_networks import SMALL, drawn, outputs, trained

from keras_cls.architectures import list_models, model_spec
from keras_cls.architectures.layers import LocalResponseNormalization
from keras_cls.compression import (
    Clustering,
    Pruning,
    Quantization,
    calibrate,
    clusterable,
    copy_back,
    prunable,
    pruning_callbacks,
    quantizable,
    ranges_of,
    strip_clustering,
    strip_pruning,
    twin_of,
)
from keras_cls.errors import ConfigError
from keras_cls.exporting import nodes
from keras_cls.exporting.byte_formats import ByteFormat
from keras_cls.exporting.folding import fold
from keras_cls.exporting.fusing import fuse
from keras_cls.exporting.int8_network import rounded
from keras_cls.exporting.lowering import lower

DEFAULT = ["lenet5", "resnet20_cifar10"]


@pytest.mark.parametrize(
    "name",
    [n if n in DEFAULT else pytest.param(n, marks=pytest.mark.slow) for n in list_models()
     if n in SMALL],
)  # fmt: skip
def test_networks_can_be_quantized_and_trained(name: str) -> None:
    model, images = drawn(name, aux=bool(model_spec(name).aux_heads))
    expected = outputs(model, images)
    # Statistics of a network that was not trained are far from those of a batch; so are the ranges.
    twin = quantizable(twin_of(model), Quantization(range_decay=0))
    calibrate(twin, [images])
    for found, logits in zip(outputs(twin, images), expected, strict=True):
        assert 0 < np.abs(found - logits).max() < 0.15 * np.abs(logits).max()
    before = model.get_weights()
    trained(twin, images)
    assert all(np.isfinite(each).all() for each in outputs(twin, images))
    copy_back(twin, model)
    moved = [np.any(a != b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert np.mean(moved) > 0.8


def sample(*chain: keras.layers.Layer) -> tuple[keras.Model, np.ndarray]:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 4), name="images")
    x = inputs
    for layer in chain:
        x = layer(x)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 4)).astype("float32")
    return keras.Model(inputs, x, name="sample"), images


layers = keras.layers


def test_a_map_is_rounded_once_behind_what_is_computed_in_one_go() -> None:
    model, images = sample(
        layers.Conv2D(8, 3, name="conv"),
        layers.BatchNormalization(name="norm"),
        layers.ReLU(name="relu"),
        layers.MaxPooling2D(name="pool"),
        layers.BatchNormalization(name="lone"),
        layers.SeparableConv2D(8, 3, name="separable"),
        layers.Flatten(name="flat"),
        layers.Dense(7, name="logits"),
    )
    twin = quantizable(twin_of(model))
    assert ranges_of(twin) == {}
    calibrate(twin, np.split(images, 2))
    ranges = ranges_of(twin)
    assert sorted(ranges) == [
        "images", "logits", "lone", "relu", "separable", "separable.depthwise",
    ]  # fmt: skip
    np.testing.assert_allclose(ranges["images"], (images.min(), images.max()))
    assert ranges["relu"][0] == 0


def test_what_is_normalized_across_channels_is_rounded_behind_that_alone() -> None:
    model, images = sample(
        layers.Conv2D(8, 3, activation="relu", name="conv1"),
        LocalResponseNormalization(name="norm1"),
        layers.Conv2D(8, 3, padding="same", name="conv2"),
        layers.ReLU(name="relu"),
        layers.MaxPooling2D(name="pool"),
        LocalResponseNormalization(name="norm2"),
        layers.Flatten(name="flat"),
        layers.Dense(7, name="logits"),
    )
    twin = quantizable(twin_of(model))
    calibrate(twin, [images])
    assert sorted(ranges_of(twin)) == ["images", "logits", "norm1", "norm2"]


def _conv_relu(x, name):
    x = layers.Conv2D(8, 3, padding="same", name=f"{name}_conv")(x)
    return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_norm")(x))


def _sum(x):
    x = layers.Add(name="sum")([_conv_relu(x, "left"), _conv_relu(x, "right")])
    return LocalResponseNormalization(name="lrn")(layers.ReLU(name="sum_relu")(x))


def _two_readers(x):
    x = _conv_relu(x, "one")
    y = LocalResponseNormalization(name="lrn")(x)
    return layers.Concatenate(name="join")([layers.Conv2D(8, 1, name="reader")(x), y])


def _joined(x):
    x = layers.Concatenate(name="join")([_conv_relu(x, "left"), _conv_relu(x, "right")])
    return LocalResponseNormalization(name="lrn")(layers.AveragePooling2D(2, name="mean")(x))


def _curved(x):
    x = layers.Conv2D(8, 3, activation="silu", name="curved")(x)
    return LocalResponseNormalization(name="lrn")(x)


def _called_twice(x):
    conv = layers.Conv2D(4, 3, padding="same", name="shared")
    x = LocalResponseNormalization(name="lrn")(conv(x))
    return layers.Conv2D(8, 1, name="reader")(conv(x))


@pytest.mark.parametrize(
    ("body", "rounded"),
    [
        (_sum, {"left_relu", "right_relu", "sum_relu", "lrn"}),
        (_two_readers, {"one_relu", "reader", "lrn", "join"}),
        (_joined, {"lrn"}),
        (_curved, {"curved", "lrn"}),
        (_called_twice, {"shared", "reader", "lrn"}),
    ],
)
def test_only_what_int8_has_in_full_is_not_rounded(body, rounded) -> None:
    inputs = keras.Input((8, 8, 4), name="images")
    x = layers.Flatten(name="flat")(body(inputs))
    model = keras.Model(inputs, layers.Dense(7, name="logits")(x), name="sample")
    twin = quantizable(twin_of(model))
    calibrate(twin, [np.random.default_rng(0).normal(size=(4, 8, 8, 4)).astype("float32")])
    assert set(ranges_of(twin)) == {"images", "logits", *rounded}


def test_values_lie_on_the_steps() -> None:
    model, images = sample(layers.Conv2D(8, 3, name="conv"))
    twin = quantizable(twin_of(model))
    calibrate(twin, [images])
    maps = outputs(twin, images)[0]
    lower, upper = ranges_of(twin)["conv"]
    steps = maps / ((upper - lower) / 255)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-2)
    assert len(np.unique(np.round(steps))) <= 256
    # A quarter of a step for each of the rounded operands, and half of one for the result.
    np.testing.assert_allclose(maps, outputs(model, images)[0], atol=0.05)


def test_depthwise_kernels_are_rounded_for_each_channel() -> None:
    model, images = sample(layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False))
    kernel = model.layers[1].kernel
    # Of one range for all, nothing would be left of the second channel.
    kernel.assign(kernel.numpy() * np.array([1, 1e-4, 1, 1]).reshape(1, 1, 4, 1))
    twin = quantizable(twin_of(model))
    found, expected = (outputs(each, images)[0][..., 2:4] for each in (twin, model))
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("reads", ["positive", "signed"])
@pytest.mark.parametrize("settings", [Quantization(), Quantization(preserve_sparsity=True)])
def test_kernels_are_rounded_as_exports_do_it(reads: str, settings: Quantization) -> None:
    model, _ = sample(
        layers.Conv2D(8, 3, activation="relu", name="conv"),
        layers.DepthwiseConv2D(3, activation="relu", name="depthwise"),
        layers.Flatten(name="flat"),
        layers.Dense(7, name="logits"),
    )
    twin = quantizable(twin_of(model), settings)
    linears = {
        node.name: node.linear if isinstance(node, nodes.Fused) else node
        for node in fuse(fold(lower(model)))
        if isinstance(node, nodes.Fused | nodes.Dense)
    }
    form = ByteFormat(0.1, signed=reads == "signed")
    found = [layer for layer in twin.layers if getattr(layer, "_weight_vars", None)]
    assert len(found) == len(linears) == 3
    for layer, linear in zip(found, linears.values(), strict=True):
        ((weight, quantizer, variables),) = layer._weight_vars
        felt = quantizer(weight, training=False, weights=variables)
        np.testing.assert_allclose(felt, rounded(linear, form).kernel, atol=1e-5)


def test_ranges_follow_training() -> None:
    model, images = sample(layers.Flatten(name="flat"), layers.Dense(7, name="logits"))
    twin = trained(quantizable(twin_of(model), Quantization(range_decay=0.5)), images)
    low, high = ranges_of(twin)["images"]
    assert (low, high) == pytest.approx((images.min(), images.max()))
    trained(twin, 3 * images)
    assert ranges_of(twin)["images"][1] == pytest.approx(2 * high)


def test_frozen_kernels_stay_frozen() -> None:
    model, images = sample(
        layers.Conv2D(4, 3, name="frozen", trainable=False),
        layers.Flatten(name="flat"),
        layers.Dense(7, name="logits"),
    )
    before = model.get_layer("frozen").kernel.numpy()
    twin = trained(quantizable(twin_of(model)), images)
    copy_back(twin, model)
    np.testing.assert_array_equal(model.get_layer("frozen").kernel.numpy(), before)
    assert len(twin.trainable_weights) == 2


def compressed_before(sparsity: float, clusters: int) -> tuple[keras.Model, tf_keras.Model, object]:
    model, images = drawn("lenet5")
    twin = twin_of(model)
    if sparsity:
        twin = prunable(twin, Pruning(sparsity))
        twin = strip_pruning(trained(twin, images, 1, pruning_callbacks()))
    if clusters:
        settings = Clustering(clusters, preserve_sparsity=bool(sparsity))
        twin = strip_clustering(trained(clusterable(twin, settings), images))
    return model, twin, images


@pytest.mark.parametrize(
    ("sparsity", "clusters"),
    [
        pytest.param(0.6, 0, marks=pytest.mark.slow),
        pytest.param(0, 8, marks=pytest.mark.slow),
        pytest.param(0.6, 8, marks=pytest.mark.slow),
    ],
)
def test_what_was_won_before_stays(sparsity: float, clusters: int) -> None:
    model, twin, images = compressed_before(sparsity, clusters)
    settings = Quantization(preserve_sparsity=bool(sparsity), preserve_clusters=bool(clusters))
    twin = trained(quantizable(twin, settings), images, steps=3)
    before = model.get_weights()
    copy_back(twin, model)
    assert np.any(before[0] != model.get_weights()[0])
    for variable in model.weights:
        if variable.name != "kernel":
            continue
        kernel = variable.numpy()
        if sparsity:
            assert np.mean(kernel == 0) >= sparsity - 1 / kernel.size
        if clusters:
            # Of convolutions those of each channel, as they are rounded for each.
            channels = np.moveaxis(kernel, -1, 0) if kernel.ndim == 4 else [kernel]
            assert max(len(np.unique(channel)) for channel in channels) <= clusters


def test_what_is_not_quantized_says_so() -> None:
    twin = twin_of(drawn("lenet5")[0])
    for ask in (ranges_of, lambda model: calibrate(model, [])):
        with pytest.raises(ConfigError, match="expected what quantizable"):
            ask(twin)
    with pytest.raises(ConfigError, match="one at least, found none"):
        calibrate(quantizable(twin), [])
    with pytest.raises(ConfigError, match="functional tf_keras model"):
        quantizable(drawn("lenet5")[0])
