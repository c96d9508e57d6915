"""A training run's report: one HTML file that needs nothing else, neither network nor script."""

import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from keras_cls.evaluation import html
from keras_cls.evaluation.metrics import Evaluation
from keras_cls.evaluation.multi_label import MultiLabelEvaluation
from keras_cls.files import new_file
from keras_cls.training.examining import Examples

# More classes than these no longer fit as pixels of the overview.
_MOST_OVERVIEW_PIXELS = 250
_WEAKEST_SHOWN = 20
_MOST_BARS = 80  # more epochs are drawn as areas

CHART_SIZE = (4.3, 2.4)
"""In inches, of which the text is so much a share that it can be read at a phone's width."""

# Of the overview, readable on a light and on a dark page; as --hit and --miss in page.css.
_HIT, _MISS = (59, 120, 240), (226, 100, 40)

# Where the network waits for images longer than this share of its time, something can be gained.
_MUCH_WAITING = 0.1


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    settings: Mapping[str, object],
    history: Sequence[Mapping[str, float]],
    best_epoch: int | None,
    evaluation: Evaluation | MultiLabelEvaluation,
    examples: Examples,
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> Path:
    """Write the report of a training run as one self-contained HTML file.

    The file appears whole or not at all: it is written beside and renamed.

    Args:
        path: the file; missing folders are made, an existing file is replaced.
        title: the heading.
        settings: what the run was told and what it came to, by name; what is nested becomes a
            group of its own.
        history: one row an epoch, in order, with the key ``epoch`` and any of ``loss``,
            ``accuracy``, ``top5``, the same with ``val_``, ``val_map``, ``learning_rate``, and of
            times ``seconds`` (training and validation), ``data_seconds`` and
            ``validation_seconds`` of these, ``saving_seconds`` beside them, and
            ``images_per_second``. Missing keys and NaN leave gaps; what no row has is left out.
        best_epoch: the ``epoch`` of the row whose classifier was kept; None for none.
        evaluation: that classifier's results.
        examples: shown as pictures in the given order.
        notes: sentences that the reader should see before the numbers.
        warnings: likewise, of what may be wrong, such as very uneven classes.

    Returns:
        ``path`` as a Path.
    """
    path = Path(path)
    page = _page(title, settings, history, best_epoch, evaluation, examples, notes, warnings)
    with new_file(path) as file:
        # A file name may hold bytes that are no text.
        file.write_bytes(page.encode("utf-8", "backslashreplace"))
    return path


def _page(
    title: str,
    settings: Mapping[str, object],
    history: Sequence[Mapping[str, float]],
    best_epoch: int | None,
    evaluation: Evaluation | MultiLabelEvaluation,
    examples: Examples,
    notes: Sequence[str],
    warnings: Sequence[str],
) -> str:
    environment = html.environment(Path(__file__).parent, number=number_text)
    best = row_of(history, best_epoch)
    return environment.get_template("report.html.j2").render(
        title=title,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        notes=notes,
        warnings=warnings,
        tiles=_tiles(history, best, evaluation),
        charts=_charts(history, best, isinstance(evaluation, MultiLabelEvaluation)),
        epoch_columns=list(dict.fromkeys(key for row in history for key in row)),
        history=history,
        best_row=best,
        timing=_timing(history),
        **_results(evaluation),
        calibration=evaluation.calibration,
        bins=html.bins(evaluation.calibration),
        mistakes=_pictures(examples.mistakes),
        rights=_pictures(examples.rights),
        groups=setting_groups(settings),
        unreadable=evaluation.unreadable,
        versions=_versions(),
    )


def _results(evaluation: Evaluation | MultiLabelEvaluation) -> dict[str, Any]:
    """The confusion, where an image shows one class, and the figures of the classes."""
    rows = html.class_rows(evaluation)
    many = len(evaluation.labels) > html.MOST_NAMED_CLASSES
    weakest = sorted((row for row in rows if row.support), key=_strength)[:_WEAKEST_SHOWN]
    found = {"class_rows": rows, "weakest": weakest if many else None, "count": len(rows)}
    if isinstance(evaluation, MultiLabelEvaluation):
        return {
            **found,
            "confused": False,
            "reliability": html.reliability(evaluation.calibration, "there"),
            "answers": "there",
        }
    return {
        **found,
        **html.confusion_of(evaluation),
        "confused": True,
        "overview": _overview(evaluation.confusion) if many else None,
        "reliability": html.reliability(evaluation.calibration),
        "answers": "right",
    }


