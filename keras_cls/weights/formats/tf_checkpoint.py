"""Checkpoints of TensorFlow 1, in both of its formats, read without running TensorFlow's reader.

That reader stops the whole process where a file says something impossible (a negative size, an
unknown kind of numbers). Both formats are tables of keys and values, as LevelDB's
(github.com/google/leveldb, doc/table_format.md), whose values are protocol messages:

* V2, a bundle (tensorflow/core/util/tensor_bundle): PREFIX.index has the places of the tensors in
  PREFIX.data-00000-of-0000N;
* V1 (tensorflow/core/util/tensor_slice_writer), as TF-slim published in 2016: one file with all.

A checkpoint is given by its prefix, by one of its files, by the folder or by the .tar.gz that it is
in. TensorFlow's own messages (Python modules that only describe them) parse the values.
"""

import math
import re
import struct
import tarfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from tensorflow.core.framework import tensor_shape_pb2, types_pb2
from tensorflow.core.protobuf import tensor_bundle_pb2
from tensorflow.core.util import saved_tensor_slice_pb2

from keras_cls.weights.formats import FormatError, WeightsFile, _crc32c, _numbers

ENDING = ".ckpt"

# Their number in types.proto -> how they lie in a bundle.
_KINDS = {
    types_pb2.DT_FLOAT: _numbers.FLOAT32,
    types_pb2.DT_DOUBLE: _numbers.FLOAT64,
    types_pb2.DT_HALF: _numbers.FLOAT16,
    types_pb2.DT_BFLOAT16: _numbers.BFLOAT16,
    types_pb2.DT_INT8: _numbers.INT8,
    types_pb2.DT_INT16: _numbers.INT16,
    types_pb2.DT_INT32: _numbers.INT32,
    types_pb2.DT_INT64: _numbers.INT64,
    types_pb2.DT_UINT8: _numbers.UINT8,
    types_pb2.DT_BOOL: _numbers.BOOL,
}
# Their number -> the field of a tensor message, and NumPy's kind.
_FIELDS = {
    types_pb2.DT_FLOAT: ("float_val", np.float32),
    types_pb2.DT_DOUBLE: ("double_val", np.float64),
    types_pb2.DT_INT32: ("int_val", np.int32),
    types_pb2.DT_INT64: ("int64_val", np.int64),
}
_MOST_AXES = 16
_LONGEST_KEY = 4096  # bytes
_LARGEST_ARCHIVE = 4 << 30  # bytes when unpacked; VGG-19 takes 575 MB
_FILES = re.compile(r"(?P<prefix>.+?)(?P<part>\.index|\.meta|\.data-\d{5}-of-\d{5})?")

# A file's name -> a function that gives its content.
Files = Mapping[str, Callable[[], bytes]]


def read(path: Path) -> WeightsFile:
    """All variables by name, bfloat16 as float32; read-only, all others as they are."""
    files = _archived(path) if path.name.endswith(".tar.gz") else _beside(path)
    prefix = _prefix(path, files)
    if f"{prefix}.index" in files:
        tensors = _bundle(prefix, files)
    else:
        tensors = _single_file(files[prefix]())
    if any(name.endswith("/.ATTRIBUTES/VARIABLE_VALUE") for name in tensors):
        raise FormatError("holds objects of TensorFlow 2; expected variables of TensorFlow 1")
    return WeightsFile(str(path), ENDING, tensors)


def _beside(path: Path) -> Files:
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        return {}
    return {file.name: file.read_bytes for file in sorted(folder.iterdir()) if file.is_file()}


def _archived(path: Path) -> Files:
    """What is in the archive; nothing is unpacked to disk."""
    contents = {}
    left = _LARGEST_ARCHIVE
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            left -= member.size
            if left < 0:
                raise FormatError(f"unpacks to more than {_LARGEST_ARCHIVE >> 30} GiB")
            name = member.name.rpartition("/")[2]
            if member.isfile() and not name.startswith("."):
                if name in contents:
                    raise FormatError(f"has two files named {name}")
                file = archive.extractfile(member)
                assert file is not None  # as it is for files
                contents[name] = file.read()
    return {name: partial(bytes, content) for name, content in contents.items()}


