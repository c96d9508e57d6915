"""NumPy arrays to ``TensorProto`` and back, without TensorFlow.

A ``TensorProto`` holds its values either in ``tensor_content``, as they lie in memory, or in the
typed field of its dtype, where the last value stands for all that are left out and an empty field
for zeros. Both are read; the shape that a message *declares* is never taken at its word:
nothing is allocated for it before the values that came along have been counted.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from keras_cls.contract.messages import Message, TensorProto
from keras_cls.errors import UserError

MAX_FILLED_BYTES = 1 << 24
"""How many bytes of repeated values a short typed field may stand for.

A message of thirty bytes can declare a tensor of any size; beyond this it must bring its values.
"""

_MAX_RANK = 64  # NumPy's own limit
_MAX_BYTES = (1 << 63) - 1
_POINTER_BYTES = 8


class TensorError(UserError):
    """A tensor's dtype, shape and values do not fit each other, or cannot be carried."""


@dataclass(frozen=True, slots=True)
class ElementType:
    """How the elements of one ``DataType`` are stored.

    ``name`` is TensorFlow's word for it, ``field`` the typed field, and ``memory`` the dtype of
    ``tensor_content`` (None for strings, which have no fixed size).
    """

    number: int
    name: str
    field: str
    memory: np.dtype | None


def _element(number: int, name: str, field: str, memory: type | None) -> ElementType:
    return ElementType(number, name, field, None if memory is None else np.dtype(memory))


FLOAT = _element(1, "float", "float_val", np.float32)
DOUBLE = _element(2, "double", "double_val", np.float64)
INT32 = _element(3, "int32", "int_val", np.int32)
UINT8 = _element(4, "uint8", "int_val", np.uint8)
INT16 = _element(5, "int16", "int_val", np.int16)
INT8 = _element(6, "int8", "int_val", np.int8)
STRING = _element(7, "string", "string_val", None)
INT64 = _element(9, "int64", "int64_val", np.int64)
BOOL = _element(10, "bool", "bool_val", np.bool_)
BFLOAT16 = _element(14, "bfloat16", "half_val", np.uint16)  # as bit patterns
UINT16 = _element(17, "uint16", "int_val", np.uint16)
HALF = _element(19, "half", "half_val", np.float16)
UINT32 = _element(22, "uint32", "uint32_val", np.uint32)
UINT64 = _element(23, "uint64", "uint64_val", np.uint64)

_ELEMENTS = {
    element.number: element
    for element in (
        *(FLOAT, DOUBLE, HALF, BFLOAT16, BOOL, STRING),
        *(INT8, INT16, INT32, INT64, UINT8, UINT16, UINT32, UINT64),
    )
}
_BY_NUMPY = {
    element.memory: element
    for element in _ELEMENTS.values()
    if element.memory is not None and element is not BFLOAT16
}
_DATA_TYPES = TensorProto.DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_number
_FIELD_NUMBERS = {field.name: field.number for field in TensorProto.DESCRIPTOR.fields}


def data_type_name(number: int) -> str:
    """TensorFlow's word for a ``DataType``: ``"float"``, ``"uint8"``, ``"string"``, ..."""
    if number in _ELEMENTS:
        return _ELEMENTS[number].name
    known = _DATA_TYPES.get(number)
    return known.name.removeprefix("DT_").lower() if known else f"unknown type {number}"


def data_type_number(dtype: np.dtype) -> int:
    """The ``DataType`` of a NumPy dtype.

    Raises:
        TensorError: a dtype that cannot be carried.
    """
    return _element_of(np.empty(0, dtype)).number


