"""Run a fused :class:`~keras_cls.exporting.nodes.Graph` in bytes, and in float where it has to be.

A value is a float map, or bytes in the format that was chosen for it, or, made once when first
asked for, both.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import singledispatch

import numpy as np
import tensorflow as tf

from keras_cls.exporting import float_network, nodes, onednn
from keras_cls.exporting.byte_formats import ByteFormat, in_bytes
from keras_cls.exporting.float_network import window_padding
from keras_cls.exporting.nodes import NO_MARGINS, Graph, Linear, Node

_BLOCK = 64
"""Channels of a grouped convolution that are computed together, as one convolution with zeros
between the groups: oneDNN has no grouped kernels for bytes, and narrow ones waste its vectors."""


def run_in_int8(graph: Graph, formats: Mapping[str, ByteFormat], images: tf.Tensor) -> tf.Tensor:
    """Logits float32 [N, K] of prepared images float32 [N, H, W, C].

    Args:
        graph: fused.
        formats: of all bytes, from calibration.
        images: what it takes.
    """
    values = _Values(graph, formats)
    values.keep_float(graph.input.name, tf.cast(images, tf.float32))
    for node in graph.nodes[1:]:
        with tf.name_scope(node.name):
            _run(node, values)
    return values.as_float(graph.output.name)


def in_float(graph: Graph) -> dict[str, str]:
    """What of a fused graph computes in float: by node, what it does."""
    of_bytes = in_bytes(graph)
    return {
        node.name: type(node).__name__
        for node in graph.nodes[1:]
        if node.name not in of_bytes
        and not isinstance(node, nodes.Fused | nodes.Dense | nodes.Reshape)
    }


class _Values:
    """What has been computed so far."""

    def __init__(self, graph: Graph, formats: Mapping[str, ByteFormat]) -> None:
        self.formats = formats
        self.of_bytes = in_bytes(graph)
        self.shapes = graph.shapes()
        self._floats: dict[str, tf.Tensor] = {}
        self._bytes: dict[str, tf.Tensor] = {}

    def keep_float(self, name: str, value: tf.Tensor) -> None:
        self._floats[name] = value

    def keep_bytes(self, name: str, value: tf.Tensor) -> None:
        self._bytes[name] = value

    def as_float(self, name: str) -> tf.Tensor:
        if name not in self._floats:
            self._floats[name] = from_bytes(self._bytes[name], self.formats[name])
        return self._floats[name]

    def as_bytes(self, name: str) -> tf.Tensor:
        if name not in self._bytes:
            self._bytes[name] = to_bytes(self._floats[name], self.formats[name])
        return self._bytes[name]


def to_bytes(x: tf.Tensor, form: ByteFormat) -> tf.Tensor:
    """Numbers as the nearest bytes."""
    if form.offset is not None:
        x = x + form.offset.astype(np.float32)
    if form.gain is not None:
        x = x * (1 / form.gain).astype(np.float32)
    return onednn.quantize(x, form.ends, _dtype(form))


def from_bytes(x: tf.Tensor, form: ByteFormat) -> tf.Tensor:
    """What bytes stand for."""
    found = onednn.dequantize(x, form.ends)
    if form.gain is not None:
        found = found * form.gain.astype(np.float32)
    return found if form.offset is None else found - form.offset.astype(np.float32)


def _dtype(form: ByteFormat) -> tf.DType:
    return tf.qint8 if form.signed else tf.quint8


@singledispatch
def _run(node: Node, values: _Values) -> None:
    """Compute a node."""
    _in_float(node, values)


def _in_float(node: Node, values: _Values) -> None:
    inputs = [values.as_float(name) for name in node.inputs]
    found = float_network.apply(node, inputs, [values.shapes[name] for name in node.inputs])
    values.keep_float(node.name, found)


@_run.register
def _(node: nodes.Fused, values: _Values) -> None:
    window = node.linear
    assert isinstance(window, nodes.Windowed)
    if node.name in values.of_bytes:
        values.keep_bytes(node.name, _convolved(node, window, values))
    else:
        values.keep_float(node.name, _convolved_to_float(node, window, values))


def _read_by(
    window: nodes.Windowed, source: str, values: _Values
) -> tuple[tf.Tensor, str | list[tuple[int, int]]]:
    """The bytes that a window slides over, and the padding that is left to it."""
    form = values.formats[source]
    if form.offset is not None and window.margins != NO_MARGINS:
        # Only the images: beside them lies what their format has for zero.
        around = [(0, 0), *window.margins, (0, 0)]
        return to_bytes(tf.pad(values.as_float(source), around), form), "VALID"
    return values.as_bytes(source), window_padding(window, values.shapes[source])


def _convolved_to_float(node: nodes.Fused, window: nodes.Windowed, values: _Values) -> tf.Tensor:
    x, padding = _read_by(window, node.inputs[0], values)
    form = values.formats[node.inputs[0]]
    quantized, scale, bias = _in_steps(window, form)
    sums = [
        onednn.sums_of_products(
            part,
            each,
            strides=window.strides,
            padding=padding,
            dilations=window.dilations,
            depthwise=isinstance(window, nodes.Depthwise),
        )
        for part, each, _ in _blocks(x, quantized, _groups(window))
    ]
    exact = tf.cast(sums[0] if len(sums) == 1 else tf.concat(sums, axis=-1), tf.float32)
    shapes = [values.shapes[node.name]]
    found = float_network.apply(
        nodes.Affine(node.name, (), form.step * scale, bias), [exact], shapes
    )
    return found if node.relu is None else float_network.apply(node.relu, [found], shapes)


def _groups(window: nodes.Windowed) -> int:
    return window.groups if isinstance(window, nodes.Convolution) else 1


def _convolved(node: nodes.Fused, window: nodes.Windowed, values: _Values) -> tf.Tensor:
    x, padding = _read_by(window, node.inputs[0], values)
    form, out = values.formats[node.inputs[0]], values.formats[node.name]
    quantized, scale, bias = _in_steps(window, form)
    # With a sum, oneDNN takes and gives unsigned bytes only, and none below zero.
    written = unsigned(out, positive=node.relu is not None) if node.summand else out
    if written.offset is not None:
        bias = bias + written.offset
    summand = None
    if node.summand is not None:
        added = values.formats[node.summand]
        summand = values.as_bytes(node.summand)
        if added.signed:
            summand, added = onednn.shifted(summand), unsigned(added)
        if added.offset is not None:
            bias = bias - added.offset
        summand = summand, added.ends
    found = [
        onednn.convolution(
            part,
            form.ends,
            each,
            scale[of_filters],
            bias[of_filters].astype(np.float32),
            strides=window.strides,
            padding=padding,
            dilations=window.dilations,
            depthwise=isinstance(window, nodes.Depthwise),
            relu=node.relu is not None or not written.signed,
            summand=summand,
            output=(_dtype(written), written.ends),
        )
        for part, each, of_filters in _blocks(x, quantized, _groups(window))
    ]
    made = found[0] if len(found) == 1 else _joined(*found)
    top = out.levels if node.relu is not None else written.levels
    if node.relu is not None and node.relu.ceiling is not None:
        top = min(top, round(node.relu.ceiling / out.step))
    if top < written.levels:
        made = tf.bitcast(tf.minimum(_plain(made), top), made.dtype)
    if written.signed != out.signed:
        made = tf.bitcast(made, tf.qint8) if written.offset is None else onednn.shifted(made)
    return made


def unsigned(form: ByteFormat, *, positive: bool = False) -> ByteFormat:
    """A format of bytes 0 to 255 for what is in this one: the same step, and 128 added.

    Or nothing added, where the numbers are positive.
    """
    if not form.signed:
        return form
    return ByteFormat(form.step, None if positive else np.asarray(128 * form.step))


def _in_steps(linear: Linear, form: ByteFormat) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A linear step for bytes of that format.

    Returns:
        The kernel in bytes; what one stands for by filter, float64 [filters]; and the bias, float64
        [filters], with what the bytes' offset makes of that kernel, rounded as it is.
    """
    kernel, scale = quantized_kernel(_per_step(linear, form), linear, signed=form.signed)
    bias = np.zeros(linear.filters) if linear.bias is None else linear.bias.astype(np.float64)
    if form.offset is not None:
        bias = bias - _held(linear, form, kernel, scale).of_constant(form.offset)
    return kernel, scale, bias


