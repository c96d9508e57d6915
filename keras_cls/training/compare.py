"""Several runs on one page: what they reached, what it took, and what was different.

Only files are read, never a lock taken: a run may go on meanwhile, in another process.
"""

import csv
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from keras_cls.architectures import count_multiply_adds
from keras_cls.classifier import load
from keras_cls.errors import ConfigError
from keras_cls.evaluation import html
from keras_cls.files import new_file, read_json
from keras_cls.training import report
from keras_cls.training.run_folder import SETTINGS_FILE, STATE_FILE, History

HISTORY_FILE = "history.csv"
EVALUATION_FILE = "evaluation.json"
"""The best classifier's results, written beside the report; runs without it are compared too."""

_CLASSES_SHOWN = 25
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))


@dataclass(frozen=True)
class Size:
    """What a network costs.

    Attributes:
        parameters: the trainable ones.
        megabytes: of all weights in float32, in units of 10**6 bytes.
        multiply_adds: multiplications with their additions for one image; None where unknown.
    """

    parameters: int
    megabytes: float
    multiply_adds: int | None


@dataclass(frozen=True, eq=False)
class Run:
    """A run as its folder tells it.

    Attributes:
        path: the run folder.
        name: what tells it from the others.
        settings: what it was asked for (``request``) and what that was resolved to (``resolved``).
        history: a row an epoch; at least one.
        best_epoch: the epoch whose classifier is kept.
        finished: whether its report is written; False also while it goes on.
        classes: each class's figures by its name, where there are any.
        size: the network's, where its classifier could be read.
    """

    path: Path
    name: str
    settings: Mapping[str, Any]
    history: History
    best_epoch: int | None
    finished: bool
    classes: Mapping[str, Mapping[str, float]]
    size: Size | None

    @property
    def epochs(self) -> int:
        """How many it was asked for."""
        found = self._setting("epochs", None)
        return found if isinstance(found, int) else len(self.history)

    @property
    def status(self) -> str:
        """Whether all is done."""
        if self.finished:
            return "finished"
        return f"not finished: {len(self.history)} of {self.epochs} epochs"

    @property
    def best(self) -> Mapping[str, float]:
        """The history's row of the best epoch."""
        place = report.row_of(self.history, self.best_epoch)
        return self.history[-1 if place is None else place]

    @property
    def seconds(self) -> float | None:
        """What its epochs took."""
        return report.total_seconds(self.history)

    @property
    def images_per_second(self) -> float | None:
        """The median over its epochs."""
        found = report.column(self.history, "images_per_second")
        return None if np.isnan(found).all() else float(np.nanmedian(found))

    @property
    def network(self) -> str:
        """The name of the network, or of the classifier that it started from."""
        return str(self._setting("model", "unknown"))

    @property
    def recipe(self) -> str:
        """The recipe's name."""
        found = self._setting("recipe", "unknown")
        return str(found.get("name", "unknown") if isinstance(found, Mapping) else found)

    @property
    def batch_size(self) -> Any:
        """Images a step."""
        return self._setting("batch_size", None)

    @property
    def precision(self) -> Any:
        """In which arithmetic it computes."""
        return self._setting("precision", None)

    def _setting(self, key: str, default: Any) -> Any:
        """As resolved, else as asked for."""
        for part in ("resolved", "request"):
            if self.settings[part].get(key) is not None:
                return self.settings[part][key]
        return default


def compare(
    runs: Sequence[str | os.PathLike[str]],
    to: str | os.PathLike[str] = "comparison.html",
    *,
    console: Console | None = None,
) -> Path:
    """Compare runs on one self-contained page.

    Args:
        runs: run folders; they may be unfinished, and still going on.
        to: the page, a .html file; missing folders are made, an existing file is replaced.
        console: where a table is printed; None for nowhere.

    Returns:
        ``to`` as a Path.

    Raises:
        ConfigError: a folder holds no run, a run without a whole epoch, or a damaged one; or the
            page's name does not end in .html.
    """
    if isinstance(runs, str | os.PathLike):
        runs = [runs]
    if not runs:
        raise ConfigError("compare: name at least one run folder, such as runs/pets")
    path = Path(to).expanduser()
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise ConfigError(f"{path}: expected the name of a file that ends in .html")
    found = read_runs([Path(run).expanduser() for run in runs])
    if console is not None:
        console.print(table_of(found))
    page = _page(found)
    with new_file(path) as file:
        # A file name may hold bytes that are no text.
        file.write_bytes(page.encode("utf-8", "backslashreplace"))
    return path


