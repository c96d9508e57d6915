"""The layers of the package against computations written apart from them."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cls.architectures import count_multiply_adds, layers
from keras_cls.architectures.layers import (
    BatchNormalization,
    Conv2D,
    DropPath,
    FullyConnected,
    Gelu,
    GroupedConv2D,
    LocalResponseNormalization,
    ZeroPadChannels,
)
from keras_cls.architectures.squeeze_excite import squeeze_excite
from keras_cls.errors import ConfigError


def some_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype("float32")


# --- what holds of each layer

EACH: dict[str, Callable[[], keras.layers.Layer]] = {
    "ZeroPadChannels": lambda: ZeroPadChannels(1, 2, name="layer"),
    "LocalResponseNormalization": lambda: LocalResponseNormalization(3, 1.5, 0.1, 0.5),
    "DropPath": lambda: DropPath(0.4, seed=3),
    "Gelu": lambda: Gelu(),
    "Conv2D": lambda: Conv2D(6, 3, strides=2),
    "GroupedConv2D": lambda: GroupedConv2D(6, (3, 2), strides=2, groups=2, activation="relu"),
    "BatchNormalization": lambda: BatchNormalization(momentum=0.7, epsilon=1e-4),
}


@pytest.mark.parametrize("make", EACH.values(), ids=EACH)
def test_saves_and_loads(make: Callable[[], keras.layers.Layer], tmp_path: Path) -> None:
    images = keras.Input((9, 8, 4))
    model = keras.Model(images, make()(images))
    batch = some_images(3, 9, 8, 4)
    model(batch, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[1]) is type(model.layers[1])
    assert loaded.layers[1].get_config() == model.layers[1].get_config()
    np.testing.assert_array_equal(loaded(batch), model(batch))


@pytest.mark.parametrize("make", EACH.values(), ids=EACH)
def test_tells_its_output_shape(make: Callable[[], keras.layers.Layer]) -> None:
    layer = make()
    told = layer.compute_output_shape((None, 9, 8, 4))
    outputs = layer(some_images(3, 9, 8, 4))
    assert tuple(outputs.shape[1:]) == tuple(told[1:])
    assert told[0] is None


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("make", EACH.values(), ids=EACH)
def test_mixed_precision(
    make: Callable[[], keras.layers.Layer], policy: str, training: bool
) -> None:
    half = policy.removeprefix("mixed_")
    config = {**make().get_config(), "dtype": policy}
    layer, exact = type(make()).from_config(config), make()
    batch = some_images(3, 9, 8, 4)
    exact(batch)
    layer(batch)
    exact.set_weights(layer.get_weights())
    outputs = layer(batch, training=training) if takes_training(layer) else layer(batch)
    expected = exact(batch, training=training) if takes_training(exact) else exact(batch)
    assert outputs.dtype == half
    assert all(variable.dtype == "float32" for variable in layer.weights)
    np.testing.assert_allclose(tf.cast(outputs, "float32"), expected, rtol=0.04, atol=0.04)


def takes_training(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, (DropPath, BatchNormalization, Gelu))


@pytest.mark.parametrize("make", EACH.values(), ids=EACH)
def test_traces_with_an_open_batch_and_size(make: Callable[[], keras.layers.Layer]) -> None:
    layer = make()
    batch = some_images(2, 9, 8, 4)
    expected = layer(batch)
    traced = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, 4))])
    np.testing.assert_allclose(traced(batch), expected, rtol=1e-5, atol=1e-6)


# --- local response normalization


def lrn_by_hand(x: np.ndarray, radius: int, bias: float, alpha: float, beta: float) -> np.ndarray:
    outputs = np.empty_like(x)
    channels = x.shape[-1]
    for c in range(channels):
        near = x[..., max(0, c - radius) : min(channels, c + radius + 1)]
        outputs[..., c] = x[..., c] / (bias + alpha * (near**2).sum(-1)) ** beta
    return outputs


@pytest.mark.parametrize(
    "values", [(2, 2.0, 1e-4, 0.75), (2, 1.0, 0.3, 0.75), (1, 0.5, 0.2, 0.4), (7, 1.0, 0.1, 1.0)]
)
def test_lrn_is_the_papers_formula(
    values: tuple[int, float, float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = LocalResponseNormalization(*values)
    batch = 10 * some_images(2, 3, 5, 6)
    expected = lrn_by_hand(batch.astype("float64"), *values)
    np.testing.assert_allclose(layer(batch), expected, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    np.testing.assert_allclose(layer(batch), expected, rtol=1e-5, atol=1e-6)


def test_lrn_of_the_paper_is_the_default() -> None:
    config = LocalResponseNormalization().get_config()
    paper = {"depth_radius": 2, "bias": 2.0, "alpha": 1e-4, "beta": 0.75}
    assert {name: config[name] for name in paper} == paper


# --- drop path


def test_drop_path_drops_whole_examples_and_keeps_the_expectation() -> None:
    layer = DropPath(0.3, seed=0)
    outputs = np.asarray(layer(np.ones((4000, 2, 3, 2), "float32"), training=True))
    each = outputs.reshape(4000, -1)
    assert (each == each[:, :1]).all()
    np.testing.assert_allclose(np.unique(each), [0, 1 / 0.7], rtol=1e-6)
    # Three standard errors.
    assert (each[:, 0] == 0).mean() == pytest.approx(0.3, abs=3 * (0.3 * 0.7 / 4000) ** 0.5)
    assert not (layer(np.ones((4000, 2, 3, 2), "float32"), training=True) == outputs).numpy().all()


def test_drop_path_is_the_identity_at_inference_and_without_a_rate() -> None:
    batch = some_images(5, 2, 2, 3)
    np.testing.assert_array_equal(DropPath(0.9)(batch, training=False), batch)
    np.testing.assert_array_equal(DropPath(0.9)(batch), batch)
    np.testing.assert_array_equal(DropPath(0)(batch, training=True), batch)


def test_drop_path_repeats_with_its_seed() -> None:
    batch = some_images(64, 1, 1, 1)
    once, again = (DropPath(0.5, seed=7)(batch, training=True) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert (DropPath(0.5, seed=8)(batch, training=True) != once).numpy().any()


def test_drop_path_passes_gradients_where_it_passes_values() -> None:
    layer = DropPath(0.5, seed=1)
    batch = tf.constant(some_images(16, 2, 2, 3))
    with tf.GradientTape() as tape:
        tape.watch(batch)
        outputs = layer(batch, training=True)
    gradient = tape.gradient(outputs, batch)
    np.testing.assert_allclose(gradient, (outputs / batch).numpy(), rtol=1e-5)


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5])
def test_drop_path_refuses_other_rates(rate: float) -> None:
    with pytest.raises(ConfigError, match="0 <= rate < 1"):
        DropPath(rate)


# --- grouped convolution

GROUPED: list[dict[str, Any]] = [
    {"filters": 12, "kernel_size": 3, "groups": 3, "padding": "same"},
    {"filters": 6, "kernel_size": (3, 2), "groups": 2, "strides": 2, "activation": "relu"},
    {"filters": 6, "kernel_size": 3, "groups": 6, "strides": 2, "padding": "same"},
    {"filters": 12, "kernel_size": 3, "groups": 2, "dilation_rate": 2, "use_bias": False},
    {"filters": 5, "kernel_size": 3, "groups": 1},
]


def results_and_gradients(layer: keras.layers.Layer, batch: tf.Tensor) -> list[np.ndarray]:
    with tf.GradientTape() as tape:
        tape.watch(batch)
        outputs = layer(batch)
        # Unequal weights, so that a swap of groups would show.
        loss = tf.reduce_sum(
            outputs
            * tf.cos(tf.range(tf.size(outputs), dtype="float32")).numpy().reshape(outputs.shape)
        )
    variables = [variable.value for variable in layer.trainable_variables]
    return [np.asarray(x) for x in (outputs, *tape.gradient(loss, [batch, *variables]))]


@pytest.mark.parametrize("arguments", GROUPED, ids=str)
def test_grouped_convolution_equals_conv2d(arguments: dict[str, Any]) -> None:
    batch = tf.constant(some_images(2, 11, 10, 6))
    ours = GroupedConv2D(**arguments, bias_initializer="normal")
    theirs = keras.layers.Conv2D(**arguments)
    ours(batch), theirs(batch)
    assert [v.shape for v in ours.variables] == [v.shape for v in theirs.variables]
    theirs.set_weights(ours.get_weights())
    for found, expected in zip(
        results_and_gradients(ours, batch), results_and_gradients(theirs, batch), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_grouped_convolution_is_one_operation_where_there_is_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = GroupedConv2D(12, 3, strides=2, groups=3, padding="same")
    signature = tf.TensorSpec((2, 11, 10, 6))
    batch = some_images(2, 11, 10, 6)
    split = layer(batch)

    def convolutions() -> int:
        graph = tf.function(layer).get_concrete_function(signature).graph
        return sum(operation.type == "Conv2D" for operation in graph.get_operations())

    assert convolutions() == 3
    monkeypatch.setattr(layers, "has_accelerator", lambda: True)
    assert convolutions() == 1
    # XLA computes it on a CPU, where TensorFlow's own kernel does not.
    native = tf.function(layer, jit_compile=True)(tf.constant(batch))
    np.testing.assert_allclose(native, split, rtol=1e-4, atol=1e-5)
    with layers.split_grouped_convolutions():
        assert convolutions() == 3
    assert convolutions() == 1


def test_grouped_convolution_has_conv2ds_configuration_and_weights() -> None:
    ours = GroupedConv2D(9, 3, groups=3, strides=2, activation="relu", kernel_regularizer="l2")
    theirs = keras.layers.Conv2D.from_config(ours.get_config())
    assert theirs.get_config() == ours.get_config()
    assert theirs.compute_output_shape((None, 8, 8, 6)) == (None, 3, 3, 9)
    assert ours.compute_output_shape((None, 8, 8, 6)) == (None, 3, 3, 9)


def test_grouped_convolution_is_counted() -> None:
    images = keras.Input((8, 10, 6))
    model = keras.Model(images, GroupedConv2D(9, (1, 3), groups=3, strides=2)(images))
    assert count_multiply_adds(model) == 4 * 4 * 3 * 2 * 9


def test_grouped_convolution_converts_to_litert(tmp_path: Path) -> None:
    images = keras.Input((12, 12, 16))
    x = GroupedConv2D(32, 3, groups=8, strides=2, padding="same", use_bias=False)(images)
    model = keras.Model(images, BatchNormalization()(x))
    with layers.split_grouped_convolutions():
        model.export(tmp_path, verbose=False)
    content = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path)).convert()
    # No operation beyond LiteRT's own: the converter would have refused.
    interpreter = tf.lite.Interpreter(model_content=content)
    batch = some_images(2, 12, 12, 16)
    place = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(place, batch.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(place, batch)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, model(batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("height", "width", "strides"), [(3, 2, 1), (3, 2, 2), (5, 2, 1), (4, 6, 2)]
)
def test_fully_connected_is_the_convolution(height: int, width: int, strides: int) -> None:
    """Also where the window covers the map, and in its gradients."""
    batch = tf.constant(some_images(4, height, width, 5))
    arguments = {"filters": 7, "kernel_size": (3, 2), "strides": strides, "activation": "relu"}
    ours, theirs = FullyConnected(**arguments), keras.layers.Conv2D(**arguments)
    results = []
    for layer in (ours, theirs):
        layer.build(batch.shape)
        layer.set_weights(ours.get_weights())
        with tf.GradientTape() as tape:
            tape.watch(batch)
            out = layer(batch)
            loss = tf.reduce_sum(out**2)
        gradients = tape.gradient(loss, [batch, layer.kernel.value, layer.bias.value])
        results.append([out, *gradients])
        assert layer.compute_output_shape(batch.shape) == out.shape
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert ours.get_config() | {"name": ""} == theirs.get_config() | {"name": ""}


# --- GELU


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("graph", [False, True])
def test_gelu_in_training_and_its_gradient_by_hand(dtype: str, graph: bool) -> None:
    layer = Gelu(dtype="mixed_bfloat16" if dtype == "bfloat16" else dtype)
    inputs = tf.cast(tf.linspace(-8.0, 8.0, 2001), dtype)

    def run(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x, training=True)
        return outputs, tape.gradient(outputs, x)

    outputs, gradient = (tf.function(run, autograph=False) if graph else run)(inputs)
    x = tf.cast(inputs, "float64").numpy()
    below = np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])
    slope = below + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    assert outputs.dtype == gradient.dtype == dtype
    tolerance = {"rtol": 2**-8, "atol": 1e-6} if dtype == "bfloat16" else {"atol": 2e-6}
    np.testing.assert_allclose(tf.cast(outputs, "float64"), x * below, **tolerance)
    np.testing.assert_allclose(tf.cast(gradient, "float64"), slope, **tolerance)
    np.testing.assert_allclose(tf.cast(layer(inputs), "float64"), x * below, rtol=0.02, atol=0.01)


# --- convolution

CONVOLUTIONS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "1x1": ((3, 4, 3, 128), {"kernel_size": 1}),
    "3x3": ((3, 4, 3, 128), {"kernel_size": 3, "padding": "same"}),
    "3x3 valid": ((3, 6, 5, 128), {"kernel_size": 3}),
    "every second": ((3, 8, 6, 128), {"kernel_size": 3, "strides": 2, "padding": "same"}),
    "every second, odd": ((3, 7, 9, 128), {"kernel_size": 3, "strides": 2, "padding": "same"}),
    "every second, valid": ((3, 8, 9, 128), {"kernel_size": 3, "strides": 2}),
    "pixels left over": ((3, 9, 8, 128), {"kernel_size": 2, "strides": 3}),
    "1x3": ((3, 4, 5, 128), {"kernel_size": (1, 3), "padding": "same"}),
    "4x2": ((3, 5, 4, 128), {"kernel_size": (4, 2), "padding": "same"}),
    "window beyond": ((3, 2, 2, 128), {"kernel_size": 5, "padding": "same", "strides": 2}),
}


def convolved(layer: keras.layers.Layer, batch: tf.Tensor, graph: bool) -> list[np.ndarray]:
    """What comes out, and the gradients of images and kernel."""

    def run(images: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images)
            each = tf.reshape(tf.range(tf.size(outputs)), tf.shape(outputs))
            weights = tf.cast(tf.cos(tf.cast(each, "float32")), "bfloat16")
            loss = tf.reduce_sum(outputs * tf.cast(weights, outputs.dtype))
        watched = [images, *(variable.value for variable in layer.trainable_variables)]
        return [outputs, *tape.gradient(loss, watched)]

    signature = [tf.TensorSpec((None, *batch.shape[1:]), batch.dtype)]
    run = tf.function(run, signature, autograph=False) if graph else run
    return [tf.cast(found, "float32").numpy() for found in run(batch)]


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(("shape", "arguments"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolution_trained_by_products_equals_keras(
    shape: tuple[int, ...], arguments: dict[str, Any], graph: bool
) -> None:
    batch = tf.cast(some_images(*shape), "bfloat16")
    arguments = {**arguments, "filters": 7, "use_bias": False, "dtype": "mixed_bfloat16"}
    # Keras' own in bfloat16 is less exact where the processor has none.
    ours, theirs = Conv2D(**arguments), keras.layers.Conv2D(**{**arguments, "dtype": "float32"})
    for layer in (ours, theirs):
        layer.build(shape)
    theirs.kernel.assign(tf.cast(tf.cast(ours.kernel, "bfloat16"), "float32"))
    assert ours._products_pay(batch)
    found = convolved(ours, batch, graph)
    expected = convolved(theirs, tf.cast(batch, "float32"), graph)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= 0.015 * np.abs(other).max()


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((2, 4, 3, 128), {"kernel_size": 3, "dtype": "float32"}),
        ((2, 12, 12, 128), {"kernel_size": 3, "padding": "same"}),
        ((2, 4, 4, 64), {"kernel_size": 3}),
        ((2, 8, 8, 128), {"kernel_size": 1, "strides": 2}),
        ((2, 4, 4, 128), {"kernel_size": 3, "strides": (2, 1)}),
        ((2, 4, 4, 128), {"kernel_size": 2, "dilation_rate": 2}),
        ((2, 4, 4, 128), {"kernel_size": 2, "groups": 2}),
    ],
    ids=str,
)
def test_other_convolutions_are_left_to_keras(
    shape: tuple[int, ...], arguments: dict[str, Any]
) -> None:
    layer = Conv2D(**{"filters": 6, "dtype": "mixed_bfloat16", **arguments})
    batch = tf.cast(some_images(*shape), layer.compute_dtype)
    layer.build(shape)
    assert not layer._products_pay(batch)
    theirs = keras.layers.Conv2D.from_config(layer.get_config())
    theirs.build(shape)
    theirs.set_weights(layer.get_weights())
    np.testing.assert_array_equal(
        tf.cast(layer(batch), "float32"), tf.cast(theirs(batch), "float32")
    )


# --- batch normalization


def normalizations(**arguments: Any) -> tuple[keras.layers.Layer, keras.layers.Layer]:
    """Ours and Keras', with the same weights."""
    pair = BatchNormalization(**arguments), keras.layers.BatchNormalization(**arguments)
    random = np.random.default_rng(5)
    for layer in pair:
        layer.build((None, 5, 4, 6))
    weights = [random.uniform(0.5, 1.5, w.shape) for w in pair[0].get_weights()]
    for layer in pair:
        layer.set_weights(weights)
    return pair


