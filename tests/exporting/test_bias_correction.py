"""What rounding moves is taken back: the mean of the logits is that of the float network."""

from collections.abc import Callable
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cls.exporting.bias_correction import bias_corrected
from keras_cls.exporting.byte_formats import pixel_format
from keras_cls.exporting.calibration import calibrated_formats
from keras_cls.exporting.float_network import run_in_float
from keras_cls.exporting.folding import fold
from keras_cls.exporting.fusing import fuse
from keras_cls.exporting.int8_network import rounded, run_in_int8
from keras_cls.exporting.lowering import lower
from keras_cls.exporting.nodes import Fused, Graph
from keras_cls.preprocessing import IMAGENET_MEAN, IMAGENET_STD

layers = keras.layers


def images() -> np.ndarray:
    """Bright ones: what rounding does to kernels does not average out."""
    pixels = np.random.default_rng(0).integers(150, 256, (64, 8, 8, 3))
    return ((pixels / 255 - IMAGENET_MEAN) / IMAGENET_STD).astype(np.float32)


def coarse(model: keras.Model) -> keras.Model:
    """One large weight in each filter, so that the others' steps are wide."""
    random = np.random.default_rng(1)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            shape = layer.kernel.shape
            kernel = random.uniform(-0.02, 0.02, shape)
            kernel[(0,) * (len(shape) - 1)] = 1.0
            layer.kernel.assign(kernel)
    return model


def means(graph: Graph, formats: dict, wanted: np.ndarray) -> float:
    """How far the logits' means are off in bytes."""
    found = tf.function(lambda x: run_in_int8(graph, formats, x), autograph=False)
    return float(np.abs(found(tf.constant(images())).numpy().mean(0) - wanted.mean(0)).max())


def of_all_kinds(x: keras.KerasTensor) -> keras.KerasTensor:
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    side = layers.Conv2D(16, 1, use_bias=False)(x)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.ReLU()(layers.Add()([x, side]))
    return layers.Conv2D(16, 3, strides=2, groups=4, activation="relu")(x)


def with_offsets(x: keras.KerasTensor) -> keras.KerasTensor:
    """Maps below zero that are read without margins: their bytes are shifted."""
    x = layers.Conv2D(16, 1)(x)
    x = layers.Conv2D(16, 3)(x)
    return layers.DepthwiseConv2D(3)(x)


def with_float_between(x: keras.KerasTensor) -> keras.KerasTensor:
    x = layers.Conv2D(16, 3, activation="relu")(x)
    return layers.Activation("silu")(layers.Conv2D(16, 3)(x))


@pytest.mark.parametrize("method", ["max", "mse"])
@pytest.mark.parametrize("body", [of_all_kinds, with_offsets, with_float_between])
def test_logits_have_the_mean_that_they_have_in_float(
    body: Callable[[keras.KerasTensor], keras.KerasTensor], method: str
):
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(body(inputs))
    graph = fuse(fold(lower(coarse(keras.Model(inputs, layers.Dense(5)(x))))))
    formats = calibrated_formats(graph, images(), method)
    formats[graph.input.name] = pixel_format(IMAGENET_MEAN, IMAGENET_STD, 3)
    before = [node.linear.bias for node in graph if isinstance(node, Fused)]
    better = bias_corrected(graph, formats, images())
    wanted = run_in_float(graph, tf.constant(images())).numpy()
    assert means(better, formats, wanted) < means(graph, formats, wanted) / 3
    after = [node.linear.bias for node in graph if isinstance(node, Fused)]
    assert all(one is other for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "layer",
    [layers.Conv2D(4, 3), layers.DepthwiseConv2D(3), layers.Conv2D(6, 3, groups=3)],
    ids=["convolution", "depthwise", "grouped"],
)
def test_what_bytes_compute_is_the_rounded_step(layer: keras.layers.Layer):
    """Whatever the offset and the gain of the bytes are: the pixels' are far from zero and one."""
    model = keras.Sequential([keras.Input((8, 8, 3)), layer, layers.Flatten()])
    graph = fuse(fold(lower(coarse(model))))
    found = calibrated_formats(graph, images(), "max")
    # Nothing is cut off.
    formats = {name: replace(form, step=1.2 * form.step) for name, form in found.items()}
    form = formats[graph.input.name] = pixel_format(IMAGENET_MEAN, IMAGENET_STD, 3)
    (node,) = (node for node in graph if isinstance(node, Fused))
    step = rounded(node.linear, form)
    assert np.abs(step.kernel - node.linear.kernel).max() > 1e-3
    layer.kernel.assign(step.kernel)
    wanted = model(images(), training=False).numpy()
    run = tf.function(lambda x: run_in_int8(graph, formats, x), autograph=False)
    half = 0.51 * formats[node.name].step
    np.testing.assert_allclose(run(tf.constant(images())).numpy(), wanted, atol=half)


def test_what_is_exact_already_stays():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 1)])
    model.layers[0].kernel.assign(np.full((1, 1, 3, 4), 127.0))
    graph = fuse(fold(lower(model)))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.float32) / 255
    formats = calibrated_formats(graph, pixels, "max") | {
        graph.input.name: pixel_format((0.0,), (1.0,), 3)
    }
    better = bias_corrected(graph, formats, pixels)
    (node,) = (node for node in better if isinstance(node, Fused))
    assert np.abs(node.linear.bias).max() < 1e-3
