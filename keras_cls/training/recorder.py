"""Writes a run's folder epoch by epoch, so that nothing is lost."""

import math
import time
from collections.abc import Callable
from typing import Any

import keras

from keras_cls.classifier import Classifier
from keras_cls.errors import UserError
from keras_cls.training.run_folder import RunFolder, RunState


class Recorder(keras.callbacks.Callback):
    """Keeps the last checkpoint, the best classifier and the history after every epoch."""

    def __init__(
        self,
        folder: RunFolder,
        state: RunState,
        classifier: Classifier,
        learning_rate: Callable[[], float],
    ) -> None:
        super().__init__()
        self._folder = folder
        self._state = state
        self._classifier = classifier
        self._learning_rate = learning_rate
        self._begun = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock."""
        self._begun = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write everything, and last of all the state that speaks of it."""
        figures = {key: float(value) for key, value in (logs or {}).items()}
        if not all(math.isfinite(value) for value in figures.values()):
            raise TrainingDivergedError(
                f"training diverged: the loss is no longer a number in epoch {epoch + 1}. Lower "
                "the learning rate (another recipe), or look for faulty images or labels"
            )
        row = {
            "epoch": epoch + 1,
            **figures,
            "learning_rate": self._learning_rate(),
            "seconds": round(time.monotonic() - self._begun, 3),
        }
        state = self._state
        state.history.append(row)
        if state.best_epoch is None or _merit(row) > _merit(state.history[state.best_epoch - 1]):
            state.best_epoch = epoch + 1
            self._classifier.metrics = {k: v for k, v in row.items() if k != "seconds"}
            self._classifier.save(self._folder.classifier)
        checkpoint = self._folder.checkpoint_for(epoch + 1)
        self.model.save_weights(checkpoint, overwrite=True)
        state.checkpoint = checkpoint.relative_to(self._folder.path).as_posix()
        self._folder.write_state(state)


class TrainingDivergedError(UserError):
    """The loss became infinite or not a number."""


def _merit(row: dict[str, float]) -> tuple[float, float]:
    return row["val_accuracy"], -row["val_loss"]
