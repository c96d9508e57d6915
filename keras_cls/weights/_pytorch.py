"""The layout of weights saved by PyTorch: names of a module's tensors, order of their axes."""

from collections.abc import Callable

import keras

from keras_cls.weights._plan import Axes, Change, Origin
from keras_cls.weights.formats import WeightsFile

ENDINGS = (".pth", ".pt", ".safetensors", ".npz")

_CONVOLUTION = Axes((2, 3, 1, 0))  # OIHW -> HWIO
_DENSE = Axes((1, 0))

# Our variable -> the PyTorch module's tensor, for layers of one module.
_TENSORS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def origin(module: str, variable: keras.Variable) -> Origin:
    """Where a convolution's, dense layer's or normalization's variable is in PyTorch's module."""
    changes: tuple[Change, ...] = ()
    if variable.name == "kernel":
        changes = (_CONVOLUTION,) if len(variable.shape) == 4 else (_DENSE,)
    return Origin(f"{module}.{_TENSORS[variable.name]}", changes)


def origins(model: keras.Model, module: Callable[[str], str]) -> dict[str, Origin]:
    """For each variable's path, its tensor; ``module`` maps a layer's name to the source's."""
    return {
        variable.path: origin(module(layer.name), variable)
        for layer in model.layers
        for variable in layer.weights
    }


def bookkeeping(file: WeightsFile) -> list[str]:
    """The tensors that no prediction depends on: counts of training steps."""
    return [key for key in file.tensors if key.endswith(".num_batches_tracked")]
