"""Our weights as another library's: the way of an import backwards."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Protocol, runtime_checkable

import keras
import numpy as np

from keras_cls.architectures import model_spec
from keras_cls.architectures.vgg import VGGSpec
from keras_cls.errors import ConfigError
from keras_cls.weights import timm
from keras_cls.weights._plan import Origin
from keras_cls.weights.formats import WeightsFile, safetensors
from keras_cls.weights.source import Source

SOURCES: Mapping[str, Source] = {"timm": timm.SOURCE}
"""What weights can be converted to, by name."""

_ENDING = ".safetensors"
_VGG_WINDOW = (7, 7)  # of fc6, which timm's VGG has at any image size


@runtime_checkable
class _Undoable(Protocol):
    def undo(self, tensor: np.ndarray) -> np.ndarray: ...


def convert(model: keras.Model, file: str | PathLike[str], to: str = "timm") -> Path:
    """Write a network's weights under the names and in the layouts of another library.

    Auxiliary heads are left out. The numbers are the network's own, bit for bit; how images become
    its input (size, mean, deviation) is not in the file.

    Args:
        model: a network of the registry with logits, for any number of classes and input channels.
        file: where to write; its name ends in .safetensors. A file that is there is replaced.
        to: ``"timm"``, for ``timm.create_model(NAME, checkpoint_path=file)``.

    Returns:
        The file.

    Raises:
        ConfigError: the library has no such network, or has another one under its name; or the
            file's name or ``to`` is another.
    """
    if not isinstance(to, str) or to not in SOURCES:
        raise ConfigError(f"to: expected {' or '.join(SOURCES)}, found {to!r}")
    path = Path(file)
    if path.suffix != _ENDING:
        raise ConfigError(f"{path}: expected a name that ends in {_ENDING}")
    tensors = converted(model, SOURCES[to])
    safetensors.write(path, tensors, {"format": "pt"})  # what PyTorch's own writer says
    return path


def network_name(model: keras.Model, to: str = "timm") -> str:
    """What the library calls a network that :func:`convert` has converted."""
    return SOURCES[to].releases[model.name].name


def converted(model: keras.Model, source: Source) -> dict[str, np.ndarray]:
    """A network's weights by the source's names: float32, and the int64 counts of steps.

    Raises:
        ConfigError: the source does not have the network.
    """
    _check(model, source)
    spec = model_spec(model.name)
    values = {
        variable.path: keras.ops.convert_to_numpy(variable)
        for layer in model.layers
        for variable in layer.weights
    }
    tensors = {}
    nothing_yet = WeightsFile("", _ENDING, {})
    for path, origin in source.origins(model, nothing_yet).items():
        if path.split("/")[0].startswith(("aux_", *spec.aux_heads)):
            continue
        assert origin.key is not None and origin.less is None
        tensors[origin.key] = _in_file(origin, values[path].astype(np.float32))
    for key in list(tensors):
        if key.endswith(".running_var"):
            count = key.replace("running_var", "num_batches_tracked")
            tensors[count] = np.zeros((), np.int64)
    return tensors


def _in_file(origin: Origin, values: np.ndarray) -> np.ndarray:
    for change in reversed(origin.changes):
        assert isinstance(change, _Undoable)
        values = change.undo(values)
    return np.ascontiguousarray(values)


def _check(model: keras.Model, source: Source) -> None:
    if not isinstance(model, keras.Model):
        raise ConfigError(f"model: expected a network, found {type(model).__name__}")
    name = model.name
    if name not in source.releases:
        why = source.refused.get(name, "it does not have it")
        raise ConfigError(
            f"{name} cannot become a network of {source.name}: {why}. Those that can: "
            f"{', '.join(sorted(n for n, r in source.releases.items() if r.network in (None, n)))}"
        )
    other = source.releases[name].network
    if other not in (None, name):
        raise ConfigError(
            f"{name} cannot become a network of {source.name}: its {source.releases[name].name} "
            f"computes something else from the same tensors, as {other} does here"
        )
    spec = model_spec(name)
    if not any(layer.name == spec.head for layer in model.layers):
        raise ConfigError(
            f"{name}: gives features, {source.name}'s network logits: expected features=False"
        )
    if isinstance(spec, VGGSpec) and model.get_layer("fc6").kernel_size != _VGG_WINDOW:
        raise ConfigError(
            f"{name}: with input {tuple(model.input_shape[1:])} its fc6 reads a map of "
            f"{model.get_layer('fc6').kernel_size}; {source.name}'s reads {_VGG_WINDOW}, as with "
            f"inputs of {spec.input_shape[0]} pixels and more"
        )
