"""The folder of a training run: what was asked for, how far it is, what came out.

    settings.json     what the run was asked for, and what that was resolved to
    state.json        how far it is: the epochs done, the checkpoint to go on from, the best epoch
    history.csv       one row an epoch
    checkpoints/      the last epoch's weights and optimizer state
    classifier/       the best epoch's classifier
    tensorboard/      the same curves as event files
    report.html       written at the end
    cache/            copies of images that TensorFlow cannot decode

``state.json`` is replaced in one step after everything that it speaks of is on disk: a run killed
at any moment goes on from its last whole epoch.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from keras_cls.classifier import RUN_CLASSIFIER
from keras_cls.errors import ConfigError
from keras_cls.files import read_json, write_json, write_text

SETTINGS_FILE = "settings.json"
STATE_FILE = "state.json"
CACHE = "cache"

History = list[dict[str, float]]


@dataclass
class RunState:
    """How far a run is.

    Attributes:
        history: a row an epoch: ``epoch``, counted from 1, and its figures.
        checkpoint: the file of the last epoch, relative to the run folder.
        best_epoch: the epoch of the classifier kept.
        finished: whether the report is written.
    """

    history: History = field(default_factory=list)
    checkpoint: str | None = None
    best_epoch: int | None = None
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
        """The best classifier's folder."""
        return self.path / RUN_CLASSIFIER

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

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
            # Copies of images are all that a run leaves whose settings were refused.
            if self.path.exists() and not (
                self.path.is_dir() and {p.name for p in self.path.iterdir()} <= {CACHE}
            ):
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
            intact = state.checkpoint is None or (self.path / state.checkpoint).is_file()
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
        for old in (self.path / "checkpoints").glob("epoch-*"):
            if str(old.relative_to(self.path)) != state.checkpoint:
                old.unlink()

    def checkpoint_for(self, epoch: int) -> Path:
        """Where an epoch's weights and optimizer state go."""
        path = self.path / "checkpoints" / f"epoch-{epoch:04d}.weights.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def default_run_folder(name: str) -> Path:
    """A new folder under ``runs/``, named after the network and the time."""
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def _as_csv(history: History) -> str:
    columns = list(dict.fromkeys(key for row in history for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()
