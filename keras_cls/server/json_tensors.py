"""Tensors and examples from JSON, as TensorFlow Serving reads them.

Nothing here knows of HTTP or of models. Dense arrays are checked and converted by whole lists; only
when something does not fit are the values walked through one by one, to say which. A body is read
like this::

    document = parse_document(body)
    layout, arrays = read_tensors(document, signature.inputs)
"""

import math
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from itertools import chain

import numpy as np

from keras_cls.contract.messages import Message
from keras_cls.contract.tensors import (
    BOOL,
    DOUBLE,
    FLOAT,
    INT8,
    INT16,
    INT32,
    INT64,
    STRING,
    UINT8,
    UINT32,
    UINT64,
    ElementType,
    data_type_name,
)
from keras_cls.server.json_document import (
    Document,
    Json,
    checked_name,
    invalid,
    is_base64,
    is_literal_infinity,
    is_object,
    json_type,
    shown,
    string_of,
    too_big,
)
from keras_cls.server.signatures import TensorSpec
from keras_cls.server.status import Code, RequestError

_CONTEXT = "context"
_EXAMPLES = "examples"
_FLOATS = {element.number: element for element in (FLOAT, DOUBLE)}
_INTEGERS = {
    element.number: element for element in (INT8, INT16, INT32, INT64, UINT8, UINT32, UINT64)
}
_LEAST_INT64, _LARGEST_INT64, _LARGEST_UINT64 = -(1 << 63), (1 << 63) - 1, (1 << 64) - 1
_FEATURE_LISTS = {"bytes": "bytes_list", "float": "float_list", "int64": "int64_list"}


class Layout(Enum):
    """How a request spells its inputs, and so how its answer spells the outputs."""

    ROWS = "instances"
    COLUMNS = "inputs"


def read_tensors(
    document: Document, inputs: Mapping[str, TensorSpec]
) -> tuple[Layout, dict[str, np.ndarray]]:
    """The arrays of a predict request, one for each input, in the input's dtype.

    Their shapes are what was sent; whether the signature takes them is not looked at. Strings come
    as object arrays of ``bytes``.

    Args:
        document: what :func:`parse_document` gave.
        inputs: the signature's inputs, at least one.

    Raises:
        RequestError: INVALID_ARGUMENT for values that are no tensor, are of another type or are
            missing; UNIMPLEMENTED for a dtype that JSON cannot carry.
    """
    rows, columns = Layout.ROWS.value, Layout.COLUMNS.value
    if rows in document and columns in document:
        raise _misformatted(
            document,
            f"Not formatted correctly expecting only one of '{columns}' or '{rows}' keys to exist ",
        )
    if columns in document:
        return Layout.COLUMNS, _read_columns(document[columns], inputs)
    if rows not in document:
        raise invalid(f"Missing '{columns}' or '{rows}' key")
    instances = document[rows]
    if not isinstance(instances, list):
        raise _misformatted(document, f"Excepting '{rows}' to be an list/array")
    if not instances:
        raise _misformatted(document, f"No values in '{rows}' array")
    return Layout.ROWS, _read_rows(instances, inputs)


def read_examples(document: Document, request: Message) -> None:
    """Put a document's examples into a ``ClassificationRequest`` or ``RegressionRequest``.

    Raises:
        RequestError: INVALID_ARGUMENT: no examples, or features that a ``tf.Example`` cannot hold.
    """
    sent = request.input
    has_context = _CONTEXT in document
    if has_context:
        sent.example_list_with_context.context.SetInParent()
        _fill_example(document[_CONTEXT], sent.example_list_with_context.context)
    if _EXAMPLES not in document:
        raise _misformatted(
            document, f"When method is classify, key '{_EXAMPLES}' is expected and was not found"
        )
    examples = document[_EXAMPLES]
    if not isinstance(examples, list):
        raise _misformatted(document, f"Expecting '{_EXAMPLES}' value to be an list/array")
    if not examples:
        raise _misformatted(document, f"'{_EXAMPLES}' value is an empty array")
    found = sent.example_list_with_context if has_context else sent.example_list
    for example in examples:
        _fill_example(example, found.examples.add())


