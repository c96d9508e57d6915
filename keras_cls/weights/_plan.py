"""The plan of an import: which tensor of a file goes into which variable, all checked first."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import keras
import numpy as np

from keras_cls.errors import ConfigError

_SHOWN = 8  # of the problems of one file, in the message

Shape: TypeAlias = tuple[int, ...]


class Change(Protocol):
    """A step from the file's layout to ours."""

    @property
    def said(self) -> str:
        """What it does, for the report."""

    def shape_in_file(self, shape: Shape) -> Shape:
        """The shape before the step where it is ``shape`` afterwards."""

    def __call__(self, tensor: np.ndarray) -> np.ndarray:
        """The tensor after the step."""


@dataclass(frozen=True)
class Axes:
    """Reorders the axes: ``order`` as of ``numpy.transpose``, from the file's to ours."""

    order: tuple[int, ...]
    said = "axes reordered"

    def shape_in_file(self, shape: Shape) -> Shape:
        """The inverse permutation."""
        return tuple(shape[self.order.index(axis)] for axis in range(len(shape)))

    def __call__(self, tensor: np.ndarray) -> np.ndarray:
        """Transpose."""
        return tensor.transpose(self.order)

    def undo(self, tensor: np.ndarray) -> np.ndarray:
        """Back to the file's layout."""
        return tensor.transpose(np.argsort(self.order))


@dataclass(frozen=True)
class DropFirst:
    """Leaves out the first entry of an axis: the background class of heads of 1,001 classes."""

    axis: int = -1
    said = "background class dropped"

    def shape_in_file(self, shape: Shape) -> Shape:
        """One longer."""
        found = list(shape)
        found[self.axis] += 1
        return tuple(found)

    def __call__(self, tensor: np.ndarray) -> np.ndarray:
        """All but the first."""
        return np.delete(tensor, 0, self.axis)


@dataclass(frozen=True)
class Reverse:
    """Turns an axis round: the colours of a stem that was trained on BGR."""

    axis: int
    said = "channels reversed"

    def shape_in_file(self, shape: Shape) -> Shape:
        """The same."""
        return shape

    def __call__(self, tensor: np.ndarray) -> np.ndarray:
        """Flip."""
        return np.flip(tensor, self.axis)

    def undo(self, tensor: np.ndarray) -> np.ndarray:
        """Back to the file's layout."""
        return np.flip(tensor, self.axis)


@dataclass(frozen=True)
class Reshape:
    """Writes the same numbers in another shape; ``in_file`` is the file's, for our ``ours``."""

    in_file: Shape
    ours: Shape
    said = "reshaped"

    def shape_in_file(self, shape: Shape) -> Shape:
        """The file's shape, if ours is as expected."""
        return self.in_file if shape == self.ours else shape

    def __call__(self, tensor: np.ndarray) -> np.ndarray:
        """Reshape."""
        return tensor.reshape(self.ours)

    def undo(self, tensor: np.ndarray) -> np.ndarray:
        """Back to the file's layout."""
        return tensor.reshape(self.in_file)


