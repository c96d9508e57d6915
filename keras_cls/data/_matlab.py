"""A reader for arrays of structures in MATLAB's format 5, as the ILSVRC development kit has one.

SciPy reads the format too, but a damaged file can end the process in its reader (seen with 1.17).
Here every length is checked against what there is, and nothing but numbers and text is understood.
The format: "MAT-File Format", The MathWorks, level 5.
"""

import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Value: TypeAlias = float | str | None
"""A field: one number, text, or None for what is neither."""

_HEADER = 128
_LARGEST = 2**27  # bytes after decompression; the development kit's file has a few hundred thousand

# Types of data elements.
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
# Classes of arrays.
_STRUCT, _CHAR, _NUMERIC = 2, 4, range(6, 16)


class DamagedError(ValueError):
    """The file is not in MATLAB's format 5, or is damaged."""


@dataclass(frozen=True)
class _Element:
    """A data element: its type, and where its bytes are."""

    kind: int
    data: bytes


def read_structures(file: Path, name: str, fields: Collection[str]) -> list[Mapping[str, Value]]:
    """The structures of a variable, each with the fields asked for.

    Args:
        file: a ``.mat`` file of format 5, compressed or not.
        name: the variable, an array of structures of whatever shape.
        fields: those that every structure must have.

    Raises:
        DamagedError: the file is none, is damaged, or lacks the variable or a field.
        OSError: the file cannot be read.
    """
    content = file.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(content[_HEADER - 2 : _HEADER])
    if order is None:
        raise DamagedError("it does not begin as a file of MATLAB 5 does")
    for element in _elements(content[_HEADER:], order):
        if element.kind == _COMPRESSED:
            inside = list(_elements(_decompressed(element.data), order))
            if len(inside) != 1:
                raise DamagedError("a compressed element does not hold one array")
            element = inside[0]
        if element.kind == _MATRIX and _name(element.data, order) == name:
            return _structures(element.data, order, fields)
    raise DamagedError(f"it has no variable '{name}'")


def _decompressed(data: bytes) -> bytes:
    reader = zlib.decompressobj()
    try:
        found = reader.decompress(data, _LARGEST)
    except zlib.error as error:
        raise DamagedError(str(error)) from error
    if not reader.eof:
        raise DamagedError("a compressed element is cut short, or too large")
    return found


def _elements(data: bytes, order: str) -> Iterator[_Element]:
    """The elements one after another; each begins at a multiple of 8 bytes, compressed ones not."""
    place = 0
    while place < len(data):
        if len(data) - place < 8:
            raise DamagedError("an element is cut short")
        kind, size = struct.unpack_from(f"{order}II", data, place)
        if kind >> 16:  # a small element: its size and its bytes stand in the 8 of the tag
            kind, size, start, following = kind & 0xFFFF, kind >> 16, place + 4, place + 8
            if size > 4:
                raise DamagedError("a small element is too large")
        else:
            start = place + 8
            padding = 0 if kind == _COMPRESSED else -size % 8
            following = start + size + padding
        if start + size > len(data):
            raise DamagedError("an element is cut short")
        yield _Element(kind, data[start : start + size])
        place = following


def _array(data: bytes, order: str) -> tuple[int, int, str, list[_Element]]:
    """An array's class, number of entries and name, and the elements behind these."""
    elements = list(_elements(data, order))
    if len(elements) < 3:
        raise DamagedError("an array lacks its flags, dimensions or name")
    flags, dimensions, name, *rest = elements
    if len(flags.data) < 4:
        raise DamagedError("an array's flags are cut short")
    count = 1
    for length in _numbers(dimensions, order):
        count *= max(int(length), 0)
    (flag,) = struct.unpack_from(f"{order}I", flags.data)
    return flag & 0xFF, count, name.data.decode("latin-1"), rest


def _name(data: bytes, order: str) -> str:
    return _array(data, order)[2]


def _structures(data: bytes, order: str, wanted: Collection[str]) -> list[Mapping[str, Value]]:
    kind, count, _, rest = _array(data, order)
    if kind != _STRUCT or len(rest) < 2:
        raise DamagedError("the variable is not an array of structures")
    length_element, names_element, *values = rest
    lengths = _numbers(length_element, order)
    length = int(lengths[0]) if lengths else 0
    if length < 1 or len(names_element.data) % length:
        raise DamagedError("the names of the fields are damaged")
    raw = names_element.data
    names = [
        raw[start : start + length].split(b"\0")[0].decode("latin-1")
        for start in range(0, len(raw), length)
    ]
    if missing := sorted(set(wanted) - set(names)):
        raise DamagedError(f"the structures lack the field '{missing[0]}'")
    if len(values) != count * len(names):
        raise DamagedError(f"expected {count} structures of {len(names)} fields")
    return [
        {
            name: _value(element, order)
            for name, element in zip(names, values[first : first + len(names)], strict=True)
            if name in wanted
        }
        for first in range(0, len(values), len(names))
    ]


def _value(element: _Element, order: str) -> Value:
    if element.kind != _MATRIX or not element.data:
        return None
    kind, count, _, rest = _array(element.data, order)
    if not rest:
        return None
    if kind == _CHAR:
        return _text(rest[0], order)
    if kind in _NUMERIC and count == 1:
        numbers = _numbers(rest[0], order)
        return float(numbers[0]) if len(numbers) == 1 else None
    return None


def _numbers(element: _Element, order: str) -> tuple[float, ...]:
    code = _NUMBERS.get(element.kind)
    if code is None or len(element.data) % struct.calcsize(code):
        raise DamagedError("numbers are damaged")
    count = len(element.data) // struct.calcsize(code)
    return struct.unpack(f"{order}{count}{code}", element.data)


def _text(element: _Element, order: str) -> str:
    encoding = _TEXT.get(element.kind)
    if encoding is None:
        raise DamagedError("text is damaged")
    suffix = {"<": "-le", ">": "-be"}[order] if encoding == "utf-16" else ""
    try:
        return element.data.decode(encoding + suffix)
    except UnicodeDecodeError as error:
        raise DamagedError(f"text is damaged: {error.reason}") from error
