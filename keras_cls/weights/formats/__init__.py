"""Reading the tensors of a weights file without running anything that it contains."""

import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

import h5py
import numpy as np

from keras_cls.errors import ConfigError

PYTORCH_ENDING = ".npz"
KERAS_ENDINGS = (".weights.h5", ".keras")


@dataclass(frozen=True)
class WeightsFile:
    """A file's tensors by name; ``network`` is the name of the model that Keras saved."""

    path: str
    tensors: dict[str, np.ndarray]
    network: str | None = None


def read(path: Path) -> WeightsFile:
    """The file's tensors.

    Raises:
        ConfigError: there is no such file, or it is not what its name's ending says.
    """
    readers = {PYTORCH_ENDING: _read_npz, ".weights.h5": _read_h5, ".keras": _read_keras}
    reader = next((read for ending, read in readers.items() if path.name.endswith(ending)), None)
    if reader is None:
        raise ConfigError(f"{path}: weights: expected a name ending in {', '.join(readers)}")
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise ConfigError(f"{path}: weights: expected a file, found {found}")
    try:
        return reader(path)
    except ConfigError:
        raise
    except Exception as error:  # a broken file makes zipfile, numpy and h5py raise almost anything
        raise ConfigError(
            f"{path}: weights: damaged, or not a {path.suffix} file of plain numbers ({error})"
        ) from error


def _read_npz(path: Path) -> WeightsFile:
    archive = np.load(path, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ConfigError(f"{path}: weights: expected an archive of arrays, found one array")
    with archive:
        tensors = {key: archive[key] for key in archive.files}
    for key, tensor in tensors.items():
        if not isinstance(tensor, np.ndarray):
            raise ConfigError(f"{path}: weights: {key} is no array")
    return WeightsFile(str(path), tensors)


def _read_keras(path: Path) -> WeightsFile:
    # Only the numbers: the model's configuration, which names classes, is not touched.
    with zipfile.ZipFile(path) as archive:
        return _tensors_of_h5(path, BytesIO(archive.read("model.weights.h5")))


def _read_h5(path: Path) -> WeightsFile:
    with path.open("rb") as file:
        return _tensors_of_h5(path, file)


def _tensors_of_h5(path: Path, content: IO[bytes]) -> WeightsFile:
    """Keras 3's layout: layers/conv2d_1/vars/0, 1, ..., the layer's name an attribute of vars."""
    tensors = {}
    with h5py.File(content, "r") as file:
        if "layers" not in file or "vars" not in file:
            raise ConfigError(f"{path}: weights: expected weights saved by Keras 3")
        # HDF5 can point into other files of this machine; weights have no need to.
        if (link := file.visititems_links(_name_of_link)) is not None:
            raise ConfigError(f"{path}: weights: {link} is a link")
        for group in file["layers"].values():
            if "vars" in group:
                layer = group["vars"].attrs.get("name", group.name.rsplit("/", 1)[-1])
                for index, tensor in group["vars"].items():
                    if tensor.external or tensor.is_virtual:
                        raise ConfigError(f"{path}: weights: {tensor.name} lies in another file")
                    tensors[f"{layer}/{index}"] = tensor[()]
        network = file["vars"].attrs.get("name")
    return WeightsFile(str(path), tensors, network)


def _name_of_link(name: str, link: object) -> str | None:
    return None if isinstance(link, h5py.HardLink) else name
