"""Files of weights, read without running anything that they contain: one module a format.

A reader takes a path and gives the tensors by name. Whatever a file holds, it ends in tensors or in
a :class:`~keras_cls.errors.ConfigError` that names the file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from keras_cls.errors import ConfigError

# The ending of a file's name -> its reader's module, which has read(path) -> WeightsFile.
_READERS = {
    ".npz": "npz",
    ".weights.h5": "keras_h5",
    ".keras": "keras_h5",
}
ENDINGS = tuple(_READERS)


@dataclass(frozen=True)
class WeightsFile:
    """A file's tensors by name.

    Attributes:
        path: where it was read from, for messages.
        ending: which of :data:`ENDINGS` its name has.
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
    if ending is None:
        raise ConfigError(f"{path}: weights: expected a name ending in {', '.join(ENDINGS)}")
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise ConfigError(f"{path}: weights: expected a file, found {found}")
    module = import_module(f"keras_cls.weights.formats.{_READERS[ending]}")
    reader: Callable[[Path], WeightsFile] = module.read
    try:
        return reader(path)
    except ConfigError:
        raise
    except Exception as error:  # a broken file makes zipfile, numpy and h5py raise almost anything
        raise ConfigError(
            f"{path}: weights: damaged, or not a {path.suffix} file of plain numbers ({error})"
        ) from error
