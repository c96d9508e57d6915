"""What rounding moves is taken back: the mean of each filter is that of the float network."""

import keras
import numpy as np
import tensorflow as tf

from keras_cls.exporting.bias_correction import bias_corrected
from keras_cls.exporting.byte_formats import pixel_format
from keras_cls.exporting.calibration import calibrated_formats
from keras_cls.exporting.float_network import run_in_float
from keras_cls.exporting.folding import fold
from keras_cls.exporting.fusing import fuse
from keras_cls.exporting.int8_network import rounded, run_in_int8
from keras_cls.exporting.lowering import lower
from keras_cls.exporting.nodes import Fused

layers = keras.layers


def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 1, (64, 8, 8, 3)).astype(np.float32)


def coarse(model: keras.Model) -> keras.Model:
    """One large weight in each filter, so that the others' steps are wide."""
    random = np.random.default_rng(1)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            shape = layer.kernel.shape
            kernel = random.uniform(-0.02, 0.02, shape)
            kernel[(0,) * (len(shape) - 1)] = 3.0
            layer.kernel.assign(kernel)
    return model


def network() -> keras.Model:
    inputs = x = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    side = layers.Conv2D(16, 1, use_bias=False)(x)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.ReLU()(layers.Add()([x, side]))
    x = layers.Conv2D(16, 3, strides=2, groups=4, activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return coarse(keras.Model(inputs, layers.Dense(5)(x)))


def test_logits_have_the_mean_that_they_have_in_float():
    graph = fuse(fold(lower(network())))
    formats = calibrated_formats(graph, images(), "max")
    formats[graph.input.name] = pixel_format((0.0,), (1.0,), 3)
    before = [node.linear.bias for node in graph if isinstance(node, Fused)]
    better = bias_corrected(graph, formats, images())
    wanted = run_in_float(graph, tf.constant(images())).numpy()

    def moved(each) -> float:
        found = tf.function(lambda x: run_in_int8(each, formats, x), autograph=False)
        return float(np.abs(found(tf.constant(images())).numpy().mean(0) - wanted.mean(0)).max())

    assert moved(graph) > 0.1
    assert moved(better) < moved(graph) / 5
    after = [node.linear.bias for node in graph if isinstance(node, Fused)]
    assert all(one is other for one, other in zip(before, after, strict=True))


def test_a_rounded_step_is_what_bytes_compute():
    model = coarse(keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3)]))
    graph = fuse(fold(lower(model)))
    (node,) = (node for node in graph if isinstance(node, Fused))
    form = pixel_format((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), 3)
    kernel = rounded(node.linear, form).kernel
    high = np.abs(node.linear.kernel * form.gain[:, None]).max(axis=(0, 1, 2))
    steps = kernel * form.gain[:, None] / (high / 127)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    np.testing.assert_allclose(
        kernel * form.gain[:, None], node.linear.kernel * form.gain[:, None], atol=high.max() / 253
    )


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
