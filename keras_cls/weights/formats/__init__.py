"""Files of weights, read without running anything that they contain: one module a format.

A reader takes a path and gives the tensors by name. Whatever a file holds, it ends in tensors or in
a :class:`~keras_cls.errors.ConfigError` that names the file.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from keras_cls.errors import ConfigError

# The ending of a file's name -> its reader's module, which has read(path) -> WeightsFile.
_READERS = {
    ".pth": "pth",
    ".pt": "pth",
    ".th": "pth",
    ".pth.tar": "pth",
    ".bin": "pth",
    ".safetensors": "safetensors",
    ".npz": "npz",
    ".weights.h5": "keras_h5",
    ".h5": "keras_h5",
    ".keras": "keras_h5",
    ".ckpt": "tf_checkpoint",
    ".tar.gz": "tf_checkpoint",
}
ENDINGS = tuple(_READERS)

# What a download leaves where it went wrong, by the file's first bytes.
_IMPOSTORS = {
    b"version https://git-lfs": "a Git LFS pointer (git lfs pull fetches the file itself)",
    b"<!DOCTYPE": "a web page (the address was that of a page about the file)",
    b"<!doctype": "a web page (the address was that of a page about the file)",
    b"<html": "a web page (the address was that of a page about the file)",
}


class FormatError(Exception):
    """Why a reader refuses a file; :func:`read` says which file it is."""


@dataclass(frozen=True)
class WeightsFile:
    """A file's tensors by name.

    Attributes:
        path: where it was read from, for messages.
        ending: which of :data:`ENDINGS` its name has; ".pth" for all of torch's.
        tensors: by name, in the file's order.
        network: the name of the model that Keras saved; None in other formats.
    """

    path: str
    ending: str
    tensors: Mapping[str, np.ndarray]
    network: str | None = None


def read(path: Path) -> WeightsFile:
    """The file's tensors.

    Raises:
        ConfigError: there is no such file, or it is not what its name's ending says.
    """
    ending = next((ending for ending in _READERS if path.name.endswith(ending)), None)
    if ending is None and _is_checkpoint(path):
        ending = ".ckpt"
    if ending is None:
        raise ConfigError(f"{path}: weights: expected a name ending in {', '.join(ENDINGS)}")
    if not path.is_file() and ending != ".ckpt":
        found = "a folder" if path.is_dir() else "nothing"
        raise ConfigError(f"{path}: weights: expected a file, found {found}")
    module = import_module(f"keras_cls.weights.formats.{_READERS[ending]}")
    reader: Callable[[Path], WeightsFile] = module.read
    try:
        if path.is_file():
            _refuse_impostors(path, ending)
        return reader(path)
    except ConfigError:
        raise
    except FormatError as error:
        raise ConfigError(f"{path}: weights: {error}") from error
    except Exception as error:  # a broken file makes zipfile, numpy and h5py raise almost anything
        raise ConfigError(
            f"{path}: weights: damaged, or not a {ending} file of plain numbers ({error})"
        ) from error


def _is_checkpoint(path: Path) -> bool:
    """Whether the path means a checkpoint of TensorFlow 1: one of its files, its prefix, a folder.

    A checkpoint has several files, and its user names their common beginning.
    """
    known = re.search(r"\.ckpt-\d+$|\.(index|meta)$|\.data-\d{5}-of-\d{5}$", path.name)
    return known is not None or path.is_dir() or Path(f"{path}.index").is_file()


def _refuse_impostors(path: Path, ending: str) -> None:
    with path.open("rb") as file:
        beginning = file.read(max(map(len, _IMPOSTORS)))
    for magic, said in _IMPOSTORS.items():
        if beginning.startswith(magic):
            raise FormatError(f"expected a {ending} file, found {said}")
