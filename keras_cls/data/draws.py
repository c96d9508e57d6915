"""Random numbers for images: functions of a seed, an image's place, and what they are for."""

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import tensorflow as tf

_PHILOX = 1  # the generator's number in TensorFlow; it gives four numbers a block
_BLOCK = 4


class Purpose(IntEnum):
    """What numbers are for. Those of different purposes have nothing to do with each other."""

    # Epochs and steps, which number other keys of the same seed, are never negative.
    GEOMETRY = -1
    OPERATIONS = -2
    COLOR = -3
    ERASING = -4
    NOISE = -5


class Seen(NamedTuple):
    """Which images are drawn for, and how often they were seen before.

    Attributes:
        images: int64 [n], their indices.
        epoch: int64 scalar, counted from 0.
    """

    images: tf.Tensor
    epoch: tf.Tensor


@dataclass(frozen=True)
class Draws:
    """The random numbers of images at consecutive places.

    The same place gives the same numbers, whether it is drawn for alone or among others.

    Attributes:
        seed: of the whole run.
        first: int64 scalar, the first image's place.
        count: how many images there are.
        seen: which images they are; None where they have no index.
    """

    seed: int
    first: tf.Tensor
    count: int
    seen: Seen | None = None

    def uniform(self, purpose: Purpose, *shape: int) -> tf.Tensor:
        """float32 ``[count, *shape]``, each in 0..1, without 1."""
        numbers = math.prod(shape)
        blocks = -(-numbers // _BLOCK)
        key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(
            seed=tf.constant([self.seed, purpose], tf.int64)
        )
        # The counter goes up by one a block; each place has blocks of its own.
        begin = tf.stack([counter[0] + tf.cast(self.first * blocks, tf.uint64), counter[1]])
        drawn = tf.raw_ops.StatelessRandomUniformV2(
            shape=tf.constant([self.count, blocks * _BLOCK]), key=key, counter=begin, alg=_PHILOX
        )
        return tf.reshape(drawn[:, :numbers], [self.count, *shape])

    def turns(self) -> tf.Tensor | None:
        """bool ``[count]``: for each image true in every second epoch; from which on is drawn.

        None where it is not known which images they are.
        """
        if self.seen is None:
            return None
        names = tf.strings.join([f"{self.seed} ", tf.strings.as_string(self.seen.images)])
        drawn = tf.strings.to_hash_bucket_fast(names, 2)
        return (drawn + self.seen.epoch) % 2 == 1

    def seeds(self, purpose: Purpose) -> tf.Tensor:
        """int64 ``[count, 2]``, for operations that draw themselves."""
        key = tf.random.split(tf.constant([self.seed, purpose], tf.int64), 1)[0, 0]
        places = self.first + tf.range(self.count, dtype=tf.int64)
        return tf.stack([tf.fill([self.count], key), places], axis=1)
