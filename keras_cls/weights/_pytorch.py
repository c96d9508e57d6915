"""The layout of weights saved by PyTorch: names of a module's tensors, order of their axes."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from re import fullmatch

import keras

from keras_cls.weights._plan import Axes, Change, Origin, Reshape
from keras_cls.weights.formats import WeightsFile

ENDINGS = (".pth", ".safetensors", ".npz")

_CONVOLUTION = Axes((2, 3, 1, 0))  # OIHW -> HWIO
_DEPTHWISE = Axes((2, 3, 0, 1))  # C1HW -> HWC1
_DENSE = Axes((1, 0))

# Our variable -> the PyTorch module's tensor, for layers of one module.
_TENSORS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    # A separable convolution is a module of two.
    "depthwise_kernel": "depthwise_conv2d.weight",
    "pointwise_kernel": "pointwise_conv2d.weight",
}


def origin(module: str, variable: keras.Variable) -> Origin:
    """Where a layer's variable is in PyTorch's module."""
    changes: tuple[Change, ...] = ()
    if variable.name == "depthwise_kernel":
        changes = (_DEPTHWISE,)
    elif variable.name.endswith("kernel"):
        changes = (_CONVOLUTION,) if len(variable.shape) == 4 else (_DENSE,)
    return Origin(f"{module}.{_TENSORS[variable.name]}", changes)


def dense_origin(module: str, variable: keras.Variable) -> Origin:
    """The same for a convolution that is a dense layer over a flattened map there."""
    found = origin(module, variable)
    if variable.name != "kernel":
        return found
    height, width, channels, units = variable.shape
    flattened = Reshape(
        in_file=(units, channels * height * width), ours=(units, channels, height, width)
    )
    return Origin(found.key, (flattened, *found.changes))


def origins(
    model: keras.Model, module: Callable[[str], str], dense: Collection[str] = ()
) -> dict[str, Origin]:
    """For each variable's path, its tensor.

    Args:
        model: the network.
        module: the source's name of the layer of a name.
        dense: the convolutions that are dense layers in the source.
    """
    return {
        variable.path: (dense_origin if layer.name in dense else origin)(
            module(layer.name), variable
        )
        for layer in model.layers
        for variable in layer.weights
    }


def bookkeeping(file: WeightsFile) -> list[str]:
    """The tensors that no prediction depends on: counts of training steps."""
    return [key for key in file.tensors if key.endswith(".num_batches_tracked")]


@dataclass(frozen=True)
class Branched:
    """A part of an Inception network under a source's names.

    Attributes:
        module: the part.
        branches: for each branch, the names of its steps within the part, first to last; poolings
            count, but have no tensors to name.
    """

    module: str
    branches: tuple[tuple[str, ...], ...]

    def convolution(self, branch: int, place: str) -> str:
        """The convolution that our layers call by ``place``, such as 0b."""
        steps = self.branches[branch]
        # Our steps are 0a, 0b, ...; but where the map shrinks, at a branch's end, 1a.
        return f"{self.module}.{steps[-1 if place == '1a' else ord(place[1]) - ord('a')]}"


def convolution_in_branch(layer: str, parts: Mapping[str, Branched]) -> str | None:
    """``"Mixed_5b_Branch_1_Conv2d_0b_5x5"`` -> the source's module; None if it is in no branch."""
    match = fullmatch(r"(.+)_Branch_(\d)_Conv2d_(\d[a-z])_\dx\d", layer)
    if match is None:
        return None
    part, branch, place = match.groups()
    return parts[part].convolution(int(branch), place)


def unknown(layer: str) -> ValueError:
    """The error of a map of names that lacks a layer: a bug, for networks have no other layers."""
    return ValueError(f"{layer!r} is not a layer of these networks")
