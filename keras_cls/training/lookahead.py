"""A network that follows a slower copy of itself (Lookahead, arXiv:1907.08610), as airbench does.

Every few steps the copy moves towards the network, and the network is set to where the copy is.
Moving statistics take part as weights do. At the end of each epoch the network is set to the copy
once more, as it stands (arXiv:2404.00498, section 3.4, and its release, airbench94.py).
"""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class Lookahead:
    """When and how far.

    Attributes:
        every: so many steps apart.
        from_share: not before this share of the run is done.
        decay: how much of the copy is kept at the end of the run.
        power: before it, at a share p of the run, ``decay * p ** power`` is kept.
    """

    every: int = 5
    from_share: float = 0.3
    decay: float = 0.95**5
    power: float = 3.0

    def first_step(self, steps: int) -> int:
        """After how many steps of a run's ``steps`` the copy is made."""
        return (round(self.from_share * steps) // self.every + 1) * self.every

    def kept(self, done: Any, steps: int) -> Any:
        """How much of the copy is kept after ``done`` of the run's ``steps`` steps: 0..1."""
        return self.decay * (done / steps) ** self.power


class SlowCopy:
    """The copy of a network's weights, float32; made in the scope of the network's strategy.

    Args:
        lookahead: when and how far.
        weights: the network's; those that are no floating-point numbers stay out.
        iterations: counts the run's steps.
        steps: of the whole run.
        strategy: the devices.
    """

    def __init__(
        self,
        lookahead: Lookahead,
        weights: list[keras.Variable],
        iterations: keras.Variable,
        steps: int,
        strategy: tf.distribute.Strategy,
    ) -> None:
        self._lookahead = lookahead
        self._weights = [w for w in weights if keras.backend.is_float_dtype(w.dtype)]
        self._iterations = iterations
        self._steps = steps
        self._first = lookahead.first_step(steps)
        self._strategy = strategy
        self.variables = [
            keras.Variable(np.zeros(weight.shape), dtype=weight.dtype, trainable=False)
            for weight in self._weights
        ]

    def follow_if_due(self) -> None:
        """After a step, in its graph, outside of the replicas."""
        done = tf.cast(self._iterations.value, tf.int32)
        due = (done >= self._first) & (done % self._lookahead.every == 0)

        def follow() -> tf.Tensor:
            kept = self._lookahead.kept(tf.cast(done, tf.float32), self._steps)
            kept = tf.where(done == self._first, 0.0, kept)  # the copy is made
            for slow, weight in zip(self.variables, self._weights, strict=True):
                self._strategy.extended.update(slow.value, _mixed, args=(weight.value, kept))
                self._strategy.extended.update(weight.value, _set, args=(slow.value,))
            return due

        tf.cond(due, follow, lambda: due)

    def end_epoch(self) -> None:
        """Set the network to the copy, if there is one yet; once more changes nothing."""
        if keras.ops.convert_to_numpy(self._iterations) >= self._first:
            for slow, weight in zip(self.variables, self._weights, strict=True):
                weight.assign(keras.ops.convert_to_numpy(slow))


def _mixed(slow: tf.Variable, weight: tf.Tensor, kept: tf.Tensor) -> None:
    slow.assign(kept * slow + (1 - kept) * weight)


def _set(weight: tf.Variable, slow: tf.Tensor) -> None:
    weight.assign(slow)
