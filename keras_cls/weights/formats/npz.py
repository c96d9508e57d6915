"""NumPy's archive of arrays, ``numpy.savez`` and ``numpy.savez_compressed``."""

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from keras_cls.weights.formats import FormatError, WeightsFile

_ZIP_MAGIC = b"PK"
_NPY_MAGIC = b"\x93NUMPY"
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what NumPy writes
# Weights hardly shrink. What is small in any case may (networks that are all zeros).
_LARGEST_RATIO = 20
_SMALL = 1 << 28  # bytes


def read(path: Path) -> WeightsFile:
    """All arrays under their names; nothing is unpickled."""
    with path.open("rb") as file:
        beginning = file.read(len(_NPY_MAGIC))
    if beginning == _NPY_MAGIC:
        raise FormatError("expected an archive of arrays, found one array")
    if not beginning.startswith(_ZIP_MAGIC):
        raise FormatError("damaged, or not a .npz file of plain numbers")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _refuse_bombs(members, path.stat().st_size)
        tensors: dict[str, np.ndarray] = {}
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name == member.filename:
                raise FormatError(f"{name} is no array")
            if name in tensors:
                raise FormatError(f"{name} is in it twice")
            with archive.open(member) as file:
                tensors[name] = _array(name, file, member.file_size)
    return WeightsFile(str(path), ".npz", tensors)


def _refuse_bombs(members: list[zipfile.ZipInfo], size: int) -> None:
    for member in members:
        if member.compress_type not in _METHODS:
            raise FormatError(f"{member.filename}: is compressed in a way that NumPy never writes")
    unpacked = sum(member.file_size for member in members)
    if unpacked > max(_LARGEST_RATIO * size, _SMALL):
        raise FormatError(
            f"its {size} bytes unpack to {unpacked}, more than {_LARGEST_RATIO} times as many: no "
            "weights shrink so much (if it is right, write it with numpy.savez)"
        )


def _array(name: str, file: IO[bytes], size: int) -> np.ndarray:
    """One member: its header says what the bytes behind it are, and how many."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise FormatError(f"{name}: expected version 1.0 or 2.0 of NumPy's format, not {version}")
    shape, by_columns, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise FormatError(f"{name} holds pickled objects, which are not read (allow_pickle=False)")
    expected, found = math.prod(shape) * dtype.itemsize, size - file.tell()
    if expected != found or not dtype.itemsize:
        raise FormatError(f"{name}: {dtype} {shape} takes {expected} bytes, found {found}")
    content = file.read(expected)
    if len(content) < expected:
        raise FormatError(f"{name}: ends after {len(content)} of {expected} bytes: truncated")
    file.read()  # the checksum is compared at the end
    return np.frombuffer(content, dtype).reshape(shape, order="F" if by_columns else "C")
