"""What the loop trains, whatever it is made of."""

from collections.abc import Sequence
from typing import Any, Protocol

import tensorflow as tf

from keras_cls.classifier import Classifier


class Learner(Protocol):
    """Something that takes steps, and hands a classifier what it has learnt."""

    @property
    def classifier(self) -> Classifier:
        """What is judged and kept; changed by :meth:`hand_over` alone."""

    @property
    def strategy(self) -> tf.distribute.Strategy:
        """Its devices."""

    @property
    def workers(self) -> int:
        """How many processes they belong to."""

    @property
    def variables(self) -> Sequence[Any]:
        """All that a checkpoint must hold, in the same order each time."""

    @property
    def learning_rate(self) -> float:
        """The rate of the last step."""

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Epoch number ``epoch``, counted from 0, of ``epochs`` is about to begin or go on."""

    def step(self, batch: Any, stop: bool = False) -> tf.Tensor:
        """One step on (float32 [B, H, W, C], float32 [B, K]).

        Returns:
            float32 [5]: the batch's figures, see :mod:`keras_cls.training.figures`, and how many
            ask for a stop, as ``stop`` does.
        """

    def hand_over(self) -> None:
        """At the end of an epoch, give the classifier what was learnt."""
