"""The plan of an import: which tensor of a file goes into which variable, all checked first."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import keras
import numpy as np

from keras_cls.errors import ConfigError

_SHOWN = 8  # of the problems of one file, in the message

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Origin:
    """Where a file has a variable's values.

    Attributes:
        key: the tensor's name in the file.
        axes: the permutation (as of ``numpy.transpose``) from the file's layout to ours; None
            where the layouts agree.
    """

    key: str
    axes: tuple[int, ...] | None = None

    def shape_in_file(self, shape: Shape) -> Shape:
        """The shape that the file's tensor has where ours has ``shape``."""
        if self.axes is None:
            return shape
        return tuple(shape[self.axes.index(axis)] for axis in range(len(shape)))

    def from_file(self, tensor: np.ndarray) -> np.ndarray:
        """The file's tensor in our layout."""
        return tensor if self.axes is None else tensor.transpose(self.axes)


@dataclass(frozen=True)
class WeightsReport:
    """What became of a file's tensors; the names are the file's unless it says otherwise.

    Attributes:
        file: the file.
        used: loaded.
        adapted: those of ``used`` whose axes were put into our order.
        left_over: not loaded, knowingly: the head of another number of classes or of a network
            that gives features, and bookkeeping that no prediction depends on.
        fresh: the paths of our variables (the head's, if any) that keep their fresh values.
    """

    file: str
    used: tuple[str, ...]
    adapted: tuple[str, ...]
    left_over: tuple[str, ...]
    fresh: tuple[str, ...]


def assign(
    model: keras.Model,
    file: str,
    tensors: Mapping[str, np.ndarray],
    origins: Mapping[str, Origin],
    head: Collection[str],
    unused_knowingly: Collection[str],
) -> WeightsReport:
    """Check every tensor and every variable; if all fit, assign them all.

    Args:
        model: the network, with fresh weights.
        file: the file's name, for messages.
        tensors: the file's tensors.
        origins: for each variable's path, where the file has its values.
        head: the file's names of the head's tensors.
        unused_knowingly: the file's names of tensors that no variable needs.

    Raises:
        ConfigError: a tensor is missing, is left over, or has another shape, another dtype or
            numbers that are not finite. A head that differs in its number of classes alone stays
            fresh instead.
    """
    variables = {variable.path: variable for variable in model.variables}
    wanted = {origin.key: path for path, origin in origins.items()}
    expected = {
        key: origins[path].shape_in_file(tuple(variables[path].shape))
        for key, path in wanted.items()
    }
    fresh = _head_of_other_classes(tensors, expected, head)
    problems = [
        problem
        for key, path in wanted.items()
        if key not in fresh and (problem := _problem(key, path, tensors.get(key), expected[key]))
    ]
    # Of a network that gives features, the head is no part.
    headless = not any(key in wanted for key in head)
    left_over = [key for key in tensors if key not in wanted or key in fresh]
    allowed = {*fresh, *unused_knowingly, *(head if headless else ())}
    problems += [
        f"{key} {tensors[key].shape} has no place in {model.name}"
        for key in left_over
        if key not in allowed
    ]
    if problems:
        more = len(problems) - _SHOWN
        raise ConfigError(
            f"{file}: these are not the weights of {model.name} with input "
            f"{tuple(model.input_shape[1:])}: {'; '.join(problems[:_SHOWN])}"
            + (f"; and {more} more" if more > 0 else "")
        )
    used = [key for key in wanted if key not in fresh]
    for key in used:
        variables[wanted[key]].assign(origins[wanted[key]].from_file(tensors[key]))
    return WeightsReport(
        file,
        used=tuple(used),
        adapted=tuple(key for key in used if origins[wanted[key]].axes is not None),
        left_over=tuple(left_over),
        fresh=tuple(path for key, path in wanted.items() if key in fresh),
    )


def _problem(key: str, path: str, tensor: np.ndarray | None, expected: Shape) -> str | None:
    if tensor is None:
        return f"{key} is missing (expected {expected}, for {path})"
    if tensor.shape != expected:
        return f"{key}: expected shape {expected}, found {tensor.shape}"
    if tensor.dtype.kind != "f":
        return f"{key}: expected floating-point numbers, found {tensor.dtype}"
    if not np.isfinite(tensor).all():
        return f"{key}: expected finite numbers, found NaN or infinity"
    return None


def _head_of_other_classes(
    tensors: Mapping[str, np.ndarray], expected: Mapping[str, Shape], head: Collection[str]
) -> set[str]:
    """The head's keys if the file's head differs from ours in its number of classes alone."""
    if not head or any(key not in tensors or key not in expected for key in head):
        return set()
    pairs = [(tensors[key].shape, expected[key]) for key in head]
    if any(len(found) != len(ours) for found, ours in pairs):
        return set()
    # Kernel and bias, in whatever layout, differ in one axis each, and by the same two numbers.
    differing = [
        {(a, b) for a, b in zip(found, ours, strict=True) if a != b} for found, ours in pairs
    ]
    one_change = differing[0] and all(change == differing[0] for change in differing)
    return set(head) if one_change and len(differing[0]) == 1 else set()