def _misformatted(document: Document, reason: str) -> RequestError:
    return invalid(f"JSON Value: {shown(document)} {reason}")


def _read_columns(value: Json, inputs: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    if not is_object(value):
        if len(inputs) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        return {alias: _array_of(value, spec.data_type) for alias, spec in inputs.items()}
    arrays = {}
    for alias, spec in inputs.items():
        if alias not in value:
            raise invalid(f"Missing named input: {alias} in 'inputs' object.")
        arrays[alias] = _array_of(value[alias], spec.data_type)
    return arrays


def _read_rows(instances: list[Json], inputs: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    named = is_object(instances[0])
    if not named and len(inputs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    arrays: dict[str, np.ndarray] = {}
    if not named or _have_names(instances, inputs):
        for alias, spec in inputs.items():
            column = [row[alias] for row in instances] if named else instances
            array = _fitting_array(column, spec.data_type)
            if array is None:
                break
            arrays[alias] = array
    if len(arrays) < len(inputs):
        raise _reason_of_rows(instances, inputs, named)
    return arrays


def _have_names(rows: list[Json], inputs: Mapping[str, TensorSpec]) -> bool:
    return all(type(row) is dict and row.keys() == inputs.keys() for row in rows)


def _array_of(value: Json, data_type: int) -> np.ndarray:
    array = _fitting_array(value, data_type)
    if array is None:
        raise _reason(value, _shape_of(value), data_type)
    return array


def _fitting_array(
    value: Json, data_type: int, shape: tuple[int, ...] | None = None
) -> np.ndarray | None:
    """The array, or None where the value is no array of that type (or of that shape)."""
    if shape is None:
        shape = _shape_of(value)
    leaves = _leaves(value, shape)
    array = None if leaves is None else _pack(leaves, data_type)
    return None if array is None else array.reshape(shape)


def _shape_of(value: Json) -> tuple[int, ...]:
    """The shape that the first element of each list suggests."""
    shape = []
    while type(value) is list:
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def _leaves(value: Json, shape: tuple[int, ...]) -> list[Json] | None:
    """The values in row-major order; None where the lists are not of this shape."""
    items = [value]
    for size in shape:
        if items and (set(map(type, items)) != {list} or set(map(len, items)) != {size}):
            return None
        items = list(chain.from_iterable(items))
    return items


def _pack(leaves: list[Json], data_type: int) -> np.ndarray | None:
    """A flat array of values; None where one is not of the type, or the type has no JSON form."""
    kinds = set(map(type, leaves))
    if data_type == STRING.number:
        return _pack_strings(leaves) if kinds <= {str, dict} else None
    if data_type == BOOL.number:
        return np.array(leaves, np.bool_) if kinds <= {bool} else None
    if data_type in _FLOATS:
        return _pack_floats(leaves, kinds, _FLOATS[data_type]) if kinds <= {int, float} else None
    if data_type in _INTEGERS:
        return _pack_integers(leaves, _INTEGERS[data_type]) if kinds <= {int} else None
    return None


def _pack_strings(leaves: list[Json]) -> np.ndarray | None:
    array = np.empty(len(leaves), object)
    try:
        array[:] = [string_of(leaf) for leaf in leaves]
    except RequestError:
        return None
    return array


def _pack_floats(leaves: list[Json], kinds: set[type], element: ElementType) -> np.ndarray | None:
    if int in kinds:
        most = _largest_whole(element)
        large = [leaf for leaf in leaves if type(leaf) is int and not -most <= leaf <= most]
        if not all(_is_lossless(whole, element) for whole in large):
            return None
    try:
        doubles = np.array(leaves, np.float64)
    except OverflowError:
        return None
    infinite = np.isinf(doubles)
    if not all(is_literal_infinity(leaves[place]) for place in np.flatnonzero(infinite)):
        return None
    with np.errstate(over="ignore"):
        array = doubles.astype(element.memory)
    # The largest float in nine digits is a bit beyond it, which the original does not take back.
    return array if np.array_equal(np.isinf(array), infinite) else None


def _pack_integers(leaves: list[Json], element: ElementType) -> np.ndarray | None:
    assert element.memory is not None
    try:
        array = np.array(leaves, np.uint64 if element is UINT64 else np.int64)
    except OverflowError:
        return None
    limits = np.iinfo(element.memory)
    if array.size and not (limits.min <= array.min() and array.max() <= limits.max):
        return None
    return array.astype(element.memory)


def _largest_whole(element: ElementType) -> int:
    """The largest whole number up to which a floating-point type holds every one."""
    assert element.memory is not None
    return int((1 << (np.finfo(element.memory).nmant + 1)) - 1)


def _is_lossless(value: int | float, element: ElementType) -> bool:
    """Whether a number may become one of this type: whole ones exactly, others in its range."""
    assert element.memory is not None
    if type(value) is int and _LEAST_INT64 <= value <= _LARGEST_UINT64:
        return abs(value) <= _largest_whole(element)
    try:
        double = float(value)
    except OverflowError:
        return False
    return not math.isfinite(double) or abs(double) <= float(np.finfo(element.memory).max)


def _reason_of_rows(
    instances: list[Json], inputs: Mapping[str, TensorSpec], named: bool
) -> RequestError:
    """What is wrong with the first row that does not fit."""
    if named:
        shapes = {alias: _shape_of(value) for alias, value in instances[0].items()}
    else:
        shapes = {next(iter(inputs)): _shape_of(instances[0])}

    def fit(rows: list[Json]) -> bool:
        return not (named and not _have_names(rows, inputs)) and all(
            _fitting_array(
                [row[alias] for row in rows] if named else rows,
                spec.data_type,
                (len(rows), *shapes.get(alias, ())),
            )
            is not None
            for alias, spec in inputs.items()
        )

    number = _first_misfit(instances, fit)
    row = instances[number]
    if named != is_object(row):
        expected, found = ("object", "list") if named else ("value/list", "object")
        return invalid(f"Expecting {expected} but got {found} at item {number} of input list")
    for alias, value in row.items() if named else [(next(iter(inputs)), row)]:
        error = _reason_of_item(alias, value, inputs, shapes)
        if error is not None:
            key = f" key: {alias}" if named else ""
            return invalid(
                f"Failed to process element: {number}{key} of 'instances' list. "
                f"Error: {error.code.name}: {error.message}"
            )
    return invalid(
        f"Failed to process element: {number} of 'instances' list. JSON object: "
        f"{shown(row)} keys must be equal to: {','.join(sorted(inputs))}"
    )


def _first_misfit(items: list[Json], fit: Callable[[list[Json]], bool]) -> int:
    """The place of the first item that does not fit, where not all do.

    The half that holds it is sought, and so on: as much work as looking at all items twice.
    """
    low, high = 0, len(items)
    while high - low > 1:
        middle = (low + high) // 2
        if fit(items[low:middle]):
            low = middle
        else:
            high = middle
    return low


def _reason_of_item(
    alias: str,
    value: Json,
    inputs: Mapping[str, TensorSpec],
    shapes: Mapping[str, tuple[int, ...]],
) -> RequestError | None:
    if alias not in inputs:
        return invalid(f"JSON object: does not have named input: {alias}")
    data_type = inputs[alias].data_type
    shape = _shape_of(value)
    if _fitting_array(value, data_type, shape) is None:
        return _reason(value, shape, data_type)
    first = shapes.get(alias, shape)
    if math.prod(first) != math.prod(shape):
        return invalid(f"Expecting tensor size: {math.prod(first)} but got: {math.prod(shape)}")
    if first != shape:
        return invalid(f"Expecting shape {_shape_text(first)} but got: {_shape_text(shape)}")
    return None


def _reason(value: Json, shape: tuple[int, ...], data_type: int, level: int = 0) -> RequestError:
    """What the first value in a nest of lists is that does not fit, where not all do."""
    rank = len(shape)
    if type(value) is not list:
        if level != rank:
            return invalid(
                f"JSON Value: {shown(value)} found at incorrect level: {level + 1} in the JSON "
                f"DOM. Expected at level: {rank}"
            )
        return _reason_of_leaf(value, data_type)
    if level >= rank:
        return invalid(f"Encountered list at unexpected level: {level} expected < {rank}")
    if len(value) != shape[level]:
        return invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: "
            f"{shape[level]}"
        )
    if not value:  # nothing could be wrong with it but the type
        return _unimplemented(value, data_type)

    def fit(items: list[Json]) -> bool:
        inner = (len(items), *shape[level + 1 :])
        return _fitting_array(items, data_type, inner) is not None

    return _reason(value[_first_misfit(value, fit)], shape, data_type, level + 1)


def _reason_of_leaf(value: Json, data_type: int) -> RequestError:
    """Why a value is not of a type."""
    if data_type == STRING.number and type(value) in (str, dict):
        return _reason_of_string(value)
    element = _FLOATS.get(data_type)
    if element is not None and type(value) in (int, float):
        return _reason_of_number(value, element)
    if type(value) is not dict and not _has_json_form(data_type):
        return _unimplemented(value, data_type)
    return invalid(
        f"JSON Value: {shown(value)} Type: {json_type(value)} is not of expected type: "
        f"{data_type_name(data_type)}"
    )


def _reason_of_string(value: Json) -> RequestError:
    try:
        string_of(value)
    except RequestError as error:
        return error
    raise AssertionError("a string that does not fit must have a reason")


def _reason_of_number(value: int | float, element: ElementType) -> RequestError:
    if math.isinf(value) if type(value) is float else abs(value) > sys.float_info.max:
        return too_big()
    return invalid(
        f"Cannot convert JSON value: {shown(value)} to {element.name} without loss of precision."
    )


def _has_json_form(data_type: int) -> bool:
    return data_type in (STRING.number, BOOL.number) or data_type in {**_FLOATS, **_INTEGERS}


def _unimplemented(value: Json, data_type: int) -> RequestError:
    return RequestError(
        Code.UNIMPLEMENTED,
        f"Conversion of JSON Value: {shown(value)} to type: {data_type_name(data_type)}",
    )


def _shape_text(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _fill_example(value: Json, example: Message) -> None:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {json_type(value)}")
    example.features.SetInParent()
    for name, content in value.items():
        feature = example.features.feature[checked_name(name)]
        items = content if isinstance(content, list) else [content]
        found = [_feature_value(item, name) for item in items]
        if not found:
            continue
        kind = found[0][0]
        if any(other != kind for other, _ in found):
            raise invalid(f"Unexpected element type in feature: {name} expecting type: {kind}")
        getattr(feature, _FEATURE_LISTS[kind]).value.extend(item for _, item in found)


def _feature_value(value: Json, name: str) -> tuple[str, bytes | int | float]:
    """In which of a feature's lists a value belongs, and the value as it is there."""
    if isinstance(value, bool):
        return "int64", int(value)
    if isinstance(value, str) or is_base64(value):
        return "bytes", string_of(value)
    if isinstance(value, int) and _LEAST_INT64 <= value <= _LARGEST_INT64:
        return "int64", value
    if isinstance(value, int) and 0 <= value <= _LARGEST_UINT64:
        raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
    if isinstance(value, int | float):
        if _pack([value], FLOAT.number) is None:
            raise _reason_of_number(value, FLOAT)
        return "float", float(value)
    raise invalid(f"Feature: {name} has element with unexpected JSON type: {json_type(value)}")