def trained(layer: keras.layers.Layer, batch: tf.Tensor) -> dict[str, np.ndarray]:
    with tf.GradientTape() as tape:
        tape.watch(batch)
        outputs = tf.cast(layer(batch, training=True), "float32")
        weights = tf.reshape(tf.cos(tf.range(tf.size(outputs), dtype="float32")), outputs.shape)
        loss = tf.reduce_sum(outputs**2 * weights)
    variables = {v.name: v.value for v in layer.trainable_variables}
    gradients = tape.gradient(loss, {"inputs": batch, **variables})
    found = {f"gradient of {name}": value for name, value in gradients.items()}
    found |= {v.name: v.value for v in layer.non_trainable_variables}
    return {name: np.asarray(value, "float32") for name, value in found.items()} | {
        "outputs": outputs.numpy()
    }


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that the fused kernel was called with."""
    shapes: list[tuple[int, ...]] = []
    kernel = tf.raw_ops.FusedBatchNormV3

    def watched(**arguments: Any) -> Any:
        shapes.append(tuple(arguments["x"].shape))
        return kernel(**arguments)

    monkeypatch.setattr(tf.raw_ops, "FusedBatchNormV3", watched)
    return shapes


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"momentum": 0.9, "epsilon": 1e-5},
        {"scale": False},
        {"center": False, "axis": 3},
        {"scale": False, "center": False, "epsilon": 1e-6},
        {"synchronized": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (2, 1, 1, 6), (1, 1, 1, 6)], ids=str)
def test_fused_training_equals_keras(
    arguments: dict[str, Any], shape: tuple[int, ...], fused: list[tuple[int, ...]]
) -> None:
    ours, theirs = normalizations(**arguments)
    batch = tf.constant(3 * some_images(*shape) + 1)
    found, expected = trained(ours, batch), trained(theirs, batch)
    assert fused == [shape]
    assert found.keys() == expected.keys()
    for name in expected:
        tolerance = 1e-4 * max(1, np.abs(expected[name]).max())
        if shape == (2, 1, 1, 6) and name == "gradient of inputs":
            tolerance = 1e-3  # two numbers: what is left of a difference of equal terms
        np.testing.assert_allclose(found[name], expected[name], atol=tolerance, err_msg=name)
    np.testing.assert_allclose(ours(batch), theirs(batch), rtol=1e-4, atol=1e-5)


def test_fused_training_equals_float64_by_hand() -> None:
    ours, _ = normalizations(momentum=0.8, epsilon=1e-5)
    gamma, beta, mean, variance = ours.get_weights()
    batch = 3 * some_images(3, 5, 4, 6) + 1
    outputs = ours(batch, training=True)
    exact = batch.astype("float64")
    batch_mean, batch_variance = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    expected = gamma * (exact - batch_mean) / np.sqrt(batch_variance + 1e-5) + beta
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.moving_mean, 0.8 * mean + 0.2 * batch_mean, rtol=1e-5)
    moved = 0.8 * variance + 0.2 * batch_variance
    np.testing.assert_allclose(ours.moving_variance, moved, rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_fused_training_in_mixed_precision_equals_keras(
    policy: str, fused: list[tuple[int, ...]]
) -> None:
    ours, theirs = normalizations(dtype=policy)
    batch = tf.cast(3 * some_images(4, 5, 4, 6) + 1, policy.removeprefix("mixed_"))
    found, expected = trained(ours, batch), trained(theirs, batch)
    assert fused
    # Statistics are computed in float32 by both; the rest is rounded to half precision.
    np.testing.assert_allclose(found["moving_mean"], expected["moving_mean"], rtol=1e-5)
    np.testing.assert_allclose(found["moving_variance"], expected["moving_variance"], rtol=1e-5)
    for name in expected:
        scale = np.abs(expected[name]).max()
        assert np.abs(found[name] - expected[name]).max() <= 0.01 * max(1, scale), name


def test_fused_training_in_a_trace_with_open_sizes() -> None:
    ours, theirs = normalizations()
    signature = [tf.TensorSpec((None, None, None, 6))]
    batch = some_images(3, 5, 4, 6)
    for layer in (ours, theirs):
        train = tf.function(lambda x, layer=layer: layer(x, training=True), signature)
        train(batch)
    np.testing.assert_allclose(ours.moving_variance, theirs.moving_variance, rtol=1e-5)


@pytest.mark.parametrize("jit", [False, True])
def test_fused_training_steps_equal_keras(jit: bool) -> None:
    batch, labels = some_images(32, 8, 8, 3), np.arange(32) % 4
    weights, histories = None, []
    for layer in (BatchNormalization, keras.layers.BatchNormalization):
        model = keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(8, 3, use_bias=False),
                layer(momentum=0.9),
                keras.layers.ReLU(),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(4),
            ]
        )
        weights = weights or model.get_weights()
        model.set_weights(weights)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=jit)
        losses = model.fit(batch, labels, 8, epochs=3, shuffle=False, verbose=0).history["loss"]
        histories.append([*losses, *(w.numpy() for w in model.weights)])
    for found, expected in zip(*histories, strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({}, (3, 6)),
        ({}, (3, 5, 6)),
        ({"axis": 1}, (3, 6, 5, 4)),
        ({"renorm": True}, (3, 5, 4, 6)),
        ({"dtype": "float64"}, (3, 5, 4, 6)),
    ],
    ids=str,
)
def test_other_cases_are_left_to_keras(
    arguments: dict[str, Any], shape: tuple[int, ...], fused: list[tuple[int, ...]]
) -> None:
    pair = BatchNormalization(**arguments), keras.layers.BatchNormalization(**arguments)
    batch = some_images(*shape)
    outputs = [layer(batch, training=True) for layer in pair]
    np.testing.assert_array_equal(*outputs)
    for ours, theirs in zip(*(layer.get_weights() for layer in pair), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not fused


def test_frozen_normalization_keeps_its_statistics(fused: list[tuple[int, ...]]) -> None:
    ours, theirs = normalizations()
    ours.trainable = theirs.trainable = False
    before = ours.get_weights()
    batch = some_images(3, 5, 4, 6)
    np.testing.assert_array_equal(ours(batch, training=True), theirs(batch, training=True))
    np.testing.assert_array_equal(before, ours.get_weights())
    assert not fused


def test_either_normalization_loads_what_the_other_saved(tmp_path: Path) -> None:
    batch = some_images(3, 5, 4, 6)
    images = keras.Input((5, 4, 6))
    ours, theirs = (keras.Model(images, layer(images)) for layer in normalizations(name="bn"))
    ours(batch, training=True)
    ours.save_weights(tmp_path / "ours.weights.h5")
    theirs.load_weights(tmp_path / "ours.weights.h5")
    np.testing.assert_allclose(theirs(batch), ours(batch), rtol=1e-5, atol=1e-6)

    assert keras.saving.get_registered_name(BatchNormalization) == "keras_cls>BatchNormalization"
    ours.save(tmp_path / "ours.keras")
    np.save(tmp_path / "batch.npy", batch)
    code = (
        "import keras, numpy as np, pathlib, sys\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "plain = {'keras_cls>BatchNormalization': keras.layers.BatchNormalization}\n"
        "model = keras.saving.load_model(folder / 'ours.keras', custom_objects=plain)\n"
        "np.save(folder / 'outputs.npy', model(np.load(folder / 'batch.npy')))\n"
        "assert 'keras_cls' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npy"), ours(batch), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_synchronized_normalization_on_two_replicas_equals_one_device() -> None:
    code = (
        "import tensorflow as tf\n"
        "halves = [tf.config.LogicalDeviceConfiguration()] * 2\n"
        "cpu = tf.config.list_physical_devices('CPU')[0]\n"
        "tf.config.set_logical_device_configuration(cpu, halves)\n"
        "import keras, numpy as np\n"
        "from keras_cls.architectures.layers import BatchNormalization\n"
        "keras.config.disable_traceback_filtering()\n"
        "batch = np.random.default_rng(0).normal(2, 3, (16, 6, 6, 3)).astype('float32')\n"
        "labels = np.arange(16) % 4\n"
        "def weights(strategy, synchronized):\n"
        "    with strategy.scope():\n"
        "        keras.utils.set_random_seed(1)\n"
        "        model = keras.Sequential([keras.Input((6, 6, 3)),\n"
        "            keras.layers.Conv2D(8, 3, use_bias=False),\n"
        "            BatchNormalization(momentum=0.9, synchronized=synchronized),\n"
        "            keras.layers.ReLU(), keras.layers.GlobalAveragePooling2D(),\n"
        "            keras.layers.Dense(4)])\n"
        "        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)\n"
        "        model.compile(keras.optimizers.SGD(0.1), loss)\n"
        "    model.fit(batch, labels, 8, epochs=2, shuffle=False, verbose=0)\n"
        "    return model.get_weights()\n"
        "one = weights(tf.distribute.get_strategy(), False)\n"
        "mirrored = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])\n"
        "two = weights(mirrored, True)\n"
        "for found, expected in zip(two, one, strict=True):\n"
        "    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)\n"
        "apart = weights(mirrored, False)\n"
        "assert all(np.isfinite(weight).all() for weight in apart)\n"
        "assert np.abs(apart[0] - one[0]).max() > 1e-5\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- squeeze and excitation


def test_squeeze_excite_by_hand() -> None:
    images = keras.Input((5, 4, 8))
    model = keras.Model(images, squeeze_excite(images, 4, name="se"))
    random = np.random.default_rng(2)
    model.set_weights([random.normal(size=w.shape) for w in model.get_weights()])
    w1, b1, w2, b2 = (w.astype("float64") for w in model.get_weights())
    assert w1.shape == (1, 1, 8, 2)
    batch = some_images(3, 5, 4, 8)
    squeezed = np.maximum(batch.mean((1, 2)) @ w1[0, 0] + b1, 0)
    gate = 1 / (1 + np.exp(-(squeezed @ w2[0, 0] + b2)))
    np.testing.assert_allclose(model(batch), batch * gate[:, None, None], rtol=1e-5, atol=1e-6)
    assert count_multiply_adds(model) == 8 * 2 + 2 * 8
