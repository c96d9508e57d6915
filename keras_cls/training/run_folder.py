"""The folder of a training run: what was asked for, how far it is, what came out.

    settings.json     what the run was asked for, and what that was resolved to
    state.json        how far it is: the epochs done, the checkpoint to go on from, the best epoch
    history.csv       one row an epoch
    checkpoints/      the last weights and optimizer state, the best epoch's classifier
    classifier/       the best epoch's classifier, once the run is finished
    tensorboard/      the same curves as event files
    evaluation.json   the best classifier's results on the validation images
    report.html       the same, and how it came to be
    cache/            copies of images that TensorFlow cannot decode

``state.json`` is replaced in one step after everything that it speaks of is on disk: a run killed
at any moment goes on from its last checkpoint.
"""

import csv
import io
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, get_args

from keras_cls.classifier import BEST_PREFIX, CHECKPOINTS, RUN_CLASSIFIER
from keras_cls.errors import ConfigError
from keras_cls.files import (
    LOCK_FILE,
    TEMPORARY_PREFIX,
    read_json,
    remove_if_unused,
    remove_leftovers,
    write_json,
    write_text,
)
from keras_cls.training.precision import Precision

SETTINGS_FILE = "settings.json"
STATE_FILE = "state.json"
CACHE = "cache"

History = list[dict[str, float]]


@dataclass
class RunState:
    """How far a run is.

    Attributes:
        history: a row an epoch: ``epoch``, counted from 1, and its figures.
        step: how many steps of the next epoch the checkpoint has behind it.
        sums: what the figures of these steps add up to.
        seconds: what these steps took, by what for.
        checkpoint: the file to go on from, relative to the run folder.
        best_epoch: the epoch of the classifier kept.
        best: that classifier's folder, relative to the run folder.
        finished: whether the report is written.
    """

    history: History = field(default_factory=list)
    step: int = 0
    sums: list[float] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    checkpoint: str | None = None
    best_epoch: int | None = None
    best: str | None = None
    finished: bool = False

    @property
    def epochs_done(self) -> int:
        """The number of whole epochs."""
        return len(self.history)


