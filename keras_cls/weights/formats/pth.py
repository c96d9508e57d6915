"""What ``torch.save`` writes of a ``state_dict``, read without torch and without unpickling.

Three layouts hold the same pickle: it names storages (runs of numbers of one kind), and tensors are
views of them (offset, shape, strides).

- a zip archive, since torch 1.6: ``NAME/data.pkl`` and each storage as ``NAME/data/KEY``, neither
  compressed (torch/serialization.py, ``_save``);
- one stream, since torch 0.1.10: a magic number, the protocol's version, facts of the system, the
  pickle, the storages' keys in order, and the storages, each behind its length (``_legacy_save``);
- a tar archive before, as torchvision's first ResNets are: ``storages``, ``tensors`` (their places
  in the storages) and ``pickle``, which refers to both by number (``legacy_load`` in
  ``_legacy_load``).

A file may wrap the ``state_dict``, as training scripts do: the first of :data:`WRAPPERS` is taken,
averaged weights before others, as timm's ``load_state_dict`` does. Entries that are no tensors are
left out, and the log names them. The prefixes that ``DataParallel`` and ``torch.compile`` put
before every name are removed.

Tensors are read-only views of their storages, which are read once each and only where a tensor of
the ``state_dict`` needs them: an optimizer's state beside it costs nothing.
"""

import io
import logging
import math
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from keras_cls.weights.formats import FormatError, WeightsFile, _numbers
from keras_cls.weights.formats._numbers import Encoding
from keras_cls.weights.formats._pickle_machine import Buildable, Call, Opaque, load, put

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state")
PREFIXES = ("module.", "_orig_mod.")

_ZIP_MAGIC = b"PK\x03\x04"
_TAR_MAGIC, _TAR_MAGIC_AT = b"ustar", 257
_TAR_BLOCK = 512
_STREAM_MAGIC = 0x1950A86A20F9469CFC6C
_STREAM_VERSION = 1001
_LARGEST_PICKLE = 1 << 26  # bytes; a thousand tensors take 200 kB
_LARGEST_EXPANDED = 1 << 20  # elements of a tensor that repeats its storage's numbers
_MOST_AXES = 16
_MOST_OBJECTS = 1 << 16  # tensors or storages in a tar archive
_AVERAGES_COUNT = "n_averaged"  # what torch.optim.swa_utils.AveragedModel saves beside "module."

_log = logging.getLogger("keras_cls")


def read(path: Path) -> WeightsFile:
    """The tensors of the file's ``state_dict``, bfloat16 as float32, all others as they are."""
    with path.open("rb") as file:
        beginning = file.read(_TAR_MAGIC_AT + len(_TAR_MAGIC))
        file.seek(0)
        if beginning.startswith(_ZIP_MAGIC):
            with zipfile.ZipFile(file) as archive:
                tensors = _tensors(path, _Archive(archive, path.stat().st_size))
        elif beginning[_TAR_MAGIC_AT:] == _TAR_MAGIC:
            tensors = _tensors(path, _Tar(file, path.stat().st_size))
        else:
            tensors = _tensors(path, _Stream(file, path.stat().st_size))
    return WeightsFile(str(path), ".pth", tensors)


# What the pickle names.


@dataclass(frozen=True)
class _Storage:
    """A run of numbers; ``start`` and ``count``: of a view of it, in numbers, where it is one."""

    key: str
    encoding: Encoding
    count: int
    start: int = 0


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage; offset and strides in numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """The view of the storage's numbers."""
        itemsize = numbers.itemsize
        return np.ndarray(
            self.shape,
            numbers.dtype,
            numbers,
            (self.storage.start + self.offset) * itemsize if math.prod(self.shape) else 0,
            # A stride that no step is taken with may be anything.
            [
                stride * itemsize if size > 1 else itemsize
                for size, stride in zip(self.shape, self.strides, strict=True)
            ],
        )


