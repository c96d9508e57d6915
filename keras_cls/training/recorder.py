"""Writes a run's folder epoch by epoch, so that nothing is lost."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_cls.classifier import Classifier
from keras_cls.errors import TrainingDivergedError
from keras_cls.files import new_file
from keras_cls.training.averaging import averaged
from keras_cls.training.fine_tuning import unfrozen
from keras_cls.training.run_folder import RunFolder, RunState


class Recorder(keras.callbacks.Callback):
    """Keeps the last checkpoint, the best classifier and the history after every epoch."""

    def __init__(
        self,
        folder: RunFolder,
        state: RunState,
        classifier: Classifier,
        learning_rate: Callable[[], float],
        seed: int,
    ) -> None:
        super().__init__()
        self._folder = folder
        self._state = state
        self._classifier = classifier
        self._learning_rate = learning_rate
        self._seed = seed
        self._begun = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock, and dropout's draws: they depend on the seed and the epoch alone."""
        self._begun = time.monotonic()
        for number, generator in enumerate(_seed_generators(self.model)):
            generator.state.assign([self._seed + number, epoch << 16])

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
            state.best = self._folder.best_for(epoch + 1)
            with averaged(self.model.optimizer), unfrozen(self._classifier.model):
                self._classifier.save(self._folder.path / state.best)
        state.checkpoint = self._folder.checkpoint_for(epoch + 1)
        with new_file(self._folder.path / state.checkpoint) as file:
            self.model.save_weights(file, overwrite=True)
        self._folder.write_state(state)


def _seed_generators(model: keras.Model) -> Iterator[keras.random.SeedGenerator]:
    """What dropout and its like draw from; a checkpoint does not hold it."""
    for layer in model._flatten_layers():
        yield from layer._seed_generators


def _merit(row: dict[str, float]) -> tuple[float, float]:
    return row["val_accuracy"], -row["val_loss"]
