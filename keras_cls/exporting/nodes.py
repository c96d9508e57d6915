"""A network at inference as plain data: what every format is written from.

A :class:`Graph` is a list of nodes in the order in which they can run. A node names the nodes whose
outputs it takes, and holds its own numbers as NumPy arrays. Maps are ``[N, H, W, C]``, shapes here
are without the N. Variables, Keras, and everything that only training needs are gone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Literal, TypeAlias

import numpy as np

Shape: TypeAlias = tuple[int, ...]
"""(H, W, C), or (C,)."""

Margins: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
"""Rows above and below, columns left and right."""

PoolPadding: TypeAlias = Literal["same", "valid"]

NO_MARGINS: Margins = ((0, 0), (0, 0))


def same_margins(
    shape: Shape, size: Sequence[int], strides: Sequence[int], dilations: Sequence[int] = (1, 1)
) -> Margins:
    """The zeros that TensorFlow's rule for ``"same"`` adds: of an odd number one more behind.

    Args:
        shape: of the map, (H, W, C).
        size: the window's rows and columns.
        strides: between windows.
        dilations: within a window.
    """
    rows, columns = (
        max((-(-side // stride) - 1) * stride + (length - 1) * dilation + 1 - side, 0)
        for side, length, stride, dilation in zip(shape[:2], size, strides, dilations, strict=True)
    )
    return (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)


@dataclass(frozen=True, eq=False)
class Node:
    """One step.

    Attributes:
        name: unique in its graph.
        inputs: the names of the nodes whose outputs it takes.
    """

    name: str
    inputs: tuple[str, ...]

    def output_shape(self, *shapes: Shape) -> Shape:
        """The shape of what it gives, from those of what it takes; here, the first one's."""
        return shapes[0]

    def multiply_adds(self, shape: Shape) -> int:
        """How many it takes for one image, of an output of this shape; biases do not count."""
        return 0


@dataclass(frozen=True, eq=False)
class Input(Node):
    """The images, prepared: float [N, \\*shape]."""

    shape: Shape

    def output_shape(self, *shapes: Shape) -> Shape:
        """Its own."""
        return self.shape


@dataclass(frozen=True, eq=False)
class Linear(Node):
    """What multiplies by a kernel, and may add a bias.

    Attributes:
        kernel: float32; its axes are those of its kind.
        bias: float32 [filters], or None.
        folded: what scales its filters have been multiplied by, [filters]; None for none. What was
            of few values before is so no more, but for this.
    """

    kernel: np.ndarray
    bias: np.ndarray | None
    folded: np.ndarray | None = field(default=None, kw_only=True)

    @property
    def filters(self) -> int:
        """How many channels it gives."""
        return int(self.kernel.shape[-1])

    def multiply_adds(self, shape: Shape) -> int:
        """Every number of the kernel once for each position of the output."""
        return prod(shape[:-1]) * self.kernel.size

    def scaled(self, scale: np.ndarray, offset: np.ndarray) -> "Linear":
        """Itself and, on each channel that it gives, ``scale * y + offset`` (float64 [filters])."""
        bias = np.zeros(self.filters) if self.bias is None else self.bias.astype(np.float64)
        return replace(
            self,
            kernel=(self.kernel * self.per_filter(scale)).astype(np.float32),
            bias=(bias * scale + offset).astype(np.float32),
            folded=scale if self.folded is None else self.folded * scale,
        )

    def of_constant(self, values: np.ndarray) -> np.ndarray:
        """What it gives, less its bias, for a map that is ``values`` (float64 [C]) everywhere."""
        weighed = self.kernel * self.per_weight(values)
        return weighed.reshape(-1, self.filters).sum(axis=0)

    def per_weight(self, values: np.ndarray) -> np.ndarray:
        """Numbers of the channels that it takes, [C], in the axes of its kernel."""
        return values[:, None]

    def per_filter(self, values: np.ndarray) -> np.ndarray:
        """[filters] in the kernel's axes."""
        return values