class _Parameter(Buildable):
    """A parameter or tensor as torch before 0.4 saved it: an object that is given its state."""

    def __init__(self, tensor: object = None, *ignored: object) -> None:
        self.tensor = tensor

    def build(self, state: object) -> None:
        """Four fields: a tensor's; five: a parameter's, the tensor first; three: no numbers."""
        if not isinstance(state, tuple):
            raise FormatError(f"the state of a parameter is a {type(state).__name__}")
        if len(state) == 4:
            self.tensor = _tensor(*state)
        elif len(state) == 5:
            self.tensor = state[0]


def _tensor(
    storage: object, offset: object, shape: object, strides: object, *ignored: object
) -> _Tensor:
    """The arguments of torch._utils._rebuild_tensor_v2; the others are autograd's."""
    if not isinstance(storage, _Storage):
        raise FormatError(f"a tensor's storage is a {type(storage).__name__}")
    if not (_are_sizes((offset,)) and _are_sizes(shape) and _are_sizes(strides)):
        raise FormatError(f"a tensor of storage {storage.key} has an impossible shape or place")
    assert isinstance(offset, int) and isinstance(shape, tuple) and isinstance(strides, tuple)
    if len(shape) != len(strides) or len(shape) > _MOST_AXES:
        raise FormatError(
            f"a tensor of storage {storage.key} has {len(shape)} axes and {len(strides)} strides"
        )
    size = math.prod(shape)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if size and last >= storage.count:
        raise FormatError(
            f"a tensor {shape} with strides {strides} at {offset} does not lie in its storage "
            f"{storage.key} of {storage.count} numbers"
        )
    if size > max(storage.count, _LARGEST_EXPANDED):
        raise FormatError(f"a tensor {shape} is expanded from a storage of {storage.count} numbers")
    return _Tensor(storage, offset, shape, strides)


def _are_sizes(value: object) -> bool:
    return isinstance(value, tuple) and all(type(size) is int and size >= 0 for size in value)


def _storage(identity: object) -> _Storage:
    """The object of a persistent id: ("storage", kind, key, device, count, and maybe a view)."""
    match identity:
        case ("storage", Encoding() as encoding, str(key), _, int(count)):
            return _Storage(key, encoding, count)
        case ("storage", Encoding() as encoding, str(key), _, int(count), None):
            return _Storage(key, encoding, count)
        case ("storage", Encoding() as encoding, str(key), _, int(count), (_, int(at), int(size))):
            if not 0 <= at <= at + size <= count:
                raise FormatError(f"a view does not lie in its storage {key} of {count} numbers")
            return _Storage(key, encoding, size, at)
    raise FormatError("its pickle refers to something that is no storage of numbers")


def _dictionary(pairs: object = (), *ignored: object) -> dict:
    """collections.OrderedDict's call, whose argument Python 2 wrote."""
    found: dict = {}
    if not isinstance(pairs, list | tuple):
        raise FormatError(f"a dictionary is made of a {type(pairs).__name__}")
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise FormatError("a dictionary is made of other things than pairs")
        put(found, *pair)
    return found


def _parameter(data: object, *ignored: object) -> object:
    return data


_OPAQUE = Call(lambda *ignored: Opaque())

_KINDS = {
    "Double": _numbers.FLOAT64,
    "Float": _numbers.FLOAT32,
    "Half": _numbers.FLOAT16,
    "BFloat16": _numbers.BFLOAT16,
    "Long": _numbers.INT64,
    "Int": _numbers.INT32,
    "Short": _numbers.INT16,
    "Char": _numbers.INT8,
    "Byte": _numbers.UINT8,
    "Bool": _numbers.BOOL,
}