def declared_shape(proto: Message) -> tuple[int, ...]:
    """The shape that a ``TensorProto`` declares; nothing is decoded or allocated.

    Raises:
        TensorError: the rank is not given or absurd, a dimension is negative, or no array could be
            that large.
    """
    shape_proto = proto.tensor_shape
    if shape_proto.unknown_rank:
        raise TensorError("the shape is of unknown rank; a value needs every dimension")
    if len(shape_proto.dim) > _MAX_RANK:
        raise TensorError(f"{len(shape_proto.dim)} dimensions are more than {_MAX_RANK}")
    shape = tuple([dim.size for dim in shape_proto.dim])
    if min(shape, default=0) < 0:
        raise TensorError(f"the shape {list(shape)} has a negative dimension")
    if math.prod(size for size in shape if size) > _MAX_BYTES // 8:
        raise TensorError(f"the shape {list(shape)} is too large")
    return shape


def decode_tensor(proto: Message) -> np.ndarray:
    """The array that a ``TensorProto`` holds; it may be read-only.

    Strings come as an object array of ``bytes``, bfloat16 widened to float32, every other dtype
    as its NumPy namesake.

    Raises:
        TensorError: the dtype cannot be carried, the shape makes no sense, or the number of values
            does not fit it.
    """
    element = _ELEMENTS.get(proto.dtype)
    if element is None:
        raise TensorError(f"tensors of dtype {data_type_name(proto.dtype)} cannot be carried")
    shape = declared_shape(proto)
    if element.memory is None:
        return _decode_strings(proto, shape)
    if proto.tensor_content:
        stored = _from_content(proto.tensor_content, element.memory, element.name, shape)
    else:
        stored = _from_typed_field(proto, element, shape)
    if element is BFLOAT16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored


def encode_tensor(array: np.ndarray, *, typed_field: bool = False) -> Message:
    """A ``TensorProto`` of an array.

    Args:
        array: numbers or booleans of a dtype in this module, ``ml_dtypes.bfloat16``, or strings
            (``bytes`` or ``str``, in an object array or one of NumPy's own kinds).
        typed_field: put the values into the dtype's typed field, as TensorFlow Serving answers,
            instead of ``tensor_content``, which is smaller for integers and quicker to read.

    Raises:
        TensorError: a dtype that cannot be carried.
    """
    proto = TensorProto()
    fill_tensor(proto, array, typed_field=typed_field)
    return proto


def fill_tensor(proto: Message, array: np.ndarray, *, typed_field: bool = False) -> None:
    """:func:`encode_tensor`, into an empty ``TensorProto`` that is part of another message."""
    element = _element_of(array)
    proto.dtype = element.number
    shape = proto.tensor_shape
    shape.SetInParent()  # a scalar's shape is there, and empty
    for size in array.shape:
        shape.dim.add(size=size)
    if element.memory is None:
        proto.string_val.extend(map(_as_bytes, array.ravel().tolist()))
    elif not typed_field:
        proto.tensor_content = array.tobytes()
    elif element in (FLOAT, DOUBLE, BOOL):
        _merge_packed(proto, element.field, array.tobytes())
    elif element in (HALF, BFLOAT16):
        bits = np.ascontiguousarray(array).view(np.uint16)
        proto.half_val.extend(bits.ravel().tolist())
    else:
        getattr(proto, element.field).extend(array.ravel().tolist())


def _element_of(array: np.ndarray) -> ElementType:
    element = _BY_NUMPY.get(array.dtype)
    if element is not None:
        return element
    if array.dtype.kind in "OSU":
        return STRING
    if array.dtype.name == "bfloat16":
        return BFLOAT16
    raise TensorError(f"arrays of dtype {array.dtype} cannot be carried")


def _as_bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise TensorError(f"an object array must hold bytes or str, found {type(value).__name__}")


def _merge_packed(proto: Message, field: str, values: bytes) -> None:
    """Add packed values by their wire format, which for these types is how NumPy stores them.

    Ten times faster than ``extend`` with a list of Python floats.
    """
    length_delimited = 2
    if values:
        tag = bytes([_FIELD_NUMBERS[field] << 3 | length_delimited])
        proto.MergeFromString(tag + _varint(len(values)) + values)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _from_content(
    content: bytes, memory: np.dtype, type_name: str, shape: tuple[int, ...]
) -> np.ndarray:
    needed = math.prod(shape) * memory.itemsize
    if len(content) != needed:
        raise TensorError(
            f"{type_name} of shape {list(shape)} takes {needed} bytes of tensor_content, "
            f"found {len(content)}"
        )
    if memory == np.bool_:  # any byte but 0 is true; NumPy would keep the odd ones as they are
        return (np.frombuffer(content, np.uint8) != 0).reshape(shape)
    return np.frombuffer(content, memory).reshape(shape)


