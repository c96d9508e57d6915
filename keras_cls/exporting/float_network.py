"""Run a :class:`~keras_cls.exporting.nodes.Graph` with TensorFlow's floating-point operations."""

import operator
from functools import reduce, singledispatch

import keras
import numpy as np
import tensorflow as tf

from keras_cls.exporting import nodes
from keras_cls.exporting.constants import constant
from keras_cls.exporting.nodes import Graph, Node, Shape, same_margins


def run_in_float(graph: Graph, images: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """Logits float32 [N, K] of prepared images float32 [N, H, W, C].

    All numbers of the network become constants of the graph that is being traced.

    Args:
        graph: the network.
        images: what it takes.
        dtype: what is computed in, float32 or bfloat16.
    """
    values = run_all_in_float(graph, images, dtype)
    return tf.cast(values[graph.output.name], tf.float32)


def run_all_in_float(
    graph: Graph, images: tf.Tensor, dtype: tf.DType = tf.float32
) -> dict[str, tf.Tensor]:
    """What every node gives, by its name, [N, \\*shape] in that dtype."""
    shapes, readers = graph.shapes(), graph.consumers()
    values: dict[str, tf.Tensor] = {graph.input.name: tf.cast(images, dtype)}
    for node in graph.nodes[1:]:
        inputs = [values[name] for name in node.inputs]
        with tf.name_scope(node.name):
            if _would_be_joined_wrongly(node, graph[node.inputs[0]], readers):
                inputs = [tf.ensure_shape(x, x.shape) for x in inputs]
            values[node.name] = apply(node, inputs, [shapes[name] for name in node.inputs])
    return values


def _would_be_joined_wrongly(node: Node, source: Node, readers: dict[str, tuple[str, ...]]) -> bool:
    """Whether it is an activation of a sum that others read as well.

    TensorFlow's optimizer joins the two, forgets the others, finds its graph broken, and undoes all
    that it had joined ("remapper failed"; 2.21, the NASNets and PNASNets). It joins nothing across
    a check of the shape, which costs nothing.
    """
    activates = isinstance(node, nodes.Relu | nodes.Activation)
    return activates and isinstance(source, nodes.Add) and len(readers[source.name]) > 1


@singledispatch
def apply(node: Node, inputs: list[tf.Tensor], shapes: list[Shape]) -> tf.Tensor:
    """What a node makes of its inputs, [N, \\*shape] each, in their dtype."""
    raise TypeError(f"{node.name}: {type(node).__name__}")


@apply.register
def _(node: nodes.Dense, inputs: list[tf.Tensor], shapes: list[Shape]) -> tf.Tensor:
    (x,) = inputs
    kernel = constant(node.kernel, x.dtype)
    if x.shape.rank == 2:
        return _biased(tf.matmul(x, kernel), node.bias)
    return _biased(tf.tensordot(x, kernel, 1), node.bias)


@apply.register
def _(node: nodes.Convolution, inputs: list[tf.Tensor], shapes: list[Shape]) -> tf.Tensor:
    (x,) = inputs
    found = tf.nn.conv2d(
        x,
        constant(node.kernel, x.dtype),
        node.strides,
        window_padding(node, shapes[0]),
        dilations=node.dilations,
    )
    if node.groups > 1 and node.bias is not None:
        # Where oneDNN is off, the optimizer joins a bias_add to it, for which there is no kernel.
        return found + constant(node.bias, x.dtype)
    return _biased(found, node.bias)


@apply.register
def _(node: nodes.Depthwise, inputs: list[tf.Tensor], shapes: list[Shape]) -> tf.Tensor:
    (x,) = inputs
    padding = window_padding(node, shapes[0])
    if not isinstance(padding, str):
        # With such margins, a bias and a ReLU, TensorFlow 2.21's optimizer ends the process.
        x, padding = tf.pad(x, padding), "VALID"
    kernel, strides = constant(node.kernel, x.dtype), (1, *node.strides, 1)
    found = tf.nn.depthwise_conv2d(x, kernel, strides, padding, dilations=node.dilations)
    return _biased(found, node.bias)


@apply.register
def _(node: nodes.Fused, inputs: list[tf.Tensor], shapes: list[Shape]) -> tf.Tensor:
    found = apply(node.linear, inputs[:1], shapes[:1])
    if node.summand is not None:
        found = found + inputs[1]
    return found if node.relu is None else apply(node.relu, [found], shapes)


@apply.register
def _(node: nodes.Affine, inputs: list[tf.Tensor], shapes: list[Shape]) -> tf.Tensor:
    (x,) = inputs
    if len(shapes[0]) != 3:
        return x * constant(node.scale, x.dtype) + constant(node.offset, x.dtype)
    channels = len(node.scale)
    # One pass, and computed in float32 whatever the map is.
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=constant(node.scale, tf.float32),
        offset=constant(node.offset, tf.float32),
        mean=tf.zeros(channels),
        variance=tf.ones(channels),
        epsilon=0.0,
        is_training=False,
    )[0]