# Every name that a file may use, and what it stands for here. Nothing else exists for it.
_KNOWN: Mapping[str, object] = {
    **{f"torch.{kind}Storage": encoding for kind, encoding in _KINDS.items()},
    **{f"torch.{kind}Tensor": Call(_Parameter) for kind in _KINDS},
    **{f"torch.cuda.{kind}Tensor": Call(_Parameter) for kind in _KINDS},
    "torch._utils._rebuild_tensor": Call(_tensor),
    "torch._utils._rebuild_tensor_v2": Call(_tensor),
    "torch._utils._rebuild_parameter": Call(_parameter),
    "torch.nn.parameter.Parameter": Call(_Parameter),
    "torch.Size": Call(lambda sizes=(): tuple(sizes)),
    "collections.OrderedDict": Call(_dictionary),
    # What training scripts save beside the weights: arguments, figures, schedules.
    "argparse.Namespace": _OPAQUE,
    "collections.Counter": _OPAQUE,
    "collections.defaultdict": _OPAQUE,
    "__builtin__.set": _OPAQUE,
    "builtins.set": _OPAQUE,
    "__builtin__.dict": _OPAQUE,
    "builtins.dict": _OPAQUE,
    "_codecs.encode": _OPAQUE,
    "numpy.dtype": _OPAQUE,
    "numpy.core.multiarray.scalar": _OPAQUE,
    "numpy._core.multiarray.scalar": _OPAQUE,
    "pathlib.PosixPath": _OPAQUE,
    "pathlib._local.PosixPath": _OPAQUE,
    "torch.device": _OPAQUE,
    **{f"torch.{name}": Opaque() for name in ("float64", "float32", "float16", "bfloat16")},
}


# The layouts.


class _Layout(ABC):
    """A file's pickle, and its storages by key."""

    root: object

    @abstractmethod
    def numbers(self, storage: _Storage) -> np.ndarray:
        """All numbers of the storage, a view's included."""


class _Archive(_Layout):
    """The zip archive."""

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self._archive = archive
        entries = archive.infolist()
        pickles = [
            e for e in entries if e.filename.count("/") == 1 and e.filename.endswith("/data.pkl")
        ]
        if len(pickles) != 1:
            raise FormatError(
                f"expected an archive with one NAME/data.pkl, found {len(pickles)} (is it what "
                "torch.save wrote?)"
            )
        self._folder = pickles[0].filename.removesuffix("data.pkl")
        if any(e.filename.startswith(f"{self._folder}code/") for e in entries):
            raise FormatError(
                "a TorchScript program: load it with torch.jit.load and torch.save its state_dict()"
            )
        if any(e.compress_type != zipfile.ZIP_STORED or e.flag_bits & 1 for e in entries):
            raise FormatError("its entries are compressed or encrypted, which torch never writes")
        if sum(e.file_size for e in entries) > size:
            raise FormatError(f"its entries are larger than the file of {size} bytes")
        if pickles[0].file_size > _LARGEST_PICKLE:
            raise FormatError(f"its pickle has {pickles[0].file_size} bytes")
        self._sizes = {entry.filename: entry.file_size for entry in entries}
        self._big_endian = self._byte_order() == b"big"
        self.root = load(io.BytesIO(archive.read(pickles[0])), _KNOWN, _storage)

    def _byte_order(self) -> bytes:
        name = f"{self._folder}byteorder"  # written since torch 2.1
        order = self._archive.read(name) if name in self._sizes else b"little"
        if order not in (b"little", b"big"):
            raise FormatError(f"{name}: expected little or big, found {order[:20]!r}")
        return order

    def numbers(self, storage: _Storage) -> np.ndarray:
        """Read one entry; the archive checks it."""
        name = f"{self._folder}data/{storage.key}"
        if name not in self._sizes:
            raise FormatError(f"the storage {name} is missing")
        itemsize = storage.encoding.dtype.itemsize
        if self._sizes[name] % itemsize:
            raise FormatError(f"{name}: {self._sizes[name]} bytes are no numbers of {itemsize}")
        content = self._archive.read(name)
        return storage.encoding.decode(content, big_endian=self._big_endian)


