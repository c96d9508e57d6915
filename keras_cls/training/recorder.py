"""Writes a run's folder, so that nothing is lost."""

import time
from collections.abc import Callable
from typing import TypeAlias

from keras_cls.training.checkpoint import save_checkpoint
from keras_cls.training.figures import Figures
from keras_cls.training.learner import Learner
from keras_cls.training.run_folder import RunFolder, RunState

Row: TypeAlias = dict[str, float]


class Recorder:
    """Keeps the state of the run, in memory and, where it is the one to write, on disk.

    Args:
        folder: the run's.
        state: how far it is; brought up to date.
        trainee: what is trained.
        writes: whether this process writes; of several workers only the chief does.
        better: whether one epoch's row is to be kept rather than another's.
    """

    def __init__(
        self,
        folder: RunFolder,
        state: RunState,
        trainee: Learner,
        *,
        writes: bool = True,
        better: Callable[[Row, Row], bool] | None = None,
    ) -> None:
        self._folder = folder
        self._state = state
        self._trainee = trainee
        self._writes = writes
        self._better = better or has_more_merit
        self.last_checkpoint = time.monotonic()

    def checkpoint(self, step: int, figures: Figures, seconds: dict[str, float]) -> None:
        """Keep what there is in the middle of an epoch, after ``step`` of its steps."""
        state = self._state
        state.step, state.sums, state.seconds = step, figures.sums.tolist(), dict(seconds)
        self._write_checkpoint()
        self._write_state()

    def end_epoch(self, row: Row) -> None:
        """Keep an epoch: its figures, the classifier if it is the best so far, the weights."""
        state = self._state
        begun = time.monotonic()
        state.history.append(row)
        state.step, state.sums, state.seconds = 0, [], {}
        epoch = len(state.history)
        best = None if state.best_epoch is None else state.history[state.best_epoch - 1]
        if best is None or self._better(row, best):
            state.best_epoch = epoch
            state.best = self._folder.best_for(epoch)
            classifier = self._trainee.classifier
            classifier.metrics = {k: v for k, v in row.items() if not k.endswith("seconds")}
            if self._writes:
                classifier.save(self._folder.path / state.best)
        self._write_checkpoint()
        row["saving_seconds"] = round(time.monotonic() - begun, 3)
        self._write_state()

    def _write_checkpoint(self) -> None:
        state = self._state
        state.checkpoint = self._folder.checkpoint_for(state.epochs_done, state.step)
        if self._writes:
            save_checkpoint(self._folder.path / state.checkpoint, self._trainee.variables)

    def _write_state(self) -> None:
        if self._writes:
            self._folder.write_state(self._state)
        self.last_checkpoint = time.monotonic()


def merit(row: Row) -> tuple[float, float]:
    """What makes an epoch better than another: the more of it, the better."""
    return row.get("val_map", row["val_accuracy"]), -row["val_loss"]


def has_more_merit(row: Row, other: Row) -> bool:
    """Whether the first of two epochs is the better one."""
    return merit(row) > merit(other)