def _strength(row: html.ClassRow) -> float:
    return row.f1 if row.average_precision is None else row.average_precision


def _pictures(examples: Sequence[Any]) -> list[html.Picture]:
    return [html.Picture.of(each, each.overlay, each.explained) for each in examples]


# ------------------------------------------------------------------------------------- headline


def _tiles(
    history: Sequence[Mapping[str, float]],
    best: int | None,
    evaluation: Evaluation | MultiLabelEvaluation,
) -> list[html.Tile]:
    if isinstance(evaluation, MultiLabelEvaluation):
        tiles, count = _multi_label_tiles(evaluation), evaluation.images
    else:
        tiles, count = _single_label_tiles(evaluation), evaluation.count
    classes = f"images of {len(evaluation.labels):,} classes"
    tiles.append(html.Tile("Evaluated on", f"{count:,}", classes))
    if history:
        tiles.append(_epochs_tile(history, best))
    return tiles


def _single_label_tiles(evaluation: Evaluation) -> list[html.Tile]:
    wrong = evaluation.count - int(evaluation.confusion.trace())
    tiles = [html.Tile("Top-1 accuracy", html.percent(evaluation.top1), f"{wrong:,} wrong")]
    if evaluation.top5 is not None:
        beyond = round((1 - evaluation.top5) * evaluation.count)
        tiles.append(html.Tile("Top-5 accuracy", html.percent(evaluation.top5), f"{beyond:,} not"))
    error = html.percent(evaluation.calibration.error)
    tiles.append(html.Tile("Loss", f"{evaluation.loss:.3f}", "cross-entropy"))
    tiles.append(html.Tile("Calibration error", error, "of probabilities"))
    return tiles


def _multi_label_tiles(evaluation: MultiLabelEvaluation) -> list[html.Tile]:
    ranked = html.percent(evaluation.mean_average_precision)
    exact = html.percent(evaluation.exact_match)
    return [
        html.Tile("Mean average precision", ranked, "over the classes"),
        html.Tile("F1", html.percent(evaluation.micro_f1), "of all answers"),
        html.Tile("All right", exact, "of the images"),
        html.Tile("Loss", f"{evaluation.loss:.3f}", "binary cross-entropy"),
    ]


def _epochs_tile(history: Sequence[Mapping[str, float]], best: int | None) -> html.Tile:
    seconds = total_seconds(history)
    duration = "" if seconds is None else f"in {duration_text(seconds)}"
    if best is None:
        return html.Tile("Epochs", f"{len(history)}", duration)
    return html.Tile("Best epoch", f"{epochs_of(history)[best]:g}", f"of {len(history)} {duration}")


# --------------------------------------------------------------------------------------- curves


@dataclass(frozen=True)
class Unit:
    """How a figure is written at an axis, and in words."""

    tick: Callable[[float], str]
    text: Callable[[float], str]


SHARE = Unit(lambda value: f"{100 * value:.4g}%", html.percent)
NUMBER = Unit(lambda value: f"{value:,.6g}", lambda value: f"{value:.4g}")


@dataclass(frozen=True)
class _Chart:
    """A figure with its caption.

    Attributes:
        caption: what is drawn.
        keys: (CSS variable, words) of the colours.
        svg: the figure.
        words: the same for who cannot see it.
        detail: a few words beside the caption.
    """

    caption: str
    keys: tuple[tuple[str, str], ...]
    svg: Markup
    words: str
    detail: str = ""


_KEYS = {"training": "--training", "validation": "--validation"}


def _charts(
    history: Sequence[Mapping[str, float]], best: int | None, multi_label: bool
) -> list[_Chart]:
    """The curves for which the history has values."""
    charts = (
        _chart(history, best, "Loss", "loss", NUMBER),
        _chart(history, best, "Mean average precision", "map", SHARE),
        _chart(history, best, _accuracy(multi_label), "accuracy", SHARE),
        _chart(history, best, "Top-5 accuracy", "top5", SHARE),
        _chart(history, best, "Learning rate", "learning_rate", NUMBER),
    )
    return [chart for chart in charts if chart is not None]


def _accuracy(multi_label: bool) -> str:
    return "Right answers" if multi_label else "Top-1 accuracy"


