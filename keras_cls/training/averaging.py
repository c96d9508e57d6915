"""The moving average of the weights: what is judged and kept where a recipe asks for it.

The optimizer keeps the average beside the weights. Those of normalization's statistics are not
averaged: they are moving averages themselves.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras


@contextmanager
def averaged(optimizer: keras.Optimizer) -> Iterator[None]:
    """The model has the averaged weights inside, and those that learn again outside."""
    if not optimizer.use_ema or not optimizer.built:
        yield
        return
    kept = _exchange(optimizer)
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)


class JudgeAveraged(keras.callbacks.Callback):
    """Validates the averaged weights."""

    def __init__(self, optimizer: keras.Optimizer) -> None:
        super().__init__()
        self._optimizer = optimizer
        self._exchanged = ExitStack()

    def on_test_begin(self, logs: Any = None) -> None:
        """Exchange the weights."""
        self._exchanged.enter_context(averaged(self._optimizer))

    def on_test_end(self, logs: Any = None) -> None:
        """And back."""
        self._exchanged.close()


def _exchange(optimizer: keras.Optimizer) -> list[tuple[keras.Variable, Any]]:
    kept = []
    for variable, average in zip(
        optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True
    ):
        kept.append((variable, keras.ops.convert_to_numpy(variable)))
        variable.assign(keras.ops.convert_to_numpy(average))
    return kept
