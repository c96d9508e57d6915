"""safetensors: a JSON header and the numbers (github.com/huggingface/safetensors, format.md).

Eight bytes give the header's length, little-endian; the header maps each tensor's name to its kind,
its shape and the bytes it takes behind the header. They must cover all bytes, each once.
"""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from keras_cls.errors import ConfigError
from keras_cls.files import new_file
from keras_cls.weights.formats import FormatError, WeightsFile, _numbers

_KINDS = {
    "F64": _numbers.FLOAT64,
    "F32": _numbers.FLOAT32,
    "F16": _numbers.FLOAT16,
    "BF16": _numbers.BFLOAT16,
    "I64": _numbers.INT64,
    "I32": _numbers.INT32,
    "I16": _numbers.INT16,
    "I8": _numbers.INT8,
    "U64": _numbers.UINT64,
    "U32": _numbers.UINT32,
    "U16": _numbers.UINT16,
    "U8": _numbers.UINT8,
    "BOOL": _numbers.BOOL,
}
# NumPy's names of the same; bfloat16 is that of ml_dtypes.
_KIND_OF_DTYPE = {
    "bfloat16" if encoding.bfloat16 else encoding.dtype.name: kind
    for kind, encoding in _KINDS.items()
}
_METADATA = "__metadata__"
_LARGEST_HEADER = 1 << 24  # bytes; a thousand tensors take 100 kB (the format's limit is 100 MB)
_MOST_AXES = 16
_ALIGNMENT = 8


def read(path: Path) -> WeightsFile:
    """All tensors in the file's order, bfloat16 as float32; read-only, all others as they are."""
    size = path.stat().st_size
    with path.open("rb") as file:
        beginning = file.read(8)
        length = struct.unpack("<Q", beginning)[0] if len(beginning) == 8 else size
        if 8 + length > size or length > _LARGEST_HEADER:
            raise FormatError(
                f"expected a safetensors file: its {size} bytes cannot have a header of {length} "
                "bytes; truncated, or another format"
            )
        places = _places(_header(file.read(length)), size - 8 - length)
        tensors = {}
        for name, (kind, shape, start, end) in places.items():
            file.seek(8 + length + start)
            tensors[name] = _KINDS[kind].decode(file.read(end - start)).reshape(shape)
    return WeightsFile(str(path), ".safetensors", tensors)


def write(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a file in one step.

    The widest numbers come first and the header ends at a multiple of eight bytes, so that every
    tensor is aligned, as the format's own library does it.

    Args:
        path: the file to make or replace.
        tensors: by name; floats (bfloat16 of ml_dtypes among them), integers or booleans.
        metadata: texts by name that travel in the header.

    Raises:
        ConfigError: numbers that the format has no name for, or metadata that is no text.
    """
    header: dict[str, object] = {}
    if metadata:
        if not all(isinstance(text, str) for item in metadata.items() for text in item):
            raise ConfigError(f"{path}: metadata: expected texts by name")
        header[_METADATA] = dict(metadata)
    for name, tensor in tensors.items():
        if tensor.dtype.name not in _KIND_OF_DTYPE or name == _METADATA:
            raise ConfigError(f"{path}: safetensors cannot hold {name} of {tensor.dtype}")
    ordered = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    end = 0
    for name in ordered:
        tensor = tensors[name]
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _KIND_OF_DTYPE[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    content = json.dumps(header, separators=(",", ":")).encode()
    content += b" " * (-len(content) % _ALIGNMENT)
    with new_file(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(content)))
        file.write(content)
        for name in ordered:
            tensor = tensors[name]
            if tensor.dtype.byteorder == ">":
                tensor = tensor.astype(tensor.dtype.newbyteorder("<"))
            file.write(tensor.tobytes())


def _header(content: bytes) -> dict:
    if not content.startswith(b"{"):
        raise FormatError("expected a safetensors file: its header is no JSON object")
    header = json.loads(content, object_pairs_hook=_without_repetitions)
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError(f"{_METADATA}: expected texts by name")
    return header


def _without_repetitions(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise FormatError("its header names something twice")
    return found


def _places(header: dict, size: int) -> dict[str, tuple[str, list[int], int, int]]:
    """Name -> kind, shape, first byte and the one behind the last; checked against ``size``."""
    places = {}
    for name, entry in header.items():
        match entry:
            case {"dtype": str(kind), "shape": list(shape), "data_offsets": [start, end], **rest}:
                pass
            case _:
                raise FormatError(f"{name}: expected dtype, shape and data_offsets in the header")
        if rest:
            raise FormatError(f"{name}: its header has {', '.join(map(repr, rest))} too many")
        if kind not in _KINDS:
            raise FormatError(f"{name}: expected one of {', '.join(_KINDS)}, found {kind:.40}")
        if not all(type(n) is int and 0 <= n < 2**63 for n in (*shape, start, end)):
            raise FormatError(f"{name}: its shape and place must be whole numbers, none negative")
        if len(shape) > _MOST_AXES:
            raise FormatError(f"{name}: has {len(shape)} axes")
        expected = math.prod(shape) * _KINDS[kind].dtype.itemsize
        if end - start != expected:
            raise FormatError(
                f"{name}: {kind} {tuple(shape)} takes {expected} bytes, found {end - start}"
            )
        places[name] = kind, shape, start, end
    reached = 0
    for name, (_, _, start, end) in sorted(places.items(), key=lambda item: item[1][2:]):
        if start != reached:
            wrong = "overlaps the one before" if start < reached else "leaves a hole before it"
            raise FormatError(f"{name}: begins at {start}, expected {reached}: {wrong}")
        reached = end
    if reached != size:
        raise FormatError(
            f"its tensors take {reached} bytes, {size} are there: truncated or damaged"
        )
    return places