@apply.register
def _(node: nodes.Relu, inputs: list[tf.Tensor], shapes: list[Shape]) -> tf.Tensor:
    (x,) = inputs
    if node.slope:
        x = tf.nn.leaky_relu(x, node.slope)
    elif node.ceiling == 6:
        return tf.nn.relu6(x)
    else:
        x = tf.nn.relu(x)
    return x if node.ceiling is None else tf.minimum(x, tf.cast(node.ceiling, x.dtype))


@apply.register
def _(node: nodes.Activation, inputs: list[tf.Tensor], shapes: list[Shape]) -> tf.Tensor:
    (x,) = inputs
    if node.function == "sigmoid":
        return tf.sigmoid(x)
    if node.function == "tanh":
        return tf.tanh(x)
    x32 = tf.cast(x, tf.float32)
    if node.function == "exact_gelu":
        found = tf.nn.gelu(x32, approximate=False)
    else:
        found = getattr(keras.activations, node.function)(x32)
    return tf.cast(found, x.dtype)


@apply.register
def _(node: nodes.MaxPool, inputs: list[tf.Tensor], shapes: list[Shape]) -> tf.Tensor:
    return tf.nn.max_pool2d(inputs[0], node.size, node.strides, node.padding.upper())


@apply.register
def _(node: nodes.AveragePool, inputs: list[tf.Tensor], shapes: list[Shape]) -> tf.Tensor:
    return tf.nn.avg_pool2d(inputs[0], node.size, node.strides, node.padding.upper())


@apply.register
def _(node: nodes.GlobalAverage, inputs: list[tf.Tensor], shapes: list[Shape]) -> tf.Tensor:
    (x,) = inputs
    mean = tf.reduce_mean(tf.cast(x, tf.float32), axis=(1, 2), keepdims=node.keepdims)
    return tf.cast(mean, x.dtype)


@apply.register
def _(node: nodes.Add, inputs: list[tf.Tensor], shapes: list[Shape]) -> tf.Tensor:
    return reduce(operator.add, inputs)


@apply.register
def _(node: nodes.Multiply, inputs: list[tf.Tensor], shapes: list[Shape]) -> tf.Tensor:
    return reduce(operator.mul, inputs)


@apply.register
def _(node: nodes.Concatenate, inputs: list[tf.Tensor], shapes: list[Shape]) -> tf.Tensor:
    return tf.concat(inputs, axis=-1)


@apply.register
def _(node: nodes.Pad, inputs: list[tf.Tensor], shapes: list[Shape]) -> tf.Tensor:
    return tf.pad(inputs[0], [(0, 0), *node.margins, node.channels])


@apply.register
def _(node: nodes.Crop, inputs: list[tf.Tensor], shapes: list[Shape]) -> tf.Tensor:
    height, width, _ = shapes[0]
    (above, below), (left, right) = node.margins
    return inputs[0][:, above : height - below, left : width - right]


@apply.register
def _(node: nodes.LocalResponse, inputs: list[tf.Tensor], shapes: list[Shape]) -> tf.Tensor:
    (x,) = inputs
    found = tf.nn.lrn(tf.cast(x, tf.float32), node.depth_radius, node.bias, node.alpha, node.beta)
    return tf.cast(found, x.dtype)


@apply.register
def _(node: nodes.Reshape, inputs: list[tf.Tensor], shapes: list[Shape]) -> tf.Tensor:
    return tf.reshape(inputs[0], (-1, *node.shape))


def window_padding(node: nodes.Windowed, shape: Shape) -> str | list[tuple[int, int]]:
    """The margins as TensorFlow's word for them, or else in full.

    Kernels, converters and the graph's optimizer have more for the words.
    """
    if node.margins == nodes.NO_MARGINS:
        return "VALID"
    size = node.kernel.shape[:2]
    if node.margins == same_margins(shape, size, node.strides, node.dilations):
        return "SAME"
    return [(0, 0), *node.margins, (0, 0)]


def _biased(x: tf.Tensor, bias: np.ndarray | None) -> tf.Tensor:
    return x if bias is None else tf.nn.bias_add(x, constant(bias, x.dtype))