# ---------------------------------------------------------------------------------- reading


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run folders.

    Raises:
        ConfigError: a folder holds no run, a run without a whole epoch, or a damaged one; or it is
            named twice.
    """
    whole = [folder.resolve() for folder in folders]
    for place, folder in enumerate(whole):
        if folder in whole[:place]:
            raise ConfigError(f"{folders[place]}: named twice; a run is compared with others")
    return [_read_run(folder, name) for folder, name in zip(folders, _names(whole), strict=True)]


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names


def _read_run(folder: Path, name: str) -> Run:
    if not folder.is_dir():
        kind = "is a file" if folder.is_file() else "no such folder"
        raise ConfigError(f"{folder}: {kind}; expected a run folder, such as runs/pets")
    if not (folder / SETTINGS_FILE).exists():
        raise ConfigError(
            f"{folder}: not a run folder: it has no {SETTINGS_FILE}; expected a folder that "
            "`keras-cls train --run-dir` has written"
        )
    settings = read_json(folder / SETTINGS_FILE)
    for part in ("request", "resolved"):
        if not isinstance(settings.get(part), dict):
            raise ConfigError(
                f"{folder / SETTINGS_FILE}: field {part!r} must be an object, found "
                f"{settings.get(part)!r}; the file is damaged"
            )
    history, best_epoch, finished = _read_progress(folder)
    if not history:
        raise ConfigError(
            f"{folder}: this run has no whole epoch behind it yet; compare it after the first"
        )
    return Run(
        path=folder,
        name=name,
        settings=settings,
        history=history,
        best_epoch=best_epoch,
        finished=finished,
        classes=_read_classes(folder) if finished else {},
        size=_size(folder),
    )


def _read_progress(folder: Path) -> tuple[History, int | None, bool]:
    """The history, the best epoch, and whether all is done."""
    path = folder / STATE_FILE
    if path.exists():
        state = read_json(path)
        history, best, finished = (state.get(k) for k in ("history", "best_epoch", "finished"))
        if not isinstance(finished, bool) or not (best is None or isinstance(best, int)):
            raise ConfigError(
                f"{path}: damaged: best_epoch is {best!r}, expected a number or null; finished is "
                f"{finished!r}, expected true or false"
            )
        return _checked_history(history, path), best, finished
    path = folder / HISTORY_FILE
    if not path.exists():
        return [], None, False
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    return _checked_history([_numbers(row, path) for row in rows], path), None, False


def _numbers(row: Mapping[Any, Any], path: Path) -> dict[str, float]:
    """A row of the CSV file; what an epoch has no figure for is left out."""
    try:
        return {str(key): float(value) for key, value in row.items() if value}
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: damaged: expected numbers below the names: {error}") from error


def _checked_history(history: Any, path: Path) -> History:
    """The history, if it is one.

    Raises:
        ConfigError: it is not; the first damaged row is named.
    """
    if not isinstance(history, list):
        raise ConfigError(f"{path}: damaged: 'history' must be a list of rows, found {history!r}")
    for number, row in enumerate(history, 1):
        sound = isinstance(row, dict) and all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in row.values()
        )
        if not sound or row.get("epoch") != number:
            raise ConfigError(
                f"{path}: damaged: row {number} of the history must hold numbers, and "
                f"'epoch': {number}; found {str(row)[:200]}"
            )
    return history


def _read_classes(folder: Path) -> dict[str, dict[str, float]]:
    """Each class's figures; none where the run has kept none.

    Raises:
        ConfigError: the file is damaged.
    """
    path = folder / EVALUATION_FILE
    if not path.exists():
        return {}
    try:
        return {
            row["label"]: {k: float(v) for k, v in row.items() if isinstance(v, int | float)}
            for row in read_json(path)["per_class"]
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: damaged: field 'per_class' must be a list of classes with 'label' and figures"
        ) from error


def _size(folder: Path) -> Size | None:
    """Counted on the best classifier so far; None where there is none to count."""
    # A run that goes on may be replacing it at this moment.
    with suppress(ConfigError, OSError):
        model = load(folder).model
        parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
        multiply_adds = None
        with suppress(ConfigError):  # an input of any size has no count
            multiply_adds = count_multiply_adds(model)
        return Size(parameters, 4 * model.count_params() / 1e6, multiply_adds)
    return None


# ------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class _Column:
    """A column: its name, what a run has there, how it is written; ``best`` picks the winner."""

    name: str
    value: Callable[[Run], Any]
    text: Callable[[Any], str] = str
    best: Callable[..., float] | None = None


def _figure(*keys: str) -> Callable[[Run], float | None]:
    """The best epoch's figure under the first of these keys that it has."""
    return lambda run: next((run.best[key] for key in keys if key in run.best), None)