def _from_typed_field(proto: Message, element: ElementType, shape: tuple[int, ...]) -> np.ndarray:
    assert element.memory is not None
    field = getattr(proto, element.field)
    count = math.prod(shape)
    _check_count(len(field), count, element.name, shape, element.memory.itemsize)
    values = _READERS[element.field](field, element)
    if len(values) == count:
        return values.reshape(shape)
    last = values[-1] if len(values) else 0
    filled = np.full(count, last, dtype=element.memory)
    filled[: len(values)] = values
    return filled.reshape(shape)


def _check_count(
    found: int, needed: int, type_name: str, shape: tuple[int, ...], bytes_each: int
) -> None:
    if found > needed:
        raise TensorError(
            f"{type_name} of shape {list(shape)} has room for {needed} values, found {found}"
        )
    if (needed - found) * bytes_each > MAX_FILLED_BYTES:
        raise TensorError(
            f"{type_name} of shape {list(shape)} takes {needed} values, found {found}"
        )


def _plain_values(field: Message, element: ElementType) -> np.ndarray:
    return np.array(field, dtype=element.memory)


def _narrowed_values(field: Message, element: ElementType) -> np.ndarray:
    """``int_val`` holds int32 whatever the dtype: refuse what would wrap around."""
    assert element.memory is not None
    values = np.array(field, dtype=np.int32)
    limits = np.iinfo(element.memory)
    if values.size and not (limits.min <= values.min() and values.max() <= limits.max):
        raise TensorError(f"int_val holds values that are no {element.name}")
    return values.astype(element.memory)


def _bit_patterns(field: Message, element: ElementType) -> np.ndarray:
    assert element.memory is not None
    values = np.array(field, dtype=np.int32)
    if values.size and not (values.min() >= 0 and values.max() <= 0xFFFF):
        raise TensorError(f"half_val holds values that are no bit patterns of {element.name}")
    return values.astype(np.uint16).view(element.memory)


_READERS: dict[str, Callable[[Message, ElementType], np.ndarray]] = {
    "float_val": _plain_values,
    "double_val": _plain_values,
    "int64_val": _plain_values,
    "bool_val": _plain_values,
    "uint32_val": _plain_values,
    "uint64_val": _plain_values,
    "int_val": _narrowed_values,
    "half_val": _bit_patterns,
}


def _decode_strings(proto: Message, shape: tuple[int, ...]) -> np.ndarray:
    count = math.prod(shape)
    if proto.tensor_content:
        values = _split_string_content(proto.tensor_content, count, shape)
    else:
        values = list(proto.string_val)
        last = values[-1] if values else b""
        _check_count(len(values), count, "string", shape, len(last) + _POINTER_BYTES)
        values.extend([last] * (count - len(values)))
    array = np.empty(count, dtype=object)
    array[:] = values
    return array.reshape(shape)


def _split_string_content(content: bytes, count: int, shape: tuple[int, ...]) -> list[bytes]:
    """Strings in ``tensor_content``: all their lengths as varints, then all their bytes."""
    damaged = TensorError(f"tensor_content does not hold strings of shape {list(shape)}")
    if count > len(content):  # each length takes a byte at least
        raise damaged
    lengths, position = [], 0
    for _ in range(count):
        length, shift = 0, 0
        while True:
            if position >= len(content) or shift > 28:
                raise damaged
            byte = content[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        lengths.append(length)
    if position + sum(lengths) != len(content):
        raise damaged
    values = []
    for length in lengths:
        values.append(content[position : position + length])
        position += length
    return values
