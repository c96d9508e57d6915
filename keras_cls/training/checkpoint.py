"""Everything that a run needs to go on, in one file: numbers by name, no code.

A NumPy archive (.npz) with an array for each variable of the network and the optimizer, by its
place: names are no help, since Keras numbers layers without a name anew in each process. Written
beside, then renamed.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cls.errors import ConfigError, TrainingDivergedError
from keras_cls.files import new_file


def save_checkpoint(path: Path, variables: Sequence[Any]) -> None:
    """Write them all.

    Raises:
        TrainingDivergedError: one of them is not finite; nothing is written.
    """
    arrays = {
        _key(place): keras.ops.convert_to_numpy(variable)
        for place, variable in enumerate(variables)
    }
    for variable, array in zip(variables, arrays.values(), strict=True):
        if not np.isfinite(array).all():
            raise TrainingDivergedError(f"training diverged: {_path(variable)} is no longer finite")
    with new_file(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def load_checkpoint(path: Path, variables: Sequence[Any]) -> None:
    """Read them all, or change none.

    Raises:
        ConfigError: the file is damaged, or of another network or optimizer.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = dict(archive)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: damaged, begin anew in another run_dir: {error}") from error
    if found.keys() != {_key(place) for place in range(len(variables))}:
        raise ConfigError(
            f"{path}: is of another network or optimizer: it holds {len(found)} variables, "
            f"expected {len(variables)}"
        )
    arrays = [found[_key(place)] for place in range(len(variables))]
    for variable, array in zip(variables, arrays, strict=True):
        if array.shape != tuple(variable.shape):
            raise ConfigError(
                f"{path}: is of another network or optimizer: {_path(variable)} is "
                f"{list(array.shape)}, expected {list(variable.shape)}"
            )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _path(variable: Any) -> str:
    """Keras' variables have a path, TensorFlow's a name."""
    return str(getattr(variable, "path", variable.name))


def _key(place: int) -> str:
    return f"{place:05d}"