COLUMNS = (
    _Column("network", lambda run: run.network),
    _Column("recipe", lambda run: run.recipe),
    _Column("epochs", lambda run: len(run.history), "{:,}".format),
    _Column("batch", lambda run: run.batch_size),
    _Column("precision", lambda run: run.precision),
    _Column("best epoch", lambda run: run.best_epoch),
    _Column("mAP", _figure("val_map"), "{:.2%}".format, max),
    _Column("top-1", _figure("val_accuracy"), "{:.2%}".format, max),
    _Column("top-5", _figure("val_top5"), "{:.2%}".format, max),
    _Column("loss", _figure("val_loss"), "{:.4f}".format, min),
    _Column("time", lambda run: run.seconds, report.duration_text),
    _Column("images/s", lambda run: run.images_per_second, "{:,.4g}".format, max),
    _Column("parameters", lambda run: run.size and run.size.parameters, "{:,}".format, min),
    _Column("MB", lambda run: run.size and run.size.megabytes, "{:,.1f}".format, min),
    _Column(
        "M mult-adds",
        lambda run: run.size and run.size.multiply_adds and run.size.multiply_adds / 1e6,
        "{:,.1f}".format,
        min,
    ),
)


@dataclass(frozen=True)
class Cell:
    """Of the table; ``best`` where no other run has a better figure and some has a worse one."""

    text: str
    best: bool = False


def cells(runs: Sequence[Run]) -> dict[str, list[Cell]]:
    """The columns in which some run has something, by name."""
    found = {column.name: _cells(column, runs) for column in COLUMNS}
    return {name: row for name, row in found.items() if any(cell.text != "–" for cell in row)}


def _cells(column: _Column, runs: Sequence[Run]) -> list[Cell]:
    values = [column.value(run) for run in runs]
    known = [value for value in values if value is not None]
    winner = column.best(known) if column.best and len(set(known)) > 1 else None
    return [
        Cell("–") if value is None else Cell(column.text(value), value == winner)
        for value in values
    ]


