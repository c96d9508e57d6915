"""Which number each byte of a map stands for, and which maps are bytes at all.

oneDNN's operations know bytes 0 to 255 and -127 to 127, both around zero. We add an offset for each
channel to the first kind, which costs nothing: whoever reads such a map takes it back in its bias.
So signed maps keep all of their eight bits, and a network's running sum can be held in bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from keras_cls.exporting import nodes
from keras_cls.exporting.nodes import NO_MARGINS, Fused, Graph, Node, Windowed

_SMALLEST_LIMIT = 1e-6
"""Of a map that is zero on all images: its bytes still need a step."""


def levels(signed: bool) -> int:
    """The largest byte of either sort."""
    return 127 if signed else 255


@dataclass(frozen=True, eq=False)
class ByteFormat:
    """A byte stands for ``gain * step * byte - offset``.

    Attributes:
        step: of all channels.
        offset: of each channel, [C]; None for none.
        signed: bytes from -127 to 127, else from 0 to 255.
        gain: of each channel, [C], for the images; None for one.
    """

    step: float
    offset: np.ndarray | None = None
    signed: bool = False
    gain: np.ndarray | None = None

    @property
    def levels(self) -> int:
        """The largest byte."""
        return levels(self.signed)

    @property
    def ends(self) -> tuple[float, float]:
        """What the smallest and the largest byte stand for, but for gain and offset."""
        high = self.step * self.levels
        return (-high if self.signed else 0.0), high


def pixel_format(mean: Sequence[float], std: Sequence[float], channels: int) -> ByteFormat:
    """The format of prepared images in which the bytes are the pixels.

    Args:
        mean: of each channel, or one for all, on the 0..1 scale.
        std: likewise.
        channels: of the images.
    """
    gain = np.broadcast_to(1 / (255 * np.asarray(std)), channels)
    return ByteFormat(1.0, np.broadcast_to(np.divide(mean, std), channels), gain=gain)


Kind: TypeAlias = Literal["positive", "shifted", "signed"]
"""Bytes 0 to 255 from zero on; the same with offsets; bytes -127 to 127."""

_HANDS_ON = (nodes.Pool, nodes.Concatenate, nodes.Crop, nodes.Pad, nodes.Reshape)
"""What gives the numbers that it takes, in the format that it takes."""


def in_bytes(graph: Graph) -> frozenset[str]:
    """The nodes whose output is bytes: convolutions, and what hands their bytes on."""
    precise = _precise(graph)
    found: set[str] = set()
    for node in graph:
        hands_on = isinstance(node, _HANDS_ON) and not found.isdisjoint(node.inputs)
        if (isinstance(node, Fused) or hands_on) and node.name not in precise:
            found.add(node.name)
    return frozenset(found)


def _precise(graph: Graph) -> frozenset[str]:
    """What only a normalization across channels reads, which would make rounding large.

    It shrinks large numbers far more than small ones. Bytes that reach to the largest tell the
    small ones hardly apart: AlexNet's logits would differ by 9 % of their deviation, and not 1.
    """
    readers = graph.consumers()
    found: set[str] = set()
    for node in reversed(graph.nodes):
        could_be = isinstance(node, _HANDS_ON) or (isinstance(node, Fused) and not node.summand)
        if could_be and readers[node.name]:
            of_all = (
                name in found or isinstance(graph[name], nodes.LocalResponse)
                for name in readers[node.name]
            )
            if all(of_all):
                found.add(node.name)
    return frozenset(found)


def families(graph: Graph) -> list[frozenset[str]]:
    """All nodes whose output is bytes or is read as bytes, those together that share a format.

    What hands numbers on has the format of what it takes; what is joined must be of one.
    """
    of_bytes = in_bytes(graph)
    family: dict[str, frozenset[str]] = {}
    for node in graph:
        computes = isinstance(node, Fused | nodes.Dense)
        reads = node.inputs if computes or node.name in of_bytes else ()
        writes = (node.name,) if node.name in of_bytes else ()
        for name in (*reads, *writes):
            family.setdefault(name, frozenset([name]))
        if isinstance(node, _HANDS_ON) and writes:
            joined = family[node.name].union(*(family[name] for name in reads))
            family.update(dict.fromkeys(joined, joined))
    return list(dict.fromkeys(family.values()))


def reads_pixels(graph: Graph) -> bool:
    """Whether all that reads the images as bytes can take each channel in units of its own.

    Not so a sum, and what joins them with other maps.
    """
    name = graph.input.name
    summed = any(isinstance(node, Fused) and node.summand == name for node in graph)
    return frozenset([name]) in families(graph) and not summed


def kinds(graph: Graph, low: Mapping[str, np.ndarray]) -> dict[str, Kind]:
    """The kind of bytes for every node whose output is bytes or is read as bytes.

    Args:
        graph: fused.
        low: by node, the smallest number of each channel, [C].
    """
    readers = graph.consumers()
    of_bytes = in_bytes(graph)
    found: dict[str, Kind] = {}
    for family in families(graph):
        kind: Kind = "signed"
        if all((low[name] >= 0).all() for name in family):
            kind = "positive"
        elif family <= of_bytes and all(
            _takes_offset(graph[reader], name) for name in family for reader in readers[name]
        ):
            kind = "shifted"
        found.update(dict.fromkeys(family, kind))
    return found


def _takes_offset(reader: Node, name: str) -> bool:
    """Whether a reader of these bytes takes an offset back at no cost.

    A window over zeros beside the map cannot: there, zero is not byte zero. What computes in float
    would take one more step over the whole map.
    """
    if isinstance(reader, Fused):
        window = reader.linear
        of_sum = name == reader.summand
        return of_sum or not isinstance(window, Windowed) or window.margins == NO_MARGINS
    return isinstance(reader, nodes.Pool | nodes.Concatenate | nodes.Crop | nodes.GlobalAverage)


def offset_of(kind: Kind, low: np.ndarray) -> np.ndarray | None:
    """What makes all of a map's numbers positive, [C], where its bytes are shifted."""
    return np.maximum(-low, 0.0) if kind == "shifted" else None


def choose_formats(
    graph: Graph,
    kind: Mapping[str, Kind],
    low: Mapping[str, np.ndarray],
    limit: Mapping[str, float],
) -> dict[str, ByteFormat]:
    """The format for every node whose output is bytes or is read as bytes.

    Args:
        graph: fused.
        kind: by node.
        low: by node, the smallest number of each channel, [C].
        limit: by node, what the largest byte stands for: the largest ``x``, ``|x|`` or
            ``x - low``, as the kind is, that is told apart from larger ones.
    """
    largest = {
        name: max(*(limit[member] for member in family), _SMALLEST_LIMIT)
        for family in families(graph)
        for name in family
    }
    of_bytes = in_bytes(graph)
    found: dict[str, ByteFormat] = {}
    for node in graph:
        name = node.name
        if name not in largest:
            continue
        offset = offset_of(kind[name], low[name])
        if offset is not None and name in of_bytes and isinstance(node, _HANDS_ON):
            offset = np.concatenate([found[source].offset for source in node.inputs])
        signed = kind[name] == "signed"
        found[name] = ByteFormat(largest[name] / levels(signed), offset, signed)
    return found