def _per_step(linear: Linear, form: ByteFormat) -> np.ndarray:
    """The kernel, float64, for what the bytes of each channel count."""
    kernel = linear.kernel.astype(np.float64)
    return kernel if form.gain is None else kernel * linear.per_weight(form.gain)


def rounded(linear: Linear, form: ByteFormat) -> Linear:
    """A linear step with its kernel as bytes have it, for numbers in float."""
    kernel, scale = quantized_kernel(_per_step(linear, form), linear, signed=form.signed)
    return _held(linear, form, kernel, scale)


def _held(linear: Linear, form: ByteFormat, kernel: np.ndarray, scale: np.ndarray) -> Linear:
    held = kernel * linear.per_filter(scale)
    if form.gain is not None:
        held = held / linear.per_weight(form.gain)
    return replace(linear, kernel=held.astype(np.float32))


def quantized_kernel(
    kernel: np.ndarray, linear: Linear, *, signed: bool
) -> tuple[np.ndarray, np.ndarray]:
    """A kernel in bytes, int8, and what one stands for by filter, float64 [filters].

    Args:
        kernel: float64, for what the bytes of each channel count.
        linear: whose kernel it is.
        signed: whether it reads bytes -127 to 127.
    """
    axes = (0, 1) if isinstance(linear, nodes.Depthwise) else tuple(range(kernel.ndim - 1))
    high = np.abs(kernel).max(axis=axes).reshape(-1)
    folded = np.ones(len(high)) if linear.folded is None else np.abs(linear.folded)
    plain = np.divide(high, folded, out=np.zeros_like(high), where=folded > 0)
    if _has_few_values(kernel / linear.per_filter(np.where(folded > 0, folded, 1))):
        high = folded * plain.max()
    convolves = isinstance(linear, nodes.Windowed)
    largest, step = onednn.exact_weights(signed_convolution=signed and convolves)
    scale = np.maximum(high / largest, np.finfo(np.float32).tiny)
    return step * np.rint(kernel / linear.per_filter(step * scale)).astype(np.int8), scale


