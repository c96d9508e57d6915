"""Networks with weights: fresh, our own, or published ones (one file a source)."""

import logging
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from weakref import WeakKeyDictionary

import keras

from keras_cls.architectures import ModelSpec, build_model, list_models, model_spec
from keras_cls.errors import ConfigError
from keras_cls.weights import (
    _plan,
    akamaster,
    downloading,
    formats,
    keras_applications,
    own,
    tf_slim,
    timm,
    torchvision,
)
from keras_cls.weights._plan import WeightsReport
from keras_cls.weights.formats import WeightsFile
from keras_cls.weights.source import Provenance, Release, Source

__all__ = ["SOURCES", "Provenance", "WeightsReport", "create_model", "load_weights", "provenance"]

# Where two sources name a network alike, a file is taken for the one that uses its kind of
# file rather, else for the earlier one.
SOURCES = {
    source.name: source
    for source in (
        own.SOURCE,
        keras_applications.SOURCE,
        torchvision.SOURCE,
        timm.SOURCE,
        tf_slim.SOURCE,
        akamaster.SOURCE,
    )
}

_PROVENANCE: WeakKeyDictionary[keras.Model, Provenance] = WeakKeyDictionary()

_WITHOUT_HEAD = (
    "Where a file has no head: features=True gives the network up to its last feature map, and "
    "another num_classes than the published a fresh head"
)

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
        weights: None for fresh ones; the path of a file: what Keras saved of the same network, or
            published weights as one of the sources of :data:`SOURCES` names and lays them out; or
            the name of such a source, whose file is downloaded once and kept. Reading runs no code
            that a file may hold.

    Returns:
        A functional model. Its input is a float tensor [N, height, width, channels], already
        scaled as the weights expect (:func:`provenance`), or as
        ``model_spec(name).preprocessing`` says where they are fresh. Its output: float32 logits
        [N, num_classes]; where ``features`` is true a dict endpoint name -> float tensor
        [N, h, w, c]; where ``aux`` is true a dict with the logits under the head's name and one
        entry an auxiliary head.

    Raises:
        ConfigError: an unknown name, an argument that the network cannot be built with, or
            weights that are not this network's. Weights with another number of classes are
            taken without their head, and a warning says so; those for another number of input
            channels are adapted.
    """
    # Read before the network is built: a wrong path should not cost a minute.
    spec = model_spec(name)
    if weights is None:
        return build_model(name, num_classes, input_shape, features, aux)
    file, candidates = _read(spec, weights)
    model = build_model(name, num_classes, input_shape, features, aux)
    source, origins = _recognized(model, file, candidates)
    variant = source.releases[name].network
    if variant not in (None, name):
        _log.info("%s's weights of %s are %s's here: that is built", source.name, name, variant)
        model = build_model(variant, num_classes, input_shape, features, aux)
        origins = source.origins(model, file)
    _load(model, file, source, origins)
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
    file, candidates = _read(spec, weights)
    source, origins = _recognized(model, file, candidates)
    variant = source.releases[spec.name].network
    if variant not in (None, spec.name):
        raise ConfigError(
            f"{file.path}: {source.name}'s weights of {spec.name} are {variant}'s here: build that"
        )
    return _load(model, file, source, origins)


def provenance(model: keras.Model) -> Provenance | None:
    """Where the network's weights came from in this process; None where they are fresh."""
    return _PROVENANCE.get(model)


def _read(spec: ModelSpec, weights: str | PathLike[str]) -> tuple[WeightsFile, list[Source]]:
    """The file's tensors, and the sources that it may be of."""
    if not isinstance(weights, str | PathLike):
        raise ConfigError(f"weights: expected a path, a source's name or None, found {weights!r}")
    if weights in SOURCES and weights != own.SOURCE.name:
        source = SOURCES[str(weights)]
        return formats.read(downloading.fetch(source, _release(source, spec))), [source]
    path = Path(weights)
    if not path.suffix and not path.exists() and not Path(f"{path}.index").exists():
        names = ", ".join(name for name in SOURCES if name != own.SOURCE.name)
        raise ConfigError(
            f"weights: there is no source {str(weights)!r}, nor a file of that name: expected one "
            f"of {names}, or the path of a {', '.join(formats.ENDINGS)} file"
        )
    file = formats.read(path)
    possible = [source for source in SOURCES.values() if file.ending in source.endings]
    candidates = [source for source in possible if spec.name in source.releases]
    if not candidates:
        known = sorted({name for source in possible for name in source.releases})
        raise ConfigError(
            f"{file.path}: no weights in {file.ending} are known for {spec.name}, but for "
            f"{', '.join(known)}{_refusals(spec, possible)}"
        )
    return file, candidates


