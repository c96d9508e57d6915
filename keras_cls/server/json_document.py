"""The JSON of a request: from bytes to Python's values, and what is common to reading them.

A refusal is a :class:`RequestError`, in the words of TensorFlow Serving's parser where they are
known.
"""

import binascii
import gc
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

from keras_cls.server.status import Code, RequestError

Json: TypeAlias = Any
Document: TypeAlias = dict[str, Json]

MAX_DEPTH = 64
"""How deeply lists and objects may be nested; NumPy's arrays have no more dimensions."""

_SIGNATURE_NAME = "signature_name"
_BASE64 = "b64"
_SHOWN_CHARACTERS = 1024

_CONSTANTS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_INFINITIES = (_CONSTANTS["Infinity"], _CONSTANTS["-Infinity"])
_WHITESPACE = re.compile(r"[ \t\r\n]*")
_QUOTE = ord('"')
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1

# Bytes that are looked at in one go, in which no other thread gets on.
_PIECE = 1 << 18

# What the original's parser says, by what Python's says.
_PARSE_ERRORS = {
    "Expecting value": "Invalid value.",
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Illegal trailing comma before end of object": "Missing a name for object member.",
    "Illegal trailing comma before end of array": "Invalid value.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid control character at": "Invalid encoding in string.",
}


def parse_document(body: bytes, max_depth: int = MAX_DEPTH) -> Document:
    """The JSON object that a body begins with; what stands behind it is ignored.

    ``NaN``, ``Infinity`` and ``-Infinity`` are numbers. Of members with the same name the first
    counts. Bytes that are no UTF-8 stay as they are in strings (as surrogate escapes).

    Args:
        body: the bytes that were sent.
        max_depth: how deeply lists and objects may be nested, at most ``MAX_DEPTH``.

    Raises:
        RequestError: INVALID_ARGUMENT: no JSON, no object, or nested too deeply.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    _check_depth(body, max_depth)
    text = body.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    decoder = json.JSONDecoder(
        parse_constant=_CONSTANTS.__getitem__, object_pairs_hook=_first_of_each_name
    )
    start = _WHITESPACE.match(text).end()  # type: ignore[union-attr]
    if start == len(text):
        raise invalid(f"JSON Parse error: The document is empty. at offset: {start}")
    try:
        with _without_collection():
            document, _ = decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        offset = len(text[: error.pos].encode("utf-8", "surrogateescape"))
        raise invalid(f"JSON Parse error: {_parse_error(error)} at offset: {offset}") from error
    except ValueError as error:  # Python reads no whole number of more than 4300 digits
        raise too_big() from error
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {shown(document)} Is not object")
    return document


def signature_name(document: Document) -> str:
    """The signature that a document asks for; empty if it does not say.

    Raises:
        RequestError: INVALID_ARGUMENT: it is no string.
    """
    name = document.get(_SIGNATURE_NAME, "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {shown(document)} not formatted correctly. 'signature_name' key must "
            "be a string value."
        )
    return checked_name(name)


def invalid(message: str) -> RequestError:
    """The refusal of a body that cannot be right."""
    return RequestError(Code.INVALID_ARGUMENT, message)


def too_big() -> RequestError:
    """The refusal of a number beyond what a double can be."""
    return invalid("JSON Parse error: Number too big to be stored in double.")


def _check_depth(body: bytes, max_depth: int) -> None:
    """Refuse before parsing what could overflow the stack."""
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return
    depth = 0
    for brackets in _brackets(body):
        depths = depth + np.cumsum(_STEPS[brackets], dtype=np.int64)
        if depths.max(initial=0) > max_depth:
            raise invalid(
                f"JSON Parse error: lists and objects nested deeper than {max_depth} levels"
            )
        depth = int(depths[-1]) if depths.size else depth


def _brackets(text: bytes) -> Iterator[np.ndarray]:
    """Those of lists and objects, outside of strings; piece by piece.

    Behind what is no JSON they may be others: the parser does not get there.
    """
    bare = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    in_string = False
    for start in range(0, len(bare), _PIECE):
        piece = bare[start : start + _PIECE]
        if in_string or b'"' in piece:
            values = np.frombuffer(piece, np.uint8)
            inside = np.logical_xor.accumulate(values == _QUOTE) ^ in_string
            in_string = bool(inside[-1])
            piece = values[~inside].tobytes()
        yield np.frombuffer(piece.translate(None, _NO_BRACKETS), np.uint8)


@contextmanager
def _without_collection() -> Iterator[None]:
    """No search for cycles: JSON has none, and for millions of short lists it takes seconds."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _first_of_each_name(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else dict(reversed(pairs))


def _parse_error(error: json.JSONDecodeError) -> str:
    if error.msg != "Expecting ',' delimiter":
        return _PARSE_ERRORS.get(error.msg, f"{error.msg}.")
    before = error.doc[: error.pos].encode("utf-8", "surrogateescape")
    if _innermost_bracket(before) == "{":
        return "Missing a comma or } after an object member."
    return "Missing a comma or ] after an array element."


def _innermost_bracket(text: bytes) -> str:
    """The last bracket that is still open."""
    closed = 0
    for bracket in reversed(b"".join(map(bytes, _brackets(text))).decode()):
        if bracket in "]}":
            closed += 1
        elif closed:
            closed -= 1
        else:
            return bracket
    return ""


def shown(value: Json) -> str:
    """A value as messages quote it: indented, and cut where it gets long."""
    pieces: list[str] = []
    length = 0
    for piece in json.JSONEncoder(indent=4, ensure_ascii=False).iterencode(value):
        pieces.append(piece[:_SHOWN_CHARACTERS])
        length += len(piece)
        if length > _SHOWN_CHARACTERS:
            return "".join(pieces)[:_SHOWN_CHARACTERS] + "...TRUNCATED"
    return "".join(pieces)


def json_type(value: Json) -> str:
    """The original's word for the kind of a value."""
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return str(value)
    names: dict[type, str] = {dict: "Object", list: "Array", str: "String"}
    return names.get(type(value), "Number")


def is_base64(value: Json) -> bool:
    """Whether a value is ``{"b64": "..."}``: a string that is written in base64."""
    return type(value) is dict and len(value) == 1 and isinstance(value.get(_BASE64), str)


def is_object(value: Json) -> bool:
    """Whether a value is an object that is not just a string in base64."""
    return type(value) is dict and not is_base64(value)


def checked_name(name: str) -> str:
    """A name that protobuf takes: UTF-8, other than strings that are values."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise invalid("JSON Parse error: Invalid encoding in string.") from error
    return name


def string_of(value: Json) -> bytes:
    """The bytes of a JSON string, or of an object ``{"b64": ...}``."""
    if isinstance(value, str):
        try:
            return value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:  # half of a pair of \u escapes
            raise invalid("JSON Parse error: The surrogate pair in string is invalid.") from error
    if not is_base64(value):
        raise invalid(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    return _from_base64(value[_BASE64])


def _from_base64(text: str) -> bytes:
    """Decode base64; the padding may be left out, and white space is passed over."""
    joined = "".join(text.split())
    bare = joined.rstrip("=")
    missing = -len(bare) % 4
    if missing == 3 or len(joined) - len(bare) not in (0, missing):
        raise invalid("Unable to base64 decode")
    try:
        return binascii.a2b_base64(bare + "=" * missing, strict_mode=True)
    except ValueError as error:
        raise invalid("Unable to base64 decode") from error


def is_literal_infinity(value: Json) -> bool:
    """Whether an infinity was written as such, rather than as a number like 1e999."""
    return any(value is literal for literal in _INFINITIES)