def _chart(
    history: Sequence[Mapping[str, float]],
    best: int | None,
    caption: str,
    key: str,
    unit: Unit,
) -> _Chart | None:
    columns = {"training": column(history, key), "validation": column(history, f"val_{key}")}
    columns = {name: values for name, values in columns.items() if not np.isnan(values).all()}
    if not columns:
        return None
    epochs = epochs_of(history)
    figure = Figure(figsize=CHART_SIZE, layout="constrained")
    axes = figure.add_subplot()
    _draw_curves(axes, epochs, columns)
    detail = ""
    if best is not None:
        axes.axvline(epochs[best], color=html.VALIDATION, linewidth=0.8, linestyle=(0, (3, 3)))
        if "validation" in columns:
            value = columns["validation"][best]
            axes.plot(epochs[best], value, "o", color=html.VALIDATION, ms=5)
            detail = "" if math.isnan(value) else f"{unit.text(value)} at the best"
    style_axes(axes, unit)
    alone = list(columns) == ["training"]
    keys = () if alone else tuple((_KEYS[name], name) for name in columns)
    words = "; ".join(f"{name} {_course(values, unit)}" for name, values in columns.items())
    return _Chart(caption, keys, html.svg(figure, salt=key), f"{caption} by epoch: {words}", detail)


def _course(values: np.ndarray, unit: Unit) -> str:
    finite = values[np.isfinite(values)]
    return f"from {unit.text(finite[0])} to {unit.text(finite[-1])}"


def _draw_curves(axes: Axes, epochs: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
    looks = {"training": (html.TRAINING, 1.4), "validation": (html.VALIDATION, 2.0)}
    for name, values in columns.items():
        color, width = looks[name]
        # A lone point, or one between gaps, has no line that would show it.
        marker = "o" if np.isfinite(values).sum() < 12 else None
        axes.plot(epochs, values, color=color, linewidth=width, marker=marker, markersize=3)


def style_axes(axes: Axes, unit: Unit, x: str = "epoch") -> None:
    """As charts over epochs have them."""
    html.style_axes(axes)
    axes.set_xlabel(x, color=html.INK, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: unit.tick(value)))


# ------------------------------------------------------------------------------- of the history


def column(history: Sequence[Mapping[str, float]], key: str) -> np.ndarray:
    """Float64 [epochs], NaN where the history has no finite value."""
    values = np.array([row.get(key, math.nan) for row in history], dtype=np.float64)
    return np.where(np.isfinite(values), values, math.nan)