def _release(source: Source, spec: ModelSpec) -> Release:
    if spec.name in source.releases:
        return source.releases[spec.name]
    if spec.name in source.refused:
        raise ConfigError(f"weights: {source.name}: {source.refused[spec.name]}")
    raise ConfigError(
        f"weights: {source.name} has no {spec.name}, but {', '.join(sorted(source.releases))}"
    )


def _refusals(spec: ModelSpec, sources: Sequence[Source]) -> str:
    """What there is to say of networks that bear this one's name elsewhere."""
    words = [f"{s.name}: {s.refused[spec.name]}" for s in sources if spec.name in s.refused]
    return "".join(f". {word}" for word in words)


def _load(
    model: keras.Model, file: WeightsFile, source: Source, origins: dict[str, _plan.Origin]
) -> WeightsReport:
    spec = model_spec(model.name)
    release = source.releases[spec.name]
    # Networks may have the same tensors and differ: where a stride is, whether shortcuts are.
    if file.network in list_models() and file.network != release.name:
        raise ConfigError(f"{file.path}: expected weights of {spec.name}, found {file.network}'s")
    ignored = set(source.ignored(file))
    if spec.aux_heads and not _has_layer(model, spec.aux_heads[0]):
        ignored.update(key for key in file.tensors if key.startswith(release.aux))
    has_head = _has_layer(model, spec.head)
    if not has_head:  # a network that gives features
        ignored.update(key for key in file.tensors if key.startswith(release.top or release.head))
    heads = [
        [path for path in origins if path.startswith(f"{name}/")]
        for name in (spec.head, *spec.aux_heads)
        if _has_layer(model, name)
    ]
    headless = has_head and not any(key.startswith(release.head) for key in file.tensors)
    other_classes = has_head and _classes(model, spec) != spec.num_classes
    try:
        report = _plan.assign(
            model,
            source.name,
            file.path,
            file.tensors,
            origins,
            heads,
            ignored,
            fresh_head=headless and other_classes,
        )
    except ConfigError as error:
        hint = f". {_WITHOUT_HEAD}" if headless else ""
        other = [s for s in SOURCES.values() if file.ending in s.endings]
        raise ConfigError(f"{error}{hint}{_refusals(spec, other)}") from error
    _PROVENANCE[model] = Provenance(
        source.name,
        file.path,
        release.preprocessing.adapted_to(model.input_shape[1:]),
        release.classes if has_head and not (report.fresh or other_classes) else None,
    )
    _tell(report, model)
    return report


def _recognized(
    model: keras.Model, file: WeightsFile, candidates: Sequence[Source]
) -> tuple[Source, dict[str, _plan.Origin]]:
    """The source whose names the file's tensors have, and where the variables are in it."""
    found = [(source, source.origins(model, file)) for source in candidates]

    def fit(candidate: tuple[Source, dict[str, _plan.Origin]]) -> tuple[float, int]:
        source, origins = candidate
        keys = [key for origin in origins.values() for key in origin.keys]
        share = sum(key in file.tensors for key in keys) / len(keys)
        return share, -source.endings.index(file.ending)

    return max(found, key=fit)


def _classes(model: keras.Model, spec: ModelSpec) -> int:
    return model.get_layer(spec.head).weights[0].shape[-1]


def _has_layer(model: keras.Model, name: str) -> bool:
    return any(layer.name == name for layer in model.layers)


def _tell(report: WeightsReport, model: keras.Model) -> None:
    _log.info(
        "%s: %s's weights of %s: %d tensors used (%d of them adapted), left over: %s",
        report.file,
        report.source,
        model.name,
        len(report.used),
        len(report.adapted),
        ", ".join(report.left_over) or "none",
    )
    if report.fresh:
        _log.warning(
            "%s: no head for this number of classes: %s of %s start fresh",
            report.file,
            ", ".join(report.fresh),
            model.name,
        )
    for key, said in report.adapted.items():
        if "input channels" in said:
            _log.warning("%s: %s: %s", report.file, key, said)
