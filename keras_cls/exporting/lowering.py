"""From a Keras model to its :class:`~keras_cls.exporting.nodes.Graph` at inference."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_cls.architectures.airbench import WhiteningConv2D
from keras_cls.architectures.cells import ScheduledDropPath
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
from keras_cls.errors import ExportError
from keras_cls.exporting import nodes
from keras_cls.exporting.calls import Call, calls_of
from keras_cls.exporting.nodes import NO_MARGINS, Graph, Margins, Node, Shape, same_margins

_FUNCTIONS = frozenset({
    "elu", "exponential", "gelu", "hard_sigmoid", "hard_silu", "leaky_relu", "log_softmax", "mish",
    "selu", "sigmoid", "silu", "softmax", "softplus", "softsign", "tanh",
})  # fmt: skip

Rule: TypeAlias = Callable[[Call, Sequence[Shape]], list[Node]]
"""A call and the shapes of what it takes -> nodes, the last of which gives its output; or none,
where the first input is the output. Nodes are named after the call, all but the last with more."""

_RULES: dict[type[keras.layers.Layer], Rule] = {}


def lower(model: keras.Model) -> Graph:
    """The network at inference, layer by layer; nothing is folded yet.

    Raises:
        ExportError: a layer, or something that it is set to, is not known here; it is named.
    """
    found: list[Node] = []
    shapes: dict[str, Shape] = {}
    place: dict[str, str] = {}
    for call in calls_of(model):
        rule = _RULES.get(type(call.layer))
        if rule is None:
            raise ExportError(
                f"{call.name}: a layer of type {type(call.layer).__name__} cannot be lowered to an "
                f"inference graph; known are {', '.join(sorted({t.__name__ for t in _RULES}))}"
            )
        inputs = tuple(place[name] for name in call.inputs)
        call = Call(call.name, call.layer, inputs)
        made = rule(call, [shapes[name] for name in inputs])
        for node in made:
            found.append(node)
            shapes[node.name] = node.output_shape(*(shapes[name] for name in node.inputs))
        place[call.name] = made[-1].name if made else inputs[0]
    return Graph(tuple(found))


def _rule(*kinds: type[keras.layers.Layer]) -> Callable[[Rule], Rule]:
    """For these very classes: a class derived from one may compute something else."""

    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(kinds, rule))
        return rule

    return register


@_rule(keras.layers.InputLayer)
def _input(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    _, *shape = call.layer.batch_shape
    if None in shape:
        raise ExportError(
            f"{call.name}: the input's shape is {tuple(shape)}: an inference graph is written for "
            "one size; build the model with a height and a width"
        )
    return [nodes.Input(call.name, (), tuple(shape))]


@_rule(
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.GaussianNoise,
    keras.layers.GaussianDropout,
    keras.layers.ActivityRegularization,
    keras.layers.Identity,
    DropPath,
    ScheduledDropPath,
)
def _nothing(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    return []


# ------------------------------------------------------------------------------- linear layers


@_rule(keras.layers.Dense)
def _dense(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    layer = call.layer
    made = nodes.Dense(call.name, call.inputs, _array(layer.kernel), _bias(layer))
    return _activated(call, made)


@_rule(keras.layers.Conv2D, Conv2D, GroupedConv2D, FullyConnected, WhiteningConv2D)
def _convolution(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    layer = call.layer
    made = nodes.Convolution(
        call.name,
        call.inputs,
        _array(layer.kernel),
        _bias(layer),
        strides=layer.strides,
        margins=_margins(layer, shapes[0]),
        dilations=layer.dilation_rate,
        groups=layer.groups,
    )
    return _activated(call, made)


@_rule(keras.layers.DepthwiseConv2D)
def _depthwise(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    layer = call.layer
    made = _depthwise_node(call, call.name, layer.kernel, _bias(layer), shapes[0])
    return _activated(call, made)


@_rule(keras.layers.SeparableConv2D)
def _separable(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    layer = call.layer
    first = _depthwise_node(call, f"{call.name}/depthwise", layer.depthwise_kernel, None, shapes[0])
    second = nodes.Convolution(
        call.name,
        (first.name,),
        _array(layer.pointwise_kernel),
        _bias(layer),
        strides=(1, 1),
        margins=NO_MARGINS,
        dilations=(1, 1),
    )
    return [first, *_activated(call, second)]


def _depthwise_node(
    call: Call, name: str, kernel: Any, bias: np.ndarray | None, shape: Shape
) -> nodes.Depthwise:
    layer = call.layer
    return nodes.Depthwise(
        name,
        call.inputs,
        _array(kernel),
        bias,
        strides=layer.strides,
        margins=_margins(layer, shape),
        dilations=layer.dilation_rate,
    )


def _bias(layer: Any) -> np.ndarray | None:
    return _array(layer.bias) if layer.use_bias else None


def _margins(layer: Any, shape: Shape) -> Margins:
    _channels_last(layer)
    if layer.padding == "valid":
        return NO_MARGINS
    return same_margins(shape, layer.kernel_size, layer.strides, layer.dilation_rate)


# ------------------------------------------------------------------- normalization, activations


@_rule(keras.layers.BatchNormalization, BatchNormalization)
def _batch_normalization(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    layer = call.layer
    if layer.axis not in (-1, len(shapes[0])):
        raise ExportError(f"{call.name}: normalizes axis {layer.axis}; expected the last one")
    scale = 1 / np.sqrt(_array(layer.moving_variance).astype(np.float64) + layer.epsilon)
    if layer.scale:
        scale *= _array(layer.gamma)
    offset = -scale * _array(layer.moving_mean)
    if layer.center:
        offset += _array(layer.beta)
    return [nodes.Affine(call.name, call.inputs, scale, offset)]


@_rule(keras.layers.Rescaling)
def _rescaling(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    scale, offset = (
        np.broadcast_to(np.asarray(values, np.float64), shapes[0][-1:])
        for values in (call.layer.scale, call.layer.offset)
    )
    return [nodes.Affine(call.name, call.inputs, scale, offset)]


@_rule(keras.layers.Normalization)
def _normalization(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    layer = call.layer
    mean, variance = (
        np.asarray(keras.ops.convert_to_numpy(each), np.float64).reshape(-1)
        for each in (layer.mean, layer.variance)
    )
    if layer.invert or not {mean.size, variance.size} <= {1, shapes[0][-1]}:
        raise ExportError(f"{call.name}: only a Normalization of each channel can be lowered")
    scale = np.broadcast_to(
        1 / np.maximum(np.sqrt(variance), keras.config.epsilon()), shapes[0][-1:]
    )
    return [nodes.Affine(call.name, call.inputs, scale, -mean * scale)]


@_rule(keras.layers.ReLU)
def _relu(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    layer = call.layer
    if layer.threshold:
        raise ExportError(f"{call.name}: a ReLU with a threshold cannot be lowered")
    ceiling = None if layer.max_value is None else float(layer.max_value)
    return [nodes.Relu(call.name, call.inputs, ceiling, float(layer.negative_slope))]


@_rule(keras.layers.LeakyReLU)
def _leaky_relu(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    return [nodes.Relu(call.name, call.inputs, slope=float(call.layer.negative_slope))]


@_rule(Gelu)
def _gelu(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    return [nodes.Activation(call.name, call.inputs, "exact_gelu")]


@_rule(keras.layers.Activation)
def _activation(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    return _function(call, call.name, call.inputs)


def _activated(call: Call, made: Node) -> list[Node]:
    """A layer's node, and one more for its activation."""
    return [made, *_function(call, f"{call.name}/activation", (made.name,))]