class _Runs(_Layout):
    """Storages that lie in the file as runs behind their lengths, little-endian everywhere."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = size
        self._places: dict[str, tuple[int, int]] = {}  # key -> offset and length in bytes

    def _pass_run(self, key: str, encoding: Encoding) -> int:
        """Note where the run is that the file stands at, go behind it, and count its numbers."""
        file = self._file
        length = file.read(8)
        if len(length) < 8:
            raise FormatError(f"it ends before its storage {key:.40}: truncated")
        (count,) = struct.unpack("<q", length)
        place, length_in_bytes = file.tell(), count * encoding.dtype.itemsize
        if not 0 <= length_in_bytes <= self._size - place:
            raise FormatError(
                f"its storage {key:.40} should have {length_in_bytes} bytes, "
                f"{self._size - place} are left: truncated or damaged"
            )
        if key in self._places:
            raise FormatError(f"its storage {key:.40} comes twice")
        self._places[key] = place, length_in_bytes
        file.seek(place + length_in_bytes)
        return count

    def numbers(self, storage: _Storage) -> np.ndarray:
        """Read one run."""
        if storage.key not in self._places:
            raise FormatError(f"the storage {storage.key:.40} is missing: truncated or damaged")
        place, length = self._places[storage.key]
        self._file.seek(place)
        return storage.encoding.decode(self._file.read(length))


class _Stream(_Runs):
    """The stream."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        super().__init__(file, size)
        seen: dict[str, _Storage] = {}
        plain = partial(load, file, {}, _storage)
        if plain() != _STREAM_MAGIC:
            raise FormatError("expected a file of torch.save: its magic number is missing")
        if plain() != _STREAM_VERSION:
            raise FormatError("expected a file of torch.save: its version is unknown")
        plain()  # the system's facts

        def remembered(identity: object) -> _Storage:
            storage = _storage(identity)
            seen.setdefault(storage.key, storage)
            return storage

        self.root = load(file, _KNOWN, remembered)
        keys = plain()
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise FormatError("the list of its storages is damaged")
        for key in keys:
            if key not in seen:
                raise FormatError(f"its storage {key:.40} belongs to no tensor")
            self._pass_run(key, seen[key].encoding)


