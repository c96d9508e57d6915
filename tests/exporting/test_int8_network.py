"""Networks in bytes: close to what they are in float, whatever their branches are."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from random_networks import networks

from benchmarks.as_if_trained import calm_gates, unsettle
from keras_cls.architectures import build_model, list_models, model_spec
from keras_cls.architectures.layers import LocalResponseNormalization
from keras_cls.exporting import byte_formats, nodes
from keras_cls.exporting.bias_correction import bias_corrected
from keras_cls.exporting.byte_formats import pixel_format, reads_pixels
from keras_cls.exporting.calibration import Method, calibrated_formats
from keras_cls.exporting.folding import fold
from keras_cls.exporting.fusing import fuse
from keras_cls.exporting.int8_network import in_float, quantized_kernel, run_in_int8
from keras_cls.exporting.lowering import lower
from keras_cls.preprocessing import IMAGENET_MEAN, IMAGENET_STD

FAMILIES = [
    ("alexnet", 67),
    ("nin_cifar10", 32),
    ("googlenet", 64),
    ("inception_v3", 107),
    ("resnet18", 64),
    ("resnet50_v2", 64),
    ("resnet20_cifar10", 32),
    ("resnext50_32x4d", 64),
    ("se_bn_inception", 64),
    ("nasnet_cifar10", 32),
    ("airbench94_cifar10", 32),
]

QUICK = {"se_bn_inception"}


def smooth(count: int, height: int, width: int) -> np.ndarray:
    """Pixels 0..255 of images with large and small shapes, float32."""
    random = np.random.default_rng(0)
    coarse, fine = (random.uniform(0, 255, (count, n, n, 3)).astype("f4") for n in (4, 16))
    resized = [tf.image.resize(each, (height, width), "bicubic") for each in (coarse, fine)]
    return np.clip(np.rint(0.7 * resized[0] + 0.3 * resized[1]), 0, 255)


def prepared(pixels: np.ndarray) -> np.ndarray:
    return ((pixels / 255 - IMAGENET_MEAN) / IMAGENET_STD).astype(np.float32)


def in_bytes(
    model: keras.Model, images: np.ndarray, *, pixels: bool, method: Method = "max"
) -> np.ndarray:
    graph = fuse(fold(lower(model)))
    formats = calibrated_formats(graph, images, method)
    if pixels and reads_pixels(graph):
        formats[graph.input.name] = pixel_format(IMAGENET_MEAN, IMAGENET_STD, 3)
    graph = bias_corrected(graph, formats, images)
    run = tf.function(lambda x: run_in_int8(graph, formats, x), autograph=False)
    return run(tf.constant(images)).numpy()


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """Root of the mean squared difference, as a share of the deviation among the logits."""
    return float(np.sqrt(((found - wanted) ** 2).mean()) / wanted.std())


def test_what_is_of_few_values_stays_so_in_bytes() -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 16), name="images")
    x = keras.layers.Conv2D(32, 3, use_bias=False, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, keras.layers.Dense(7, name="logits")(x), name="sample")
    unsettle(model)
    conv = model.get_layer("conv")
    values = np.array([-0.3, -0.1, 0.0, 0.05, 0.2], np.float32)
    conv.kernel.assign(np.random.default_rng(0).choice(values, conv.kernel.shape))
    gamma = np.random.default_rng(1).uniform(-2, 2, 32)
    gamma[3] = 0
    model.get_layer("norm").gamma.assign(gamma)
    (linear,) = (node.linear for node in fuse(fold(lower(model))) if isinstance(node, nodes.Fused))
    kernel = linear.kernel.astype(np.float64)
    found, scale = quantized_kernel(kernel, linear, signed=False)
    assert set(np.abs(np.unique(found))) == {0, 10, 21, 42, 63}
    # Half a step of the filter, whatever its own largest weight is.
    assert (np.abs(found * scale - kernel) <= scale / 2 + 1e-6).all()
    found, scale = quantized_kernel(kernel, linear, signed=True)
    assert set(np.abs(np.unique(found))) == {0, 20, 42, 84, 126}
    assert (np.abs(found * scale - kernel) <= scale + 1e-6).all()


@pytest.mark.parametrize(
    ("name", "side"),
    [
        pytest.param(name, side, marks=() if name in QUICK else pytest.mark.slow)
        for name, side in FAMILIES
    ],
)
def test_a_network_of_each_family_is_close(name: str, side: int) -> None:
    keras.utils.set_random_seed(0)
    model = build_model(name, input_shape=(side, side, 3))
    unsettle(model)
    images = prepared(smooth(8, side, side))
    wanted = model(images, training=False).numpy()
    assert difference(in_bytes(model, images, pixels=True), wanted) < 0.09


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in list_models() if name not in dict(FAMILIES)])
def test_every_other_network_is_close(name: str) -> None:
    spec = model_spec(name)
    height, width, channels = (*spec.min_size, spec.input_shape[-1])
    keras.utils.set_random_seed(0)
    model = build_model(name, input_shape=(height, width, channels))
    unsettle(model)
    images = prepared(smooth(8, height, width))[..., :channels]
    calm_gates(model, images)
    wanted = model(images, training=False).numpy()
    assert difference(in_bytes(model, images, pixels=channels == 3), wanted) < 0.15


def read_in_two_ways(x: keras.KerasTensor) -> keras.KerasTensor:
    """A map in float, of which bytes are made for a convolution, and a pool reads as well."""
    x = keras.layers.Activation("silu")(keras.layers.Conv2D(16, 3, padding="same")(x))
    pooled = keras.layers.AveragePooling2D(3, 1, padding="same")(x)
    return keras.layers.Add()([keras.layers.Conv2D(16, 1)(each) for each in (x, pooled)])


def images_and_their_pool(x: keras.KerasTensor) -> keras.KerasTensor:
    convolution = keras.layers.Conv2D(16, 1)(x)
    pooled = keras.layers.AveragePooling2D(2, 1, padding="same")(x)
    return keras.layers.Add()([convolution, keras.layers.Conv2D(16, 3, padding="same")(pooled)])


def images_as_a_summand(x: keras.KerasTensor) -> keras.KerasTensor:
    learnt = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    return keras.layers.Add()([x, keras.layers.Conv2D(3, 3, padding="same")(learnt)])


def images_joined(x: keras.KerasTensor) -> keras.KerasTensor:
    pooled = keras.layers.AveragePooling2D(3, 1)(x)
    return keras.layers.Concatenate()([keras.layers.Conv2D(8, 3)(x), pooled])


def images_averaged(x: keras.KerasTensor) -> keras.KerasTensor:
    means = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    return keras.layers.Add()([keras.layers.Conv2D(3, 3)(x), means])


def gated_by_a_vector(x: keras.KerasTensor) -> keras.KerasTensor:
    """As Keras lets one, without reshaping the gate to a map."""
    x = keras.layers.Conv2D(16, 3, activation="relu")(x)
    gate = keras.layers.Dense(16, activation="sigmoid")(keras.layers.GlobalAveragePooling2D()(x))
    return keras.layers.Conv2D(16, 1)(keras.layers.Multiply()([gate, x]))


@pytest.mark.parametrize(
    "body",
    [
        read_in_two_ways,
        images_and_their_pool,
        images_as_a_summand,
        images_joined,
        images_averaged,
        gated_by_a_vector,
    ],
)
@pytest.mark.parametrize("method", ["max", "mse"])
def test_what_is_read_in_several_ways_is_close(body, method: Method) -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3), name="images")
    features = keras.layers.Flatten()(keras.layers.MaxPooling2D(2)(body(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(5, name="logits")(features))
    images = prepared(smooth(16, 16, 16))
    wanted = model(images, training=False).numpy()
    assert difference(in_bytes(model, images, pixels=True, method=method), wanted) < 0.04


@given(networks())
@settings(max_examples=20, deadline=None)
def test_any_network_is_close(model: keras.Model) -> None:
    images = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)
    wanted = model(images, training=False).numpy()
    found = in_bytes(model, images, pixels=False)
    head = model.layers[-1]
    features, maps = (
        keras.Model(model.input, tensor)(images).numpy()
        for tensor in (head.input, model.layers[-2].input)
    )
    # Logits may be differences of large numbers: compared with the features' size. And of maps that
    # are joined, small ones have the step of large ones.
    size = max(np.sqrt(np.mean(np.square(features))), 4 * np.abs(maps).max() / 127)
    scale = size * np.sqrt(np.mean(np.square(head.kernel)) * features.shape[-1])
    assert np.sqrt(((found - wanted) ** 2).mean()) < 0.3 * scale


def test_the_same_however_large_the_batch() -> None:
    model = build_model("resnet20_cifar10")
    images = prepared(smooth(5, 32, 32))
    graph = fuse(fold(lower(model)))
    formats = calibrated_formats(graph, images)
    spec = tf.TensorSpec((None, 32, 32, 3), tf.float32)
    run = tf.function(lambda x: run_in_int8(graph, formats, x), [spec], autograph=False)
    together = run(images).numpy()
    alone = np.concatenate([run(image[None]).numpy() for image in images])
    np.testing.assert_array_equal(together, alone)


def test_what_computes_in_float_is_told() -> None:
    assert in_float(fuse(fold(lower(build_model("resnet18", input_shape=(64, 64, 3)))))) == {
        "pool5": "GlobalAverage"
    }
    told = in_float(fuse(fold(lower(build_model("alexnet", input_shape=(67, 67, 3))))))
    assert list(told.values()).count("LocalResponse") == 2
    assert "Fused" not in told.values()


LOUD = {
    "images": [keras.layers.Conv2D(64, 3, padding="same", activation="relu", name="conv")],
    "grouped": [
        keras.layers.Conv2D(32, 1, activation="relu"),
        keras.layers.Conv2D(64, 3, groups=4, activation="relu6", name="conv"),
    ],
    "depthwise": [
        keras.layers.Conv2D(32, 1),
        keras.layers.DepthwiseConv2D(3, depth_multiplier=2, strides=2, name="conv"),
    ],
    "pooled": [
        keras.layers.Conv2D(64, 3, activation="relu", name="conv"),
        keras.layers.MaxPooling2D(name="pool"),
    ],
}


@pytest.mark.parametrize("kind", LOUD)
def test_what_a_normalization_across_channels_reads_is_not_rounded(kind: str) -> None:
    """It makes large what lies near zero, where bytes that reach to rare large numbers are few."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((16, 16, 3), name="images")
    for layer in [*LOUD[kind], LocalResponseNormalization(name="norm")]:
        x = layer(x)
    x = keras.layers.Conv2D(32, 3, activation="relu", name="reader")(x)
    x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    model = keras.Model(inputs, keras.layers.Dense(7, name="logits")(x), name="sample")
    kernel = model.get_layer("conv").kernel
    if kind != "grouped":  # its ceiling is what its numbers end at
        # A few filters answer a hundred times as loudly as the others.
        by_filter = kernel.numpy().reshape(-1, 64) * np.where(np.arange(64) % 16, 100, 10_000)
        kernel.assign(by_filter.reshape(kernel.shape))
    graph = fuse(fold(lower(model)))
    assert {"conv", "pool"}.isdisjoint(byte_formats.in_bytes(graph))
    images = prepared(smooth(8, 16, 16))
    wanted = model(images, training=False).numpy()
    assert difference(in_bytes(model, images, pixels=True), wanted) < 0.03


def test_sums_and_what_others_read_are_rounded_ahead_of_it_too() -> None:
    inputs = keras.Input((16, 16, 3), name="images")
    one = keras.layers.Conv2D(16, 3, name="one")(inputs)
    two = keras.layers.Conv2D(16, 3, name="two")(inputs)
    sums = keras.layers.MaxPooling2D(name="pool")(keras.layers.Add(name="sum")([one, two]))
    normed = [LocalResponseNormalization()(each) for each in (two, sums)]
    means = [keras.layers.GlobalAveragePooling2D()(each) for each in normed]
    outputs = keras.layers.Dense(7)(keras.layers.Concatenate()(means))
    model = keras.Model(inputs, outputs)
    assert {"two", "sum"} <= byte_formats.in_bytes(fuse(fold(lower(model))))
    images = prepared(smooth(8, 16, 16))
    wanted = model(images, training=False).numpy()
    assert difference(in_bytes(model, images, pixels=True), wanted) < 0.05