def _function(call: Call, name: str, inputs: tuple[str, ...]) -> list[Node]:
    activation = call.layer.activation
    if activation is keras.activations.linear:
        return []
    known = getattr(activation, "__name__", repr(activation))
    # Of the same name, and not merely called so.
    if getattr(keras.activations, known, None) is not activation:
        known = f"{known} of {getattr(activation, '__module__', 'unknown origin')}"
    if known == "relu":
        return [nodes.Relu(name, inputs)]
    if known == "relu6":
        return [nodes.Relu(name, inputs, ceiling=6.0)]
    if known not in _FUNCTIONS:
        raise ExportError(
            f"{call.name}: the activation {known} cannot be lowered; known are relu, "
            f"{', '.join(sorted(_FUNCTIONS))}"
        )
    return [nodes.Activation(name, inputs, known)]


@_rule(LocalResponseNormalization)
def _local_response(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    layer = call.layer
    return [
        nodes.LocalResponse(
            call.name, call.inputs, layer.depth_radius, layer.bias, layer.alpha, layer.beta
        )
    ]


# ------------------------------------------------------------------------------ pools and shapes


@_rule(keras.layers.MaxPooling2D)
def _max_pool(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    return [nodes.MaxPool(call.name, call.inputs, *_window(call.layer))]


@_rule(keras.layers.AveragePooling2D)
def _average_pool(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    return [nodes.AveragePool(call.name, call.inputs, *_window(call.layer))]


def _window(layer: Any) -> tuple[tuple[int, int], tuple[int, int], nodes.PoolPadding]:
    _channels_last(layer)
    return layer.pool_size, layer.strides, layer.padding


@_rule(keras.layers.GlobalAveragePooling2D)
def _global_average(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    _channels_last(call.layer)
    return [nodes.GlobalAverage(call.name, call.inputs, call.layer.keepdims)]


@_rule(keras.layers.Add)
def _add(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    return _elementwise(nodes.Add, call, shapes)


@_rule(keras.layers.Multiply)
def _multiply(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    return _elementwise(nodes.Multiply, call, shapes)


def _elementwise(kind: type[nodes.Elementwise], call: Call, shapes: Sequence[Shape]) -> list[Node]:
    """Of vectors and maps, Keras takes a vector as a number for each channel."""
    rank = max(map(len, shapes))
    made: list[Node] = []
    inputs = []
    for number, (name, shape) in enumerate(zip(call.inputs, shapes, strict=True)):
        if missing := rank - len(shape):
            name = f"{call.name}/input_{number}"
            made.append(nodes.Reshape(name, (call.inputs[number],), (1,) * missing + shape))
        inputs.append(name)
    return [*made, kind(call.name, tuple(inputs))]


@_rule(keras.layers.Concatenate)
def _concatenate(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    if call.layer.axis not in (-1, len(shapes[0])):
        raise ExportError(f"{call.name}: joins axis {call.layer.axis}; expected the last one")
    return [nodes.Concatenate(call.name, call.inputs)]


@_rule(keras.layers.ZeroPadding2D)
def _zero_padding(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    _channels_last(call.layer)
    return [nodes.Pad(call.name, call.inputs, call.layer.padding)]


@_rule(ZeroPadChannels)
def _zero_pad_channels(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    channels = call.layer.before, call.layer.after
    return [nodes.Pad(call.name, call.inputs, NO_MARGINS, channels)]


@_rule(keras.layers.Cropping2D)
def _cropping(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    _channels_last(call.layer)
    return [nodes.Crop(call.name, call.inputs, call.layer.cropping)]


@_rule(keras.layers.Flatten)
def _flatten(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    _channels_last(call.layer)
    return _reshape(call, shapes)


@_rule(keras.layers.Reshape)
def _reshape(call: Call, shapes: Sequence[Shape]) -> list[Node]:
    _, *shape = call.layer.compute_output_shape((None, *shapes[0]))
    return [nodes.Reshape(call.name, call.inputs, tuple(shape))]


def _channels_last(layer: Any) -> None:
    if layer.data_format != "channels_last":
        raise ExportError(
            f"{layer.name}: its data_format is {layer.data_format!r}; expected 'channels_last'"
        )


def _array(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float32)
