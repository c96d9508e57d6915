"""TensorFlow's oneDNN operations on bytes, which its own optimizer writes for quantized graphs.

Their kernels are in TensorFlow's builds with oneDNN, those for x86, and in TensorFlow Serving's.
They run whether TF_ENABLE_ONEDNN_OPTS is 0 or 1, unlike those of tf.raw_ops with similar names:
a mean over bytes is cut off there instead of rounded where it is 0, so by default on processors
without VNNI. They have no Python functions, so they are written as nodes of the graph.

Source: mkl_conv_ops.cc, mkl_qmatmul_op.cc, mkl_avgpooling_op.cc and mkl_maxpooling_op.cc in
tensorflow/core/kernels/mkl of TensorFlow 2.21.
"""

import platform
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

from keras_cls.errors import ExportError
from keras_cls.exporting.constants import constant

GUARD = "int8_needs_TensorFlow_for_x86_with_oneDNN"
"""Part of each node's name: TensorFlow quotes it where it has no kernel for the node.

Where it does not even know the operation, it names that alone: _FusedQuantizedConv2D.
"""

_CONVOLUTION, _DEPTHWISE = "_FusedQuantizedConv2D", "_FusedQuantizedDepthwiseConv2D"

Range: TypeAlias = tuple[float, float]


class Weights(NamedTuple):
    """The bytes that a kernel may hold: multiples of ``step`` from ``-largest`` to ``largest``."""

    largest: int
    step: int


WEIGHT_BITS = 7


def exact_weights(*, signed_convolution: bool) -> Weights:
    """The weights with which every x86 processor finds the same sums of products.

    Without VNNI, oneDNN adds two products in 16 bits, where 2 * 255 * 127 has no room: what is
    larger is cut off, and a network loses percents of its accuracy. In a convolution of signed
    bytes it halves the weights instead, and rounds them once more. Seven bits of weight are exact
    in both cases. (oneDNN's developer guide, "Nuances of int8 computations".)

    Args:
        signed_convolution: whether it is one, of bytes -127 to 127; else a matrix product, or a
            convolution of bytes 0 to 255.
    """
    most = 2 ** (WEIGHT_BITS - 1) - 1
    return Weights(2 * most, 2) if signed_convolution else Weights(most, 1)


def require() -> None:
    """Compute with bytes once.

    Raises:
        ExportError: it cannot be done on this machine.
    """
    try:
        computes = _computes()
    except (tf.errors.OpError, RuntimeError):  # no kernel of it; no such operation at all
        computes = False
    if not computes:
        raise ExportError(
            "int8 needs TensorFlow's oneDNN operations on bytes, which its builds for x86 have and "
            f"the one on this machine ({platform.machine()}) cannot run"
        )


def _computes() -> bool:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        fed = tf.compat.v1.placeholder(tf.float32, (1, 16))
        pixels = quantize(fed, (0.0, 255.0), tf.quint8)
        kernel, scale, bias = np.ones((16, 16), np.int8), np.ones(16), np.zeros(16)
        product = matrix_product(pixels, (0.0, 255.0), kernel, scale, bias)
        return bool(np.allclose(session.run(product, {fed: np.ones((1, 16))}), 16))


def convolution(
    x: tf.Tensor,
    x_range: Range,
    kernel: np.ndarray,
    scale: np.ndarray,
    bias: np.ndarray,
    *,
    strides: tuple[int, int],
    padding: str | list[tuple[int, int]],
    dilations: tuple[int, int],
    depthwise: bool,
    relu: bool,
    summand: tuple[tf.Tensor, Range] | None,
    output: tuple[tf.DType, Range],
) -> tf.Tensor:
    """A convolution with bias, sum, ReLU and requantization in one step.

    Args:
        x: quint8 or qint8 [N, H, W, C].
        x_range: what the ends of its bytes stand for.
        kernel: int8 [kh, kw, C, filters], or [kh, kw, C, m] where depthwise, of exact weights.
        scale: float [filters], what one stands for in the kernel.
        bias: float32 [filters].
        strides: rows and columns.
        padding: ``"SAME"``, ``"VALID"``, or rows and columns for each axis.
        dilations: rows and columns.
        depthwise: whether each channel has its own kernels.
        relu: whether what is negative becomes zero.
        summand: quint8 of the output's shape, and what the ends of its bytes stand for. It is
            written over: nothing else may read it afterwards. With a ReLU only.
        output: quint8 or qint8, and what the ends of its bytes stand for.

    Returns:
        [N, H, W, filters] in the output's type.
    """
    out_type, out_range = output
    tensors = [x, _bytes_constant(kernel), tf.constant(bias, tf.float32)]
    ranges = [*x_range, -127 * scale, 127 * scale]
    if summand is not None:
        tensors.append(summand[0])
        ranges += summand[1]
    attributes = {
        **_window(x, strides, padding, dilations),
        "Tsummand": _type(out_type if summand is None else summand[0].dtype),
        "out_type": _type(out_type),
    }
    fused = ["BiasAdd", *["Sum"] * (summand is not None), *["Relu"] * relu, "Requantize"]
    kind = _DEPTHWISE if depthwise else _CONVOLUTION
    return _node(kind, tensors, [*ranges, *out_range], fused, attributes, [out_type, *_RANGE_TYPES])


