"""Tensors to messages and back, held against TensorFlow's own conversion."""

import contextlib
import tracemalloc

import hypothesis.extra.numpy as hnp
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2

from keras_cls.contract import tensors
from keras_cls.contract.messages import TensorProto
from keras_cls.contract.tensors import (
    TensorError,
    data_type_name,
    declared_shape,
    decode_tensor,
    encode_tensor,
)

NUMBERS = [
    *("float16", "float32", "float64", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
]
# The machine may be busy: no deadline for a single example.
thoroughly = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])

shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
numbers = st.sampled_from(NUMBERS).flatmap(lambda dtype: hnp.arrays(dtype, shapes))
byte_strings = hnp.arrays(object, shapes, elements=st.binary(max_size=300), fill=st.nothing())


def as_theirs(proto) -> tensor_pb2.TensorProto:
    return tensor_pb2.TensorProto.FromString(proto.SerializeToString())


def as_ours(proto: tensor_pb2.TensorProto):
    return TensorProto.FromString(proto.SerializeToString())


def assert_same(left: np.ndarray, right: np.ndarray) -> None:
    assert left.dtype == right.dtype
    assert left.shape == right.shape
    assert np.array_equal(left, right, equal_nan=left.dtype.kind == "f")


def proto_of(dtype: str, shape: list[int], **fields) -> TensorProto:
    proto = TensorProto(dtype=getattr(tf, dtype).as_datatype_enum, **fields)
    proto.tensor_shape.SetInParent()
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


@thoroughly
@given(numbers, st.booleans())
def test_numbers_come_back(array, typed_field):
    assert_same(decode_tensor(encode_tensor(array, typed_field=typed_field)), array)


@thoroughly
@given(numbers, st.booleans())
def test_tensorflow_reads_what_we_write(array, typed_field):
    assert_same(tf.make_ndarray(as_theirs(encode_tensor(array, typed_field=typed_field))), array)


@thoroughly
@given(numbers)
def test_we_read_what_tensorflow_writes(array):
    assert_same(decode_tensor(as_ours(tf.make_tensor_proto(array, shape=array.shape))), array)


@thoroughly
@given(numbers)
def test_we_read_typed_fields_as_the_runtime_writes_them(array):
    """A constant's attribute holds typed fields, compressed by the C++ runtime where it can be."""
    theirs = tf.make_tensor_proto(array, shape=array.shape)
    assert_same(decode_tensor(as_ours(theirs)), tf.make_ndarray(theirs))


@thoroughly
@given(byte_strings)
def test_strings_come_back_and_tensorflow_reads_them(array):
    proto = encode_tensor(array)
    assert decode_tensor(proto).tolist() == array.tolist()
    assert decode_tensor(proto).shape == array.shape
    if array.size:  # make_ndarray guesses another dtype for an empty array
        assert tf.make_ndarray(as_theirs(proto)).tolist() == array.tolist()


@thoroughly
@given(hnp.arrays(np.float32, shapes, elements=st.floats(width=32)), st.booleans())
def test_bfloat16_is_widened(array, typed_field):
    halved = array.astype(ml_dtypes.bfloat16)
    proto = encode_tensor(halved, typed_field=typed_field)
    assert_same(decode_tensor(proto), halved.astype(np.float32))
    assert np.array_equal(
        tf.make_ndarray(as_theirs(proto)).astype(np.float32),
        halved.astype(np.float32),
        equal_nan=True,
    )


@pytest.mark.parametrize("array", [np.array(["é", "b"]), np.array([b"a", b"bc"])])
def test_numpy_s_own_strings(array):
    expected = [v.encode() if isinstance(v, str) else v for v in array.tolist()]
    assert decode_tensor(encode_tensor(array)).tolist() == expected


def test_a_non_contiguous_array_is_written_in_order():
    array = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::3]
    for typed_field in (False, True):
        assert_same(decode_tensor(encode_tensor(array, typed_field=typed_field)), array)
    half = np.arange(24, dtype=np.float16).reshape(4, 6).T[::2]
    assert_same(decode_tensor(encode_tensor(half, typed_field=True)), half)


@pytest.mark.parametrize(
    ("proto", "expected"),
    [
        (proto_of("float32", [2, 3], float_val=[2.5]), np.full((2, 3), 2.5, np.float32)),
        (proto_of("float32", [3], float_val=[1, 2]), np.array([1, 2, 2], np.float32)),
        (proto_of("int64", [2]), np.zeros(2, np.int64)),
        (proto_of("uint8", [2], int_val=[255]), np.full(2, 255, np.uint8)),
        (proto_of("bool", [3], bool_val=[True, False]), np.array([True, False, False])),
        (proto_of("float16", [2], half_val=[0x3C00]), np.ones(2, np.float16)),
        (proto_of("float32", [0, 4]), np.zeros((0, 4), np.float32)),
        (proto_of("float32", [], float_val=[4]), np.float32(4).reshape(())),
    ],
)
def test_the_last_value_stands_for_the_rest(proto, expected):
    assert_same(decode_tensor(proto), expected)
    assert_same(tf.make_ndarray(as_theirs(proto)), expected)


