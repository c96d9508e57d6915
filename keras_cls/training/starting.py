"""The classifier that a run starts from: fresh, from weights, or another one carried on."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras

from keras_cls.architectures import list_models, model_spec
from keras_cls.classifier import Classifier
from keras_cls.errors import ConfigError, DataError
from keras_cls.labels import class_names, match_labels
from keras_cls.weights import create_model, provenance


def starting_classifier(
    model: str | Classifier,
    labels: tuple[str, ...],
    input_shape: Sequence[int] | None,
    weights: str | os.PathLike[str] | None,
    multi_label: bool = False,
) -> Classifier:
    """A classifier of the run's own, with the run's classes.

    Args:
        model: a name of the registry, or a classifier, which is left as it is.
        labels: the classes.
        input_shape: (height, width, channels); None for the published one.
        weights: a file or a source's name; None for fresh weights.
        multi_label: whether an image may have several classes.

    Raises:
        ConfigError: the arguments do not fit each other.
    """
    if isinstance(model, str):
        network = create_model(model, len(labels), input_shape, weights=weights)
        origin = provenance(network)
        known = None if origin is None else origin.classes
        if known is not None and not _are_the_classes(labels, class_names(known)):
            _make_head_fresh(network)
        return Classifier(network, labels, multi_label=multi_label)
    if input_shape is not None or weights is not None:
        raise ConfigError("input_shape and weights go with a network's name, not with a classifier")
    if model.labels == labels:
        network = keras.models.clone_model(model.model)  # the caller keeps what they gave
        network.set_weights(model.model.get_weights())
    else:
        network = _with_new_head(model, labels)
    return Classifier(
        network,
        labels,
        model.preprocessing,
        architecture=model.architecture,
        multi_label=multi_label,
    )


def _with_new_head(classifier: Classifier, labels: tuple[str, ...]) -> keras.Model:
    if classifier.architecture not in list_models():
        raise ConfigError(
            f"{classifier.architecture!r} is not a network of the registry, so it cannot get a new "
            f"head; its classes must stay {list(classifier.labels)}, found {list(labels)}"
        )
    with tempfile.TemporaryDirectory(prefix="keras_cls-") as temporary:
        file = Path(temporary) / f"{classifier.architecture}.weights.h5"
        classifier.model.save_weights(file)
        shape = classifier.preprocessing.input_shape
        network = create_model(classifier.architecture, len(labels), shape, weights=file)
    _make_head_fresh(network)
    return network


def _are_the_classes(labels: Sequence[str], names: Sequence[str]) -> bool:
    """Whether labels are these classes in this order; numbers without names are taken for them."""
    if len(labels) != len(names):
        return False
    if list(labels) == [str(number) for number in range(len(labels))]:
        return True
    try:
        return match_labels(labels, names) == tuple(range(len(names)))
    except DataError:
        return False


def _make_head_fresh(network: keras.Model) -> None:
    """Weights for as many classes, but for others, are no better than fresh ones, and slower."""
    head = network.get_layer(model_spec(network.name).head)
    fresh = type(head).from_config(head.get_config())
    fresh.build(head.input.shape)
    head.set_weights(fresh.get_weights())
