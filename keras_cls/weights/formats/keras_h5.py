"""What Keras saves: ``.weights.h5``, ``.keras`` (an archive with such a file inside) and ``.h5``.

Two layouts, told apart by what a file holds and not by its name:

* Keras 3 has a group for each layer, which bears the layer's name, and in it the layer's variables
  in their own order. A tensor is called ``layer/0``, ``layer/1``, ...
* Before, and in ``model.save("x.h5")`` to this day, there is a list of the layers and for each one
  a list of its weights. A tensor is called after its layer and the last part of its own name, in
  the words of today: ``conv1/kernel`` for the weights ``conv1/kernel:0``, ``scope/conv1/kernel``
  and, of Keras 1, ``conv1_W_1:0``.

Tensors come in the file's order of layers. Neither the configuration of a model, which names
classes, nor the state of an optimizer is read; only the model's name is taken from the former.
"""

import json
import math
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import IO, TypeAlias

import h5py
import numpy as np

from keras_cls.weights.formats import FormatError, WeightsFile

Datasets: TypeAlias = dict[str, h5py.Dataset]

# No network here comes near; Keras compresses nothing, and what others compress are weights, which
# shrink little, or the zeros of a pruned network.
_MOST_BYTES = 8 << 30
_ALWAYS_ALLOWED_BYTES = 256 << 20
_MOST_EXPANSION = 100
# Keras splits lists at 64 kB; of text of any length the attribute holds the address only.
_LONGEST_ATTRIBUTE = 1 << 20
_MOST_NAMES = 1 << 16
_MOST_SECONDS = 60

# Keras 1's names for what Keras calls otherwise now; its "std" is a variance.
_NAMES_OF_KERAS_1 = {
    "W": "kernel",
    "b": "bias",
    "running_mean": "moving_mean",
    "running_std": "moving_variance",
}


def read(path: Path) -> WeightsFile:
    """The variables of each layer, under the names that the module's docstring explains."""
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            content = _weights_inside(archive)
        _check_structure(content)
        return _read(path, ".keras", BytesIO(content))
    _check_structure(path)
    ending = ".weights.h5" if path.name.endswith(".weights.h5") else ".h5"
    with path.open("rb") as file:
        return _read(path, ending, file)


def numbers_variables(file: WeightsFile) -> bool:
    """Whether the file is of Keras 3's layout, which numbers a layer's variables.

    ``layer/0`` then, else ``layer/kernel``.
    """
    return all(key.rpartition("/")[2].isdecimal() for key in file.tensors)


def _weights_inside(archive: zipfile.ZipFile) -> bytes:
    member = archive.getinfo("model.weights.h5")
    _check_size(member.filename, member.file_size, member.compress_size)
    return archive.read(member)


