"""The loss, and the figures that are shown beside it, summed over images.

A batch's figures are a float32 vector: the loss's sum, then what was right (images whose class is
the most probable one; multi-label: the share of right answers, yes or no, of an image), then images
whose class is among the five most probable, then the number of images.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

_TOP = 5


def cross_entropy(
    targets: tf.Tensor,
    logits: tf.Tensor,
    *,
    multi_label: bool = False,
    smoothing: float = 0.0,
    class_weights: np.ndarray | None = None,
) -> tf.Tensor:
    """Each image's cross-entropy, float32 [B].

    Args:
        targets: float32 [B, K]: shares of the classes; multi-label: zeros and ones.
        logits: float [B, K].
        multi_label: whether each class is a question of its own; their losses are averaged.
        smoothing: the share of a target that is spread over all answers.
        class_weights: float32 [K]: how much an image of the class counts; multi-label: how much
            a yes counts beside a no.
    """
    logits = tf.cast(logits, tf.float32)
    if multi_label:
        smoothed = targets * (1 - smoothing) + smoothing / 2
        if class_weights is None:
            losses = tf.nn.sigmoid_cross_entropy_with_logits(smoothed, logits)
        else:
            losses = tf.nn.weighted_cross_entropy_with_logits(smoothed, logits, class_weights)
        return tf.reduce_mean(losses, axis=1)
    smoothed = targets * (1 - smoothing) + smoothing / targets.shape[-1]
    losses = tf.nn.softmax_cross_entropy_with_logits(smoothed, logits)
    if class_weights is not None:
        losses *= tf.linalg.matvec(targets, tf.constant(class_weights, tf.float32))
    return losses


def batch_figures(
    loss: tf.Tensor, targets: tf.Tensor, logits: tf.Tensor, multi_label: bool
) -> tf.Tensor:
    """The vector of a batch; ``loss`` is the sum over its images."""
    count = tf.cast(tf.shape(targets)[0], tf.float32)
    if multi_label:
        right = tf.reduce_mean(tf.cast((logits > 0) == (targets > 0.5), tf.float32), axis=1)
        return tf.stack([loss, tf.reduce_sum(right), 0.0, count])
    # Of mixed images, the class with the largest share is the right one.
    truth = tf.argmax(targets, axis=1)
    right = tf.cast(tf.argmax(logits, axis=1) == truth, tf.float32)
    among = tf.math.in_top_k(truth, tf.cast(logits, tf.float32), _TOP)
    return tf.stack([loss, tf.reduce_sum(right), tf.reduce_sum(tf.cast(among, tf.float32)), count])


@dataclass
class Figures:
    """What batches add up to.

    Attributes:
        classes: how many; of five or fewer, top-5 says nothing and is left out.
        multi_label: whether images may have several.
        sums: float64 [4], as the vectors of batches.
    """

    classes: int
    multi_label: bool = False
    sums: np.ndarray = field(default_factory=lambda: np.zeros(4))

    def add(self, batch: Any) -> None:
        """Take a batch's vector in."""
        self.sums = self.sums + np.asarray(batch, np.float64)

    @property
    def images(self) -> int:
        """The number of images so far."""
        return int(self.sums[3])

    def means(self, prefix: str = "") -> dict[str, float]:
        """``loss``, ``accuracy`` and, of more than five classes, ``top5``; none of no image."""
        if not self.images:
            return {}
        loss, right, among, count = self.sums
        found = {"loss": loss / count, "accuracy": right / count}
        if self.classes > _TOP and not self.multi_label:
            found["top5"] = among / count
        return {prefix + name: float(value) for name, value in found.items()}
