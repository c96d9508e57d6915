"""Carrying trained weights over to other classes: which layers learn when, and how fast."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
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
        self._share = {p: settings.layer_decay ** (stage + 1 - n) for p, n in stages.items()}
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


class StageSwitch(keras.callbacks.Callback):
    """Tells the stages which epoch it is."""

    def __init__(self, stages: Stages, epochs: int) -> None:
        super().__init__()
        self._stages = stages
        self._epochs = epochs

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Switch."""
        self._stages.begin_epoch(epoch, self._epochs)


def set_statistics_frozen(model: keras.Model, frozen: bool) -> None:
    """Keep batch normalization as in inference, or let it learn again."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = not frozen


@contextmanager
def unfrozen(model: keras.Model) -> Iterator[None]:
    """The model as it is kept: what was frozen for one training is not so for the next."""
    frozen = [layer for layer in model.layers if not layer.trainable]
    for layer in frozen:
        layer.trainable = True
    try:
        yield
    finally:
        for layer in frozen:
            layer.trainable = False
