"""A training run's report: one HTML file that needs nothing else, neither network nor script."""

import base64
import io
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, FuncFormatter, MaxNLocator, PercentFormatter
from PIL import Image

from keras_cls.evaluation.metrics import Evaluation
from keras_cls.files import new_file

# More classes than these no longer fit: in half the page's width, in a matrix with names and
# numbers, as pixels of the overview.
_MOST_BESIDE_CLASSES = 12
_MOST_NAMED_CLASSES = 30
_MOST_OVERVIEW_PIXELS = 250

_PIXELATED_BELOW = 96  # images of fewer pixels on the longer side are shown with visible pixels
_LONGEST_SIDE = 320  # larger images are scaled down to it

# Matplotlib draws in these colours, which then become the page's CSS variables: so the curves
# follow its light and dark appearance.
_INK, _GRID, _TRAINING, _VALIDATION = "#010101", "#020202", "#030303", "#040404"
_CSS_COLORS = {
    _INK: "var(--muted)",
    _GRID: "var(--line)",
    _TRAINING: "var(--training)",
    _VALIDATION: "var(--validation)",
}
# Of the overview, readable on a light and on a dark page; as --hit and --miss in the template.
_HIT, _MISS = (59, 120, 240), (226, 100, 40)


@dataclass(frozen=True, eq=False)
class Mistake:
    """A misclassified image.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        name: the file, or what else the image is called.
        truth: the true class.
        predicted: the predicted class.
        confidence: the predicted class's probability, in 0..1.
    """

    image: np.ndarray
    name: str
    truth: str
    predicted: str
    confidence: float


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    settings: Mapping[str, object],
    history: Sequence[Mapping[str, float]],
    evaluation: Evaluation,
    mistakes: Sequence[Mistake],
    notes: Sequence[str] = (),
) -> Path:
    """Write the report of a training run as one self-contained HTML file.

    The file appears whole or not at all: it is written beside and renamed.

    Args:
        path: the file; missing folders are made, an existing file is replaced.
        title: the heading.
        settings: what the run was told, by name.
        history: one row an epoch, in order, with the key ``epoch`` and any of ``loss``,
            ``accuracy``, ``val_loss``, ``val_accuracy``, ``learning_rate``, ``seconds`` and others.
            Missing keys and NaN leave gaps.
        evaluation: the best classifier's results.
        mistakes: shown as pictures in the given order, so the worst belong first.
        notes: sentences that the reader should see before the numbers.

    Returns:
        ``path`` as a Path.
    """
    path = Path(path)
    page = _page(title, settings, history, evaluation, mistakes, notes)
    with new_file(path) as file:
        # A file name may hold bytes that are no text.
        file.write_bytes(page.encode("utf-8", "backslashreplace"))
    return path


def _page(
    title: str,
    settings: Mapping[str, object],
    history: Sequence[Mapping[str, float]],
    evaluation: Evaluation,
    mistakes: Sequence[Mistake],
    notes: Sequence[str],
) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        setting=_setting_text, number=_number_text, percent=_percent_text, confidence=_confidence
    )
    class_rows = _class_rows(evaluation)
    many = len(evaluation.labels) > _MOST_NAMED_CLASSES
    return environment.get_template("report.html.j2").render(
        title=title,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        notes=notes,
        tiles=_tiles(history, evaluation),
        charts=_charts(history),
        epoch_columns=list(dict.fromkeys(key for row in history for key in row)),
        history=history,
        best_row=_best_row(history),
        labels=evaluation.labels,
        matrix=None if many else _matrix_rows(evaluation.confusion),
        dense=_MOST_BESIDE_CLASSES < len(evaluation.labels) <= _MOST_NAMED_CLASSES,
        slanted=max(map(len, evaluation.labels)) > 3,
        overview=_overview(evaluation.confusion) if many else None,
        pairs=_pairs(evaluation, limit=25 if many else 10),
        class_rows=class_rows,
        weakest=sorted(class_rows, key=lambda row: row.f1)[:20] if many else None,
        mistakes=[_Picture.of(mistake) for mistake in mistakes],
        settings=settings,
        unreadable=evaluation.unreadable,
        versions=_versions(),
    )


# ------------------------------------------------------------------------------------- headline


@dataclass(frozen=True)
class _Tile:
    caption: str
    value: str
    detail: str = ""


def _tiles(history: Sequence[Mapping[str, float]], evaluation: Evaluation) -> list[_Tile]:
    wrong = evaluation.count - int(evaluation.confusion.trace())
    tiles = [_Tile("Top-1 accuracy", _percent_text(evaluation.top1), f"{wrong:,} wrong")]
    if evaluation.top5 is not None:
        tiles.append(_Tile("Top-5 accuracy", _percent_text(evaluation.top5)))
    tiles.append(_Tile("Loss", f"{evaluation.loss:.3f}", "cross-entropy"))
    tiles.append(
        _Tile(
            "Evaluated on", f"{evaluation.count:,}", f"images of {len(evaluation.labels)} classes"
        )
    )
    if history:
        tiles.append(_epochs_tile(history))
    return tiles


def _epochs_tile(history: Sequence[Mapping[str, float]]) -> _Tile:
    best, seconds = _best_row(history), _column(history, "seconds")
    duration = "" if np.isnan(seconds).all() else f"in {_duration(float(np.nansum(seconds)))}"
    if best is None:
        return _Tile("Epochs", f"{len(history)}", duration)
    return _Tile("Best epoch", f"{_epochs(history)[best]:g}", f"of {len(history)} {duration}")


