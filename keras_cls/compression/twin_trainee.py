"""A wrapped twin as what the training loop trains."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import keras
import tensorflow as tf
import tf_keras

from keras_cls.classifier import Classifier
from keras_cls.compression.clustering import clusterable, strip_again, strip_clustering
from keras_cls.compression.easing import ease_dropout, found_sparsity
from keras_cls.compression.pruning import (
    planned_sparsity,
    prunable,
    pruned_weights,
    start_pruning,
    strip_pruning,
)
from keras_cls.compression.quantization import quantizable
from keras_cls.compression.settings import Clustering, Pruning, Quantization, Technique
from keras_cls.compression.twin import copy_back, twin_of
from keras_cls.errors import ConfigError, ExportError
from keras_cls.training.figures import batch_figures, cross_entropy
from keras_cls.training.precision import Precision
from keras_cls.training.schedules import Cosine, Scheduled

_MOMENTUM = 0.9
_IN_BFLOAT16 = "auto_mixed_precision_onednn_bfloat16"
# Pruning at a large rate is training anew, and what is left of the weights overfits without it.
_PRUNING_DECAY = 5e-4


class TwinTrainee:
    """A classifier's twin with a technique around its layers, an optimizer, and a training step.

    Momentum, at a rate that falls as half a cosine. Kernels decay while they are pruned, and not
    under the other techniques, whose small steps only move them a little. Dropout is lowered with
    the weights that are left (:mod:`keras_cls.compression.easing`).

    Args:
        classifier: what to refine; it is changed by :meth:`hand_over` alone.
        technique: what its weights are to bear.
        steps: of the whole run.
        learning_rate: of the first step.
        teacher: whose answers are half of each image's target (Hinton, Vinyals and Dean,
            arXiv:1503.02531, at temperature 1); None for the labels alone.
        precision: of convolutions, products and what lies between them on CPUs; variables, their
            updates and the loss are float32.

    Raises:
        ExportError: the network has no twin, or nothing for the technique in it.
    """

    workers = 1

    def __init__(
        self,
        classifier: Classifier,
        technique: Technique,
        *,
        steps: int,
        learning_rate: float,
        teacher: Classifier | None = None,
        precision: Precision = "float32",
    ) -> None:
        self.classifier = classifier
        self.strategy = tf.distribute.get_strategy()
        self._wrapped = _wrap(twin_of(classifier.model), technique)
        self.network = self._wrapped.network
        self._teacher = teacher
        self._schedule = Scheduled(Cosine(), learning_rate, steps, 0)
        self.optimizer = tf_keras.optimizers.SGD(learning_rate, _MOMENTUM)
        self._trained = list(self.network.trainable_variables)
        self._decay = _PRUNING_DECAY if isinstance(technique, Pruning) else 0.0
        self.optimizer.build(self._trained)
        # Clustering moves its layers' variables about whenever it is called.
        found = [*self.network.weights, *self.optimizer.variables]
        self._variables = list({id(variable): variable for variable in found}.values())
        self._graph = tf.function(self._step, autograph=False)
        self._arithmetic = _bfloat16 if precision == "bfloat16" else nullcontext

    @property
    def variables(self) -> Sequence[tf.Variable]:
        """All that a checkpoint must hold."""
        return self._variables

    @property
    def learning_rate(self) -> float:
        """The rate of the last step."""
        return float(self._schedule(max(int(self.optimizer.iterations.numpy()) - 1, 0)))

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Nothing changes from epoch to epoch."""

    def step(self, batch: Any, stop: bool = False) -> tf.Tensor:
        """One step on (float32 [B, H, W, C], float32 [B, K]) -> float32 [5]."""
        with self._arithmetic():
            return self._graph(*batch, tf.constant(float(stop)))

    def hand_over(self) -> None:
        """Give the classifier the weights, of zeros or of few values as they are."""
        copy_back(self._wrapped.stripped(), self.classifier.model)

    def _step(self, images: tf.Tensor, targets: tf.Tensor, stop: tf.Tensor) -> tf.Tensor:
        self.optimizer.learning_rate.assign(
            self._schedule(tf.cast(self.optimizer.iterations, tf.int32))
        )
        wanted = targets
        if self._teacher is not None:
            wanted = (targets + self._teacher.network(images)) / 2
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._trained)
            logits = self.network(images, training=True)
            losses = cross_entropy(wanted, logits, multi_label=self.classifier.multi_label)
            loss = tf.reduce_mean(losses) + sum(self.network.losses)  # these are regularizers'
        gradients = zip(tape.gradient(loss, self._trained), self._trained, strict=True)
        self.optimizer.apply_gradients(
            (gradient + self._decay_of(variable) * variable, variable)
            for gradient, variable in gradients
            if gradient is not None  # clusters learn in place of their kernel
        )
        self._wrapped.after_step()
        shown = loss * tf.cast(tf.shape(images)[0], tf.float32)
        figures = batch_figures(shown, targets, logits, self.classifier.multi_label)
        return tf.concat([figures, stop[None]], axis=0)

    def _decay_of(self, variable: tf.Variable) -> float:
        return self._decay if variable.shape.rank > 1 else 0.0


