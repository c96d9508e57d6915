"""What the pages of results are made of: templates, charts, tables and pictures as data."""

import base64
import io
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from PIL import Image

from keras_cls.evaluation.metrics import Calibration, Evaluation
from keras_cls.evaluation.multi_label import MultiLabelEvaluation

# More classes than these no longer fit: in half the page's width, in a matrix with names and
# numbers.
MOST_BESIDE_CLASSES = 12
MOST_NAMED_CLASSES = 30

# Matplotlib draws in these colours, which then become the page's CSS variables: so charts follow
# its light and dark appearance.
INK, GRID, TRAINING, VALIDATION, HIT, MISS = (f"#0{n}0{n}0{n}" for n in range(1, 7))
SERIES = tuple(f"#a{n}a{n}a{n}" for n in range(1, 9))
"""For what is compared; told apart by people who see few colours too, beside line styles."""
_CSS_COLORS = {
    INK: "var(--muted)",
    GRID: "var(--line)",
    TRAINING: "var(--training)",
    VALIDATION: "var(--validation)",
    HIT: "rgb(var(--hit))",
    MISS: "rgb(var(--miss))",
    **{color: f"var(--series-{number})" for number, color in enumerate(SERIES, 1)},
}

_PIXELATED_BELOW = 96  # images of fewer pixels on the longer side are shown with visible pixels
_LONGEST_SIDE = 320  # larger images are scaled down to it
_MOST_LISTED = 20  # of a setting's values, such as the names of the classes


def environment(folder: Path, **filters: Callable[..., str]) -> Environment:
    """Templates of a folder, which may use ``page.css`` and ``tables.html.j2`` beside this file."""
    found = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    own = {"percent": percent, "confidence": confidence, "setting": setting}
    found.filters.update({**own, **filters})
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


def reliability(calibration: Calibration, right: str = "right") -> Markup:
    """The reliability diagram over the histogram of the confidences.

    Args:
        calibration: what is drawn.
        right: what the upper axis shows the share of.
    """
    figure = Figure(figsize=(4.4, 4.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    held = calibration.counts > 0
    middles = (calibration.edges[1:] + calibration.edges[:-1])[held] / 2
    width = 0.9 * (calibration.edges[1] - calibration.edges[0])
    accuracy, confidence = calibration.accuracy[held], calibration.confidence[held]
    met = np.minimum(accuracy, confidence)
    upper.bar(middles, met, width, color=HIT)
    # Too sure, or not sure enough; hatched, so that they differ without colours as well.
    for beyond, color, hatch in ((confidence - met, MISS, "////"), (accuracy - met, HIT, "")):
        upper.bar(middles, beyond, width, bottom=met, color=color, alpha=0.45, hatch=hatch)
    upper.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    upper.set_xlim(0, 1)
    upper.set_ylim(0, 1.02)
    upper.yaxis.set_major_formatter(PercentFormatter(1.0))
    upper.set_ylabel(right, color=INK, fontsize=9)
    lower.bar(middles, calibration.counts[held] / calibration.counts.sum(), width, color=TRAINING)
    lower.yaxis.set_major_formatter(FuncFormatter(_share_tick))
    lower.yaxis.set_major_locator(MaxNLocator(nbins=3))
    lower.set_ylabel("answers", color=INK, fontsize=9)
    lower.set_xlabel("confidence", color=INK, fontsize=9)
    lower.xaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (upper, lower):
        style_axes(axes)
    upper.tick_params(labelbottom=False)
    lower.tick_params(axis="x", pad=7)  # clear of the other axis' zero
    return svg(figure, salt="reliability")


def _share_tick(value: float, _position: int) -> str:
    return f"{100 * value:g}%"


@dataclass(frozen=True)
class Bin:
    """Of the calibration; bounds, mean confidence and share of right answers are in 0..1."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def bins(calibration: Calibration) -> list[Bin]:
    """Those that hold answers."""
    return [
        Bin(*values)
        for values in zip(
            calibration.edges[:-1].tolist(),
            calibration.edges[1:].tolist(),
            calibration.counts.tolist(),
            calibration.confidence.tolist(),
            calibration.accuracy.tolist(),
            strict=True,
        )
        if values[2]
    ]


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
    """A class's figures; ``average_precision`` where an image may show several, else None."""

    label: str
    support: int
    precision: float
    recall: float
    f1: float
    average_precision: float | None = None


def class_rows(evaluation: Evaluation | MultiLabelEvaluation) -> list[ClassRow]:
    """Every class's, in the order of the labels."""
    if isinstance(evaluation, MultiLabelEvaluation):
        counts, ranked = evaluation.counts, evaluation.average_precision.tolist()
    else:
        counts, ranked = evaluation.support, [None] * len(evaluation.labels)
    return [
        ClassRow(*values)
        for values in zip(
            evaluation.labels,
            counts.tolist(),
            evaluation.precision.tolist(),
            evaluation.recall.tolist(),
            evaluation.f1.tolist(),
            ranked,
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


class Shown(Protocol):
    """An image and what it was taken for, such as a mistake."""

    @property
    def image(self) -> np.ndarray:
        """uint8 [H, W, 3], RGB."""

    @property
    def name(self) -> str:
        """The file, or what else the image is called."""

    @property
    def truth(self) -> str:
        """The true class."""

    @property
    def predicted(self) -> str:
        """The predicted class."""

    @property
    def confidence(self) -> float:
        """The predicted class's probability, in 0..1."""


@dataclass(frozen=True)
class Picture:
    """An image as a data URI with what it was taken for, and its heat map where there is one."""

    shown: Shown
    uri: str
    pixelated: bool
    overlay: str | None = None
    explained: str = ""

    @property
    def has_overlay(self) -> bool:
        """Whether there is a heat map."""
        return self.overlay is not None

    @property
    def right(self) -> bool:
        """Whether it was taken for what it is."""
        return self.shown.truth == self.shown.predicted

    @classmethod
    def of(cls, shown: Shown, overlay: np.ndarray | None = None, explained: str = "") -> "Picture":
        """Scaled down where it is large.

        Args:
            shown: the image.
            overlay: uint8 [H, W, 3], the image under its heat map; None for none.
            explained: the class whose heat that is.
        """
        uri, pixelated = _picture_uri(shown.image)
        heat = None if overlay is None else _picture_uri(overlay)[0]
        return cls(shown, uri, pixelated, heat, explained)


def _picture_uri(pixels: np.ndarray) -> tuple[str, bool]:
    """The data URI, and whether it is so small that its pixels may show."""
    image = Image.fromarray(pixels).convert("RGB")
    pixelated = max(image.size) < _PIXELATED_BELOW
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    return data_uri(image, "png" if pixelated else "jpeg"), pixelated


def data_uri(image: Image.Image, kind: str) -> str:
    """An image within a page; ``kind`` is Pillow's name of the format."""
    buffer = io.BytesIO()
    image.save(buffer, kind, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


# ------------------------------------------------------------------------------------------ text


def percent(share: float | None) -> str:
    """With one digit behind the point; a dash for none."""
    return "–" if share is None or math.isnan(share) else f"{share:.1%}"


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
        if len(value) > _MOST_LISTED:
            shown = ", ".join(map(setting, value[:_MOST_LISTED]))
            return f"{shown}, … ({len(value):,} in all)"
        # Such as the shapes of several inputs.
        whole = value and all(isinstance(item, int) for item in value)
        return (" x " if whole and isinstance(value, list) else ", ").join(map(setting, value))
    return str(value)
