"""The REST API's answers, laid out to the last space as TensorFlow Serving's are."""

import base64
import json
import math
from collections.abc import Iterable, Mapping

import numpy as np

from keras_cls.contract.messages import Message
from keras_cls.server.json_document import invalid
from keras_cls.server.json_tensors import Layout

_BASE64 = "b64"
_BYTES_SUFFIX = "_bytes"
_INDENT = "    "


def write_tensors(outputs: Mapping[str, np.ndarray], layout: Layout) -> bytes:
    """The answer to a predict request.

    Strings of outputs whose name ends in ``_bytes`` are written in base64; in others, bytes that
    are no UTF-8 are replaced.

    Raises:
        RequestError: INVALID_ARGUMENT: the outputs cannot be written as rows, because one is a
            scalar or their numbers of rows differ, or an output's dtype cannot be written.
    """
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    text = _rows_text(outputs) if layout is Layout.ROWS else _columns_text(outputs)
    return text.encode("utf-8", "replace")


def write_classification_result(result: Message) -> bytes:
    """The answer to a classify request, from a ``ClassificationResult``: label and score pairs.

    Raises:
        RequestError: INVALID_ARGUMENT: there is none.
    """
    if not result.classifications:
        raise invalid("Cannot convert empty ClassificationResults to JSON")
    rows = []
    for entry in result.classifications:
        scores = _decimals(np.array([each.score for each in entry.classes], np.float32))
        pairs = [
            f"[{_quoted(each.label)}, {score}]"
            for each, score in zip(entry.classes, scores, strict=True)
        ]
        rows.append(f"[{', '.join(pairs)}]")
    return _object("results", _list_of_lines(rows)).encode("utf-8", "replace")


def write_regression_result(result: Message) -> bytes:
    """The answer to a regress request, from a ``RegressionResult``.

    Raises:
        RequestError: INVALID_ARGUMENT: there is none.
    """
    if not result.regressions:
        raise invalid("Cannot convert empty RegressionResults to JSON")
    values = _decimals(np.array([each.value for each in result.regressions], np.float32))
    return _object("results", f"[{', '.join(values)}]").encode()


def write_error(message: str) -> bytes:
    """The body of a refusal."""
    return _object("error", _quoted(message)).encode("utf-8", "replace")


def _rows_text(outputs: Mapping[str, np.ndarray]) -> str:
    """Each row on its own, its lists on one line."""
    count = _common_rows(outputs)
    named = len(outputs) > 1
    level = 3 if named else 2
    columns = []
    for alias, array in outputs.items():
        row_shape = array.shape[1:]
        texts = _texts(alias, array, level + len(row_shape))
        texts = _nested(texts, count, row_shape, None)
        columns.append([f"{_quoted(alias)}: {text}" for text in texts] if named else texts)
    if not named:
        return _object("predictions", _list_of_lines(columns[0]))
    rows = [_lines("{", row, "}", 2) for row in zip(*columns, strict=True)]
    return _object("predictions", _lines("[", rows, "]", 1))


def _columns_text(outputs: Mapping[str, np.ndarray]) -> str:
    """Each output on its own, each value on a line."""
    named = len(outputs) > 1
    level = 2 if named else 1
    members = []
    for alias, array in outputs.items():
        texts = _texts(alias, array, level + array.ndim)
        (text,) = _nested(texts, 1, array.shape, level)
        members.append(f"{_quoted(alias)}: {text}" if named else text)
    return _object("outputs", _lines("{", members, "}", 1) if named else members[0])


def _common_rows(outputs: Mapping[str, np.ndarray]) -> int:
    count = None
    for alias, array in outputs.items():
        if not array.ndim:
            raise invalid(f"Tensor name: {alias} has no shape information ")
        rows = array.shape[0]
        if count is not None and rows != count:
            raise invalid(
                f"Tensor name: {alias} has inconsistent batch size: {rows} expecting: {count}"
            )
        count = rows
    return count or 0


def _nested(texts: list[str], count: int, shape: tuple[int, ...], level: int | None) -> list[str]:
    """Put brackets around values: ``count`` nests of lists of a shape.

    ``level`` is how many lists and objects are open around them; None writes them on one line.
    """
    for axis in reversed(range(len(shape))):
        size = shape[axis]
        groups = [
            texts[start * size : (start + 1) * size]
            for start in range(count * math.prod(shape[:axis]))
        ]
        if level is None:
            texts = [f"[{', '.join(group)}]" for group in groups]
        else:
            texts = [_lines("[", group, "]", level + axis) for group in groups]
    return texts


def _lines(opening: str, items: Iterable[str], closing: str, level: int) -> str:
    """A list or object with each item on a line of its own."""
    inner = f",\n{_INDENT * (level + 1)}".join(items)
    if not inner:
        return opening + closing
    return f"{opening}\n{_INDENT * (level + 1)}{inner}\n{_INDENT * level}{closing}"


def _list_of_lines(rows: list[str]) -> str:
    """The list of all rows; the original breaks the line before its end only."""
    return f"[{', '.join(rows)}\n{_INDENT}]" if rows else "[]"


def _object(name: str, value: str) -> str:
    return f"{{\n{_INDENT}{_quoted(name)}: {value}\n}}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _texts(alias: str, array: np.ndarray, level: int) -> list[str]:
    """Each value of an array, in row-major order."""
    kind = array.dtype.kind
    if kind == "b":
        return ["true" if value else "false" for value in array.ravel().tolist()]
    if kind in "iu":
        return list(map(str, array.ravel().tolist()))
    if kind == "f" or array.dtype.name == "bfloat16":
        return _decimals(array if array.dtype == np.float64 else array.astype(np.float32))
    if kind in "OSU":
        values = [
            value.encode() if isinstance(value, str) else value for value in array.ravel().tolist()
        ]
        if alias.endswith(_BYTES_SUFFIX):
            return [_base64_object(value, level) for value in values]
        return [_quoted(value.decode(errors="replace")) for value in values]
    raise invalid(f"Failed to write JSON value for tensor type: {array.dtype.name}")


def _base64_object(value: bytes, level: int) -> str:
    return _lines("{", [f'"{_BASE64}": "{base64.b64encode(value).decode()}"'], "}", level)


def _decimals(array: np.ndarray) -> list[str]:
    """Numbers that can be told from whole ones, and read back as they were.

    With six digits if that is exact, else with as many as the type can need: nine or seventeen.
    """
    flat = array.ravel()
    numbers = flat.tolist()
    digits = 17 if flat.dtype == np.float64 else 9
    texts = [f"{number:g}" for number in numbers]
    read_back = np.array([float(text) for text in texts], np.float64).astype(flat.dtype)
    for place in np.flatnonzero(read_back != flat):
        texts[place] = f"{numbers[place]:.{digits}g}"
    texts = [text if "." in text or "e" in text else f"{text}.0" for text in texts]
    for place in np.flatnonzero(~np.isfinite(flat)):
        number = numbers[place]
        texts[place] = "NaN" if math.isnan(number) else ("Infinity", "-Infinity")[number < 0]
    return texts
