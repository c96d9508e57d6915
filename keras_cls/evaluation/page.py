"""An evaluation as one HTML file that needs nothing else, neither network nor script."""

import base64
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from keras_cls.classifier import library_versions
from keras_cls.evaluation.metrics import Calibration, Evaluation, Interval, Mistake
from keras_cls.files import new_file

TEMPLATE = "evaluation.html.j2"

_MOST_MATRIX_CLASSES = 30  # more no longer fit with names and numbers
_MOST_BESIDE_CLASSES = 12  # more no longer fit in half the page's width
_WEAKEST_SHOWN = 20
_PIXELATED_BELOW = 96  # images of fewer pixels on the longer side are shown with visible pixels
_LONGEST_SIDE = 320  # larger images are scaled down to it

# Matplotlib draws in these colours, which then become the page's CSS variables: so the diagram
# follows its light and dark appearance.
_INK, _GRID, _BAR, _GAP = "#010101", "#020202", "#030303", "#040404"
_CSS_COLORS = {
    _INK: "var(--muted)",
    _GRID: "var(--line)",
    _BAR: "rgb(var(--hit))",
    _GAP: "rgb(var(--miss))",
}


def write_page(
    path: Path, evaluation: Evaluation, *, title: str, settings: Mapping[str, Any]
) -> None:
    """Write the page; it appears whole or not at all.

    Args:
        path: the file; missing folders are made, an existing file is replaced.
        evaluation: the results.
        title: the heading.
        settings: what the evaluation was told, by name.
    """
    with new_file(path) as file:
        # A file name may hold bytes that are no text.
        file.write_bytes(_page(evaluation, title, settings).encode("utf-8", "backslashreplace"))


def _page(evaluation: Evaluation, title: str, settings: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=_percent, confidence=_confidence, setting=_setting, interval=_interval
    )
    class_rows = _class_rows(evaluation)
    count = len(evaluation.labels)
    many = count > _MOST_MATRIX_CLASSES
    shown = [row for row in class_rows if row.support]
    return environment.get_template(TEMPLATE).render(
        title=title,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        evaluation=evaluation,
        tiles=_tiles(evaluation),
        reliability=_reliability(evaluation.calibration),
        bins=_bins(evaluation.calibration),
        matrix=None if many else _matrix(evaluation.confusion),
        dense=_MOST_BESIDE_CLASSES < count <= _MOST_MATRIX_CLASSES,
        slanted=max(map(len, evaluation.labels)) > 3,
        pairs=_pairs(evaluation, limit=25 if many else 10),
        class_rows=class_rows,
        weakest=sorted(shown, key=lambda row: row.recall)[:_WEAKEST_SHOWN] if many else None,
        pictures=[_Picture.of(mistake) for mistake in evaluation.mistakes],
        settings=settings,
        versions=[f"{name} {number}" for name, number in library_versions().items()],
    )


# ------------------------------------------------------------------------------------- headline


@dataclass(frozen=True)
class _Tile:
    caption: str
    value: str
    detail: str = ""


def _tiles(evaluation: Evaluation) -> list[_Tile]:
    tiles = [_Tile("Top-1 accuracy", _exact(evaluation.top1), _interval(evaluation.top1_interval))]
    if evaluation.top5 is not None and evaluation.top5_interval is not None:
        interval = _interval(evaluation.top5_interval)
        tiles.append(_Tile("Top-5 accuracy", _exact(evaluation.top5), interval))
    tiles.append(_Tile("Calibration error", _exact(evaluation.calibration.error), "15 bins"))
    tiles.append(_Tile("Loss", f"{evaluation.loss:.3f}", "cross-entropy"))
    speed = evaluation.images_per_second
    tiles.append(
        _Tile(
            "Images",
            f"{evaluation.count:,}",
            f"of {len(evaluation.labels):,} classes"
            + ("" if speed is None else f", {speed:,.{1 if speed < 10 else 0}f} a second"),
        )
    )
    return tiles


# ---------------------------------------------------------------------------------- calibration


def _reliability(calibration: Calibration) -> Markup:
    """The reliability diagram: the share of right answers by their confidence."""
    figure = Figure(figsize=(4.4, 3.5), layout="constrained")
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    held = calibration.counts > 0
    middles = (calibration.edges[1:] + calibration.edges[:-1])[held] / 2
    width = 0.9 * (calibration.edges[1] - calibration.edges[0])
    accuracy, confidence = calibration.accuracy[held], calibration.confidence[held]
    met = np.minimum(accuracy, confidence)
    axes.bar(middles, met, width, color=_BAR)
    # Too sure or not sure enough.
    for beyond, color in ((confidence - met, _GAP), (accuracy - met, _BAR)):
        axes.bar(middles, beyond, width, bottom=met, color=color, alpha=0.45)
    axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=9, length=0)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("confidence", color=_INK, fontsize=9)
    axes.set_ylabel("right", color=_INK, fontsize=9)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    return _svg(figure)


def _svg(figure: Figure) -> Markup:
    """The figure as an SVG element that scales with its place and takes the page's colours."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "evaluation"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg)
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)  # "axes_1" and the like, never referred to
    for color, css in _CSS_COLORS.items():
        svg = svg.replace(color, css)
    return Markup(svg)


@dataclass(frozen=True)
class _Bin:
    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def _bins(calibration: Calibration) -> list[_Bin]:
    return [
        _Bin(*values)
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


# -------------------------------------------------------------------------- confusion and classes


@dataclass(frozen=True)
class _Cell:
    count: int
    share: float  # of the images of the row's class


def _matrix(confusion: np.ndarray) -> list[list[_Cell]]:
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    return [
        [_Cell(count, share) for count, share in zip(counts, row, strict=True)]
        for counts, row in zip(confusion.tolist(), shares.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class _Pair:
    truth: str
    predicted: str
    count: int
    share: float  # of the images of the true class


def _pairs(evaluation: Evaluation, limit: int) -> list[_Pair]:
    support = dict(zip(evaluation.labels, evaluation.support.tolist(), strict=True))
    return [
        _Pair(truth, predicted, count, count / support[truth])
        for truth, predicted, count in evaluation.most_confused(limit)
    ]


@dataclass(frozen=True)
class _ClassRow:
    label: str
    support: int
    precision: float
    recall: float
    f1: float


def _class_rows(evaluation: Evaluation) -> list[_ClassRow]:
    return [
        _ClassRow(*values)
        for values in zip(
            evaluation.labels,
            evaluation.support.tolist(),
            evaluation.precision.tolist(),
            evaluation.recall.tolist(),
            evaluation.f1.tolist(),
            strict=True,
        )
    ]


# --------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True)
class _Picture:
    mistake: Mistake
    uri: str
    pixelated: bool

    @classmethod
    def of(cls, mistake: Mistake) -> "_Picture":
        image = Image.fromarray(mistake.image).convert("RGB")
        pixelated = max(image.size) < _PIXELATED_BELOW
        image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        return cls(mistake, _data_uri(image, "png" if pixelated else "jpeg"), pixelated)


def _data_uri(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


# ------------------------------------------------------------------------------------------- text


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _exact(share: float) -> str:
    return f"{share:.2%}"


def _interval(interval: Interval) -> str:
    return f"{interval.low:.1%} to {interval.high:.1%}"


def _confidence(share: float) -> str:
    """Never 100%, which no classifier should be taken to mean."""
    return ">99.9%" if share > 0.999 else f"{share:.1%}"


def _setting(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        # Such as the shapes of several inputs.
        inner = " x ".join if value and all(isinstance(item, int) for item in value) else ", ".join
        return inner(_setting(item) for item in value)
    return str(value)
