"""A training run's report: one HTML file that needs nothing else, neither network nor script."""

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, FuncFormatter, MaxNLocator, PercentFormatter
from PIL import Image

from keras_cls.evaluation import html
from keras_cls.evaluation.metrics import Evaluation, Mistake
from keras_cls.files import new_file

# More classes than these no longer fit as pixels of the overview.
_MOST_OVERVIEW_PIXELS = 250

# Of the overview, readable on a light and on a dark page; as --hit and --miss in page.css.
_HIT, _MISS = (59, 120, 240), (226, 100, 40)


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
    environment = html.environment(Path(__file__).parent, setting=html.setting, number=_number_text)
    class_rows = html.class_rows(evaluation)
    many = len(evaluation.labels) > html.MOST_NAMED_CLASSES
    return environment.get_template("report.html.j2").render(
        title=title,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        notes=notes,
        tiles=_tiles(history, evaluation),
        charts=_charts(history),
        epoch_columns=list(dict.fromkeys(key for row in history for key in row)),
        history=history,
        best_row=_best_row(history),
        **html.confusion_of(evaluation),
        overview=_overview(evaluation.confusion) if many else None,
        class_rows=class_rows,
        weakest=sorted(class_rows, key=lambda row: row.f1)[:20] if many else None,
        pictures=[html.Picture.of(mistake) for mistake in mistakes],
        settings=settings,
        unreadable=evaluation.unreadable,
        versions=_versions(),
    )


# ------------------------------------------------------------------------------------- headline


def _tiles(history: Sequence[Mapping[str, float]], evaluation: Evaluation) -> list[html.Tile]:
    wrong = evaluation.count - int(evaluation.confusion.trace())
    tiles = [html.Tile("Top-1 accuracy", html.percent(evaluation.top1), f"{wrong:,} wrong")]
    if evaluation.top5 is not None:
        tiles.append(html.Tile("Top-5 accuracy", html.percent(evaluation.top5)))
    tiles.append(html.Tile("Loss", f"{evaluation.loss:.3f}", "cross-entropy"))
    tiles.append(
        html.Tile(
            "Evaluated on", f"{evaluation.count:,}", f"images of {len(evaluation.labels)} classes"
        )
    )
    if history:
        tiles.append(_epochs_tile(history))
    return tiles


def _epochs_tile(history: Sequence[Mapping[str, float]]) -> html.Tile:
    best, seconds = _best_row(history), _column(history, "seconds")
    duration = "" if np.isnan(seconds).all() else f"in {_duration(float(np.nansum(seconds)))}"
    if best is None:
        return html.Tile("Epochs", f"{len(history)}", duration)
    return html.Tile("Best epoch", f"{_epochs(history)[best]:g}", f"of {len(history)} {duration}")


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
    axes = figure.add_subplot()
    _draw_curves(axes, epochs, columns)
    best = _best_row(history)
    if best is not None:
        axes.axvline(epochs[best], color=html.VALIDATION, linewidth=0.8, linestyle=(0, (3, 3)))
        if "validation" in columns:
            axes.plot(epochs[best], columns["validation"][best], "o", color=html.VALIDATION, ms=5)
    _style_axes(axes, formatter)
    return _Chart(caption, tuple(columns), html.svg(figure, salt=key))


def _draw_curves(axes: Axes, epochs: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
    colors = {"training": html.TRAINING, "validation": html.VALIDATION}
    for name, values in columns.items():
        # A lone point, or one between gaps, has no line that would show it.
        marker = "o" if np.isfinite(values).sum() < 12 else None
        axes.plot(epochs, values, color=colors[name], linewidth=1.6, marker=marker, markersize=3)


def _style_axes(axes: Axes, formatter: Formatter) -> None:
    html.style_axes(axes)
    axes.set_xlabel("epoch", color=html.INK, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(formatter)


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


def _overview(confusion: np.ndarray) -> str:
    """The whole matrix as a data URI: a pixel per cell or block of cells, opaque if full."""
    opacity = np.sqrt(html.row_shares(confusion))  # the root keeps rare mistakes visible
    block = -(-len(confusion) // _MOST_OVERVIEW_PIXELS)
    side = -(-len(confusion) // block)
    padding = side * block - len(confusion)
    blocks = np.pad(opacity, (0, padding)).reshape(side, block, side, block).max(axis=(1, 3))
    pixels = np.empty((side, side, 4), dtype=np.uint8)
    pixels[..., :3] = _MISS
    pixels[np.arange(side), np.arange(side), :3] = _HIT
    pixels[..., 3] = np.rint(blocks * 255)
    return html.data_uri(Image.fromarray(pixels), "png")


# ------------------------------------------------------------------------------------------ text


def _number_text(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:.4g}"


def _tick_text(value: float, _position: int) -> str:
    return f"{value:.6g}"


def _versions() -> list[str]:
    """Such as "keras 3.15.0", for the packages that decide the result and are installed."""
    found = []
    for package in ("keras-cls", "keras", "tensorflow", "numpy"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return [*found, f"Python {platform.python_version()}", platform.platform(terse=True)]
