"""Join what oneDNN's quantized operations do in one step: a linear step, a sum, and a ReLU.

The operation writes its result over the summand. So a sum is joined with a linear step only where
nothing else can still want the summand by then: every other reader of it must lie on the way to the
linear step. Where that is not so, a copy of the summand is written over.
"""

from dataclasses import replace

import numpy as np

from keras_cls.exporting.folding import merged
from keras_cls.exporting.nodes import (
    NO_MARGINS,
    Add,
    Affine,
    Convolution,
    Depthwise,
    Fused,
    Graph,
    Node,
    Relu,
    Reshape,
    Shape,
    Windowed,
)


def fuse(graph: Graph) -> Graph:
    """The same network in fewer steps, for operations that fuse.

    Every convolution becomes :class:`Fused`, with the sum and the ReLU behind it where they can be
    joined. What else normalizations, sums and ReLUs do to maps becomes a convolution with one
    weight for each channel.
    """
    shapes = graph.shapes()
    graph = Graph(tuple(_as_step(node, shapes[node.name]) for node in graph))
    graph = _with_sums_joined(merged(graph, _relu_into_step))
    graph = merged(graph, _relu_into_step)
    shapes = graph.shapes()
    return Graph(tuple(_relu_as_step(node, shapes[node.name]) for node in graph))


def _as_step(node: Node, shape: Shape) -> Node:
    if isinstance(node, Windowed):
        return Fused(node.name, node.inputs, node, None)
    if isinstance(node, Affine) and len(shape) == 3:
        return Fused(node.name, node.inputs, _per_channel(node.scale, node.offset), None)
    return node


def _relu_into_step(before: Node, node: Node) -> Node | None:
    if not isinstance(before, Fused) or before.relu is not None or not isinstance(node, Relu):
        return None
    return None if node.slope else replace(before, relu=node)


def _relu_as_step(node: Node, shape: Shape) -> Node:
    if isinstance(node, Relu) and not node.slope and len(shape) == 3:
        return Fused(node.name, node.inputs, _identity(shape), node)
    return node


def _with_sums_joined(graph: Graph) -> Graph:
    """Every sum of maps of one shape in a step, as its summand."""
    graph = Graph(tuple(each for node in graph for each in _in_pairs(node)))
    shapes, readers, before = graph.shapes(), graph.consumers(), _ancestors(graph)
    place = {node.name: number for number, node in enumerate(graph)}
    made: dict[str, Node] = {}
    for node in graph:
        made[node.name] = node
        if not isinstance(node, Add) or len(shapes[node.name]) != 3:
            continue
        if any(shapes[name] != shapes[node.name] for name in node.inputs):
            continue
        del made[node.name]
        # The later of two that could be the step: the summand is there by then.
        latest_first = sorted(node.inputs, key=lambda name: -place[name])
        steps = (made[name] for name in latest_first)
        step = next((step for step in steps if _takes_a_sum(step, readers)), None)
        if isinstance(step, Fused):
            del made[step.name]
            source = step.inputs[0]
            summand = node.inputs[0] if step.name == node.inputs[1] else node.inputs[1]
        else:
            source, summand = node.inputs
            step = Fused(node.name, (source,), _identity(shapes[node.name]), None)
        others = [name for name in readers[summand] if name != node.name]
        if (
            isinstance(graph[summand], Reshape)
            or summand == source
            or not all(name in before[source] or name == source for name in others)
        ):
            copy = Fused(f"{node.name}/summand", (summand,), _identity(shapes[summand]), None)
            made[copy.name] = copy
            summand = copy.name
        made[node.name] = replace(step, name=node.name, inputs=(source, summand))
    return Graph(tuple(made.values()))


def _takes_a_sum(node: Node, readers: dict[str, tuple[str, ...]]) -> bool:
    return (
        isinstance(node, Fused)
        and node.summand is None
        and node.relu is None
        and len(readers[node.name]) == 1
        and not (isinstance(node.linear, Convolution) and node.linear.groups > 1)
    )


def _in_pairs(node: Node) -> list[Node]:
    """A sum of many as sums of two."""
    if not isinstance(node, Add) or len(node.inputs) <= 2:
        return [node]
    found: list[Node] = []
    total = node.inputs[0]
    for number, other in enumerate(node.inputs[1:], start=2):
        name = node.name if number == len(node.inputs) else f"{node.name}/{number}"
        found.append(Add(name, (total, other)))
        total = name
    return found


def _ancestors(graph: Graph) -> dict[str, frozenset[str]]:
    """By a node's name, all that its output is made of."""
    found: dict[str, frozenset[str]] = {}
    for node in graph:
        found[node.name] = frozenset(node.inputs).union(*(found[name] for name in node.inputs))
    return found


def _identity(shape: Shape) -> Depthwise:
    return _per_channel(np.ones(shape[-1]), None)


def _per_channel(scale: np.ndarray, offset: np.ndarray | None) -> Depthwise:
    """``scale * x + offset`` on each channel, as a convolution."""
    return Depthwise(
        "",
        (),
        scale.astype(np.float32).reshape(1, 1, -1, 1),
        None if offset is None else offset.astype(np.float32),
        strides=(1, 1),
        margins=NO_MARGINS,
        dilations=(1, 1),
    )
