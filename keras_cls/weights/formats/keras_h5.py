"""What Keras 3 saves: ``.weights.h5``, and ``.keras``, an archive with such a file inside."""

import zipfile
from io import BytesIO
from pathlib import Path
from typing import IO

import h5py

from keras_cls.errors import ConfigError
from keras_cls.weights.formats import WeightsFile


def read(path: Path) -> WeightsFile:
    """The variables of each layer as ``layer/0``, ``layer/1``, ... in the layer's own order."""
    if path.suffix == ".keras":
        # Only the numbers: the model's configuration, which names classes, is not touched.
        with zipfile.ZipFile(path) as archive:
            return _tensors(path, ".keras", BytesIO(archive.read("model.weights.h5")))
    with path.open("rb") as file:
        return _tensors(path, ".weights.h5", file)


def _tensors(path: Path, ending: str, content: IO[bytes]) -> WeightsFile:
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
    return WeightsFile(str(path), ending, tensors, network)


def _name_of_link(name: str, link: object) -> str | None:
    return None if isinstance(link, h5py.HardLink) else name
