"""The register of all networks: what there is, what is known of it, and the way to build it."""

import os
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from numbers import Integral
from typing import Any, TypeVar

import keras

from keras_cls.architectures.spec import ModelSpec, Network
from keras_cls.errors import ConfigError

# (images, spec, num_classes) -> Network; a family with auxiliary heads takes aux=True as well.
Builder = TypeVar("Builder", bound=Callable[..., Network])

_SPECS: dict[str, ModelSpec] = {}
_BUILDERS: dict[str, Callable[..., Network]] = {}


def register(*specs: ModelSpec) -> Callable[[Builder], Builder]:
    """Register the decorated function as the builder of these networks.

    It is called as ``builder(images, spec, num_classes)`` and returns a :class:`Network`; where
    the spec names auxiliary heads and they are wanted, as ``builder(..., aux=True)``.
    """

    def register_builder(builder: Builder) -> Builder:
        for spec in specs:
            if spec.name in _SPECS:
                raise ValueError(f"two networks are called {spec.name!r}")
            _SPECS[spec.name] = spec
            _BUILDERS[spec.name] = builder
        return builder

    return register_builder


def list_models(pattern: str = "*") -> list[str]:
    """The names of the networks that match a shell pattern, sorted; [] where none does."""
    return sorted(name for name in _SPECS if fnmatchcase(name, pattern))


def model_spec(name: str) -> ModelSpec:
    """What is known of a network.

    Raises:
        ConfigError: there is no network of this name; the message suggests similar ones.
    """
    if isinstance(name, str) and name in _SPECS:
        return _SPECS[name]
    if not isinstance(name, str):
        raise ConfigError(f"a network's name is text, such as 'resnet50'; found {name!r}")
    if "/" in name or os.sep in name:
        raise ConfigError(f"{name}: no such folder, and no network's name either")
    similar = get_close_matches(name.lower(), _SPECS, n=3, cutoff=0.7)
    hint = (
        f"did you mean {' or '.join(similar)}?"
        if similar
        else "list_models(), or the command keras-cls models, names them all"
    )
    raise ConfigError(f"there is no network {name!r}: {hint}")


def build_model(
    name: str,
    num_classes: int | None = None,
    input_shape: Sequence[int] | None = None,
    features: bool = False,
    aux: bool = False,
) -> keras.Model:
    """A network with fresh weights.

    Args:
        name: one of :func:`list_models`.
        num_classes: None for the published number; without effect where ``features`` is true.
        input_shape: (height, width, channels), None for the published one. Channels are 1, 3
            or 4, the sides at least the spec's ``min_size``.
        features: give the feature maps instead of the logits.
        aux: give the auxiliary classifiers' logits as well, for training.

    Returns:
        A functional model. Its input is a float tensor [N, height, width, channels], already
        scaled as the spec's ``preprocessing`` says. Its output: float32 logits [N, num_classes];
        where ``features`` is true a dict endpoint name -> float tensor [N, h, w, c]; where
        ``aux`` is true a dict with the logits under the head's name and one entry an auxiliary
        head.

    Raises:
        ConfigError: an unknown name, or an argument that the network cannot be built with.
    """
    spec = model_spec(name)
    if features and aux:
        raise ConfigError(f"{name}: features and aux exclude each other: expected one at most")
    if aux and not spec.aux_heads:
        raise ConfigError(f"{name}: aux: expected False (no auxiliary heads here), found {aux!r}")
    classes = spec.num_classes if num_classes is None else _checked_classes(name, num_classes)
    shape = spec.input_shape if input_shape is None else _checked_shape(spec, input_shape)

    builder = _BUILDERS[name]
    images = keras.Input(shape, name="images")
    network = (partial(builder, aux=True) if aux else builder)(images, spec, classes)
    outputs = network.logits
    if features:
        outputs = dict(network.endpoints)
    if aux:
        outputs = {spec.head: network.logits, **network.aux}
    return keras.Model(images, outputs, name=name)


def _checked_classes(name: str, found: Any) -> int:
    if isinstance(found, bool) or not isinstance(found, Integral) or found < 1:
        raise ConfigError(f"{name}: num_classes: expected an integer of 1 or more, found {found!r}")
    return int(found)


def _checked_shape(spec: ModelSpec, found: Any) -> tuple[int, int, int]:
    def refuse(expected: str) -> ConfigError:
        return ConfigError(f"{spec.name}: input_shape: expected {expected}, found {found!r}")

    if (
        not isinstance(found, Sequence)
        or len(found) != 3
        or any(isinstance(side, bool) or not isinstance(side, Integral) for side in found)
    ):
        raise refuse("three integers (height, width, channels)")
    height, width, channels = (int(side) for side in found)
    if channels not in (1, 3, 4):
        raise refuse("1, 3 or 4 channels, in the last place")
    if height < spec.min_size[0] or width < spec.min_size[1]:
        raise refuse(f"{spec.min_size[0]} x {spec.min_size[1]} or larger")
    return height, width, channels