class RunFolder:
    """Reads and writes a run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def classifier(self) -> Path:
        """The finished run's classifier."""
        return self.path / RUN_CLASSIFIER

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    @property
    def evaluation(self) -> Path:
        """The results on the validation images."""
        return self.path / "evaluation.json"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def cache(self) -> Path:
        """Copies of images that TensorFlow cannot decode."""
        return self.path / CACHE

    def check(self, request: Mapping[str, Any]) -> None:
        """Make sure that the folder is free, or that its run was begun with the same request.

        Raises:
            ConfigError: the folder holds something else, or a run with other settings.
        """
        if not (self.path / SETTINGS_FILE).exists():
            if self.path.exists() and not (self.path.is_dir() and self._is_unused()):
                raise ConfigError(
                    f"{self.path}: exists and is not a run folder; choose another run_dir"
                )
            return
        begun = read_json(self.path / SETTINGS_FILE).get("request")
        if not isinstance(begun, dict):
            raise ConfigError(f"{self.path / SETTINGS_FILE}: field 'request' is missing or damaged")
        differing = [key for key in request if begun.get(key) != request[key]]
        if differing:
            changes = "; ".join(
                f"{key} was {begun.get(key)!r}, is now {request[key]!r}" for key in differing
            )
            raise ConfigError(
                f"{self.path}: this run was begun with other settings ({changes}). To go on, "
                "repeat them; to begin anew, choose another run_dir"
            )

    def check_data(self, resolved: Mapping[str, Any]) -> None:
        """Make sure that a run that goes on sees the images that it was begun with.

        Raises:
            ConfigError: classes or images have changed since.
        """
        old, new = self._resolved().get("data"), resolved["data"]
        if old is None or old == new:
            return
        changes = [f"{key} were {old.get(key)}, are {new[key]}" for key in new if key in old]
        raise ConfigError(
            f"{self.path}: the data has changed since this run was begun ({'; '.join(changes)}). "
            "Put the data back, or begin anew in another run_dir"
        )

    def resolved_precision(self, otherwise: Precision) -> Precision:
        """The precision that the run was begun in."""
        begun = self._resolved().get("precision")
        found: Precision
        for found in get_args(Precision):
            if found == begun:
                return found
        return otherwise

    @property
    def resolved_held(self) -> bool | None:
        """Whether the run was begun with its training images in memory; None where it is new."""
        held = self._resolved().get("held")
        return held if isinstance(held, bool) else None

    def _resolved(self) -> dict[str, Any]:
        settings = self.path / SETTINGS_FILE
        resolved = read_json(settings).get("resolved") if settings.is_file() else None
        return resolved if isinstance(resolved, dict) else {}

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Write what was asked for and what it was resolved to."""
        write_json(self.path / SETTINGS_FILE, settings)

    def read_state(self) -> RunState:
        """How far the run is; a fresh state where it has no epoch behind it.

        Raises:
            ConfigError: the file is damaged.
        """
        path = self.path / STATE_FILE
        if not path.exists():
            return RunState()
        content = read_json(path)
        try:
            state = RunState(**content)
            intact = all(
                name is None or (self.path / name).exists()
                for name in (state.checkpoint, state.best)
            )
            numbers = [row["epoch"] for row in state.history]
        except (TypeError, KeyError) as error:
            raise ConfigError(f"{path}: damaged: {error}") from error
        if not intact or numbers != list(range(1, len(numbers) + 1)):
            raise ConfigError(
                f"{path}: damaged, or its checkpoint is missing; begin anew elsewhere"
            )
        return state

    def write_state(self, state: RunState) -> None:
        """Write the state and the history, and drop checkpoints that it no longer speaks of."""
        write_json(self.path / STATE_FILE, asdict(state))
        write_text(self.path / "history.csv", _as_csv(state.history))
        for old in (self.path / CHECKPOINTS).glob("*-*"):
            if old.relative_to(self.path).as_posix() in (state.checkpoint, state.best):
                continue
            if old.is_dir():
                shutil.rmtree(old, ignore_errors=True)
            else:
                old.unlink(missing_ok=True)

    def checkpoint_for(self, epochs: int, step: int = 0) -> str:
        """Where the weights and optimizer state go after so many epochs, and steps of the next."""
        behind = f"-step-{step:06d}" if step else ""
        return f"{CHECKPOINTS}/epoch-{epochs:04d}{behind}.npz"

    def best_for(self, epoch: int) -> str:
        """Where an epoch's classifier goes if it is the best, relative to the run folder."""
        return f"{CHECKPOINTS}/{BEST_PREFIX}{epoch:04d}"

    def remove_leftovers(self) -> None:
        """Remove what a killed process left. Only for the process that holds the folder's lock."""
        for folder in (self.path, self.path / CHECKPOINTS, self.cache):
            remove_leftovers(folder)

    def _is_unused(self) -> bool:
        """Whether there is no more than what a run leaves whose settings were refused."""
        return all(
            path.name in (CACHE, LOCK_FILE, ".DS_Store") or path.name.startswith(TEMPORARY_PREFIX)
            for path in self.path.iterdir()
        )


def default_run_folder(name: str) -> Path:
    """Make a new folder under ``runs/``, named after the network and the time."""
    begun = Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    for number in count(1):
        folder = begun if number == 1 else begun.with_name(f"{begun.name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError("count() does not end")


@contextmanager
def gone_if_unused(folder: Path, *, chosen: bool = True) -> Iterator[None]:
    """Remove a run's folder again where the run is refused before it wrote anything there.

    Args:
        folder: of the run.
        chosen: whether the folder is one that :func:`default_run_folder` made; others are left.
    """
    try:
        yield
    except BaseException:
        if chosen:
            remove_if_unused(folder)
        raise


def _as_csv(history: History) -> str:
    columns = list(dict.fromkeys(key for row in history for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()
