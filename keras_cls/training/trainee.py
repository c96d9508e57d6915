"""What a run trains: a network of its own, on the run's devices and in the run's precision.

The classifier that comes out of the run stays as it is saved: float32, one device, no optimizer, no
auxiliary heads. The trainee is built beside it, and its weights are copied over when the classifier
is to be judged or kept.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_cls.architectures import model_spec
from keras_cls.architectures.cells import set_drop_path_progress
from keras_cls.architectures.layers import Conv2D
from keras_cls.architectures.walking import step_of
from keras_cls.classifier import Classifier
from keras_cls.errors import ConfigError
from keras_cls.training.figures import batch_figures, cross_entropy
from keras_cls.training.fine_tuning import Stages, set_statistics_frozen
from keras_cls.training.lookahead import SlowCopy
from keras_cls.training.precision import Precision
from keras_cls.training.recipes import Recipe
from keras_cls.weights import create_model

_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


class Trainee:
    """A network, its optimizer and one training step.

    Args:
        classifier: what to train; it is changed by :meth:`hand_over` alone.
        recipe: loss, optimizer, drop path, fine-tuning.
        steps: of the whole run.
        batch_size: images a step, on all devices together.
        seed: what dropout draws from.
        strategy: the devices.
        workers: how many worker processes they belong to.
        precision: what layers compute in.
        auxiliary: whether the network's auxiliary heads are trained too.
        class_weights: float32 [K], how much each class counts in the loss; None for all alike.

    Raises:
        ConfigError: the classifier's model is not made of layers in a graph.
    """

    def __init__(
        self,
        classifier: Classifier,
        recipe: Recipe,
        *,
        steps: int,
        batch_size: int,
        seed: int = 0,
        strategy: tf.distribute.Strategy | None = None,
        workers: int = 1,
        precision: Precision = "float32",
        auxiliary: bool = False,
        class_weights: np.ndarray | None = None,
    ) -> None:
        self.classifier = classifier
        self.recipe = recipe
        self.strategy = strategy or tf.distribute.get_strategy()
        self.workers = workers
        self._seed = seed
        self._class_weights = class_weights
        self._head = model_spec(classifier.architecture).head if auxiliary else ""
        replicas = self.strategy.num_replicas_in_sync
        with self.strategy.scope():
            self.network = _copy(
                _with_auxiliary_heads(classifier) if auxiliary else classifier.model,
                _POLICIES[precision],
                synchronized=replicas > 1,
            )
            self._stages = None
            if recipe.fine_tuning is not None:
                self._stages = Stages(self.network, recipe.fine_tuning)
                set_statistics_frozen(self.network, recipe.fine_tuning.frozen_statistics)
            self._schedule = recipe.scheduled(steps, batch_size)
            self.optimizer = recipe.optimizer(
                self._schedule, None if self._stages is None else self._stages.multiplier
            )
            self.optimizer.build(self.network.trainable_variables)
            self._slow_copy = None
            if recipe.lookahead is not None:
                self._slow_copy = SlowCopy(
                    recipe.lookahead,
                    self.network.weights,
                    self.optimizer.iterations,
                    steps,
                    self.strategy,
                )
        self._generators = [
            generator
            for layer in self.network._flatten_layers()
            for generator in layer._seed_generators
        ]
        self._kept = _counterparts(self.network, classifier.model)
        self._graph = tf.function(self._step, autograph=False)

    @property
    def variables(self) -> list[keras.Variable]:
        """All that a checkpoint must hold: the network's weights first."""
        slow = [] if self._slow_copy is None else self._slow_copy.variables
        return [*self.network.weights, *self.optimizer.variables, *slow]

    @property
    def learning_rate(self) -> float:
        """The rate of the last step."""
        done = int(keras.ops.convert_to_numpy(self.optimizer.iterations))
        return float(self._schedule(max(done - 1, 0)))

    def step(self, batch: Any, stop: bool = False) -> tf.Tensor:
        """One step on a global batch.

        Args:
            batch: (float32 [B, H, W, C], float32 [B, K]), or what a strategy makes of them.
            stop: whether this worker asks for a stop.

        Returns:
            float32 [5]: the batch's figures, see :mod:`keras_cls.training.figures`, and how many
            devices' workers ask for a stop: all workers learn of it in the same step.
        """
        return self._graph(batch, tf.constant(float(stop)))

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Set what changes from epoch to epoch: stages of fine-tuning, drop path."""
        if self._stages is not None:
            self._stages.begin_epoch(epoch, epochs)
        if self.recipe.drop_path:
            set_drop_path_progress(self.network, epoch / epochs)

    def hand_over(self) -> None:
        """At the end of an epoch, give the classifier the weights, or their moving average.

        With a lookahead the trainee itself goes back to its slow copy first.
        """
        if self._slow_copy is not None:
            self._slow_copy.end_epoch()
        averages = {}
        if self.optimizer.use_ema and keras.ops.convert_to_numpy(self.optimizer.iterations) > 0:
            averages = {
                id(variable): average
                for variable, average in zip(
                    self.optimizer._trainable_variables,
                    self.optimizer._model_variables_moving_average,
                    strict=True,
                )
            }
        for mine, theirs in self._kept:
            theirs.assign(keras.ops.convert_to_numpy(averages.get(id(mine), mine)))

    def _step(self, batch: Any, stop: tf.Tensor) -> tf.Tensor:
        figures = self.strategy.run(self._replica_step, args=(batch, stop))
        if self._slow_copy is not None:
            self._slow_copy.follow_if_due()
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, figures, axis=None)

    def _replica_step(self, batch: tuple[tf.Tensor, tf.Tensor], stop: tf.Tensor) -> tf.Tensor:
        images, targets = batch
        self._seed_draws()
        variables = self.network.trainable_variables
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([variable.value for variable in variables])
            logits, others = self._heads(self.network(images, training=True))
            losses = self._losses(targets, logits)
            loss = tf.reduce_mean(losses)
            for other in others:
                loss += self.recipe.aux_weight * tf.reduce_mean(self._losses(targets, other))
            if self.network.losses:
                loss += tf.add_n(self.network.losses)
            # The optimizer adds up what the replicas have.
            share = loss / self.strategy.num_replicas_in_sync
        gradients = tape.gradient(share, [variable.value for variable in variables])
        self.optimizer.apply(gradients, variables)
        shown = loss * tf.cast(tf.shape(images)[0], tf.float32)
        figures = batch_figures(shown, targets, logits, self.classifier.multi_label)
        return tf.concat([figures, stop[None]], axis=0)

    def _seed_draws(self) -> None:
        """Dropout's draws depend on the seed, the step and the replica alone."""
        context = tf.distribute.get_replica_context()
        replica = 0 if context is None else context.replica_id_in_sync_group
        for number, generator in enumerate(self._generators):
            start = tf.cast(self._seed + number, tf.int64) + tf.cast(replica, tf.int64) * 2**32
            step = tf.cast(self.optimizer.iterations.value, tf.int64) * 2**16
            generator.state.assign(tf.cast(tf.stack([start, step]), generator.state.dtype))

    def _losses(self, targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return cross_entropy(
            targets,
            logits,
            multi_label=self.classifier.multi_label,
            smoothing=self.recipe.label_smoothing,
            class_weights=self._class_weights,
        )

    def _heads(self, outputs: Any) -> tuple[tf.Tensor, list[tf.Tensor]]:
        if not isinstance(outputs, dict):
            return outputs, []
        return outputs[self._head], [v for name, v in outputs.items() if name != self._head]


def _copy(model: keras.Model, policy: str, *, synchronized: bool) -> keras.Model:
    """The same network with layers of its own, that compute by another policy; logits in float32.

    ``synchronized``: batch normalization takes its statistics over all replicas.
    """
    outputs = model.output.values() if isinstance(model.output, dict) else [model.output]
    last = {step_of(output).operation.name for output in outputs}

    def rebuilt(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if not isinstance(layer, keras.layers.InputLayer):
            config["dtype"] = "float32" if layer.name in last else policy
        if synchronized and isinstance(layer, keras.layers.BatchNormalization):
            config["synchronized"] = True
        kind = Conv2D if type(layer) is keras.layers.Conv2D else type(layer)
        return kind.from_config(config)

    try:
        copy = keras.models.clone_model(model, clone_function=rebuilt)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ConfigError(
            f"{model.name!r} cannot be trained: it must be a functional or sequential Keras model "
            f"of layers that can be made from their configuration: {error}"
        ) from error
    copy.set_weights(model.get_weights())
    return copy


def _with_auxiliary_heads(classifier: Classifier) -> keras.Model:
    """The classifier's network with its auxiliary heads, which are fresh."""
    shape = classifier.preprocessing.input_shape
    network = create_model(classifier.architecture, len(classifier.labels), shape, aux=True)
    for mine, theirs in _counterparts(network, classifier.model):
        mine.assign(theirs)
    return network


def _counterparts(
    network: keras.Model, model: keras.Model
) -> list[tuple[keras.Variable, keras.Variable]]:
    """Each variable of ``model`` with the one of ``network`` that stands for it."""
    if len(network.weights) == len(model.weights):
        return list(zip(network.weights, model.weights, strict=True))
    known = {variable.path: variable for variable in network.weights}
    return [(known[variable.path], variable) for variable in model.weights]