def sums_of_products(
    x: tf.Tensor,
    kernel: np.ndarray,
    *,
    strides: tuple[int, int],
    padding: str | list[tuple[int, int]],
    dilations: tuple[int, int],
    depthwise: bool,
) -> tf.Tensor:
    """A convolution of bytes as it is before anything is rounded: int32 [N, H, W, filters].

    Args:
        x: quint8 or qint8 [N, H, W, C].
        kernel: int8 [kh, kw, C, filters], or [kh, kw, C, m] where depthwise, of exact weights.
        strides: rows and columns.
        padding: ``"SAME"``, ``"VALID"``, or rows and columns for each axis.
        dilations: rows and columns.
        depthwise: whether each channel has its own kernels.
    """
    attributes = {
        **_window(x, strides, padding, dilations),
        "Tsummand": _type(tf.qint32),
        "out_type": _type(tf.qint32),
    }
    kind = _DEPTHWISE if depthwise else _CONVOLUTION
    types = [tf.qint32, *_RANGE_TYPES]
    made = _node(kind, [x, _bytes_constant(kernel)], [0, 1, -1, 1], [], attributes, types)
    return tf.bitcast(made, tf.int32)


def _window(
    x: tf.Tensor,
    strides: tuple[int, int],
    padding: str | list[tuple[int, int]],
    dilations: tuple[int, int],
) -> dict[str, attr_value_pb2.AttrValue]:
    explicit = [] if isinstance(padding, str) else [n for axis in padding for n in axis]
    return {
        "Tinput": _type(x.dtype),
        "Tfilter": _type(tf.qint8),
        "Tbias": _type(tf.float32),
        "data_format": _text("NHWC"),
        "strides": _numbers((1, *strides, 1)),
        "padding": _text(padding if isinstance(padding, str) else "EXPLICIT"),
        "explicit_paddings": _numbers(explicit),
        "dilations": _numbers((1, *dilations, 1)),
        "is_filter_const": _truth(True),
        "is_bias_const": _truth(True),
    }


def matrix_product(
    x: tf.Tensor, x_range: Range, kernel: np.ndarray, scale: np.ndarray, bias: np.ndarray
) -> tf.Tensor:
    """float32 [N, filters] of quint8 or qint8 [N, C] and int8 [C, filters].

    Args:
        x: what is multiplied.
        x_range: what the ends of its bytes stand for.
        kernel: int8 [C, filters], of exact weights.
        scale: float [filters], what one stands for in the kernel.
        bias: float32 [filters].
    """
    attributes = {
        "T1": _type(x.dtype),
        "T2": _type(tf.qint8),
        "Tbias": _type(tf.float32),
        "U": _type(tf.float32),
        "Tout": _type(tf.float32),
        "transpose_a": _truth(False),
        "transpose_b": _truth(False),
        "is_weight_const": _truth(True),
        "is_bias_const": _truth(True),
        "input_quant_mode": _text("SCALED"),
        "output_quant_mode": _text("SCALED"),
    }
    tensors = [x, _bytes_constant(kernel), tf.constant(bias, tf.float32)]
    ranges = [*x_range, -127 * scale, 127 * scale]
    fused = ["BiasAdd", "Dequantize"]
    return _node("_QuantizedMatMul", tensors, ranges, fused, attributes, [tf.float32])


def max_pool(x: tf.Tensor, size: Sequence[int], strides: Sequence[int], padding: str) -> tf.Tensor:
    """The largest byte of each window, quint8 or qint8 as ``x`` is."""
    return _pool("_MklQuantizedMaxPool", x, size, strides, padding)


def average_pool(
    x: tf.Tensor, size: Sequence[int], strides: Sequence[int], padding: str
) -> tf.Tensor:
    """The mean of each window without what lies beyond the map, rounded to a byte."""
    return _pool("_MklQuantizedAvgPool", x, size, strides, padding)