@contextmanager
def _bfloat16() -> Iterator[None]:
    """Let TensorFlow rewrite the graphs that are called so that they compute in bfloat16.

    tf_keras' own mixed precision is not for the toolkit's layers: they assign to the kernels that
    they compute with.
    """
    before = tf.config.optimizer.get_experimental_options().get(_IN_BFLOAT16, False)
    tf.config.optimizer.set_experimental_options({_IN_BFLOAT16: True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({_IN_BFLOAT16: before})


class _Wrapped(Protocol):
    """A twin with a technique around its layers."""

    network: tf_keras.Model

    def after_step(self) -> None:
        """What must be done to the weights that an optimizer has changed."""

    def stripped(self) -> tf_keras.Model:
        """What has the weights by the names that the model's twin has."""


class _Pruned:
    def __init__(self, twin: tf_keras.Model, settings: Pruning) -> None:
        self.network = prunable(twin, settings)
        start_pruning(self.network)
        self._stripped = strip_pruning(self.network)

    def after_step(self) -> None:
        for weight, mask in pruned_weights(self.network):
            weight.assign(weight * mask)

    def stripped(self) -> tf_keras.Model:
        return self._stripped


class _Clustered:
    def __init__(self, twin: tf_keras.Model, settings: Clustering) -> None:
        self.network = clusterable(twin, settings)
        self._stripped = strip_clustering(self.network)

    def after_step(self) -> None:
        pass

    def stripped(self) -> tf_keras.Model:
        strip_again(self.network, self._stripped)
        return self._stripped


class _Quantized:
    def __init__(self, twin: tf_keras.Model, settings: Quantization) -> None:
        self.network = quantizable(twin, settings)

    def after_step(self) -> None:
        pass

    def stripped(self) -> tf_keras.Model:
        return self.network  # Its weights go back as they are.


_KINDS: dict[type[Technique], Callable[..., _Wrapped]] = {
    Pruning: _Pruned,
    Clustering: _Clustered,
    Quantization: _Quantized,
}


def _wrap(twin: tf_keras.Model, technique: Technique) -> _Wrapped:
    # What clusters start from is drawn.
    keras.utils.set_random_seed(0)
    sparsity = found_sparsity(twin)
    if isinstance(technique, Pruning):
        planned = planned_sparsity(twin, technique)
        sparsity = {n: max(planned.get(n, 0.0), share) for n, share in sparsity.items()}
    ease_dropout(twin, sparsity)
    try:
        return _KINDS[type(technique)](twin, technique)
    except ConfigError as error:
        raise ExportError(str(error)) from error