def epochs_of(history: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Float64 [epochs], counted from 1 where the history does not number them."""
    return np.array([row.get("epoch", i) for i, row in enumerate(history, 1)], dtype=np.float64)


def row_of(history: Sequence[Mapping[str, float]], epoch: int | None) -> int | None:
    """The place of an epoch in the history; None where it is not there."""
    if epoch is None:
        return None
    places = np.flatnonzero(epochs_of(history) == epoch)
    return int(places[0]) if len(places) else None


def seconds_of(history: Sequence[Mapping[str, float]]) -> np.ndarray:
    """What each epoch took with validation and saving, float64 [epochs]; NaN where unknown."""
    return column(history, "seconds") + np.nan_to_num(column(history, "saving_seconds"))


def total_seconds(history: Sequence[Mapping[str, float]]) -> float | None:
    """What all epochs took; None where no epoch's time is known."""
    seconds = seconds_of(history)
    return None if np.isnan(seconds).all() else float(np.nansum(seconds))


# --------------------------------------------------------------------------------------- timing


@dataclass(frozen=True)
class _Part:
    """What a part of the time went into; ``share`` is that of the whole."""

    words: str
    key: str
    duration: str
    share: float


@dataclass(frozen=True)
class _Timing:
    parts: tuple[_Part, ...]
    charts: tuple[_Chart, ...]
    waiting: str


# In the order of the bars: what for, its colour, the CSS variable of it.
_PARTS = (
    ("computing", html.SERIES[0], "--series-1"),
    ("waiting for images", html.SERIES[1], "--series-2"),
    ("validation", html.SERIES[7], "--series-8"),
    ("saving", html.SERIES[2], "--series-3"),
)


def _timing(history: Sequence[Mapping[str, float]]) -> _Timing | None:
    """What the time went into; None where the history does not say."""
    whole = seconds_of(history)
    if np.isnan(column(history, "data_seconds")).all() or not np.nansum(whole):
        return None
    waiting, validation, saving = (
        np.nan_to_num(column(history, f"{name}_seconds"))
        for name in ("data", "validation", "saving")
    )
    computing = np.maximum(np.nan_to_num(whole) - waiting - validation - saving, 0)
    seconds = np.stack([computing, waiting, validation, saving])  # [parts, epochs]
    totals = seconds.sum(axis=1)
    parts = tuple(
        _Part(words, key, duration_text(total), total / totals.sum())
        for (words, _, key), total in zip(_PARTS, totals.tolist(), strict=True)
    )
    share = totals[1] / max(totals[0] + totals[1], 1e-9)
    advice = (
        " Faster storage, smaller image files or more processor cores would help."
        if share > _MUCH_WAITING
        else ""
    )
    charts = (_parts_chart(history, seconds, parts), _speed_chart(history))
    return _Timing(
        parts,
        tuple(chart for chart in charts if chart is not None),
        f"While training, {share:.1%} of the time went into waiting for images.{advice}",
    )


def _parts_chart(
    history: Sequence[Mapping[str, float]], seconds: np.ndarray, parts: Sequence[_Part]
) -> _Chart:
    epochs = epochs_of(history)
    figure = Figure(figsize=CHART_SIZE, layout="constrained")
    axes = figure.add_subplot()
    colors = [color for _, color, _ in _PARTS]
    if len(epochs) > _MOST_BARS:
        axes.stackplot(epochs, seconds, colors=colors, linewidth=0)
    else:
        below = np.cumsum(seconds, axis=0) - seconds
        for values, bottom, color in zip(seconds, below, colors, strict=True):
            axes.bar(epochs, values, 0.8, bottom=bottom, color=color, linewidth=0)
    style_axes(axes, NUMBER)
    words = ", ".join(f"{part.words} {part.share:.1%}" for part in parts)
    keys = tuple((part.key, part.words) for part in parts)
    return _Chart(
        "Seconds an epoch", keys, html.svg(figure, salt="parts"), f"Seconds an epoch: {words}"
    )


def _speed_chart(history: Sequence[Mapping[str, float]]) -> _Chart | None:
    speed = column(history, "images_per_second")
    if np.isnan(speed).all():
        return None
    figure = Figure(figsize=CHART_SIZE, layout="constrained")
    axes = figure.add_subplot()
    _draw_curves(axes, epochs_of(history), {"validation": speed})
    style_axes(axes, NUMBER)
    axes.set_ylim(0, 1.15 * np.nanmax(speed) or 1)
    middle = f"{np.nanmedian(speed):,.4g}"
    words = f"Images a second by epoch: {middle} in the middle"
    return _Chart(
        "Training images a second", (), html.svg(figure, salt="speed"), words, f"median {middle}"
    )


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


# -------------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class SettingGroup:
    """Settings that belong together; the first group's name is empty."""

    name: str
    rows: dict[str, object]


def setting_groups(settings: Mapping[str, object]) -> list[SettingGroup]:
    """Nested settings as groups: a mapping of plain values, with what is nested in these in one."""
    groups = [SettingGroup("", {k: v for k, v in settings.items() if not _is_nested(v)})]
    for name, inner in settings.items():
        if isinstance(inner, Mapping) and inner:
            plain = {k: v for k, v in inner.items() if not _is_nested(v)}
            groups.append(SettingGroup(_as_words(name), plain))
            groups += [
                SettingGroup(_as_words(key), flat(value))
                for key, value in inner.items()
                if isinstance(value, Mapping) and value
            ]
    return [group for group in groups if group.rows]


def flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings as one table: ``{"a": {"b": 1}}`` -> ``{"a.b": 1}``."""
    rows: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows |= flat(value, f"{prefix}{key}.")
        else:
            rows[f"{prefix}{key}"] = value
    return rows


def _is_nested(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value)


def _as_words(name: str) -> str:
    known = {"request": "As asked for", "resolved": "As resolved"}
    return known.get(name, name.replace("_", " ").capitalize())


# ------------------------------------------------------------------------------------------ text


def number_text(value: float | None) -> str:
    """A figure of the history in a table."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:.4g}"


def duration_text(seconds: float) -> str:
    """Such as "2 h 5 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.2g} s"


def _versions() -> list[str]:
    """Such as "keras 3.15.0", for the packages that decide the result and are installed."""
    found = []
    for package in ("keras-cls", "keras", "tensorflow", "numpy"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return [*found, f"Python {platform.python_version()}", platform.platform(terse=True)]