def _prefix(path: Path, files: Files) -> str:
    """The name that the checkpoint's files begin with, that of its single file in V1."""
    bundles = [name.removesuffix(".index") for name in files if name.endswith(".index")]
    if path.is_dir() or path.name.endswith(".tar.gz"):
        singles = [name for name in files if re.search(r"\.ckpt(-\d+)?$", name)]
        found = bundles or singles
        if "checkpoint" in files:  # the saver's note of what it wrote last, a text message
            note = files["checkpoint"]().decode("utf-8", "replace")
            if latest := re.search(r'^model_checkpoint_path: "(?:.*/)?([^"/]+)"', note, re.M):
                found = [name for name in (*bundles, *singles) if name == latest[1]] or found
        if len(found) != 1:
            raise FormatError(
                "expected one checkpoint of TensorFlow 1 in it (PREFIX.index and PREFIX.data-..., "
                f"or one file PREFIX.ckpt), found {', '.join(found) or 'none'}"
            )
        return found[0]
    match = _FILES.fullmatch(path.name)
    assert match is not None  # as any name of a character does
    prefix = match["prefix"] if match["part"] else path.name
    if prefix not in bundles and (match["part"] or prefix not in files):
        raise FormatError(
            f"expected a checkpoint of TensorFlow 1: {prefix}.index and its .data files, or one "
            f"file {prefix}; found neither"
        )
    return prefix


# --- V2 -------------------------------------------------------------------------------------------


def _bundle(prefix: str, files: Files) -> dict[str, np.ndarray]:
    values = _table(files[f"{prefix}.index"](), f"{prefix}.index")
    header = tensor_bundle_pb2.BundleHeaderProto()
    entries = {}
    for key, value in values:
        if key == b"":
            header.ParseFromString(value)
        else:
            entries[key] = tensor_bundle_pb2.BundleEntryProto.FromString(value)
    for key, entry in entries.items():
        if entry.slices:
            raise FormatError(f"{key.decode()} is stored in slices, as partitioned variables are")
    if not 1 <= header.num_shards <= 99_999:
        raise FormatError(f"{prefix}.index: expected the number of .data files in it")
    big_endian = header.endianness == tensor_bundle_pb2.BundleHeaderProto.BIG
    tensors: dict[str, np.ndarray] = {}
    for shard in sorted({entry.shard_id for entry in entries.values()}):
        name = f"{prefix}.data-{shard:05d}-of-{header.num_shards:05d}"
        if name not in files:
            raise FormatError(f"its file {name} is missing")
        of_shard = {
            key.decode(): entry for key, entry in entries.items() if entry.shard_id == shard
        }
        tensors |= _shard(name, files[name](), of_shard, big_endian)
    return {key.decode(): tensors[key.decode()] for key in entries}


def _shard(
    name: str,
    content: bytes,
    entries: Mapping[str, tensor_bundle_pb2.BundleEntryProto],
    big_endian: bool,
) -> dict[str, np.ndarray]:
    tensors = {}
    reached = 0
    for key, entry in sorted(entries.items(), key=lambda item: item[1].offset):
        if entry.dtype not in _KINDS:
            raise FormatError(f"{key}: expected numbers, found {_kind(entry.dtype)}")
        kind = _KINDS[entry.dtype]
        shape = _shape(key, entry.shape)
        if entry.size != math.prod(shape) * kind.dtype.itemsize:
            raise FormatError(f"{key}: numbers of shape {shape} do not take {entry.size} bytes")
        if entry.offset < reached:
            raise FormatError(f"{key}: begins at {entry.offset} of {name}, within another one")
        reached = entry.offset + entry.size
        if reached > len(content):
            raise FormatError(
                f"{key}: ends at byte {reached} of {name}, which has {len(content)}: truncated"
            )
        piece = memoryview(content)[entry.offset : reached]
        if _crc32c.masked(piece) != entry.crc32c:
            raise FormatError(f"{key}: its checksum in {name} is wrong: damaged")
        tensors[key] = kind.decode(piece, big_endian=big_endian).reshape(shape)
    return tensors


# --- V1 -------------------------------------------------------------------------------------------


def _single_file(content: bytes) -> dict[str, np.ndarray]:
    described: dict[str, saved_tensor_slice_pb2.SavedSliceMeta] = {}
    tensors: dict[str, np.ndarray] = {}
    for key, value in _table(content, "the file"):
        message = saved_tensor_slice_pb2.SavedTensorSlices.FromString(value)
        if key == b"":
            described = {meta.name: meta for meta in message.meta.tensor}
            continue
        name = message.data.name
        if name not in described or name in tensors:
            raise FormatError(f"{name}: expected once in the list of variables and once behind it")
        tensors[name] = _saved(described[name], message.data)
    if lost := [name for name in described if name not in tensors]:
        raise FormatError(f"{lost[0]} is listed and not there")
    return {name: tensors[name] for name in described}


