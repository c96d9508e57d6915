"""Draw a network as blocks: one box for the layers that share the first words of their names."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import keras
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from keras_cls.architectures.walking import first_inputs, step_of
from keras_cls.errors import ConfigError

_PER_COLUMN = 14
_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 3.0, 0.62, 1.1, 0.38
_COLOURS = {
    "convolution": "#cfe0fb",
    "dense": "#fbd9cf",
    "pooling": "#d7f0d9",
    "input": "#ececf1",
    "other": "#f4f0d6",
}


@dataclass
class Block:
    """Layers drawn as one box.

    Attributes:
        name: the words that the layers' names share.
        layers: their number by class name.
        shape: the last layer's output, without the batch axis.
        parameters: how many they have.
        sources: the blocks that this one reads, by their place in the list.
    """

    name: str
    layers: Counter[str] = field(default_factory=Counter)
    shape: tuple[int | None, ...] = ()
    parameters: int = 0
    sources: set[int] = field(default_factory=set)

    @property
    def kind(self) -> str:
        """What the box's colour stands for."""
        names = " ".join(self.layers)
        for kind, word in (("convolution", "Conv"), ("dense", "Dense"), ("pooling", "Pooling")):
            if word in names:
                return kind
        return "input" if "InputLayer" in names else "other"

    @property
    def summary(self) -> str:
        """What the box says below the name."""
        convolutions = sum(n for name, n in self.layers.items() if "Conv" in name)
        parts = ["x".join(map(str, self.shape))]
        if convolutions > 1:
            parts.append(f"{convolutions} convolutions")
        if self.parameters:
            parts.append(f"{self.parameters:,} parameters")
        return ", ".join(parts)


def blocks_of(model: keras.Model) -> list[Block]:
    """The blocks of a functional model, in the order of its layers."""
    places: dict[str, int] = {}
    place_of: dict[str, int] = {}
    blocks: list[Block] = []
    names = _block_names([layer.name for layer in model.layers])
    for layer in model.layers:
        name = names[layer.name]
        place = places.setdefault(name, len(blocks))
        if place == len(blocks):
            blocks.append(Block(name))
        place_of[layer.name] = place
        block = blocks[place]
        block.layers[type(layer).__name__] += 1
        block.shape = tuple(layer.output.shape[1:])
        block.parameters += layer.count_params()
        for tensor in first_inputs(layer):
            source = place_of[step_of(tensor).operation.name]
            if source != place:
                block.sources.add(source)
    return blocks


def draw(model: keras.Model, path: str | os.PathLike[str]) -> Path:
    """Draw a functional model's blocks, top to bottom and column by column.

    Args:
        model: a network of the registry, or any functional model with speaking layer names.
        path: the file to write; ``.svg``, ``.pdf`` or ``.png``.

    Raises:
        ConfigError: another ending.
    """
    path = Path(path)
    if path.suffix.lower() not in (".svg", ".pdf", ".png"):
        raise ConfigError(f"{path}: a drawing is a .svg, .pdf or .png file")
    blocks = blocks_of(model)
    columns = -(-len(blocks) // _PER_COLUMN)
    rows = min(len(blocks), _PER_COLUMN)
    width, height = columns * (_WIDTH + _GAP_X), rows * (_HEIGHT + _GAP_Y) + 0.8
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-_GAP_X / 2, width - _GAP_X / 2), ylim=(0.5 - height, 0.5))
    axes.axis("off")
    axes.set_title(f"{model.name}: {model.count_params():,} parameters", y=0.965, fontsize=11)
    corners = [_corner(place) for place in range(len(blocks))]
    for place, block in enumerate(blocks):
        for source in sorted(block.sources):
            _arrow(axes, corners, source, place)
    for corner, block in zip(corners, blocks, strict=True):
        _box(axes, corner, block)
    figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    return path


def _block_names(names: Sequence[str]) -> dict[str, str]:
    """For each layer the first words of its name: a word, and the number or letter that follows."""
    found = {}
    for name in names:
        match = re.match(r"([A-Za-z]+\d*(?:_\d+[a-z]?)?)(?:_|$)", name)
        found[name] = match.group(1) if match else name
    return found


def _corner(place: int) -> tuple[float, float]:
    column, row = divmod(place, _PER_COLUMN)
    return column * (_WIDTH + _GAP_X), -row * (_HEIGHT + _GAP_Y) - 0.9


def _box(axes: Axes, corner: tuple[float, float], block: Block) -> None:
    axes.add_patch(
        FancyBboxPatch(
            corner,
            _WIDTH,
            _HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=_COLOURS[block.kind],
            edgecolor="#555566",
            linewidth=0.7,
        )
    )
    x, y = corner[0] + _WIDTH / 2, corner[1] + _HEIGHT / 2
    axes.text(x, y + 0.12, block.name, ha="center", va="center", fontsize=9, weight="bold")
    axes.text(x, y - 0.15, block.summary, ha="center", va="center", fontsize=6.5)


def _arrow(axes: Axes, corners: Sequence[tuple[float, float]], source: int, target: int) -> None:
    """Straight down to the next box, round the side to a later one, across to the next column."""
    (x0, y0), (x1, y1) = corners[source], corners[target]
    if x0 != x1:
        start, end, bend = (x0 + _WIDTH, y0 + _HEIGHT / 2), (x1, y1 + _HEIGHT / 2), 0.0
    elif target == source + 1:
        start, end, bend = (x0 + _WIDTH / 2, y0), (x1 + _WIDTH / 2, y1 + _HEIGHT), 0.0
    else:
        start, end, bend = (
            (x0 + _WIDTH, y0 + _HEIGHT / 3),
            (x1 + _WIDTH, y1 + _HEIGHT * 2 / 3),
            -0.35,
        )
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            connectionstyle=f"arc3,rad={bend}",
            arrowstyle="-|>",
            mutation_scale=8,
            color="#777788",
            linewidth=0.8,
        )
    )
