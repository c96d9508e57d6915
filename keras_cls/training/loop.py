"""The epochs and steps of a run."""

import math
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf

from keras_cls.errors import TrainingDivergedError, TrainingStoppedError
from keras_cls.training.devices import distributed
from keras_cls.training.figures import Figures
from keras_cls.training.judge import Judge
from keras_cls.training.learner import Learner
from keras_cls.training.recorder import Recorder
from keras_cls.training.run_folder import RunState
from keras_cls.training.stopping import StopRequest

# Figures of accelerators are read this many steps late, so that they need not wait for the reader.
_STEPS_AHEAD = 8


class Watcher:
    """Somebody who looks on, and heeds what it has a method for."""

    def first_images(self, images: tf.Tensor) -> None:
        """The run is about to take its first step, on images float32 [b, H, W, C] such as these."""

    def begin_epoch(self, epoch: int, step: int) -> None:
        """Epoch number ``epoch``, counted from 0, goes on behind its first ``step`` steps."""

    def step(self, figures: Figures, images: int) -> None:
        """A step is done: the epoch's figures so far, and the images of the step."""

    def end_epoch(self, row: dict[str, float]) -> None:
        """An epoch is done and kept: its row of the history."""


@dataclass(frozen=True)
class Plan:
    """How long a run is.

    Attributes:
        epochs: of the run.
        steps: of each epoch.
        batch_size: images a step.
        checkpoint_seconds: the longest time without a checkpoint.
    """

    epochs: int
    steps: int
    batch_size: int
    checkpoint_seconds: float = 600.0


def run_epochs(
    trainee: Learner,
    judge: Judge,
    training: tf.data.Dataset,
    validation: tf.data.Dataset,
    plan: Plan,
    state: RunState,
    recorder: Recorder,
    watchers: list[Watcher],
    stop: StopRequest,
) -> None:
    """Train from where the state is to the last epoch; the recorder keeps up.

    Args:
        trainee: what is trained.
        judge: who judges it after each epoch.
        training: endless batches, from the state's step on.
        validation: one pass.
        plan: how long.
        state: how far the run is.
        recorder: who writes it down.
        watchers: who looks on.
        stop: asked before each step.

    Raises:
        TrainingDivergedError: the loss is no number any more; what was kept before stays.
        TrainingStoppedError: by a request; everything is kept.
    """
    batches = distributed(training, trainee.strategy)
    for epoch in range(state.epochs_done, plan.epochs):
        trainee.begin_epoch(epoch, plan.epochs)
        one = _Epoch(trainee, plan, state, recorder, watchers, stop)
        one.train(batches)
        row = one.judged(judge, validation)
        recorder.end_epoch(row)
        for watcher in watchers:
            watcher.end_epoch(row)


class _Epoch:
    """One epoch, from where the state is."""

    def __init__(
        self,
        trainee: Learner,
        plan: Plan,
        state: RunState,
        recorder: Recorder,
        watchers: list[Watcher],
        stop: StopRequest,
    ) -> None:
        self._trainee = trainee
        self._plan = plan
        self._recorder = recorder
        self._watchers = watchers
        self._stop = stop
        self._number = state.epochs_done
        self._step = state.step
        self._seconds = {"seconds": 0.0, "data_seconds": 0.0, **state.seconds}
        classifier = trainee.classifier
        self._ahead = _STEPS_AHEAD if tf.config.list_logical_devices("GPU") else 0
        self._asked = False
        self._figures = Figures(len(classifier.labels), classifier.multi_label)
        if state.sums:
            self._figures.sums = np.array(state.sums)

    def train(self, batches: Iterator[Any]) -> None:
        """The steps that are left."""
        plan, recorder = self._plan, self._recorder
        for watcher in self._watchers:
            watcher.begin_epoch(self._number, self._step)
        running: deque[tuple[int, tf.Tensor]] = deque()
        while self._step < plan.steps:
            with self._timed("seconds"):
                with self._timed("data_seconds"):
                    batch = next(batches)
                if self._number == 0 and self._step == 0:
                    self._show_first(batch)
                running.append((self._step, self._trainee.step(batch, bool(self._stop))))
                self._step += 1
                if len(running) > self._ahead:
                    self._take(*running.popleft())
            overdue = time.monotonic() - recorder.last_checkpoint > plan.checkpoint_seconds
            if self._asked or (overdue and self._step < plan.steps):
                self._take_all(running)
                recorder.checkpoint(self._step, self._figures, self._seconds)
            if self._asked:
                self._leave()
        self._take_all(running)

    def judged(self, judge: Judge, validation: tf.data.Dataset) -> dict[str, float]:
        """The epoch's row of the history."""

        def leave_if_asked() -> None:  # the validation will begin anew; nothing else is lost
            # Several workers agree in the next step.
            if self._stop and self._trainee.workers == 1:
                self._recorder.checkpoint(self._step, self._figures, self._seconds)
                self._leave()

        self._trainee.hand_over()
        begun = time.monotonic()
        means = judge.figures(validation, leave_if_asked)
        validated = time.monotonic() - begun
        where = f"on the validation images after epoch {self._number + 1}"
        self._check_finite(means["val_loss"], where)
        seconds = self._seconds["seconds"]
        return {
            "epoch": self._number + 1,
            **self._figures.means(),
            **means,
            "learning_rate": self._trainee.learning_rate,
            "seconds": round(seconds + validated, 3),
            "images_per_second": round(self._figures.images / max(seconds, 1e-9), 2),
            "data_seconds": round(self._seconds["data_seconds"], 3),
            "validation_seconds": round(validated, 3),
        }

    def _show_first(self, batch: Any) -> None:
        images, *_ = self._trainee.strategy.experimental_local_results(batch[0])
        for watcher in self._watchers:
            watcher.first_images(images)

    def _take_all(self, running: deque[tuple[int, tf.Tensor]]) -> None:
        with self._timed("seconds"):
            while running:
                self._take(*running.popleft())

    def _take(self, step: int, result: tf.Tensor) -> None:
        """Take a step's figures in, and let the watchers know."""
        found = result.numpy()
        self._check_finite(found[0], f"in step {step + 1} of epoch {self._number + 1}")
        self._figures.add(found[:4])
        self._asked |= bool(found[4])
        for watcher in self._watchers:
            watcher.step(self._figures, int(found[3]))

    def _leave(self) -> NoReturn:
        number = self._stop.signal or signal.SIGTERM  # another worker was asked
        raise TrainingStoppedError(
            f"stopped by {number.name} in epoch {self._number + 1}, after step {self._step} of "
            f"{self._plan.steps}; all is saved",
            number,
        )

    def _check_finite(self, loss: float, where: str) -> None:
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                f"training diverged: the loss is not a number any more {where}, at learning rate "
                f"{self._trainee.learning_rate:.3g}"
            )

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self._seconds[what] += time.monotonic() - begun