def _saved(
    meta: saved_tensor_slice_pb2.SavedSliceMeta, data: saved_tensor_slice_pb2.SavedSlice
) -> np.ndarray:
    shape = _shape(meta.name, meta.shape)
    whole = len(data.slice.extent) == len(shape) and all(
        extent.start == 0 and (not extent.HasField("length") or extent.length == side)
        for extent, side in zip(data.slice.extent, shape, strict=True)
    )
    if not whole:
        raise FormatError(f"{meta.name} is stored in slices, as partitioned variables are")
    if meta.type not in _FIELDS:
        raise FormatError(f"{meta.name}: expected numbers, found {_kind(meta.type)}")
    field, dtype = _FIELDS[meta.type]
    values = getattr(data.data, field)
    if len(values) != math.prod(shape):
        raise FormatError(
            f"{meta.name}: expected the {math.prod(shape)} numbers of {shape}, found {len(values)}"
        )
    return np.fromiter(values, dtype, len(values)).reshape(shape)


# --- Both -----------------------------------------------------------------------------------------


def _shape(key: str, message: tensor_shape_pb2.TensorShapeProto) -> tuple[int, ...]:
    shape = tuple(dim.size for dim in message.dim)
    if message.unknown_rank or len(shape) > _MOST_AXES or any(side < 0 for side in shape):
        raise FormatError(f"{key}: expected at most {_MOST_AXES} sides, none negative")
    return shape


def _kind(number: int) -> str:
    known = types_pb2.DataType.DESCRIPTOR.values_by_number.get(number)
    return known.name if known else f"an unknown kind ({number})"


_MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
_FOOTER = 48  # bytes: the places of two blocks, zeros, the magic number
_BEHIND_BLOCK = 5  # bytes: how it is compressed, and its checksum


def _table(content: bytes, name: str) -> Iterator[tuple[bytes, bytes]]:
    """The keys, which ascend, and their values."""
    if len(content) < _FOOTER or not content.endswith(_MAGIC):
        raise FormatError(
            f"{name} does not end as a checkpoint of TensorFlow 1 does: truncated, or another file"
        )
    footer = content[-_FOOTER : -len(_MAGIC)]
    try:
        _, position = _place(footer, 0)
        (offset, size), _ = _place(footer, position)
        reached, last = 0, None
        for _, place in _block(content, offset, size):
            (offset, size), _ = _place(place, 0)
            if offset < reached:
                raise FormatError(f"{name}: its blocks overlap")
            reached = offset + size
            for key, value in _block(content, offset, size):
                if last is not None and key <= last:
                    raise FormatError(f"{name}: its keys do not ascend")
                last = key
                yield key, value
    except IndexError:
        raise FormatError(f"{name}: a number in it reaches beyond its end: damaged") from None


def _block(content: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """A key shares its beginning with the one before; at the end are places for a faster search."""
    end = offset + size
    if size < 8 or end + _BEHIND_BLOCK > len(content):
        raise FormatError("a block reaches beyond the end: truncated or damaged")
    (checksum,) = struct.unpack_from("<I", content, end + 1)
    if _crc32c.masked(memoryview(content)[offset : end + 1]) != checksum:
        raise FormatError("the checksum of a block is wrong: damaged")
    if content[end] != 0:
        raise FormatError("its blocks are compressed, which TensorFlow's are not")
    (restarts,) = struct.unpack_from("<I", content, end - 4)
    limit = end - 4 - 4 * restarts
    key, position = b"", offset
    while position < limit:
        shared, position = _varint(content, position)
        added, position = _varint(content, position)
        length, position = _varint(content, position)
        if shared > len(key) or shared + added > _LONGEST_KEY or position + added + length > limit:
            raise FormatError("an entry does not fit into its block: damaged")
        key = key[:shared] + content[position : position + added]
        position += added
        yield key, content[position : position + length]
        position += length


def _place(content: bytes, position: int) -> tuple[tuple[int, int], int]:
    offset, position = _varint(content, position)
    size, position = _varint(content, position)
    return (offset, size), position


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        byte = content[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise FormatError("a number in it is too long: damaged")
