"""What a budget search found, as a table and as one HTML page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter
from rich.table import Table
from rich.text import Text

from keras_cls.classifier import Classifier, library_versions
from keras_cls.compression.budget import Budget, Measured
from keras_cls.evaluation import html
from keras_cls.files import new_file

_COLUMNS = ("accuracy", "change", "size", "packed", "latency", "in bytes", "zeros")


class Shown(Protocol):
    """A candidate, as the table shows it."""

    @property
    def name(self) -> str:
        """What the table calls it."""

    @property
    def measured(self) -> Measured | None:
        """None where it could not be made."""

    @property
    def problem(self) -> str | None:
        """Why it could not be made."""

    @property
    def on_the_front(self) -> bool:
        """Whether no other beats it in everything."""


@dataclass(frozen=True)
class _Row:
    number: int
    name: str
    texts: tuple[str, ...]
    is_best: bool
    on_the_front: bool
    problem: str | None


@dataclass(frozen=True)
class _Chart:
    caption: str
    words: str
    svg: Markup


def table_of(accuracy: float, found: Sequence[Shown], best: Shown) -> Table:
    """The candidates as a table for a terminal; a star marks those that no other beats."""
    table = Table("", *_COLUMNS, "", box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:-1]:
        column.justify = "right"
    for row in _rows(accuracy, found, best):
        style = "bold green" if row.is_best else ""
        cells = [Text(text, style) for text in row.texts] or [Text("not possible", "dim")]
        cells += [Text("")] * (len(_COLUMNS) - len(cells))
        table.add_row(Text(row.name, style), *cells, Text("*" if row.on_the_front else ""))
    return table


def write_report(
    path: Path,
    classifier: Classifier,
    accuracy: float,
    found: Sequence[Shown],
    best: Shown,
    budget: Budget,
    missed: str,
) -> Path:
    """Write the page; it appears whole or not at all.

    Args:
        path: the file.
        classifier: what was compressed.
        accuracy: its own.
        found: the candidates, in the order of the ladder.
        best: the one that was chosen.
        budget: what was allowed.
        missed: by how much the best one misses it, in words.
    """
    assert best.measured is not None
    template = html.environment(Path(__file__).parent).get_template("compression.html.j2")
    text = template.render(
        title=f"{classifier.architecture}, compressed",
        tiles=_tiles(accuracy, best.measured),
        best=best,
        missed=missed,
        columns=_COLUMNS,
        rows=_rows(accuracy, found, best),
        charts=_charts(accuracy, found, best),
        budget=_limits(budget),
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        versions=[f"{name} {number}" for name, number in library_versions().items()],
    )
    with new_file(path) as file:
        file.write_text(text, encoding="utf-8")
    return path


def _limits(budget: Budget) -> dict[str, str | None]:
    drop, latency = budget.max_accuracy_drop, budget.max_latency
    size, packed = (
        None if limit is None else f"{limit / 1e6:g} MB"
        for limit in (budget.max_size, budget.max_compressed_size)
    )
    return {
        "max accuracy drop": None if drop is None else f"{100 * drop:g} points",
        "max size": size,
        "max packed size": packed,
        "max latency": None if latency is None else f"{latency:g} ms",
    }


def _tiles(accuracy: float, best: Measured) -> list[html.Tile]:
    change = f"{100 * (best.accuracy - accuracy):+.2f} points"
    packed = f"{best.compressed_size / 1e6:.2f} MB packed"
    return [
        html.Tile("Accuracy", f"{best.accuracy:.2%}", change),
        html.Tile("Size", f"{best.size / 1e6:.2f} MB", packed),
        html.Tile("Latency", f"{best.latency or 0:.2f} ms", "one image, this machine"),
    ]


def _rows(accuracy: float, found: Sequence[Shown], best: Shown) -> list[_Row]:
    return [
        _Row(
            number,
            each.name,
            () if each.measured is None else _texts(accuracy, each.measured),
            each.name == best.name,
            each.on_the_front,
            each.problem,
        )
        for number, each in enumerate(found, 1)
    ]


def _texts(accuracy: float, measured: Measured) -> tuple[str, ...]:
    return (
        f"{measured.accuracy:.2%}",
        f"{100 * (measured.accuracy - accuracy):+.2f}",
        f"{measured.size / 1e6:.2f} MB",
        f"{measured.compressed_size / 1e6:.2f} MB",
        f"{measured.latency or 0:.2f} ms",
        f"{measured.in_bytes:.0%}" if measured.in_bytes else "",
        f"{measured.zeros:.0%}" if measured.zeros >= 0.005 else "",
    )


def _charts(accuracy: float, found: Sequence[Shown], best: Shown) -> list[_Chart]:
    costs: tuple[tuple[str, str, Callable[[Measured], float]], ...] = (
        ("Accuracy by packed size", "MB, packed", lambda one: one.compressed_size / 1e6),
        ("Accuracy by latency", "ms for one image", lambda one: one.latency or 0.0),
    )
    made = [(each, each.measured) for each in found if each.measured is not None]
    numbers = [number for number, each in enumerate(found, 1) if each.measured is not None]
    charts = []
    for caption, unit, cost in costs:
        x = np.array([cost(measured) for _, measured in made])
        y = np.array([measured.accuracy for _, measured in made])
        words = "; ".join(
            f"{each.name}: {one.accuracy:.2%} at {cost(one):.3g} {unit}" for each, one in made
        )
        chosen = [each.name == best.name for each, _ in made].index(True)
        drawn = _pareto(x, y, numbers, accuracy, chosen, unit)
        charts.append(_Chart(caption, words, html.svg(drawn, salt=unit)))
    return charts


def _lone(value: float, _: int) -> str:
    """A tick between the powers of ten, but for those that would run into the next one's."""
    return f"{value:g}" if f"{value:.0e}"[0] in "235" else ""


def _pareto(
    x: np.ndarray,
    y: np.ndarray,
    numbers: Sequence[int],
    accuracy: float,
    best: int,
    unit: str,
) -> Figure:
    """Numbered points, the line of those that none beats in these two, the accuracy there was."""
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    html.style_axes(axes)
    front = [i for i in np.lexsort((-y, x)) if not np.any((x < x[i]) & (y >= y[i]))]
    highest = np.maximum.accumulate(y[front])
    kept = [i for i, top in zip(front, highest, strict=True) if y[i] == top]
    axes.axhline(accuracy, color=html.INK, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.step(x[kept], y[kept], where="post", color=html.VALIDATION, linewidth=1.2)
    axes.scatter(x, y, s=22, color=html.TRAINING, zorder=3)
    axes.scatter(x[kept], y[kept], s=26, color=html.VALIDATION, zorder=4)
    axes.scatter(
        x[best], y[best], s=110, facecolors="none", edgecolors=html.MISS, linewidths=1.8, zorder=5
    )
    # Those of one place share a text, which else would be set over another.
    for place in sorted(set(zip(x, y, strict=True))):
        here = [str(n) for n, *at in zip(numbers, x, y, strict=True) if tuple(at) == place]
        axes.annotate(
            ", ".join(here),
            place,
            (-5, 5),
            textcoords="offset points",
            ha="right",
            color=html.INK,
            fontsize=7,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(_lone))
    axes.tick_params(axis="x", which="minor", colors=html.INK, labelsize=8, length=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(unit, color=html.INK, fontsize=9)
    return figure