def _check_structure(content: Path | bytes) -> None:
    """Refuse what the HDF5 library crashes on, or never finishes: another process tries first."""
    program = str(Path(__file__).with_name("_hdf5_structure.py"))
    command = [sys.executable, "-I", program]
    try:
        if isinstance(content, bytes):
            done = subprocess.run(
                command, input=content, capture_output=True, timeout=_MOST_SECONDS, check=False
            )
        else:
            done = subprocess.run(
                [*command, str(content.absolute())],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_MOST_SECONDS,
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise FormatError(
            f"damaged: the HDF5 library has not read its structure after {_MOST_SECONDS} seconds"
        ) from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip() or "the HDF5 library crashes"
        raise FormatError(f"damaged, or not an HDF5 file of plain numbers ({said[-300:]})")


def _read(path: Path, ending: str, content: IO[bytes]) -> WeightsFile:
    with h5py.File(content, "r") as file:
        # HDF5 can point into other files of this machine; weights have no need to.
        if (link := file.visititems_links(_name_of_link)) is not None:
            raise FormatError(f"{link} is a link")
        if "layers" in file and "vars" in file:
            datasets, network = _of_keras_3(file), _attribute(file["vars"], "name")
        elif "model_weights" in file or _has_names(file, "layer_names"):
            datasets, network = _of_earlier_keras(file), _configured_name(file)
        else:
            raise FormatError(
                "expected weights saved by Keras: the groups layers and vars (Keras 3) or a list "
                f"layer_names (before), found {', '.join(map(repr, list(file)[:5])) or 'nothing'}"
            )
        for dataset in datasets.values():
            _check_storage(dataset)
        size = sum(math.prod(d.shape) * d.dtype.itemsize for d in datasets.values())
        _check_size("the tensors", size, file.id.get_filesize())
        tensors = {key: _numbers(dataset) for key, dataset in datasets.items()}
    return WeightsFile(str(path), ending, tensors, network if isinstance(network, str) else None)


def _name_of_link(name: str, link: object) -> str | None:
    return None if isinstance(link, h5py.HardLink) else name


# --- The two layouts ------------------------------------------------------------------------------


def _of_keras_3(file: h5py.File) -> Datasets:
    """layers/conv2d_1/vars/0, 1, ...; the layer's own name is an attribute of vars."""
    found: Datasets = {}
    layers = _group(file, "layers")
    for numbered in sorted(layers, key=_by_number):
        layer = _group(layers, numbered)
        _refuse_layers_inside(layer)
        if "vars" not in layer or len(variables := _group(layer, "vars")) == 0:
            continue
        name = _attribute(variables, "name")
        if not isinstance(name, str):
            # Early releases told layers apart by class and number alone. Such numbers are those of
            # another order than the layers' names have, so they must not pass for names.
            raise FormatError(
                f"{variables.name} does not say its layer's name, as files of the first releases "
                "of Keras 3: load it with keras.Model.load_weights and save it again"
            )
        for index in sorted(variables, key=_by_number):
            _add(found, f"{name}/{index}", variables[index])
    return found


def _refuse_layers_inside(layer: h5py.Group) -> None:
    def inner(name: str, item: object) -> str | None:
        own = name.startswith("vars/") or "seed_generator/" in name
        return name if isinstance(item, h5py.Dataset) and not own else None

    if (name := layer.visititems(inner)) is not None:
        raise FormatError(
            f"{layer.name} has layers inside ({name}): expected the network by itself, saved "
            "without the model around it"
        )


def _of_earlier_keras(file: h5py.File) -> Datasets:
    """layer_names of the root (of model_weights where a model was saved), weight_names of each."""
    found: Datasets = {}
    root = file if _has_names(file, "layer_names") else _group(file, "model_weights")
    if _attribute(root, "backend") in ("theano", b"theano"):
        raise FormatError(
            "saved by Keras on Theano, whose kernels are turned round: expected weights for "
            "TensorFlow"
        )
    layers = _names(root, "layer_names")
    if "top_level_model_weights" in root:
        layers.append("top_level_model_weights")
    for layer in layers:
        group = _group(root, layer)
        weights = _names(group, "weight_names")
        if len({weight.rpartition("/")[0] for weight in weights}) > 1:
            raise FormatError(
                f"{group.name} has layers inside ({', '.join(weights[:3])}, ...): expected the "
                "network by itself, saved without the model around it"
            )
        for weight in weights:
            _add(found, f"{layer}/{_plain(layer, weight)}", group.get(weight))
    return found


def _plain(layer: str, weight: str) -> str:
    """``scope/conv1/kernel:0`` or ``conv1_W_1:0`` -> ``kernel``."""
    name = weight.rpartition("/")[2].partition(":")[0].removeprefix(f"{layer}_")
    name = re.sub(r"_\d+$", "", name)
    return _NAMES_OF_KERAS_1.get(name, name)


def _configured_name(file: h5py.File) -> object:
    """The name in the configuration of a saved model; None where there is none to be read."""
    text = _attribute(file, "model_config")
    try:
        config = json.loads(text) if isinstance(text, str | bytes) else None
    except (ValueError, RecursionError):
        return None
    inner = config.get("config") if isinstance(config, Mapping) else None
    return inner.get("name") if isinstance(inner, Mapping) else None


def _by_number(name: str) -> tuple[str, int]:
    """``conv2d_2`` before ``conv2d_10``, ``2`` before ``10``."""
    word, number = re.fullmatch(r"(.*?)(\d{0,9})", name, re.DOTALL).groups()  # type: ignore[union-attr]
    return word, int(number or 0)


# --- Groups, lists of names, datasets: all may be something else in a file from somewhere ---------


def _group(parent: h5py.Group, name: str) -> h5py.Group:
    found = parent.get(name) if name else None
    if not isinstance(found, h5py.Group):
        raise FormatError(f"expected a group {name!r} in {parent.name}, found {_kind(found)}")
    return found


def _attribute(item: h5py.Group | h5py.Dataset, name: str) -> object:
    """An attribute's value; None where there is none."""
    if name not in item.attrs:
        return None
    # Reading what is declared to be endless would take as long.
    found = item.attrs.get_id(name)
    entries = math.prod(found.shape)
    if entries > _MOST_NAMES or entries * found.dtype.itemsize > _LONGEST_ATTRIBUTE:
        raise FormatError(f"{name} of {item.name}: expected names, found {found.shape} entries")
    return item.attrs[name]


def _has_names(group: h5py.Group, attribute: str) -> bool:
    return attribute in group.attrs or f"{attribute}0" in group.attrs


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names; one too long for an attribute lies in several, numbered from 0."""
    if not _has_names(group, attribute):
        raise FormatError(f"{group.name} has no list {attribute}")
    parts = [attribute] if attribute in group.attrs else _numbered_attributes(group, attribute)
    found: list[str] = []
    for part in parts:
        value = _attribute(group, part)
        # Keras writes an empty list as an empty array of numbers.
        if not isinstance(value, np.ndarray) or value.ndim != 1:
            raise FormatError(f"{part} of {group.name}: expected a list, found {value!r:.60}")
        found += (_text(name, f"{part} of {group.name}") for name in value)
    return found


def _numbered_attributes(group: h5py.Group, attribute: str) -> Iterable[str]:
    number = 0
    while (part := f"{attribute}{number}") in group.attrs:
        yield part
        number += 1


def _text(value: object, place: str) -> str:
    if not isinstance(value, str | bytes):
        raise FormatError(f"{place}: expected names, found {value!r:.60}")
    try:
        # h5py hides bytes that are no UTF-8 in lone surrogates.
        return value.decode() if isinstance(value, bytes) else value.encode().decode()
    except UnicodeError:
        raise FormatError(f"{place}: expected UTF-8, found {value!r:.60}") from None


def _add(found: Datasets, key: str, dataset: object) -> None:
    if key in found:
        raise FormatError(f"there are two tensors {key}")
    if not isinstance(dataset, h5py.Dataset):
        raise FormatError(f"{key}: expected numbers, found {_kind(dataset)}")
    found[key] = dataset


def _kind(found: object) -> str:
    return "nothing" if found is None else f"a {type(found).__name__.lower()}"


def _check_storage(dataset: h5py.Dataset) -> None:
    if dataset.external or dataset.is_virtual:
        raise FormatError(f"{dataset.name} lies in another file")
    if dataset.shape is None or not (dataset.dtype.kind in "fiub" or _is_bfloat16(dataset)):
        raise FormatError(f"{dataset.name}: expected numbers, found {dataset.dtype}")


def _check_size(what: str, size: int, stored: int) -> None:
    """Few bytes may stand for many: compressed, never written, or one tensor under many names."""
    too_much = size > _ALWAYS_ALLOWED_BYTES and size > _MOST_EXPANSION * stored
    if size > _MOST_BYTES or too_much:
        raise FormatError(
            f"{what} would take {size:,} bytes, of {stored:,} in the file: expected "
            f"{_MOST_BYTES:,} at most, and at most {_MOST_EXPANSION} times what is stored"
        )


def _is_bfloat16(dataset: h5py.Dataset) -> bool:
    """HDF5 has no such type: Keras writes two opaque bytes, and says so in an attribute."""
    return dataset.dtype == np.dtype("V2") and _attribute(dataset, "dtype") == "bfloat16"


def _numbers(dataset: h5py.Dataset) -> np.ndarray:
    values = dataset[...]
    if not _is_bfloat16(dataset):
        return values
    # They are the upper half of a float32.
    return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
