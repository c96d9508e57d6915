"""What the pages of results are made of: templates, charts, tables and pictures as data."""

import base64
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

from keras_cls.evaluation.metrics import Evaluation, Mistake

# More classes than these no longer fit: in half the page's width, in a matrix with names and
# numbers.
MOST_BESIDE_CLASSES = 12
MOST_NAMED_CLASSES = 30

# Matplotlib draws in these colours, which then become the page's CSS variables: so charts follow
# its light and dark appearance.
INK, GRID, TRAINING, VALIDATION, HIT, MISS = (f"#0{n}0{n}0{n}" for n in range(1, 7))
_CSS_COLORS = {
    INK: "var(--muted)",
    GRID: "var(--line)",
    TRAINING: "var(--training)",
    VALIDATION: "var(--validation)",
    HIT: "rgb(var(--hit))",
    MISS: "rgb(var(--miss))",
}

_PIXELATED_BELOW = 96  # images of fewer pixels on the longer side are shown with visible pixels
_LONGEST_SIDE = 320  # larger images are scaled down to it


def environment(folder: Path, **filters: Callable[..., str]) -> Environment:
    """Templates of a folder, which may use ``page.css`` and ``tables.html.j2`` beside this file."""
    found = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(percent=percent, confidence=confidence, **filters)
    return found


@dataclass(frozen=True)
class Tile:
    """A figure of the headline."""

    caption: str
    value: str
    detail: str = ""


# ---------------------------------------------------------------------------------------- charts


def style_axes(axes: Axes) -> None:
    """As all charts have them: the page shows through, and only values are ruled."""
    axes.patch.set_visible(False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9, length=0)


def svg(figure: Figure, salt: str) -> Markup:
    """The figure as an SVG element that scales with its place and takes the page's colours.

    Args:
        figure: drawn in the colours of this module.
        salt: tells the names of elements apart that several charts on a page must not share.
    """
    figure.patch.set_visible(False)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):  # text stays text
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text)
    text = re.sub(r' id="[\w.]+_\d+"', "", text)  # "axes_1" and the like, never referred to
    for color, css in _CSS_COLORS.items():
        text = text.replace(color, css)
    return Markup(text)


# ------------------------------------------------------------------------- confusion and classes


@dataclass(frozen=True)
class Cell:
    """Of the confusion matrix; ``share`` is that of the images of the row's class."""

    count: int
    share: float


def matrix_rows(confusion: np.ndarray) -> list[list[Cell]]:
    """The confusion matrix, int [C, C], row by row."""
    return [
        [Cell(count, share) for count, share in zip(counts, shares, strict=True)]
        for counts, shares in zip(confusion.tolist(), row_shares(confusion).tolist(), strict=True)
    ]


def row_shares(confusion: np.ndarray) -> np.ndarray:
    """Each count's share of its row, float64 [C, C]."""
    return confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)


@dataclass(frozen=True)
class Pair:
    """Two classes that are confused; ``share`` is that of the images of the true class."""

    truth: str
    predicted: str
    count: int
    share: float


def confused_pairs(evaluation: Evaluation, limit: int) -> list[Pair]:
    """The most often confused, most often first."""
    support = dict(zip(evaluation.labels, evaluation.support.tolist(), strict=True))
    return [
        Pair(truth, predicted, count, count / support[truth])
        for truth, predicted, count in evaluation.most_confused(limit)
    ]


@dataclass(frozen=True)
class ClassRow:
    """A class's figures."""

    label: str
    support: int
    precision: float
    recall: float
    f1: float


def class_rows(evaluation: Evaluation) -> list[ClassRow]:
    """Every class's, in the order of the labels."""
    return [
        ClassRow(*values)
        for values in zip(
            evaluation.labels,
            evaluation.support.tolist(),
            evaluation.precision.tolist(),
            evaluation.recall.tolist(),
            evaluation.f1.tolist(),
            strict=True,
        )
    ]


def confusion_of(evaluation: Evaluation) -> dict[str, Any]:
    """What ``tables.html.j2`` needs to show the confusion."""
    count = len(evaluation.labels)
    many = count > MOST_NAMED_CLASSES
    return {
        "labels": evaluation.labels,
        "matrix": None if many else matrix_rows(evaluation.confusion),
        "dense": MOST_BESIDE_CLASSES < count <= MOST_NAMED_CLASSES,
        "slanted": max(map(len, evaluation.labels)) > 3,
        "pairs": confused_pairs(evaluation, limit=25 if many else 10),
    }


# -------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True)
class Picture:
    """A mistake with its image as a data URI."""

    mistake: Mistake
    uri: str
    pixelated: bool

    @classmethod
    def of(cls, mistake: Mistake) -> "Picture":
        """Scaled down where it is large."""
        image = Image.fromarray(mistake.image).convert("RGB")
        pixelated = max(image.size) < _PIXELATED_BELOW
        image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        return cls(mistake, data_uri(image, "png" if pixelated else "jpeg"), pixelated)


def data_uri(image: Image.Image, kind: str) -> str:
    """An image within a page; ``kind`` is Pillow's name of the format."""
    buffer = io.BytesIO()
    image.save(buffer, kind, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


# ------------------------------------------------------------------------------------------ text


def percent(share: float) -> str:
    """With one digit behind the point."""
    return f"{share:.1%}"


def confidence(share: float) -> str:
    """Never 100%, which no classifier should be taken to mean."""
    return ">99.9%" if share > 0.999 else f"{share:.1%}"


def setting(value: object) -> str:
    """A setting in words."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {setting(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        # Such as the shapes of several inputs.
        whole = value and all(isinstance(item, int) for item in value)
        return (" x " if whole and isinstance(value, list) else ", ").join(map(setting, value))
    return str(value)
