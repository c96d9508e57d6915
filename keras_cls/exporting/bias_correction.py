"""Take back what rounding to bytes does to the mean of each filter.

The error of a rounded kernel is the same for every image, and what it reads is positive behind a
ReLU: so it moves a filter's output one way, and the next layer's too. So does a range that cuts off
the largest numbers. What it moves is measured on the calibration images and taken from the bias
(Nagel, van Baalen, Blankevoort and Welling, arXiv:1906.04721, section 4.2, there without images).
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import tensorflow as tf

from keras_cls.exporting import float_network
from keras_cls.exporting.byte_formats import ByteFormat, in_bytes
from keras_cls.exporting.calibration import batches
from keras_cls.exporting.constants import shared
from keras_cls.exporting.float_network import run_all_in_float
from keras_cls.exporting.int8_network import from_bytes, rounded, to_bytes
from keras_cls.exporting.nodes import Dense, Fused, Graph, Input, Linear, Node, Shape

_IMAGES = 64
"""Evenly out of all: of a ResNet-20 sixteen are as good as 256."""


def bias_corrected(graph: Graph, formats: Mapping[str, ByteFormat], images: np.ndarray) -> Graph:
    """The same network with biases for bytes: what each step's rounding moves is taken back.

    Each on its own, for what it takes in the float network: what the steps before it have moved,
    they take back themselves.

    Args:
        graph: fused.
        formats: of all bytes.
        images: prepared, float32 [N, H, W, C].
    """
    few = images[:: -(-len(images) // _IMAGES)]
    exact, of_bytes = _mean_maps(graph, formats, few)
    shapes = graph.shapes()

    def moved_by(node: Fused | Dense) -> np.ndarray:
        """What rounding adds to the mean of each filter, [filters]."""
        linear = node.linear if isinstance(node, Fused) else node
        source = node.inputs[0]
        kept = _of_mean(linear, exact[source], shapes[source])
        made = _of_mean(rounded(linear, formats[source]), of_bytes[source], shapes[source])
        moved = (made - kept).reshape(-1, linear.filters)
        if isinstance(node, Fused) and node.summand is not None:
            summand = of_bytes[node.summand] - exact[node.summand]
            moved = moved + summand.reshape(-1, linear.filters)
        return moved.mean(axis=0)

    def corrected(node: Node) -> Node:
        if isinstance(node, Fused):
            return replace(node, linear=_less(node.linear, moved_by(node)))
        return _less(node, moved_by(node)) if isinstance(node, Dense) else node

    return Graph(tuple(corrected(node) for node in graph))


def _less(linear: Linear, moved: np.ndarray) -> Linear:
    bias = -moved if linear.bias is None else linear.bias - moved
    return replace(linear, bias=bias.astype(np.float32))


def _of_mean(linear: Linear, mean: np.ndarray, shape: Shape) -> np.ndarray:
    """The mean of what a linear step gives is what it gives for the mean, zeros around it too."""
    return float_network.apply(linear, [tf.constant(mean[None])], [shape]).numpy()[0]


def _mean_maps(
    graph: Graph, formats: Mapping[str, ByteFormat], images: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """By name, the mean over the images of what is read as bytes, and of what these bytes hold."""

    @tf.function(autograph=False)
    def sums(batch: tf.Tensor) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        exact = run_all_in_float(graph, batch)
        held = _held(graph, formats, exact)
        added = [
            {name: tf.reduce_sum(values[name], axis=0) for name in formats}
            for values in (exact, held)
        ]
        return added[0], added[1]

    with shared():
        each = [sums(batch) for batch in batches(images)]
    exact, held = (
        {
            name: np.sum([of_batch[part][name].numpy() for of_batch in each], axis=0) / len(images)
            for name in formats
        }
        for part in (0, 1)
    )
    return exact, held


def _held(
    graph: Graph, formats: Mapping[str, ByteFormat], exact: Mapping[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
    """What bytes hold of each map, with what was cut off on its way since the last linear step."""
    of_bytes, shapes = in_bytes(graph), graph.shapes()
    given: dict[str, tf.Tensor] = {}
    held: dict[str, tf.Tensor] = {}
    for node in graph:
        x = exact[node.name]
        if not isinstance(node, Input | Fused | Dense):
            inputs = [given[name] for name in node.inputs]
            x = float_network.apply(node, inputs, [shapes[name] for name in node.inputs])
        form = formats.get(node.name)
        held[node.name] = x if form is None else from_bytes(to_bytes(x, form), form)
        # What computes in float reads a float map as it is, whoever else wants bytes of it.
        given[node.name] = held[node.name] if node.name in of_bytes else x
    return held
