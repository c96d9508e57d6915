"""How the learning rate goes over a run, as data.

A schedule gives the share of the highest learning rate at a point of the run, which counts from 0
(the first step) to 1 (the end): a run of another length than the paper's goes through the same
curve, stretched.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import keras


class Schedule(Protocol):
    """A curve over a run."""

    def share(self, done: Any) -> Any:
        """The share of the highest rate, 0..1, at ``done`` in 0..1: a number or a tensor."""


@dataclass(frozen=True)
class Steps:
    """Falls by ``factor`` at each point of ``at``: (1 / 3, 2 / 3) for 30 and 60 of 90 epochs."""

    at: tuple[float, ...]
    factor: float = 0.1

    def share(self, done: Any) -> Any:
        """``factor`` to the number of the points that lie behind."""
        passed = sum(keras.ops.cast(done >= point - 1e-9, "float32") for point in self.at)
        return keras.ops.power(self.factor, passed)


@dataclass(frozen=True)
class Plateaus:
    """A share of its own for each part of the run; ``until`` are the points at which it changes."""

    until: tuple[float, ...]
    shares: tuple[float, ...]

    def share(self, done: Any) -> Any:
        """The share of the part that ``done`` lies in."""
        passed = sum(keras.ops.cast(done >= point - 1e-9, "int32") for point in self.until)
        return keras.ops.take(keras.ops.array(self.shares, "float32"), passed)


@dataclass(frozen=True)
class Exponential:
    """Falls by ``factor`` after each ``every``-th part of the run, in steps.

    0.94 every 2 of 100 epochs is ``Exponential(0.94, 2 / 100)``.
    """

    factor: float
    every: float

    def share(self, done: Any) -> Any:
        """``factor`` to the number of whole parts done."""
        return keras.ops.power(self.factor, keras.ops.floor(done / self.every + 1e-6))


@dataclass(frozen=True)
class Cosine:
    """Half a cosine, from 1 to 0 (arXiv:1608.03983, without restarts)."""

    def share(self, done: Any) -> Any:
        """(1 + cos(pi * done)) / 2."""
        return (1 + keras.ops.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class Triangle:
    """Rises from ``start`` to 1 at the point ``peak``, then falls to ``end``, in straight lines."""

    start: float = 0.2
    peak: float = 0.23
    end: float = 0.07

    def share(self, done: Any) -> Any:
        """The lower of the two lines."""
        rising = self.start + (1 - self.start) * (done / self.peak)
        falling = 1 - (1 - self.end) * (done - self.peak) / (1 - self.peak)
        return keras.ops.minimum(rising, falling)


class Scheduled(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule for an optimizer: a linear rise, then the curve over the rest of the run.

    Args:
        schedule: the curve.
        peak: the highest learning rate.
        steps: of the whole run.
        rising: the number of steps in which the rate rises from ``peak / rising`` to ``peak``.
    """

    def __init__(self, schedule: Schedule, peak: float, steps: int, rising: int) -> None:
        super().__init__()
        self.schedule = schedule
        self.peak = peak
        self.steps = steps
        self.rising = rising

    def __call__(self, step: Any) -> Any:
        """The learning rate of a step, counted from 0; float32."""
        step = keras.ops.cast(step, "float32")
        done = keras.ops.clip((step - self.rising) / max(1, self.steps - self.rising), 0, 1)
        rise = keras.ops.minimum(1.0, (step + 1) / max(1, self.rising))
        return self.peak * keras.ops.where(
            step < self.rising, rise, keras.ops.cast(self.schedule.share(done), "float32")
        )