@dataclass(frozen=True, eq=False)
class Dense(Linear):
    """A matrix product on the last axis; the kernel is [C, filters]."""

    def output_shape(self, *shapes: Shape) -> Shape:
        """The last axis changes."""
        return (*shapes[0][:-1], self.filters)


@dataclass(frozen=True, eq=False)
class Windowed(Linear):
    """What slides a window over a map; around the map lie zeros.

    Attributes:
        strides: rows and columns.
        margins: how many rows and columns of zeros are added.
        dilations: rows and columns.
    """

    strides: tuple[int, int]
    margins: Margins
    dilations: tuple[int, int]

    def output_shape(self, *shapes: Shape) -> Shape:
        """As many positions as windows fit."""
        height, width = (
            (side + before + after - (size - 1) * dilation - 1) // stride + 1
            for side, (before, after), size, dilation, stride in zip(
                shapes[0][:2],
                self.margins,
                self.kernel.shape[:2],
                self.dilations,
                self.strides,
                strict=True,
            )
        )
        return height, width, self.filters


@dataclass(frozen=True, eq=False)
class Convolution(Windowed):
    """A convolution, grouped or not; the kernel is [kh, kw, C / groups, filters]."""

    groups: int = 1

    def per_weight(self, values: np.ndarray) -> np.ndarray:
        """Each group has its own."""
        of_group = values.reshape(self.groups, -1).T
        return np.repeat(of_group, self.filters // self.groups, axis=1)


@dataclass(frozen=True, eq=False)
class Depthwise(Windowed):
    """Each channel with its own kernels: [kh, kw, C, m] gives m channels for each of C."""

    @property
    def filters(self) -> int:
        """m for each of C."""
        return int(np.prod(self.kernel.shape[-2:]))

    def per_filter(self, values: np.ndarray) -> np.ndarray:
        """One for each channel and its multiple."""
        return values.reshape(self.kernel.shape[-2:])


@dataclass(frozen=True, eq=False)
class Affine(Node):
    """``scale * x + offset`` on each channel, float64 [C] both: a normalization at inference."""

    scale: np.ndarray
    offset: np.ndarray


@dataclass(frozen=True, eq=False)
class Relu(Node):
    """``max(x, slope * x)``, and no more than ``ceiling`` where there is one."""

    ceiling: float | None = None
    slope: float = 0.0


@dataclass(frozen=True, eq=False)
class Activation(Node):
    """A function of each number, by Keras' name for it; softmax, of the last axis."""

    function: str


@dataclass(frozen=True, eq=False)
class Pool(Node):
    """What looks at a window of each channel; what lies beyond the map is left out."""

    size: tuple[int, int]
    strides: tuple[int, int]
    padding: PoolPadding

    def output_shape(self, *shapes: Shape) -> Shape:
        """As many positions as windows fit, or, padded, as strides."""
        height, width, channels = shapes[0]
        rows, columns = (
            -(-side // stride) if self.padding == "same" else (side - size) // stride + 1
            for side, size, stride in zip((height, width), self.size, self.strides, strict=True)
        )
        return rows, columns, channels


@dataclass(frozen=True, eq=False)
class MaxPool(Pool):
    """The largest number of each window."""


@dataclass(frozen=True, eq=False)
class AveragePool(Pool):
    """The mean of each window."""


@dataclass(frozen=True, eq=False)
class GlobalAverage(Node):
    """The mean of each channel: [H, W, C] -> [1, 1, C] or [C]."""

    keepdims: bool

    def output_shape(self, *shapes: Shape) -> Shape:
        """The channels, and perhaps two axes of one."""
        return (1, 1, shapes[0][-1]) if self.keepdims else shapes[0][-1:]


@dataclass(frozen=True, eq=False)
class Elementwise(Node):
    """What joins maps of one shape, or of shapes that broadcast, number by number."""

    def output_shape(self, *shapes: Shape) -> Shape:
        """What they broadcast to."""
        return tuple(np.broadcast_shapes(*shapes))


@dataclass(frozen=True, eq=False)
class Add(Elementwise):
    """The sum of all."""


@dataclass(frozen=True, eq=False)
class Multiply(Elementwise):
    """The product of all, such as of a map and a gate for each of its channels."""


@dataclass(frozen=True, eq=False)
class Concatenate(Node):
    """One behind the other, along the channels."""

    def output_shape(self, *shapes: Shape) -> Shape:
        """The channels add up."""
        return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))