@dataclass(frozen=True)
class Origin:
    """Where a variable's values come from.

    Attributes:
        key: the tensor's name in the file; None where the file has none because it is the same
            number everywhere (the gamma that a release leaves out): ``value``.
        changes: the steps from the file's layout to ours, in order.
        less: a second tensor of the file that is subtracted: the bias of a convolution that the
            network does not have is taken from the moving mean behind it.
        value: what the variable is filled with where ``key`` is None.
    """

    key: str | None
    changes: tuple[Change, ...] = ()
    less: str | None = None
    value: float = 0.0

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the file's tensors that it reads."""
        return tuple(key for key in (self.key, self.less) if key is not None)

    def shape_in_file(self, shape: Shape) -> Shape:
        """The shape that the file's tensor has where the variable has ``shape``."""
        for change in reversed(self.changes):
            shape = change.shape_in_file(shape)
        return shape

    def values(self, tensors: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """The variable's values, float32, of ``shape`` where the file's tensors fit."""
        if self.key is None:
            return np.full(shape, self.value, np.float32)
        found = _as_float32(tensors[self.key])
        if self.less is not None:
            found = found - _as_float32(tensors[self.less])
        for change in self.changes:
            found = change(found)
        return found

    def said(self) -> str | None:
        """What was done to the tensor, in words; None where it was taken as it is."""
        words = [change.said for change in self.changes]
        if self.less is not None:
            words.append(f"{self.less} folded in")
        return ", ".join(words) or None


@dataclass(frozen=True)
class WeightsReport:
    """What became of a file's tensors; the names are the file's unless it says otherwise.

    Attributes:
        file: the file.
        source: the name of the source that the file was found to be of.
        used: loaded.
        adapted: those of ``used`` that were changed on the way, and how.
        left_over: not loaded, knowingly: the head of another number of classes or of a network
            that gives features, auxiliary heads, and bookkeeping that no prediction depends on.
        filled: the paths of our variables that the release leaves out, and the number that they
            are filled with.
        fresh: the paths of our variables (the head's, if any) that keep their fresh values.
    """

    file: str
    source: str
    used: tuple[str, ...]
    adapted: Mapping[str, str]
    left_over: tuple[str, ...]
    filled: Mapping[str, float]
    fresh: tuple[str, ...]


def assign(
    model: keras.Model,
    source: str,
    file: str,
    tensors: Mapping[str, np.ndarray],
    origins: Mapping[str, Origin],
    heads: Sequence[Collection[str]],
    unused_knowingly: Collection[str],
    fresh_head: bool = False,
) -> WeightsReport:
    """Check every tensor and every variable; if all fit, assign them all.

    Args:
        model: the network, with fresh weights.
        source: the name of the file's source.
        file: the file's name, for messages.
        tensors: the file's tensors.
        origins: for each variable's path, where the file has its values.
        heads: the paths of the head's variables, and of each auxiliary head's.
        unused_knowingly: the file's names of tensors that need not be used.
        fresh_head: leave the heads fresh: the file has none.

    Raises:
        ConfigError: a tensor is missing, is left over, or has another shape, another dtype or
            numbers that are not finite. A head that differs in its number of classes alone stays
            fresh instead, and a stem for another number of channels is adapted.
    """
    variables = {variable.path: variable for variable in model.variables}
    shapes = {path: tuple(variable.shape) for path, variable in variables.items()}
    stem = _stem_of_other_channels(model, tensors, origins)
    if stem is not None:
        *window, _, filters = shapes[stem.path]
        shapes[stem.path] = (*window, stem.channels, filters)
    expected = {
        path: origin.shape_in_file(shapes[path])
        for path, origin in origins.items()
        if origin.key is not None
    }
    fresh = {
        path
        for head in heads
        for path in (head if fresh_head else _of_other_classes(tensors, origins, expected, head))
    }
    problems = [
        problem
        for path, shape in expected.items()
        if path not in fresh
        for key in origins[path].keys
        if (problem := _problem(key, path, tensors.get(key), shape))
    ]
    used = {key: path for path in origins if path not in fresh for key in origins[path].keys}
    left_over = [key for key in tensors if key not in used]
    allowed = {*unused_knowingly, *(key for path in fresh for key in origins[path].keys)}
    problems += [
        f"{key} {tensors[key].shape} has no place in {model.name}"
        for key in left_over
        if key not in allowed
    ]
    if problems:
        more = len(problems) - _SHOWN
        raise ConfigError(
            f"{file}: these are not {source}'s weights of {model.name} with input "
            f"{tuple(model.input_shape[1:])}: {'; '.join(problems[:_SHOWN])}"
            + (f"; and {more} more" if more > 0 else "")
        )
    adapted = {
        origin.key: said
        for path, origin in origins.items()
        if path not in fresh and origin.key is not None and (said := origin.said())
    }
    for path, origin in origins.items():
        if path in fresh:
            continue
        values = origin.values(tensors, shapes[path])
        if stem is not None and path == stem.path:
            values = _other_channels(values, variables[path].shape[-2])
            said = f"{stem.channels} input channels made {variables[path].shape[-2]}"
            assert origin.key is not None
            adapted[origin.key] = ", ".join(filter(None, (adapted.get(origin.key), said)))
        variables[path].assign(values)
    return WeightsReport(
        file,
        source,
        used=tuple(used),
        adapted=adapted,
        left_over=tuple(left_over),
        filled={path: o.value for path, o in origins.items() if o.key is None},
        fresh=tuple(path for path in origins if path in fresh),
    )


def _problem(key: str, path: str, tensor: np.ndarray | None, expected: Shape) -> str | None:
    if tensor is None:
        return f"{key} is missing (expected {expected}, for {path})"
    if tensor.shape != expected:
        return f"{key}: expected shape {expected}, found {tensor.shape}"
    # NumPy has no bfloat16 of its own: ml_dtypes' is of kind V.
    if tensor.dtype.kind != "f" and tensor.dtype.name != "bfloat16":
        return f"{key}: expected floating-point numbers, found {tensor.dtype}"
    if not np.isfinite(_as_float32(tensor)).all():
        return f"{key}: expected finite numbers, found NaN or infinity"
    return None


def _as_float32(tensor: np.ndarray) -> np.ndarray:
    return np.asarray(tensor, dtype=np.float32)


def _of_other_classes(
    tensors: Mapping[str, np.ndarray],
    origins: Mapping[str, Origin],
    expected: Mapping[str, Shape],
    head: Collection[str],
) -> set[str]:
    """The head's paths if the file's head differs from ours in its number of classes alone."""
    pairs = []
    for path in head:
        key = origins[path].key
        if key is None or key not in tensors:
            return set()
        pairs.append((tensors[key].shape, expected[path]))
    if not pairs or any(len(found) != len(ours) for found, ours in pairs):
        return set()
    # Kernel and bias, in whatever layout, differ in one axis each, and by the same two numbers.
    differing = [
        {(a, b) for a, b in zip(found, ours, strict=True) if a != b} for found, ours in pairs
    ]
    one_change = differing[0] and all(change == differing[0] for change in differing)
    return set(head) if one_change and len(differing[0]) == 1 else set()


@dataclass(frozen=True)
class _Stem:
    """The kernel that reads the image, and the number of channels that the file's reads."""

    path: str
    channels: int


def _stem_of_other_channels(
    model: keras.Model, tensors: Mapping[str, np.ndarray], origins: Mapping[str, Origin]
) -> _Stem | None:
    """The stem if the file's differs from ours in the number of input channels alone."""
    kernel = next(v for v in model.variables if v.name == "kernel" and len(v.shape) == 4)
    origin = origins.get(kernel.path)
    if origin is None or origin.key is None or origin.key not in tensors:
        return None
    *window, ours, filters = kernel.shape
    for channels in (1, 3, 4):
        shape = (*window, channels, filters)
        if channels != ours and tensors[origin.key].shape == origin.shape_in_file(shape):
            return _Stem(kernel.path, channels)
    return None


def _other_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A kernel [h, w, c, filters] for another number of input channels, as timm does it.

    For grey, which stands for equal red, green and blue, it is their sum; for more channels they
    are repeated in turn and scaled by the ratio of the numbers, so that answers keep their size.
    """
    found = kernel.shape[2]
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    return kernel[:, :, np.arange(channels) % found] * (found / channels)
