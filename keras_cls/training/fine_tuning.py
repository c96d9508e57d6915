"""Carrying trained weights over to other classes: which layers learn when, and how fast."""

import math
from typing import Any

import keras

from keras_cls.training.optimizers import Multiplier
from keras_cls.training.recipes import FineTuning


class Stages:
    """The learning rate's share of each variable of a network, and the switch for its body.

    A stage is what works on maps of one size, as an endpoint has them; the last is the head.
    """

    def __init__(self, model: keras.Model, settings: FineTuning) -> None:
        self._settings = settings
        self._body = keras.Variable(1.0, trainable=False, dtype="float32", name="body")
        stages, smallest, stage = {}, math.inf, -1
        for layer in model.layers:
            shape: tuple[int, ...] = getattr(layer.output, "shape", ())
            if len(shape) == 4 and shape[1] < smallest:
                smallest, stage = shape[1], stage + 1
            stages.update({variable.path: stage for variable in layer.trainable_variables})
        head = [layer for layer in model.layers if layer.trainable_variables][-1]
        self._share = {
            path: settings.body_rate * settings.layer_decay ** (stage - number)
            for path, number in stages.items()
        }
        self._head = {variable.path for variable in head.trainable_variables}

    @property
    def multiplier(self) -> Multiplier:
        """For the optimizer."""

        def share(variable: keras.Variable) -> Any:
            if variable.path in self._head:
                return 1.0
            return self._body.value * self._share[variable.path]

        return share

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Let the body learn, or not yet."""
        self._body.assign(0.0 if epoch < round(self._settings.head_first * epochs) else 1.0)


def set_statistics_frozen(model: keras.Model, frozen: bool) -> None:
    """Keep batch normalization as in inference, or let it learn."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = not frozen
