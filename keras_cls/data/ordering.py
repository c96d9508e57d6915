"""In which order images come while training: a function of the seed and the epoch alone."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf


def shuffled(size: int, seed: int, per_epoch: int, first: int | tf.Tensor) -> tf.data.Dataset:
    """Endless indices, (int64,), from place ``first`` on: each epoch is a new order of all.

    Args:
        size: how many images there are.
        seed: what the orders are drawn from.
        per_epoch: places of an epoch, ``size`` or more; behind the last image the first ones of
            the same epoch come again.
        first: where to begin, counted in places from the beginning of epoch 0.
    """

    def order(epoch: tf.Tensor) -> tf.Tensor:
        key = tf.stack([tf.constant(seed, tf.int64), epoch])
        drawn = tf.random.experimental.stateless_shuffle(tf.range(tf.constant(size, tf.int64)), key)
        return tf.gather(drawn, tf.range(tf.constant(per_epoch, tf.int64)) % size)

    return _endless(order, per_epoch, first)


def balanced(
    targets: np.ndarray, seed: int, per_epoch: int, first: int | tf.Tensor
) -> tf.data.Dataset:
    """Endless indices, (int64,), that show every class equally often in an epoch, to within one.

    The images of a class take turns, in a new order each epoch. With multi-label targets an image
    counts in each of its classes, and those that have none are a class of their own.

    Args:
        targets: int64 [N] classes, or [N, K] of zeros and ones.
        seed: what the orders are drawn from.
        per_epoch: places of an epoch.
        first: where to begin, counted in places from the beginning of epoch 0.
    """
    classes, images = _memberships(targets)
    # Grouped by class; a class's members lie at starts .. starts + counts.
    grouped = np.argsort(classes, kind="stable")
    _, starts, counts = np.unique(classes[grouped], return_index=True, return_counts=True)
    members = tf.constant(images[grouped], tf.int64)
    groups = tf.constant(np.repeat(np.arange(len(counts)), counts), tf.float64)
    first_of, size_of = tf.constant(starts, tf.int64), tf.constant(counts, tf.int64)

    def order(epoch: tf.Tensor) -> tf.Tensor:
        key = tf.stack([tf.constant(seed, tf.int64), epoch])
        keys = tf.unstack(tf.random.split(key, 3))
        # Sorted by class and, within it, by a random number.
        drawn = tf.random.stateless_uniform([len(images)], keys[0], dtype=tf.float64)
        turns = tf.gather(members, tf.argsort(groups + drawn))
        names = tf.random.experimental.stateless_shuffle(
            tf.range(tf.constant(len(counts), tf.int64)), keys[1]
        )
        places = tf.range(tf.constant(per_epoch, tf.int64))
        group = tf.gather(names, places % len(counts))
        turn = (places // len(counts)) % tf.gather(size_of, group)
        chosen = tf.gather(turns, tf.gather(first_of, group) + turn)
        return tf.random.experimental.stateless_shuffle(chosen, keys[2])

    return _endless(order, per_epoch, first)


def _memberships(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(class, image), a pair for each class of each image."""
    if targets.ndim == 1:
        return targets, np.arange(len(targets))
    images, classes = np.nonzero(targets)
    without = np.flatnonzero(~targets.any(axis=1))
    of_their_own = np.full(len(without), targets.shape[1])
    return np.concatenate([classes, of_their_own]), np.concatenate([images, without])


def _endless(
    order: Callable[[tf.Tensor], tf.Tensor], per_epoch: int, first: int | tf.Tensor
) -> tf.data.Dataset:
    epoch_of_first, passed = first // per_epoch, first % per_epoch

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        skipped = tf.where(number == epoch_of_first, tf.cast(passed, tf.int64), 0)
        return tf.data.Dataset.from_tensor_slices((order(number)[skipped:],))

    return tf.data.Dataset.counter(epoch_of_first).flat_map(epoch)
