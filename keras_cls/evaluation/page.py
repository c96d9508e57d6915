"""An evaluation as one HTML file that needs nothing else, neither network nor script."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from keras_cls.classifier import library_versions
from keras_cls.evaluation import html
from keras_cls.evaluation.metrics import Calibration, Evaluation, Interval
from keras_cls.files import new_file

TEMPLATE = "evaluation.html.j2"

_WEAKEST_SHOWN = 20


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
    environment = html.environment(Path(__file__).parent, setting=html.setting, interval=_interval)
    rows = html.class_rows(evaluation)
    shown = [row for row in rows if row.support]
    many = len(evaluation.labels) > html.MOST_NAMED_CLASSES
    return environment.get_template(TEMPLATE).render(
        title=title,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        evaluation=evaluation,
        tiles=_tiles(evaluation),
        reliability=_reliability(evaluation.calibration),
        bins=_bins(evaluation.calibration),
        **html.confusion_of(evaluation),
        class_rows=rows,
        weakest=sorted(shown, key=lambda row: row.recall)[:_WEAKEST_SHOWN] if many else None,
        pictures=[html.Picture.of(mistake) for mistake in evaluation.mistakes],
        settings=settings,
        versions=[f"{name} {number}" for name, number in library_versions().items()],
    )


# ------------------------------------------------------------------------------------- headline


def _tiles(evaluation: Evaluation) -> list[html.Tile]:
    tiles = [
        html.Tile("Top-1 accuracy", _exact(evaluation.top1), _interval(evaluation.top1_interval))
    ]
    if evaluation.top5 is not None and evaluation.top5_interval is not None:
        interval = _interval(evaluation.top5_interval)
        tiles.append(html.Tile("Top-5 accuracy", _exact(evaluation.top5), interval))
    tiles.append(html.Tile("Calibration error", _exact(evaluation.calibration.error), "15 bins"))
    tiles.append(html.Tile("Loss", f"{evaluation.loss:.3f}", "cross-entropy"))
    speed = evaluation.images_per_second
    tiles.append(
        html.Tile(
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
    axes = figure.add_subplot()
    html.style_axes(axes)
    held = calibration.counts > 0
    middles = (calibration.edges[1:] + calibration.edges[:-1])[held] / 2
    width = 0.9 * (calibration.edges[1] - calibration.edges[0])
    accuracy, confidence = calibration.accuracy[held], calibration.confidence[held]
    met = np.minimum(accuracy, confidence)
    axes.bar(middles, met, width, color=html.HIT)
    # Too sure or not sure enough.
    for beyond, color in ((confidence - met, html.MISS), (accuracy - met, html.HIT)):
        axes.bar(middles, beyond, width, bottom=met, color=color, alpha=0.45)
    axes.plot([0, 1], [0, 1], color=html.INK, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("confidence", color=html.INK, fontsize=9)
    axes.set_ylabel("right", color=html.INK, fontsize=9)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    return html.svg(figure, salt="reliability")


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


# ------------------------------------------------------------------------------------------- text


def _exact(share: float) -> str:
    return f"{share:.2%}"


def _interval(interval: Interval) -> str:
    return f"{interval.low:.1%} to {interval.high:.1%}"