@dataclass(frozen=True, eq=False)
class Pad(Node):
    """Zeros around a map; at its last axis too, as ``channels`` before and behind."""

    margins: Margins
    channels: tuple[int, int] = (0, 0)

    def output_shape(self, *shapes: Shape) -> Shape:
        """Each axis grows."""
        height, width, depth = (
            side + sum(margin)
            for side, margin in zip(shapes[0], (*self.margins, self.channels), strict=True)
        )
        return height, width, depth


@dataclass(frozen=True, eq=False)
class Crop(Node):
    """A map without rows and columns at its border."""

    margins: Margins

    def output_shape(self, *shapes: Shape) -> Shape:
        """Both sides shrink."""
        height, width, channels = shapes[0]
        (above, below), (left, right) = self.margins
        return height - above - below, width - left - right, channels


@dataclass(frozen=True, eq=False)
class LocalResponse(Node):
    """Normalization across neighbouring channels; see the layer of that name."""

    depth_radius: int
    bias: float
    alpha: float
    beta: float


@dataclass(frozen=True, eq=False)
class Reshape(Node):
    """The same numbers in another shape."""

    shape: Shape

    def output_shape(self, *shapes: Shape) -> Shape:
        """Its own."""
        return self.shape


@dataclass(frozen=True, eq=False)
class Fused(Node):
    """A linear step, what is added to its output, and a ReLU, where a target has one step for them.

    Attributes:
        inputs: what the linear step takes and, where something is added, that.
        linear: the step; its own name and inputs do not count.
        relu: what follows, or None.
    """

    linear: Linear
    relu: Relu | None

    @property
    def summand(self) -> str | None:
        """What is added: the name of a node, or None."""
        return self.inputs[1] if len(self.inputs) == 2 else None

    def output_shape(self, *shapes: Shape) -> Shape:
        """The linear step's."""
        return self.linear.output_shape(shapes[0])

    def multiply_adds(self, shape: Shape) -> int:
        """The linear step's."""
        return self.linear.multiply_adds(shape)


@dataclass(frozen=True, eq=False)
class Graph:
    """A network: one input, one output.

    Attributes:
        nodes: in an order in which they can run; the first is the only :class:`Input`, the last
            one's output is the network's.
    """

    nodes: tuple[Node, ...]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __getitem__(self, name: str) -> Node:
        return self._by_name[name]

    @property
    def input(self) -> Input:
        """The images."""
        first = self.nodes[0]
        assert isinstance(first, Input)
        return first

    @property
    def output(self) -> Node:
        """The logits."""
        return self.nodes[-1]

    def shapes(self) -> dict[str, Shape]:
        """The shape of each node's output, by its name."""
        found: dict[str, Shape] = {}
        for node in self.nodes:
            found[node.name] = node.output_shape(*(found[name] for name in node.inputs))
        return found

    def consumers(self) -> dict[str, tuple[str, ...]]:
        """By each node's name, the nodes that take its output, as often as they take it."""
        found: dict[str, list[str]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in node.inputs:
                found[name].append(node.name)
        return {name: tuple(names) for name, names in found.items()}

    def multiply_adds(self) -> dict[str, int]:
        """By name, those of each node that has any, for one image."""
        shapes = self.shapes()
        counts = {node.name: node.multiply_adds(shapes[node.name]) for node in self.nodes}
        return {name: count for name, count in counts.items() if count}

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}
