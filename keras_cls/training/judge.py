"""The classifier's figures on the validation images, after every epoch."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_cls.classifier import Classifier
from keras_cls.evaluation.multi_label import average_precision
from keras_cls.training.cluster import Workers
from keras_cls.training.devices import distributed
from keras_cls.training.figures import Figures, batch_figures, cross_entropy


class Judge:
    """Judges a classifier as it will be kept: in float32, without what training adds.

    Each worker judges its own part of the images, on all of its devices.
    """

    def __init__(
        self, classifier: Classifier, strategy: tf.distribute.Strategy, workers: Workers
    ) -> None:
        self._classifier = classifier
        self._strategy = strategy
        self._workers = workers
        self._network = classifier.model
        if strategy.num_replicas_in_sync > 1:
            with strategy.scope():
                self._network = keras.models.clone_model(classifier.model)
        self._step = tf.function(self._judged, autograph=False)

    def figures(
        self, batches: tf.data.Dataset, on_batch: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """``val_loss``, ``val_accuracy``, ``val_top5``; multi-label: ``val_map`` too.

        Args:
            batches: this worker's part, (float32 [b, H, W, C], float32 [b, K]).
            on_batch: called after each batch; what it raises ends the judgement.
        """
        if self._network is not self._classifier.model:
            self._network.set_weights(self._classifier.model.get_weights())
        multi_label = self._classifier.multi_label
        total = Figures(len(self._classifier.labels), multi_label)
        scores: list[np.ndarray] = []
        truths: list[np.ndarray] = []
        for batch in distributed(batches, self._strategy):
            found, *answers = self._step(batch)
            total.add(found)
            if multi_label:
                for kept, values in zip((scores, truths), answers, strict=True):
                    kept += [v.numpy() for v in self._strategy.experimental_local_results(values)]
            on_batch()
        total.sums = self._workers.sum(total.sums)
        means = total.means("val_")
        if multi_label:
            every = [_gathered(np.concatenate(kept), self._workers) for kept in (scores, truths)]
            means["val_map"] = float(np.nanmean(average_precision(*every)))
        return means

    def _judged(self, batch: Any) -> Any:
        found, *answers = self._strategy.run(self._replica_step, args=(batch,))
        local = self._strategy.experimental_local_results(found)
        return tf.add_n(list(local)), *answers

    def _replica_step(self, batch: tuple[tf.Tensor, tf.Tensor]) -> Any:
        images, targets = batch
        if self._strategy.num_replicas_in_sync == 1:
            return self._answered(images, targets)
        # Of a last batch some devices may get nothing, which oneDNN's convolution takes amiss.
        return tf.cond(
            tf.size(targets) > 0,
            lambda: self._answered(images, targets),
            lambda: (tf.zeros(4), tf.zeros_like(targets), targets),
        )

    def _answered(self, images: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, ...]:
        logits = tf.cast(self._network(images, training=False), tf.float32)
        multi_label = self._classifier.multi_label
        loss = tf.reduce_sum(cross_entropy(targets, logits, multi_label=multi_label))
        return batch_figures(loss, targets, logits, multi_label), logits, targets


def _gathered(rows: np.ndarray, workers: Workers) -> np.ndarray:
    """The rows of all workers: [n, K] -> [N, K]."""
    counts = np.zeros(workers.count)
    counts[workers.index] = len(rows)
    ends = np.cumsum(workers.sum(counts)).astype(int)
    every = np.zeros((ends[-1], rows.shape[1]))
    every[ends[workers.index] - len(rows) : ends[workers.index]] = rows
    return workers.sum(every)
