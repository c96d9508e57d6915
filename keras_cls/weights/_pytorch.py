"""The layout of weights saved by PyTorch: names of a module's tensors, order of their axes."""

from collections.abc import Callable

import keras

from keras_cls.errors import ConfigError
from keras_cls.weights._plan import Origin

_HWIO_FROM_OIHW = (2, 3, 1, 0)

# (Keras layer, its variable) -> the PyTorch module's tensor, and the order of its axes.
_TENSORS: dict[tuple[str, str], tuple[str, tuple[int, ...] | None]] = {
    ("Conv2D", "kernel"): ("weight", _HWIO_FROM_OIHW),
    ("Conv2D", "bias"): ("bias", None),
    ("GroupedConv2D", "kernel"): ("weight", _HWIO_FROM_OIHW),
    ("GroupedConv2D", "bias"): ("bias", None),
    ("Dense", "kernel"): ("weight", (1, 0)),
    ("Dense", "bias"): ("bias", None),
    ("BatchNormalization", "gamma"): ("weight", None),
    ("BatchNormalization", "beta"): ("bias", None),
    ("BatchNormalization", "moving_mean"): ("running_mean", None),
    ("BatchNormalization", "moving_variance"): ("running_var", None),
}


def origins(model: keras.Model, module: Callable[[str], str]) -> dict[str, Origin]:
    """For each variable's path, its tensor; ``module`` maps a layer's name to the source's."""
    found = {}
    for layer in model.layers:
        for variable in layer.weights:
            kind = (type(layer).__name__, variable.name)
            if kind not in _TENSORS:
                raise ConfigError(f"no PyTorch layout is known for {' '.join(kind)}")
            tensor, axes = _TENSORS[kind]
            found[variable.path] = Origin(f"{module(layer.name)}.{tensor}", axes)
    return found


def is_bookkeeping(key: str) -> bool:
    """Whether no prediction depends on the tensor: a count of the training steps."""
    return key.endswith(".num_batches_tracked")
