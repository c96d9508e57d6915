"""Networks with weights: fresh, our own, or published ones (one file a source)."""

import logging
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from types import ModuleType

import keras

from keras_cls.architectures import ModelSpec, build_model, list_models, model_spec
from keras_cls.errors import ConfigError
from keras_cls.weights import _files, _pytorch, akamaster, torchvision
from keras_cls.weights._files import WeightsFile
from keras_cls.weights._plan import Origin, WeightsReport, assign

__all__ = ["WeightsReport", "create_model", "load_weights"]

_PYTORCH_SOURCES = (akamaster, torchvision)

_log = logging.getLogger("keras_cls")


def create_model(
    name: str,
    num_classes: int | None = None,
    input_shape: Sequence[int] | None = None,
    features: bool = False,
    aux: bool = False,
    weights: str | PathLike[str] | None = None,
) -> keras.Model:
    """A network of the registry, with fresh or given weights.

    Args:
        name: one of ``keras_cls.list_models()``.
        num_classes: None for the published number; without effect where ``features`` is true.
        input_shape: (height, width, channels), None for the published one. Channels are 1, 3
            or 4, the sides at least the spec's ``min_size``.
        features: give the feature maps instead of the logits.
        aux: give the auxiliary classifiers' logits as well, for training.
        weights: None for fresh ones, or the path of a file: ``.weights.h5`` or ``.keras`` as
            Keras saved it of the same network, or ``.npz`` with a published network's tensors
            under their PyTorch names. No file is ever unpickled.

    Returns:
        A functional model. Its input is a float tensor [N, height, width, channels], already
        scaled as ``model_spec(name).preprocessing`` says. Its output: float32 logits
        [N, num_classes]; where ``features`` is true a dict endpoint name -> float tensor
        [N, h, w, c]; where ``aux`` is true a dict with the logits under the head's name and one
        entry an auxiliary head.

    Raises:
        ConfigError: an unknown name, an argument that the network cannot be built with, or
            weights that are not this network's. Weights with another number of classes are
            taken without their head, and a warning says so.
    """
    # Read before the network is built: a wrong path should not cost a minute.
    spec = model_spec(name)
    file = None if weights is None else _read(spec, weights)
    model = build_model(name, num_classes, input_shape, features, aux)
    if file is not None:
        _load(model, spec, file)
    return model


def load_weights(model: keras.Model, weights: str | PathLike[str]) -> WeightsReport:
    """Load a file's weights into a network that :func:`create_model` built.

    Either all of the file fits and is loaded, or nothing is changed.

    Args:
        model: the network; its name is the registry's.
        weights: as for :func:`create_model`.

    Returns:
        Which of the file's tensors were used, adapted and left over.

    Raises:
        ConfigError: as :func:`create_model`, naming the file and the tensors.
    """
    spec = model_spec(model.name)
    return _load(model, spec, _read(spec, weights))


def _read(spec: ModelSpec, weights: str | PathLike[str]) -> WeightsFile:
    if not isinstance(weights, str | PathLike):
        raise ConfigError(f"weights: expected a path or None, found {weights!r}")
    path = Path(weights)
    if not path.suffix and not path.exists():
        raise ConfigError(
            f"weights: there is no source {str(weights)!r}, nor a file of that name: expected the "
            f"path of a {', '.join((*_files.KERAS_ENDINGS, _files.PYTORCH_ENDING))} file"
        )
    file = _files.read(path)
    # Networks may have the same tensors and differ: where a stride is, whether shortcuts are.
    if file.network is not None and file.network != spec.name and file.network in list_models():
        raise ConfigError(f"{file.path}: expected weights of {spec.name}, found {file.network}'s")
    return file


def _load(model: keras.Model, spec: ModelSpec, file: WeightsFile) -> WeightsReport:
    if file.path.endswith(_files.PYTORCH_ENDING):
        source = _pytorch_source(spec, file)
        origins = _pytorch.origins(model, source.module)
        head = f"{source.module(spec.head)}."
        ignored = [key for key in file.tensors if _pytorch.is_bookkeeping(key)]
    else:
        origins = _keras_origins(model)
        head = f"{spec.head}/"
        ignored = []
    head_keys = [key for key in file.tensors if key.startswith(head)]
    report = assign(model, file.path, file.tensors, origins, head_keys, ignored)
    _log.info(
        "%s: %d tensors used (%d with their axes reordered), left over: %s",
        report.file,
        len(report.used),
        len(report.adapted),
        ", ".join(report.left_over) or "none",
    )
    if report.fresh:
        _log.warning(
            "%s: its head is for another number of classes: %s of %s start fresh",
            report.file,
            ", ".join(report.fresh),
            model.name,
        )
    return report


def _pytorch_source(spec: ModelSpec, file: WeightsFile) -> ModuleType:
    for source in _PYTORCH_SOURCES:
        if spec.name in source.NETWORKS:
            return source
    known = ", ".join(name for source in _PYTORCH_SOURCES for name in source.NETWORKS)
    raise ConfigError(f"{file.path}: no weights in .npz are known for {spec.name}, but for {known}")


def _keras_origins(model: keras.Model) -> dict[str, Origin]:
    """Keras numbers a layer's variables, in the order of ``layer.weights``."""
    return {
        variable.path: Origin(f"{layer.name}/{index}")
        for layer in model.layers
        for index, variable in enumerate(layer.weights)
    }
