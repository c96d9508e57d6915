"""Batches for the devices of a strategy."""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf


def distributed(batches: tf.data.Dataset, strategy: tf.distribute.Strategy) -> Iterator[Any]:
    """A worker's batches, handed to its devices in equal, consecutive parts.

    Where a batch cannot be divided (the last one of a validation), devices get what there is, some
    of them nothing.
    """
    if strategy.num_replicas_in_sync == 1:
        return iter(batches)

    def of_this_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        devices = context.num_replicas_in_sync // context.num_input_pipelines

        def parts(images: tf.Tensor, targets: tf.Tensor) -> tf.data.Dataset:
            count = tf.shape(images, tf.int64)[0]
            size = tf.maximum(-(-count // devices), 1)
            starts = tf.minimum(tf.range(devices, dtype=tf.int64) * size, count)
            ends = tf.minimum(starts + size, count)
            return tf.data.Dataset.from_tensor_slices((starts, ends)).map(
                lambda start, end: (images[start:end], targets[start:end])
            )

        return batches.flat_map(parts).prefetch(devices)

    return iter(strategy.distribute_datasets_from_function(of_this_worker))