def _has_few_values(kernel: np.ndarray) -> bool:
    """Whether it was clustered: with one step for all filters its bytes are few as well.

    That is what packing makes small. Else each filter has a step of its own, which is finer.
    """
    # To a millionth of the largest: folding has rounded what was equal.
    found = np.rint(kernel / max(np.abs(kernel).max(), np.finfo(np.float32).tiny) * 2**20)
    return len(np.unique(found)) <= min(2**onednn.WEIGHT_BITS, kernel.size // 8)


def _blocks(
    x: tf.Tensor, kernel: np.ndarray, groups: int
) -> list[tuple[tf.Tensor, np.ndarray, slice]]:
    """A grouped convolution as plain ones: input channels, kernel, and the filters of each."""
    if groups == 1:
        return [(x, kernel, slice(None))]
    taken, filters = kernel.shape[2], kernel.shape[3] // groups
    together = min(groups, max(1, _BLOCK // taken))
    while groups % together:
        together -= 1
    parts = [tf.bitcast(part, x.dtype) for part in tf.split(_plain(x), groups // together, axis=-1)]
    found = []
    for number, part in enumerate(parts):
        dense = np.zeros((*kernel.shape[:2], together * taken, together * filters), np.int8)
        start = number * together * filters
        for group in range(together):
            rows = slice(group * taken, (group + 1) * taken)
            columns = slice(group * filters, (group + 1) * filters)
            own = slice(start + columns.start, start + columns.stop)
            dense[:, :, rows, columns] = kernel[..., own]
        found.append((part, dense, slice(start, start + together * filters)))
    return found


@_run.register
def _(node: nodes.Dense, values: _Values) -> None:
    (source,) = node.inputs
    form = values.formats[source]
    quantized, scale, bias = _in_steps(node, form)
    x = values.as_bytes(source)
    shape = values.shapes[source]
    rows = x if len(shape) == 1 else tf.bitcast(tf.reshape(_plain(x), (-1, shape[-1])), x.dtype)
    found = onednn.matrix_product(rows, form.ends, quantized, scale, bias.astype(np.float32))
    if len(shape) > 1:
        found = tf.reshape(found, (-1, *shape[:-1], node.filters))
    values.keep_float(node.name, found)


@_run.register
def _(node: nodes.GlobalAverage, values: _Values) -> None:
    (source,) = node.inputs
    if source not in values.of_bytes:
        _in_float(node, values)
        return
    form = values.formats[source]
    numbers = tf.cast(_plain(values.as_bytes(source)), tf.float32)
    mean = tf.reduce_mean(numbers, axis=(1, 2), keepdims=node.keepdims) * np.float32(form.step)
    offset = form.offset
    values.keep_float(node.name, mean if offset is None else mean - offset.astype(np.float32))


def _joined(*parts: tf.Tensor) -> tf.Tensor:
    return tf.bitcast(tf.concat([_plain(part) for part in parts], axis=-1), parts[0].dtype)


def _plain(x: tf.Tensor) -> tf.Tensor:
    """The same bytes as uint8 or int8, for operations that have no kernel for quantized types."""
    return tf.bitcast(x, tf.int8 if x.dtype == tf.qint8 else tf.uint8)


@_run.register
def _(node: nodes.MaxPool, values: _Values) -> None:
    _hand_on(node, values, lambda x: onednn.max_pool(x, node.size, node.strides, node.padding))


@_run.register
def _(node: nodes.AveragePool, values: _Values) -> None:
    _hand_on(node, values, lambda x: onednn.average_pool(x, node.size, node.strides, node.padding))


@_run.register
def _(node: nodes.Concatenate, values: _Values) -> None:
    _hand_on(node, values, _joined)


@_run.register(nodes.Crop)
@_run.register(nodes.Pad)
@_run.register(nodes.Reshape)
def _(node: Node, values: _Values) -> None:
    shapes = [values.shapes[name] for name in node.inputs]

    def handed_on(x: tf.Tensor) -> tf.Tensor:
        return tf.bitcast(float_network.apply(node, [_plain(x)], shapes), x.dtype)

    _hand_on(node, values, handed_on)


def _hand_on(node: Node, values: _Values, how: Callable[..., tf.Tensor]) -> None:
    """What gives the bytes that it takes; in float where it takes none.

    Others may have made bytes of what it takes, but those have a format of their own.
    """
    if node.name not in values.of_bytes:
        _in_float(node, values)
    else:
        values.keep_bytes(node.name, how(*(values.as_bytes(name) for name in node.inputs)))