class _Tar(_Runs):
    """The tar archive; what lies in it bears numbers as names."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        super().__init__(file, size)
        members = _tar_members(file, size)
        for member in ("storages", "tensors", "pickle"):
            if member not in members:
                raise FormatError(f"a tar archive without {member}: torch never writes such")
        objects: dict[int, _Storage | _Tensor] = {}
        plain = partial(load, file, _KNOWN, _storage)
        file.seek(members["storages"])
        for _ in range(_object_count(plain())):
            match plain():
                case (int(key), _, Encoding() as encoding):
                    objects[key] = _Storage(str(key), encoding, self._pass_run(str(key), encoding))
                case _:
                    raise FormatError("the list of its storages is damaged")
        for target, root, start, count in _tuples(plain()):
            storage = objects[root]
            if not isinstance(storage, _Storage) or storage.start:
                raise FormatError(f"its storage {target} is a view of something else")
            place = storage.key, None, storage.count, (None, start, count)
            objects[target] = _storage(("storage", storage.encoding, *place))
        file.seek(members["tensors"])
        for _ in range(_object_count(plain())):
            ((key, root, _),) = _tuples([plain()])
            axes, _ = struct.unpack("<ii", file.read(8))
            if not 0 <= axes <= _MOST_AXES:
                raise FormatError(f"a tensor has {axes} axes")
            *sizes, offset = struct.unpack(f"<{2 * axes + 1}q", file.read(16 * axes + 8))
            objects[key] = _tensor(objects[root], offset, tuple(sizes[:axes]), tuple(sizes[axes:]))

        def known(identity: object) -> object:
            if not isinstance(identity, str | int) or int(identity) not in objects:
                raise FormatError("its pickle refers to something that is no tensor of it")
            return objects[int(identity)]

        file.seek(members["pickle"])
        self.root = load(file, _KNOWN, known)


def _object_count(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= _MOST_OBJECTS:
        raise FormatError("the number of its storages or tensors is damaged")
    return value


def _tuples(values: object) -> list[tuple]:
    if not isinstance(values, list) or not all(isinstance(value, tuple) for value in values):
        raise FormatError("the list of its storages or tensors is damaged")
    return values


def _tar_members(file: IO[bytes], size: int) -> dict[str, int]:
    """Where each regular file of the archive begins. (tarfile would also unfold sparse ones.)"""
    members = {}
    at = 0
    while at + _TAR_BLOCK <= size:
        file.seek(at)
        header = file.read(_TAR_BLOCK)
        name, length, kind = header[:100].rstrip(b"\0"), header[124:136], header[156:157]
        if not name:
            break
        if kind in (b"0", b"\0"):
            members[name.decode("ascii")] = at + _TAR_BLOCK
        blocks = -(-int(length.rstrip(b"\0 ") or b"0", 8) // _TAR_BLOCK)
        if blocks < 0:
            raise FormatError("a damaged tar archive")
        at += (1 + blocks) * _TAR_BLOCK
    return members


# From file to tensors.


def _tensors(path: Path, layout: _Layout) -> dict[str, np.ndarray]:
    found = _without_prefixes(_state_dict(path, layout.root))
    read_storages: dict[tuple[str, Encoding], np.ndarray] = {}
    tensors = {}
    for name, tensor in found.items():
        storage = tensor.storage
        place = storage.key, storage.encoding
        if place not in read_storages:
            read_storages[place] = layout.numbers(storage)
        numbers = read_storages[place]
        if numbers.size < storage.start + storage.count:
            raise FormatError(
                f"{name}: its storage {storage.key} should hold {storage.start + storage.count} "
                f"numbers, it holds {numbers.size}: truncated or damaged"
            )
        tensors[name] = tensor.of(numbers)
    return tensors


def _state_dict(path: Path, root: object) -> dict[str, _Tensor]:
    """The tensors by name, of the file's object or of the wrapped one."""
    if not isinstance(root, dict):
        raise FormatError(f"expected a state_dict (name: tensor), found {_said(root)}")
    # Wrappers first: tensors beside them are figures, such as the best accuracy.
    for wrapper in (*(name for name in WRAPPERS if name in root), None):
        entries = root if wrapper is None else root[wrapper]
        tensors = _named_tensors(entries) if isinstance(entries, dict) else {}
        if tensors:
            if wrapper is not None:
                _log.info("%s: its %s is taken, of %s", path, wrapper, _said(root))
            if ignored := [f"{name!r:.40}" for name in entries if name not in tensors]:
                _log.info("%s: ignored, being no tensors: %s", path, ", ".join(ignored))
            return tensors
    raise FormatError(f"expected a state_dict (name: tensor), found {_said(root)}")


def _named_tensors(entries: dict) -> dict[str, _Tensor]:
    plain = {
        name: value.tensor if isinstance(value, _Parameter) else value
        for name, value in entries.items()
    }
    return {
        name: value
        for name, value in plain.items()
        if isinstance(name, str) and isinstance(value, _Tensor)
    }


def _said(root: object) -> str:
    if not isinstance(root, dict):
        return "one tensor" if isinstance(root, _Tensor | _Parameter) else type(root).__name__
    names = ", ".join(f"{name!r:.40}" for name in list(root)[:8])
    return f"a dictionary of {names}" if names else "an empty dictionary"


def _without_prefixes(tensors: dict[str, _Tensor]) -> dict[str, _Tensor]:
    """Without what wrappers put before every name, one in the other."""
    while True:
        named = {name: tensor for name, tensor in tensors.items() if name != _AVERAGES_COUNT}
        prefix = next((p for p in PREFIXES if named and all(n.startswith(p) for n in named)), None)
        if prefix is None:
            return tensors
        tensors = {name.removeprefix(prefix): tensor for name, tensor in named.items()}
