"""Fold what can be folded: the network computes the same, with fewer steps.

- a normalization goes into the kernel and bias of the convolution before it, or of the one behind
  it where no zeros lie around its map (these would be moved as well);
- two normalizations become one;
- steps without weights that are taken twice on the same map are taken once;
- zeros that are added to a map become margins of the convolution that looks at it.
"""

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np

from keras_cls.exporting.nodes import (
    NO_MARGINS,
    Affine,
    Graph,
    Linear,
    Node,
    Pad,
    Windowed,
)


def fold(graph: Graph) -> Graph:
    """The folded graph; of the same input, output and, to rounding, numbers."""
    graph = _without_repetition(graph)
    for rule in (_into_the_one_before, _pad_into_window, _into_the_one_behind):
        graph = merged(graph, rule)
    return graph


def _without_repetition(graph: Graph) -> Graph:
    place: dict[str, str] = {}
    first: dict[tuple[object, ...], str] = {}
    kept: list[Node] = []
    for node in graph:
        node = replace(node, inputs=tuple(place[name] for name in node.inputs))
        values = tuple(getattr(node, field.name) for field in fields(node) if field.name != "name")
        if any(isinstance(value, np.ndarray) for value in values):
            place[node.name] = node.name
        else:
            place[node.name] = first.setdefault((type(node), *values), node.name)
        if place[node.name] == node.name:
            kept.append(node)
    return Graph(tuple(kept))


def merged(graph: Graph, rule: Callable[[Node, Node], Node | None]) -> Graph:
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
        both = None
        if len(node.inputs) == 1 and uses[node.inputs[0]] == 1:
            both = rule(made[node.inputs[0]], node)
        if both is not None:
            del made[node.inputs[0]]
        new = node if both is None else both
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
    added = node.of_constant(before.offset)
    return replace(
        node,
        inputs=before.inputs,
        kernel=(node.kernel * node.per_weight(before.scale)).astype(np.float32),
        bias=(added if node.bias is None else node.bias + added).astype(np.float32),
    )
