"""Magnitude pruning of a twin."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from keras_cls.compression import twin_layers
from keras_cls.compression.rebuilding import rebuilt
from keras_cls.compression.settings import PolynomialDecay, Pruning
from keras_cls.compression.toolkit import tfmot
from keras_cls.errors import ConfigError

# Of a kernel [.., C, filters]: tensorflow-model-optimization groups fours along C.
_GROUP = 4


def prunable(twin: tf_keras.Model, settings: Pruning | None = None) -> tf_keras.Model:
    """A model to be trained with :func:`pruning_callbacks`, which prunes its kernels meanwhile.

    Kernels of convolutions and dense layers are pruned, and the pointwise ones of separable
    convolutions; depthwise kernels, biases and layers that are frozen are not. It shares the twin's
    layers: the twin is used up.

    Args:
        twin: what :func:`~keras_cls.compression.twin.twin_of` makes.
        settings: None for half of zeros from the start.

    Raises:
        ConfigError: the twin is no functional tf_keras model, nothing in it can be pruned, or
            ``by_layer`` names a layer that it does not have.
    """
    settings = settings or Pruning()
    strange = settings.by_layer.keys() - {layer.name for layer in twin.layers}
    if strange:
        raise ConfigError(f"{twin.name}: by_layer names {sorted(strange)}, which it does not have")
    shares = planned_sparsity(twin, settings)
    found = rebuilt(twin, lambda layer: _replacements(layer, settings, shares))
    if not _pruned(found):
        raise ConfigError(f"{twin.name}: no layer has a kernel that can be pruned")
    return found


def pruning_callbacks() -> list[tf_keras.callbacks.Callback]:
    """What ``fit`` of a prunable model needs among its callbacks."""
    return [tfmot.sparsity.keras.UpdatePruningStep()]


def start_pruning(model: tf_keras.Model) -> None:
    """What the callback does when ``fit`` begins, for another loop."""
    for layer in _pruned(model):
        layer.pruning_step.assign(0)


def pruned_weights(model: tf_keras.Model) -> list[tuple[tf.Variable, tf.Variable]]:
    """A prunable model's kernels, each with its mask of zeros and ones.

    An optimizer moves the zeros as well. The callback puts them back when an epoch ends, and each
    call of the model does; another loop does it with these behind its steps.
    """
    return [(weight, mask) for layer in _pruned(model) for weight, mask, _ in layer.pruning_vars]


def _pruned(model: tf_keras.Model) -> list[Any]:
    return [layer for layer in model.layers if isinstance(layer, _wrapper())]


def strip_pruning(model: tf_keras.Model) -> tf_keras.Model:
    """A prunable model without what pruning added; the zeros stay.

    Raises:
        ConfigError: the model is no functional tf_keras model.
    """
    return rebuilt(model, _stripped)


def planned_sparsity(twin: tf_keras.Model, settings: Pruning) -> dict[str, float]:
    """The sparsity that layers are to end with, by name."""
    if settings.two_of_four:
        return {
            layer.name: 0.5 for layer in twin.layers if _can_be_pruned(layer) and _in_fours(layer)
        }
    return {**_shares(twin, settings), **settings.by_layer}


def _shares(twin: tf_keras.Model, settings: Pruning) -> dict[str, float]:
    """The sparsity of each layer that can be pruned, by name."""
    kernels = {
        layer.name: twin_layers.kernel_of(layer).numpy()
        for layer in twin.layers
        if _can_be_pruned(layer)
    }
    if settings.allocation == "uniform" or not kernels:
        return dict.fromkeys(kernels, settings.sparsity)
    scores = {name: lamp_scores(kernel) for name, kernel in kernels.items()}
    threshold = np.quantile(np.concatenate(list(scores.values())), settings.sparsity)
    return {name: float(np.mean(score < threshold)) for name, score in scores.items()}


def lamp_scores(kernel: np.ndarray) -> np.ndarray:
    """Each weight's square over the sum of those of its kernel that are not smaller, [kernel.size].

    The largest of each kernel has the score 1, so that no layer loses all of its weights. Source:
    arXiv:2010.07611, equation 1.
    """
    squares = np.sort(np.square(kernel.astype(np.float64)).reshape(-1))
    return squares / np.maximum(np.cumsum(squares[::-1])[::-1], np.finfo(np.float64).tiny)


def _replacements(
    layer: tf_keras.layers.Layer, settings: Pruning, shares: Mapping[str, float]
) -> list[tf_keras.layers.Layer]:
    sparsity = shares.get(layer.name, 0)
    if not _can_be_pruned(layer) or not sparsity:
        return [layer]
    arguments: dict[str, Any] = {"pruning_schedule": _Schedule(settings, sparsity)}
    if settings.two_of_four:
        arguments["sparsity_m_by_n"] = (2, 4)
    return [tfmot.sparsity.keras.prune_low_magnitude(layer, **arguments)]


def _stripped(layer: tf_keras.layers.Layer) -> list[tf_keras.layers.Layer]:
    return [layer.layer if isinstance(layer, _wrapper()) else layer]


def _wrapper() -> Any:
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_wrapper

    return pruning_wrapper.PruneLowMagnitude


def _can_be_pruned(layer: tf_keras.layers.Layer) -> bool:
    return twin_layers.kernel_of(layer) is not None and layer.trainable


def _in_fours(layer: tf_keras.layers.Layer) -> bool:
    return twin_layers.kernel_of(layer).shape[-2] % _GROUP == 0


class _Schedule(tfmot.sparsity.keras.PruningSchedule):
    """Our schedules for tensorflow-model-optimization, whose own may leave out the last step."""

    def __init__(self, settings: Pruning, sparsity: float) -> None:
        self.settings = settings
        self.sparsity = sparsity

    def __call__(self, step: Any) -> tuple[Any, Any]:
        """The step, from 1 -> whether to choose the weights to prune in it, and what share."""
        schedule = self.settings.schedule
        since = tf.cast(step, tf.int64) - 1 - schedule.begin_step
        due = (since >= 0) & (since % schedule.frequency == 0)
        sparsity = tf.constant(self.sparsity, tf.float32)
        if schedule.end_step is not None:
            length = schedule.end_step - schedule.begin_step
            due = (due & (since <= length)) | (since == length)
            if isinstance(schedule, PolynomialDecay):
                left = 1 - tf.clip_by_value(tf.cast(since, tf.float32) / length, 0, 1)
                missing = sparsity - min(schedule.initial_sparsity, self.sparsity)
                sparsity = sparsity - missing * left**schedule.power
        return due, sparsity

    def get_config(self) -> dict[str, Any]:
        """For the wrapper's own configuration; nothing is loaded from it."""
        return {"class_name": "Schedule", "config": asdict(self.settings)}
