"""Batches for training and evaluation: tf.data operations alone, deterministic, in parallel."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from keras_cls.data.augmentation import Augmentation, augment
from keras_cls.data.datasets import LabelledDataset
from keras_cls.data.decoding import decode_image, with_channels
from keras_cls.data.mixing import Mixing, mix
from keras_cls.data.scanning import ScannedImages
from keras_cls.preprocessing import Preprocessing, normalize, resize_and_crop

ImageStream: TypeAlias = ScannedImages | LabelledDataset
"""What the pipeline reads: images found by a scan, or a dataset of the user's own."""

Example: TypeAlias = tuple[tf.Tensor, tf.Tensor]

NO_MIXING = Mixing()
_SHUFFLE_BUFFER = 4096


def training_batches(
    source: ImageStream,
    rule: Preprocessing,
    augmentation: Augmentation,
    *,
    batch_size: int,
    seed: int,
    first_epoch: int = 0,
) -> tf.data.Dataset:
    """Endless training batches (float32 [B, H, W, C], int64 [B]) from ``first_epoch`` on.

    An epoch has :func:`steps_per_epoch` batches of full size; its last one is filled up with
    images of the same epoch. Order and augmentation depend on the seed, the epoch and the place
    within the epoch alone, so that training can go on where it stopped.
    """
    load = image_loader(source, rule)
    per_epoch = steps_per_epoch(source, batch_size) * batch_size

    def prepared(place: tf.Tensor, item: tuple[tf.Tensor, ...]) -> Example:
        image, target = load(*item)
        key = tf.stack([tf.constant(seed, tf.int64), place])
        return normalize(augment(image, rule, augmentation, key), rule), target

    return (
        _shuffled(source, seed, per_epoch, first_epoch)
        .enumerate(first_epoch * per_epoch)
        .map(prepared, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def with_shares(
    batches: tf.data.Dataset,
    classes: int,
    mixing: Mixing = NO_MIXING,
    seed: int = 0,
    first: int = 0,
) -> tf.data.Dataset:
    """Batches whose targets are shares of the classes, float32 [B, classes]; mixed if asked for.

    ``first`` is the number of the first batch: what is mixed depends on it and the seed alone.
    """

    def prepared(number: tf.Tensor, batch: Example) -> Example:
        images, targets = batch
        key = tf.stack([tf.constant(seed, tf.int64), number])
        return mix(images, tf.one_hot(targets, classes), mixing, key)

    return batches.enumerate(first).map(prepared).prefetch(tf.data.AUTOTUNE)


def evaluation_pixels(source: ImageStream, rule: Preprocessing, batch_size: int) -> tf.data.Dataset:
    """Every image once, before scaling: (float32 [b, H, W, c] on the 0..255 scale, int64 [b])."""
    load = image_loader(source, rule)

    def prepared(*item: tf.Tensor) -> Example:
        image, target = load(*item)
        return resize_and_crop(image, rule), target

    return (
        items_in_order(source)
        .map(prepared, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(batch_size)
        .prefetch(tf.data.AUTOTUNE)
    )


def evaluation_batches(
    source: ImageStream, rule: Preprocessing, batch_size: int
) -> tf.data.Dataset:
    """Every image once, in the source's order: (float32 [b, H, W, C], int64 [b])."""
    pixels = evaluation_pixels(source, rule, batch_size)
    return pixels.map(lambda images, targets: (normalize(images, rule), targets))


def input_pixels(source: ImageStream, rule: Preprocessing, indices: np.ndarray) -> np.ndarray:
    """Chosen images as the network sees them, before scaling.

    Returns:
        uint8 ``[n, H, W, rule.image_channels]``, in the order of ``indices``.
    """
    load = image_loader(source, rule)
    wanted = tf.constant(np.asarray(indices, np.int64))

    def prepared(place: tf.Tensor, item: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor]:
        image, _ = load(*item)
        return place, tf.cast(tf.round(resize_and_crop(image, rule)), tf.uint8)

    chosen = (
        items_in_order(source)
        .map(lambda *item: item)
        .enumerate()
        .filter(lambda place, item: tf.reduce_any(place == wanted))
        .map(prepared)
    )
    found = {int(place): image.numpy() for place, image in chosen}
    shape = (0, *rule.size, rule.image_channels)
    return np.stack([found[int(i)] for i in indices]) if len(indices) else np.zeros(shape, np.uint8)


def steps_per_epoch(source: ImageStream, batch_size: int) -> int:
    """The number of training batches that see every image at least once."""
    return -(-len(source) // batch_size)


def items_in_order(source: ImageStream) -> tf.data.Dataset:
    """The source's items: (index,) or (image, target)."""
    if isinstance(source, ScannedImages):
        return tf.data.Dataset.from_tensor_slices((np.arange(len(source), dtype=np.int64),))
    return source.dataset


def _shuffled(source: ImageStream, seed: int, per_epoch: int, first_epoch: int) -> tf.data.Dataset:
    """Endless items, in a new order each epoch; where an epoch has more places, some come again."""
    if isinstance(source, ScannedImages):
        size = tf.constant(len(source), tf.int64)

        def epoch(number: tf.Tensor) -> tf.data.Dataset:
            order = tf.random.experimental.stateless_shuffle(
                tf.range(size), tf.stack([tf.constant(seed, tf.int64), number])
            )
            places = tf.range(tf.constant(per_epoch, tf.int64)) % size
            return tf.data.Dataset.from_tensor_slices((tf.gather(order, places),))

        return tf.data.Dataset.counter(first_epoch).flat_map(epoch)
    # What is not indexed is shuffled through a buffer, and an earlier epoch is passed over.
    buffer = min(len(source), _SHUFFLE_BUFFER)
    extra = source.dataset.repeat().take(per_epoch - len(source))
    epochs = source.dataset.shuffle(buffer, seed=seed).concatenate(extra).repeat()
    return epochs.skip(first_epoch * per_epoch).map(lambda *item: item)


def image_loader(source: ImageStream, rule: Preprocessing) -> Callable[..., Example]:
    """Item -> (uint8 [h, w, rule.image_channels], int64 target)."""
    channels = rule.image_channels
    if isinstance(source, LabelledDataset):
        return lambda image, target: (_decoded(image, channels), target)
    targets = tf.constant(source.images.targets, tf.int64)
    if source.files is not None:
        files = tf.constant([str(file) for file in source.files])
        return lambda index: (
            decode_image(tf.io.read_file(tf.gather(files, index)), channels),
            tf.gather(targets, index),
        )
    assert source.images.pixels is not None
    array = source.images.pixels
    pixels = tf.constant(array[..., None] if array.ndim == 3 else array)
    return lambda index: (
        with_channels(tf.gather(pixels, index), channels),
        tf.gather(targets, index),
    )


def _decoded(image: tf.Tensor, channels: int) -> tf.Tensor:
    if image.dtype == tf.string:
        return decode_image(image, channels)
    return with_channels(image, channels)
