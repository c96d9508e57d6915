"""Fold what can be folded: the network computes the same, with fewer steps.

- a normalization goes into the kernel and bias of the convolution before it, or of the one behind
  it where no zeros lie around its map (these would be moved as well);
- two normalizations become one;
- zeros that are added to a map become margins of the convolution that looks at it.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from keras_cls.exporting.nodes import (
    NO_MARGINS,
    Affine,
    Convolution,
    Dense,
    Depthwise,
    Graph,
    Linear,
    Node,
    Pad,
    Windowed,
)


def fold(graph: Graph) -> Graph:
    """The folded graph; of the same input, output and, to rounding, numbers."""
    for rule in (_into_the_one_before, _pad_into_window, _into_the_one_behind):
        graph = _merged(graph, rule)
    return graph


def _merged(graph: Graph, rule: Callable[[Node, Node], Node | None]) -> Graph:
    """Let one node do the work of two that follow each other, wherever a rule allows it.

    Args:
        graph: what to look through.
        rule: gives, for a node and the only one that takes its output, what stands for both under
            the name of either, or None.
    """
    uses = {name: len(names) for name, names in graph.consumers().items()}
    made: dict[str, Node] = {}
    place: dict[str, str] = {}
    for node in graph:
        node = replace(node, inputs=tuple(place[name] for name in node.inputs))
        merged = None
        if len(node.inputs) == 1 and uses[node.inputs[0]] == 1:
            merged = rule(made[node.inputs[0]], node)
        if merged is not None:
            del made[node.inputs[0]]
        new = node if merged is None else merged
        made[new.name] = new
        uses[new.name] = uses[node.name]
        place[node.name] = new.name
    return Graph(tuple(made.values()))


def _into_the_one_before(before: Node, node: Node) -> Node | None:
    if not isinstance(node, Affine):
        return None
    if isinstance(before, Linear):
        return before.scaled(node.scale, node.offset)
    if isinstance(before, Affine):
        scale, offset = before.scale * node.scale, before.offset * node.scale + node.offset
        return replace(before, scale=scale, offset=offset)
    return None


def _pad_into_window(before: Node, node: Node) -> Node | None:
    if not isinstance(before, Pad) or before.channels != (0, 0) or not isinstance(node, Windowed):
        return None
    rows, columns = (
        (around[0] + within[0], around[1] + within[1])
        for around, within in zip(before.margins, node.margins, strict=True)
    )
    return replace(node, inputs=before.inputs, margins=(rows, columns))


def _into_the_one_behind(before: Node, node: Node) -> Node | None:
    if not isinstance(before, Affine) or not isinstance(node, Linear):
        return None
    if isinstance(node, Windowed) and node.margins != NO_MARGINS and before.offset.any():
        return None
    scale, offset = (_per_weight(node, values) for values in (before.scale, before.offset))
    added = (node.kernel * offset).sum(axis=_summed(node)).reshape(-1)
    bias = added if node.bias is None else node.bias + added
    return replace(
        node,
        inputs=before.inputs,
        kernel=(node.kernel * scale).astype(np.float32),
        bias=bias.astype(np.float32),
    )


def _per_weight(node: Linear, values: np.ndarray) -> np.ndarray:
    """Numbers of the channels that a node takes, [C], in the axes of its kernel."""
    if isinstance(node, Convolution):
        of_group = values.reshape(node.groups, -1).T
        return np.repeat(of_group, node.filters // node.groups, axis=1)
    return values[:, None]


def _summed(node: Linear) -> tuple[int, ...]:
    """The axes of the kernel over which the products are added up."""
    if isinstance(node, Dense):
        return (0,)
    return (0, 1) if isinstance(node, Depthwise) else (0, 1, 2)