def table_of(runs: Sequence[Run]) -> Table:
    """The runs as a table for a terminal: a column a run, for a terminal is narrow."""
    table = Table("", *(escape(run.name) for run in runs), box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
        column.overflow = "fold"
    for name, row in cells(runs).items():
        texts = (Text(cell.text, "bold green" if cell.best else "") for cell in row)
        table.add_row(Text(name, "dim"), *texts)
    if not all(run.finished for run in runs):
        table.add_row(Text("status", "dim"), *(Text(run.status) for run in runs))
    return table


# -------------------------------------------------------------------------------------- the page


@dataclass(frozen=True)
class _Chart:
    caption: str
    svg: Markup
    words: str


@dataclass(frozen=True)
class _Row:
    """A setting or a class with one text a run."""

    name: str
    texts: tuple[str, ...]
    shares: tuple[float | None, ...] = ()
    spread: float = 0.0


def _page(runs: Sequence[Run]) -> str:
    environment = html.environment(Path(__file__).parent)
    class_rows, class_figure, class_note = _class_rows(runs)
    return environment.get_template("compare.html.j2").render(
        title=f"{len(runs)} runs compared" if len(runs) > 1 else f"One run: {runs[0].name}",
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        runs=runs,
        keys=[f"--series-{place % len(html.SERIES) + 1}" for place in range(len(runs))],
        columns=cells(runs),
        charts=_charts(runs),
        settings=_differing_settings(runs),
        class_rows=class_rows,
        class_figure=class_figure,
        class_note=class_note,
        classes_shown=_CLASSES_SHOWN,
    )


def _charts(runs: Sequence[Run]) -> list[_Chart]:
    """Figures against epochs and against time, where runs have them."""
    figures = (
        ("Mean average precision", "val_map", report.SHARE),
        ("Validation accuracy", "val_accuracy", report.SHARE),
        ("Validation loss", "val_loss", report.NUMBER),
    )
    timed = any(run.seconds for run in runs)
    charts = []
    for caption, key, unit in figures:
        for against in ("epoch", "time") if timed else ("epoch",):
            if not all(np.isnan(report.column(run.history, key)).all() for run in runs):
                charts.append(_chart(runs, f"{caption} by {against}", key, unit, against))
    return charts


def _chart(runs: Sequence[Run], caption: str, key: str, unit: report.Unit, against: str) -> _Chart:
    figure = Figure(figsize=report.CHART_SIZE, layout="constrained")
    axes = figure.add_subplot()
    divisor, x_name = _time_unit(runs) if against == "time" else (1.0, "epoch")
    ends = []
    for place, run in enumerate(runs):
        values = report.column(run.history, key)
        x = report.epochs_of(run.history)
        if against == "time":
            x = np.cumsum(np.nan_to_num(report.seconds_of(run.history))) / divisor
        if np.isnan(values).all():
            continue
        look = _look(place)
        marker = "o" if np.isfinite(values).sum() < 8 else None
        axes.plot(x, values, linewidth=1.7, marker=marker, markersize=3, **look)
        best = report.row_of(run.history, run.best_epoch)
        if best is not None and not math.isnan(values[best]):
            axes.plot(x[best], values[best], "o", color=look["color"], markersize=5)
        last = np.flatnonzero(np.isfinite(values))[-1]
        ends.append((x[last], values[last], str(place + 1), look["color"]))
    report.style_axes(axes, unit, x_name)
    _number_ends(axes, ends)
    words = "; ".join(
        f"{run.name}: {unit.text(float(run.best[key]))}" for run in runs if key in run.best
    )
    return _Chart(caption, html.svg(figure, salt=f"{key}-{against}"), f"{caption}; {words}")


def _look(place: int) -> dict[str, Any]:
    """The colour and the dashes of a run; eight colours, then other dashes, then again."""
    colors = len(html.SERIES)
    dashes = _DASHES[(place + place // colors) % len(_DASHES)]
    return {"color": html.SERIES[place % colors], "linestyle": dashes}


def _number_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """The runs' numbers beside the ends of their curves, moved apart where they would touch."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    near, least = 0.06 * (right - left), 0.08 * (high - low)
    placed: list[tuple[float, float]] = []
    for x, y, number, color in sorted(ends, key=lambda end: end[1]):
        height = max([y, *(other + least for at, other in placed if abs(at - x) < near)])
        placed.append((x, height))
        axes.annotate(
            number,
            (x, height),
            (6, 0),
            textcoords="offset points",
            va="center",
            color=color,
            fontsize=9,
            fontweight="bold",
            annotation_clip=False,
        )


def _time_unit(runs: Sequence[Run]) -> tuple[float, str]:
    longest = max(run.seconds or 0.0 for run in runs)
    for seconds, name in ((3600.0, "hours"), (60.0, "minutes")):
        if longest > 2 * seconds:
            return seconds, name
    return 1.0, "seconds"


def _differing_settings(runs: Sequence[Run]) -> list[_Row]:
    """The settings in which not all runs agree: as resolved, else as asked for."""
    each = [
        report.flat(run.settings["request"]) | report.flat(run.settings["resolved"]) for run in runs
    ]
    rows = []
    for key in dict.fromkeys(key for settings in each for key in settings):
        texts = tuple(html.setting(found[key]) if key in found else "–" for found in each)
        if len({repr(found.get(key, _Row)) for found in each}) > 1:
            rows.append(_Row(key, texts))
    return rows


def _class_rows(runs: Sequence[Run]) -> tuple[list[_Row], str, str]:
    """(the classes, those first on which runs differ most; which figure it is; why there are none).

    Compared are the runs that have their classes' figures.
    """
    known = [run for run in runs if run.classes]
    if len(known) < 2:
        return [], "", "Fewer than two of these runs have kept their classes' figures."
    names = set(known[0].classes)
    if any(set(run.classes) != names for run in known):
        return [], "", "The runs have other classes."
    ranked = all("average_precision" in row for run in known for row in run.classes.values())
    figure = "average_precision" if ranked else "recall"
    rows = []
    for label in known[0].classes:
        shares = tuple(run.classes[label].get(figure) if run.classes else None for run in runs)
        found = [share for share in shares if share is not None]
        texts = tuple(html.percent(share) for share in shares)
        rows.append(_Row(label, texts, shares, max(found) - min(found) if found else 0.0))
    rows.sort(key=lambda row: -row.spread)
    return rows, figure.replace("_", " "), ""
