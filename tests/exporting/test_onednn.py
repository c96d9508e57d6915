"""oneDNN on bytes against the same numbers in float: no answer is off by more than a rounding."""

import numpy as np
import pytest
import tensorflow as tf

from keras_cls.errors import ExportError
from keras_cls.exporting import onednn

RANDOM = np.random.default_rng(0)
UNSIGNED, SIGNED = (0.0, 4.0), (-4.0, 4.0)


def bytes_and_numbers(x: np.ndarray, ends: onednn.Range) -> tuple[tf.Tensor, tf.Tensor]:
    """Numbers as bytes, and what these stand for."""
    # Fed, and no constant: what is made of constants alone is kept, and no sum may write over it.
    fed = tf.compat.v1.placeholder(tf.float32, x.shape)
    tf.compat.v1.add_to_collection("fed", (fed, x))
    made = onednn.quantize(fed, ends, tf.qint8 if ends[0] else tf.quint8)
    return made, onednn.dequantize(made, ends)


def kernel_of(
    *shape: int, axes: tuple[int, ...], weights: onednn.Weights
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int8, what one stands for, and the numbers."""
    kernel = RANDOM.normal(size=shape)
    scale = np.abs(kernel).max(axis=axes) / weights.largest
    found = weights.step * np.rint(kernel / scale / weights.step).astype(np.int8)
    return found, scale.reshape(-1), found * scale


def run(*tensors: tf.Tensor) -> list[np.ndarray]:
    graph = tensors[0].graph
    with tf.compat.v1.Session(graph=graph) as session:
        return session.run(tensors, dict(graph.get_collection("fed")))


def maps(channels: int, ends: onednn.Range) -> np.ndarray:
    found = RANDOM.uniform(*ends, (3, 9, 8, channels))
    found[0] = ends[1]
    return found


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("ends", [UNSIGNED, SIGNED])
@pytest.mark.parametrize(
    ("padding", "strides", "dilations"),
    [
        ("VALID", (1, 1), (1, 1)),
        ("SAME", (2, 2), (1, 1)),
        ("SAME", (1, 1), (2, 2)),
        ([(0, 0), (1, 0), (2, 1), (0, 0)], (2, 2), (1, 1)),
    ],
)
@pytest.mark.parametrize("relu", [True, False])
def test_a_convolution(depthwise, ends, padding, strides, dilations, relu):
    if depthwise and dilations != (1, 1):
        pytest.skip("no network has one")
    with tf.Graph().as_default():
        x, numbers = bytes_and_numbers(maps(16, ends), ends)
        shape = (3, 3, 16, 2) if depthwise else (3, 3, 16, 32)
        exact = onednn.exact_weights(signed_convolution=ends == SIGNED)
        axes = (0, 1) if depthwise else (0, 1, 2)
        kernel, scale, weights = kernel_of(*shape, axes=axes, weights=exact)
        bias = RANDOM.normal(size=32)
        if depthwise:
            padded = numbers if isinstance(padding, str) else tf.pad(numbers, padding)
            around = padding if isinstance(padding, str) else "VALID"
            wanted = tf.nn.depthwise_conv2d(
                padded, tf.constant(weights, tf.float32), (1, *strides, 1), around
            )
        else:
            wanted = tf.nn.conv2d(
                numbers, tf.constant(weights, tf.float32), strides, padding, dilations=dilations
            )
        wanted = wanted + tf.constant(bias, tf.float32)
        wanted = tf.nn.relu(wanted) if relu else wanted
        out = (0.0, 90.0) if relu else (-90.0, 90.0)
        found = onednn.convolution(
            x,
            ends,
            kernel,
            scale,
            bias,
            strides=strides,
            padding=padding,
            dilations=dilations,
            depthwise=depthwise,
            relu=relu,
            summand=None,
            output=(tf.quint8 if relu else tf.qint8, out),
        )
        found, wanted = run(onednn.dequantize(found, out), wanted)
    step = 90 / (255 if relu else 127)
    # The smallest signed byte is -128.
    wanted = np.clip(wanted, out[0] and out[0] - step, out[1])
    assert np.abs(found - wanted).max() <= 0.501 * step


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("ends", [UNSIGNED, SIGNED])
@pytest.mark.parametrize(
    ("padding", "strides", "dilations"),
    [
        ("SAME", (2, 2), (1, 1)),
        ("SAME", (1, 1), (2, 2)),
        ([(0, 0), (1, 0), (2, 1), (0, 0)], (2, 2), (1, 1)),
    ],
)
def test_sums_are_exact(depthwise, ends, padding, strides, dilations):
    if depthwise and dilations != (1, 1):
        pytest.skip("no network has one")
    with tf.Graph().as_default():
        x, _ = bytes_and_numbers(maps(16, ends), ends)
        numbers = onednn.dequantize(x, (-127.0, 127.0) if ends[0] else (0.0, 255.0))
        shape = (3, 3, 16, 2) if depthwise else (3, 3, 16, 32)
        largest, step = onednn.exact_weights(signed_convolution=ends == SIGNED)
        most = largest // step
        kernel = step * RANDOM.integers(-most, most + 1, shape).astype(np.int8)
        kernel[..., 0] = largest  # with the largest bytes, the largest sums there are
        how = {"strides": strides, "padding": padding, "dilations": dilations}
        found = onednn.sums_of_products(x, kernel, **how, depthwise=depthwise)
        assert found.dtype == tf.int32
        if depthwise:
            padded = numbers if padding == "SAME" else tf.pad(numbers, padding)
            around = "SAME" if padding == "SAME" else "VALID"
            weights = tf.constant(kernel, tf.float64)
            wanted = tf.nn.depthwise_conv2d(
                tf.cast(padded, tf.float64), weights, (1, *strides, 1), around
            )
        else:
            weights = tf.constant(kernel, tf.float64)
            wanted = tf.nn.conv2d(tf.cast(numbers, tf.float64), weights, **how)
        found, wanted = run(found, wanted)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("depthwise", [False, True])
def test_a_sum_in_the_same_step(depthwise):
    with tf.Graph().as_default():
        x, numbers = bytes_and_numbers(maps(16, UNSIGNED), UNSIGNED)
        _, added_numbers = bytes_and_numbers(maps(16, UNSIGNED), UNSIGNED)
        kernel = np.full((1, 1, 16, 1), 127, np.int8) if depthwise else None
        if kernel is None:
            exact = onednn.exact_weights(signed_convolution=False)
            kernel, scale, weights = kernel_of(1, 1, 16, 16, axes=(0, 1, 2), weights=exact)
            product = tf.nn.conv2d(numbers, tf.constant(weights, tf.float32), 1, "VALID")
        else:
            scale, product = np.full(16, 1 / 127), numbers
        wanted = tf.nn.relu(product + added_numbers)
        # Bytes of its own, which nothing else reads: they are written over.
        summand = onednn.private(onednn.quantize(added_numbers, UNSIGNED, tf.quint8))
        found = onednn.convolution(
            x,
            UNSIGNED,
            kernel,
            scale,
            np.zeros(16),
            strides=(1, 1),
            padding="VALID",
            dilations=(1, 1),
            depthwise=depthwise,
            relu=True,
            summand=(summand, UNSIGNED),
            output=(tf.quint8, (0.0, 30.0)),
        )
        found, wanted = run(onednn.dequantize(found, (0.0, 30.0)), wanted)
    assert np.abs(found - np.minimum(wanted, 30)).max() <= 0.501 * 30 / 255


@pytest.mark.parametrize("ends", [UNSIGNED, SIGNED])
def test_a_matrix_product_gives_floats(ends):
    with tf.Graph().as_default():
        x, numbers = bytes_and_numbers(RANDOM.uniform(*ends, (5, 64)), ends)
        exact = onednn.exact_weights(signed_convolution=False)
        kernel, scale, weights = kernel_of(64, 10, axes=(0,), weights=exact)
        bias = RANDOM.normal(size=10)
        wanted = tf.matmul(numbers, tf.constant(weights, tf.float32)) + bias
        found, wanted = run(onednn.matrix_product(x, ends, kernel, scale, bias), wanted)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("ends", [UNSIGNED, SIGNED])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_pools(ends, padding):
    with tf.Graph().as_default():
        x, numbers = bytes_and_numbers(maps(8, ends), ends)
        largest = onednn.max_pool(x, (3, 2), (2, 2), padding)
        mean = onednn.average_pool(x, (3, 2), (2, 2), padding)
        found = run(
            onednn.dequantize(largest, ends),
            tf.nn.max_pool2d(numbers, (3, 2), (2, 2), padding.upper()),
            onednn.dequantize(mean, ends),
            tf.nn.avg_pool2d(numbers, (3, 2), (2, 2), padding.upper()),
        )
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    step = ends[1] / (127 if ends[0] else 255)
    assert np.abs(found[2] - found[3]).max() <= 0.501 * step


@pytest.mark.parametrize("ends", [UNSIGNED, SIGNED, (0.0, 1e-3), (-1e-3, 1e-3)])
def test_bytes_are_the_nearest(ends):
    with tf.Graph().as_default():
        numbers = RANDOM.uniform(*ends, (3, 50))
        _, found = bytes_and_numbers(numbers, ends)
        (found,) = run(found)
    step = ends[1] / (127 if ends[0] else 255)
    assert np.abs(found - numbers).max() <= 0.501 * step


def test_signed_bytes_become_unsigned_ones_and_back():
    with tf.Graph().as_default():
        signed = tf.bitcast(tf.constant([-128, -127, 0, 1, 127], tf.int8), tf.qint8)
        there = onednn.shifted(signed)
        back = onednn.shifted(there)
        found = run(tf.bitcast(there, tf.uint8), tf.bitcast(back, tf.int8))
    assert found[0].tolist() == [0, 1, 128, 129, 255]
    assert found[1].tolist() == [-128, -127, 0, 1, 127]


def test_this_machine_can():
    onednn.require()


def test_a_build_without_the_operations_is_told_so(monkeypatch):
    written = onednn._node
    monkeypatch.setattr(onednn, "_node", lambda kind, *rest: written(f"{kind}OfNobody", *rest))
    with pytest.raises(ExportError, match="int8 needs TensorFlow's oneDNN operations on bytes"):
        onednn.require()


def test_another_machine_is_told_that_it_cannot(monkeypatch):
    def another(x: tf.Tensor, *_: object) -> tf.Tensor:
        return tf.cast(tf.bitcast(x, tf.uint8), tf.float32)

    monkeypatch.setattr(onednn, "matrix_product", another)
    with pytest.raises(ExportError, match="int8 needs TensorFlow's oneDNN operations on bytes"):
        onednn.require()