def test_the_last_string_stands_for_the_rest():
    assert decode_tensor(proto_of("string", [3], string_val=[b"a", b"b"])).tolist() == [
        b"a",
        b"b",
        b"b",
    ]
    assert decode_tensor(proto_of("string", [1])).tolist() == [b""]


def test_strings_in_tensor_content():
    long = b"x" * 200
    proto = proto_of("string", [3], tensor_content=bytes([1, 0xC8, 0x01, 0]) + b"a" + long)
    assert decode_tensor(proto).tolist() == [b"a", long, b""]


def test_odd_booleans_are_true():
    array = decode_tensor(proto_of("bool", [3], tensor_content=b"\x00\x02\xff"))
    assert array.tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("proto", "words"),
    [
        (proto_of("float32", [2], tensor_content=b"1234567"), "takes 8 bytes of tensor_content"),
        (proto_of("float32", [2], float_val=[1, 2, 3]), "room for 2 values, found 3"),
        (proto_of("string", [1], string_val=[b"a", b"b"]), "room for 1 values, found 2"),
        (proto_of("float32", [-1], float_val=[1]), "negative"),
        (proto_of("float32", [1 << 40], float_val=[1]), "takes 1099511627776 values, found 1"),
        (proto_of("uint8", [1 << 62, 1 << 62]), "too large"),
        (proto_of("uint8", [1 << 62, 0, 1 << 62]), "too large"),
        (proto_of("float32", [1] * 100, float_val=[1]), "100 dimensions"),
        (proto_of("uint8", [1], int_val=[256]), "no uint8"),
        (proto_of("int8", [1], int_val=[-129]), "no int8"),
        (proto_of("float16", [1], half_val=[-1]), "no bit patterns"),
        (proto_of("complex64", [1], scomplex_val=[1, 2]), "complex64 cannot be carried"),
        (TensorProto(), "invalid cannot be carried"),
        (TensorProto(dtype=999), "unknown type 999"),
        (proto_of("string", [2], tensor_content=b"\x01\x05ab"), "does not hold strings"),
        (proto_of("string", [2], tensor_content=b"\xff\xff\xff\xff\xff\xff"), "does not hold"),
        (proto_of("string", [1 << 40], tensor_content=b"\x01a"), "does not hold strings"),
        (proto_of("string", [1 << 40], string_val=[b"a"]), "values, found 1"),
        (proto_of("string", [1000], string_val=[b"a" * 100_000]), "values, found 1"),
    ],
)
def test_what_does_not_fit_is_refused_without_allocating(proto, words):
    tracemalloc.start()
    try:
        with pytest.raises(TensorError, match=words):
            decode_tensor(proto)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_unknown_rank_is_refused():
    proto = TensorProto(dtype=1)
    proto.tensor_shape.unknown_rank = True
    with pytest.raises(TensorError, match="unknown rank"):
        declared_shape(proto)


@thoroughly
@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data):
    """Whatever parses as a TensorProto gives an array or a TensorError."""
    with contextlib.suppress(DecodeError, TensorError):
        decode_tensor(TensorProto.FromString(data))


@thoroughly
@given(
    dtype=st.integers(0, 24),
    shape=st.lists(st.integers(-2, 1 << 62) | st.integers(0, 4), max_size=5),
    content=st.binary(max_size=40),
    ints=st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=5),
    strings=st.lists(st.binary(max_size=9), max_size=5),
)
def test_any_tensor_decodes_or_is_refused(dtype, shape, content, ints, strings):
    proto = TensorProto(
        dtype=dtype, tensor_content=content, int_val=ints, half_val=ints, string_val=strings
    )
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    try:
        array = decode_tensor(proto)
    except TensorError:
        return
    assert list(array.shape) == shape
    assert array.nbytes <= tensors.MAX_FILLED_BYTES * 2 + 1024


@pytest.mark.parametrize("array", [np.zeros(1, np.complex64), np.zeros(1, "datetime64[s]")])
def test_dtypes_that_cannot_be_carried(array):
    with pytest.raises(TensorError, match="cannot be carried"):
        encode_tensor(array)


def test_objects_that_are_no_strings():
    with pytest.raises(TensorError, match="bytes or str, found int"):
        encode_tensor(np.array([b"a", 3], dtype=object))


def test_names_are_tensorflow_s():
    for number in range(1, 24):
        name = data_type_name(number)
        expected = {"float32": "float", "float64": "double", "float16": "half"}
        theirs = tf.dtypes.as_dtype(number).name
        assert name == expected.get(theirs, theirs)