def _pool(
    kind: str, x: tf.Tensor, size: Sequence[int], strides: Sequence[int], padding: str
) -> tf.Tensor:
    attributes = {
        "T": _type(x.dtype),
        "ksize": _numbers((1, *size, 1)),
        "strides": _numbers((1, *strides, 1)),
        "padding": _text(padding.upper()),
        "_kernel": _text("QuantizedMklOp"),  # the label that its kernel has
    }
    # Bytes stay bytes: what their ends stand for is only handed on.
    inputs = [x, tf.constant(0.0), tf.constant(1.0)]
    return _operation(kind, inputs, [x.dtype, *_RANGE_TYPES], attributes)


def quantize(x: tf.Tensor, ends: Range, dtype: tf.DType) -> tf.Tensor:
    """float32 -> the nearest bytes around zero, whose ends stand for these; halves to even."""
    low, high = ends
    # oneDNN's own, which the optimizer takes where it is right, knows no narrow range.
    return tf.raw_ops.QuantizeV2(
        input=x,
        min_range=low,
        max_range=high,
        T=dtype,
        mode="SCALED",
        round_mode="HALF_TO_EVEN",
        narrow_range=dtype == tf.qint8,
        ensure_minimum_range=0.0,
    ).output


def dequantize(x: tf.Tensor, ends: Range) -> tf.Tensor:
    """Bytes around zero, whose ends stand for these -> float32."""
    low, high = ends
    # oneDNN's own ends the process for an empty batch.
    return tf.raw_ops.Dequantize(
        input=x,
        min_range=low,
        max_range=high,
        mode="SCALED",
        narrow_range=x.dtype == tf.qint8,
    )


def shifted(x: tf.Tensor) -> tf.Tensor:
    """qint8 -> quint8 with 128 added to each byte, or back."""
    there, plain = (tf.quint8, tf.int8) if x.dtype == tf.qint8 else (tf.qint8, tf.uint8)
    plain_bytes = tf.bitcast(tf.bitcast(x, plain), tf.uint8)
    return tf.bitcast(private(tf.bitwise.bitwise_xor(plain_bytes, np.uint8(128))), there)


def private(x: tf.Tensor) -> tf.Tensor:
    """The same tensor, which no optimizer shall unite with an equal one: it is written over."""
    x.op._set_attr("_private", attr_value_pb2.AttrValue(s=x.op.name.encode()))
    return x


_RANGE_TYPES = [tf.float32, tf.float32]


def _node(
    kind: str,
    tensors: list[tf.Tensor],
    ranges: list[object],
    fused: list[str],
    attributes: dict[str, attr_value_pb2.AttrValue],
    outputs: list[tf.DType],
) -> tf.Tensor:
    hosts = [tf.constant(value, tf.float32) for value in ranges]
    types = {
        "Tdevice_inputs": [tensor.dtype for tensor in tensors],
        "Thost_inputs": [tf.float32] * len(hosts),
        "Tdevice_outputs": outputs[:1],
        "Thost_outputs": outputs[1:],
    }
    attributes = {
        **attributes,
        **{name: _types(each) for name, each in types.items()},
        "fused_ops": _texts(fused),
    }
    return private(_operation(kind, [*tensors, *hosts], outputs, attributes))


def _operation(
    kind: str,
    inputs: list[tf.Tensor],
    outputs: list[tf.DType],
    attributes: dict[str, attr_value_pb2.AttrValue],
) -> tf.Tensor:
    graph = tf.compat.v1.get_default_graph()
    name = graph.unique_name(GUARD, mark_as_used=False)
    return graph.create_op(kind, inputs, outputs, attrs=attributes, name=name).outputs[0]


def _bytes_constant(values: np.ndarray) -> tf.Tensor:
    return tf.bitcast(constant(values, tf.int8), tf.qint8)


def _type(value: tf.DType) -> attr_value_pb2.AttrValue:
    return attr_value_pb2.AttrValue(type=value.as_datatype_enum)


def _types(values: Sequence[tf.DType]) -> attr_value_pb2.AttrValue:
    enums = [value.as_datatype_enum for value in values]
    return attr_value_pb2.AttrValue(list=attr_value_pb2.AttrValue.ListValue(type=enums))


def _text(value: str) -> attr_value_pb2.AttrValue:
    return attr_value_pb2.AttrValue(s=value.encode())


def _texts(values: Sequence[str]) -> attr_value_pb2.AttrValue:
    encoded = [value.encode() for value in values]
    return attr_value_pb2.AttrValue(list=attr_value_pb2.AttrValue.ListValue(s=encoded))


def _numbers(values: Sequence[int]) -> attr_value_pb2.AttrValue:
    return attr_value_pb2.AttrValue(list=attr_value_pb2.AttrValue.ListValue(i=values))


def _truth(value: bool) -> attr_value_pb2.AttrValue:
    return attr_value_pb2.AttrValue(b=value)
