"""NumPy's archive of arrays."""

from pathlib import Path

import numpy as np

from keras_cls.errors import ConfigError
from keras_cls.weights.formats import WeightsFile


def read(path: Path) -> WeightsFile:
    """All arrays under their names; nothing is unpickled."""
    archive = np.load(path, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ConfigError(f"{path}: weights: expected an archive of arrays, found one array")
    with archive:
        tensors = {key: archive[key] for key in archive.files}
    for key, tensor in tensors.items():
        if not isinstance(tensor, np.ndarray):
            raise ConfigError(f"{path}: weights: {key} is no array")
    return WeightsFile(str(path), ".npz", tensors)