def _epochs(history: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Float64 [epochs], counted from 1 where the history does not number them."""
    return np.array([row.get("epoch", i) for i, row in enumerate(history, 1)], dtype=np.float64)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.2g} s"


# --------------------------------------------------------------------------------------- curves


@dataclass(frozen=True)
class _Chart:
    caption: str
    keys: tuple[str, ...]  # "training", "validation": those that it shows
    svg: Markup


def _charts(history: Sequence[Mapping[str, float]]) -> list[_Chart]:
    """The curves for which the history has values."""
    charts = (
        _chart(history, "Loss", "loss", FuncFormatter(_tick_text)),
        _chart(history, "Accuracy", "accuracy", PercentFormatter(1.0)),
        _chart(history, "Learning rate", "learning_rate", FuncFormatter(_tick_text)),
    )
    return [chart for chart in charts if chart is not None]


def _chart(
    history: Sequence[Mapping[str, float]], caption: str, key: str, formatter: Formatter
) -> _Chart | None:
    columns = {"training": _column(history, key), "validation": _column(history, f"val_{key}")}
    columns = {name: values for name, values in columns.items() if not np.isnan(values).all()}
    if not columns:
        return None
    epochs = _epochs(history)
    figure = Figure(figsize=(3.7, 2.4), layout="constrained")
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    _draw_curves(axes, epochs, columns)
    best = _best_row(history)
    if best is not None:
        axes.axvline(epochs[best], color=_VALIDATION, linewidth=0.8, linestyle=(0, (3, 3)))
        if "validation" in columns:
            axes.plot(epochs[best], columns["validation"][best], "o", color=_VALIDATION, ms=5)
    _style_axes(axes, formatter)
    return _Chart(caption, tuple(columns), _svg(figure, salt=key))


def _draw_curves(axes: Axes, epochs: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
    colors = {"training": _TRAINING, "validation": _VALIDATION}
    for name, values in columns.items():
        # A lone point, or one between gaps, has no line that would show it.
        marker = "o" if np.isfinite(values).sum() < 12 else None
        axes.plot(epochs, values, color=colors[name], linewidth=1.6, marker=marker, markersize=3)


def _style_axes(axes: Axes, formatter: Formatter) -> None:
    axes.patch.set_visible(False)  # the page shows through
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=9, length=0)
    axes.set_xlabel("epoch", color=_INK, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(formatter)


def _svg(figure: Figure, salt: str) -> Markup:
    """The figure as an SVG element that scales with its place and takes the page's colours."""
    buffer = io.StringIO()
    # Text stays text; element names that several charts on a page must not share get the salt.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg)
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)  # "axes_1" and the like, never referred to
    for color, css in _CSS_COLORS.items():
        svg = svg.replace(color, css)
    return Markup(svg)


def _column(history: Sequence[Mapping[str, float]], key: str) -> np.ndarray:
    """Float64 [epochs], NaN where the history has no finite value."""
    values = np.array([row.get(key, math.nan) for row in history], dtype=np.float64)
    return np.where(np.isfinite(values), values, math.nan)


def _best_row(history: Sequence[Mapping[str, float]]) -> int | None:
    """Index of the row that training keeps: best validation accuracy, then loss, then earliest."""
    accuracy, loss = _column(history, "val_accuracy"), _column(history, "val_loss")
    if np.isnan(accuracy).all() and np.isnan(loss).all():
        return None
    return int(np.lexsort((loss, -accuracy))[0])


# ------------------------------------------------------------------------------------- confusion


@dataclass(frozen=True)
class _Cell:
    count: int
    share: float  # of the images of the row's class


def _matrix_rows(confusion: np.ndarray) -> list[list[_Cell]]:
    shares = _row_shares(confusion)
    return [
        [_Cell(count, share) for count, share in zip(counts, row_shares, strict=True)]
        for counts, row_shares in zip(confusion.tolist(), shares.tolist(), strict=True)
    ]


def _row_shares(confusion: np.ndarray) -> np.ndarray:
    return confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)


def _overview(confusion: np.ndarray) -> str:
    """The whole matrix as a data URI: a pixel per cell or block of cells, opaque if full."""
    opacity = np.sqrt(_row_shares(confusion))  # the root keeps rare mistakes visible
    block = -(-len(confusion) // _MOST_OVERVIEW_PIXELS)
    side = -(-len(confusion) // block)
    padding = side * block - len(confusion)
    blocks = np.pad(opacity, (0, padding)).reshape(side, block, side, block).max(axis=(1, 3))
    pixels = np.empty((side, side, 4), dtype=np.uint8)
    pixels[..., :3] = _MISS
    pixels[np.arange(side), np.arange(side), :3] = _HIT
    pixels[..., 3] = np.rint(blocks * 255)
    return _data_uri(Image.fromarray(pixels), "png")


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


# -------------------------------------------------------------------------------------- pictures


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


# ------------------------------------------------------------------------------------------ text


def _percent_text(share: float) -> str:
    return f"{share:.1%}"


def _confidence(share: float) -> str:
    """Never 100%, which no classifier should be taken to mean."""
    return ">99.9%" if share > 0.999 else f"{share:.1%}"


def _number_text(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:.4g}"


def _tick_text(value: float, _position: int) -> str:
    return f"{value:.6g}"


def _setting_text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_setting_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_setting_text(item) for item in value)
    return str(value)


def _versions() -> list[str]:
    """Such as "keras 3.15.0", for the packages that decide the result and are installed."""
    found = []
    for package in ("keras-cls", "keras", "tensorflow", "numpy"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return [*found, f"Python {platform.python_version()}", platform.platform(terse=True)]
