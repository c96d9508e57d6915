"""Batches for training and evaluation: tf.data operations alone, deterministic, in parallel."""

import hashlib
import socket
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from keras_cls.data.augmentation import Augmentation
from keras_cls.data.broken import BrokenImages
from keras_cls.data.datasets import LabelledDataset
from keras_cls.data.decoding import decode_image, with_channels
from keras_cls.data.mixing import Mixing, mix
from keras_cls.data.preparation import (
    Batch,
    Loaded,
    Window,
    blank_of,
    indices_of,
    loaded_together,
    one_after_another,
    shares_of,
    varied_batches,
)
from keras_cls.data.streams import Example, HeldStream, ImageStream
from keras_cls.errors import ConfigError
from keras_cls.preprocessing import Preprocessing, normalize, resize_and_crop

__all__ = [
    "NO_MIXING",
    "WHOLE",
    "BrokenImages",
    "Example",
    "ImageStream",
    "Part",
    "evaluation_batches",
    "evaluation_pixels",
    "image_loader",
    "input_pixels",
    "items_in_order",
    "steps_per_epoch",
    "training_batches",
]

NO_MIXING = Mixing()

# So many batches a worker of a tf.data service makes before it asks for more work.
_BATCHES_A_SPLIT = 16
_SPLITS = 1 << 40  # no run is as long

_PATIENCE = 30.0  # seconds, with a service that is still to be started


@dataclass(frozen=True)
class Part:
    """One worker's share of the data.

    Attributes:
        index: which worker, from 0.
        count: how many workers there are.

    Raises:
        ConfigError: ``index`` is not in 0..count - 1.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ConfigError(
                f"Part: index must lie in 0..count - 1; found {self.index} of {self.count}"
            )


WHOLE = Part(0, 1)


def training_batches(
    source: ImageStream,
    rule: Preprocessing,
    augmentation: Augmentation,
    *,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    part: Part = WHOLE,
    balanced: bool = False,
    mixing: Mixing = NO_MIXING,
    service: str | None = None,
    broken: BrokenImages | None = None,
) -> tf.data.Dataset:
    """Endless training batches (float32 [b, H, W, C], float32 [b, K]) from ``first_step`` on.

    An epoch has :func:`steps_per_epoch` batches of full size; its last one is filled up with
    images of the same epoch. Order, augmentation and mixing depend on the seed and the place alone,
    so that training can go on where it stopped, in the middle of an epoch as well. Of an indexed
    source nothing that is passed over is read.

    Of a large JPEG no more is decoded than the part that is shown, and, where each image is resized
    by a factor of its own, at half, a quarter or an eighth of its size if it is to become as small.

    With a tf.data service the batches are made by its workers, and whoever asks next gets the next
    one. Over an epoch's steps each image is still sent once, but in an order that depends on
    how fast the workers are, and after a stop some batches come again or are missed. Several
    training workers that ask for the same batches share them.

    Args:
        source: the images.
        rule: how they become the network's input.
        augmentation: what is varied.
        batch_size: images of a batch, of all workers together.
        seed: what order, augmentation and mixing are drawn from.
        first_step: the number of the first batch, counted over the whole run.
        part: the worker whose rows are made, ``batch_size / part.count`` of each batch; all
            workers' rows, one behind the other, are one worker's batch, but for the mixing, which
            stays among the rows of a worker.
        balanced: show every class equally often.
        mixing: how images of a batch are mixed.
        service: the address of a tf.data service, such as ``"grpc://host:port"``.
        broken: where images are noted that cannot be read; others of the batch take their places
            (in a batch of which none can be read, black images whose shares are all 0). None: such
            an image is an error.

    Raises:
        ConfigError: the workers do not divide the batch, or the source cannot be balanced, or
            not be shared by a service.
    """
    if batch_size % part.count:
        raise ConfigError(
            f"batch_size {batch_size} cannot be divided among {part.count} workers: take a multiple"
        )
    rows = batch_size // part.count
    per_epoch = steps_per_epoch(source, batch_size) * batch_size

    def mixed(batch: Batch) -> Batch:
        # Counted over the run and its workers: no two have the same number.
        key = tf.stack([tf.constant(seed, tf.int64), batch.first // rows])
        images, shares = mix(batch.images, batch.shares, mixing, key)
        return batch._replace(images=images, shares=shares)

    def batches(source: ImageStream, first: int | tf.Tensor, part: Part) -> tf.data.Dataset:
        """Those of one of ``part.count`` workers, from a place of the run on; endless."""
        items = source.shuffled(seed, per_epoch, first, balanced)
        places = items.map(_as_tuple).enumerate(first)
        together = rows * part.count
        found = varied_batches(
            places.filter(lambda place, item: place % together // rows == part.index)
            if part.count > 1
            else places,
            tf.data.Dataset.counter(first + part.index * rows, together),
            source,
            rule,
            augmentation,
            rows=rows,
            per_epoch=per_epoch,
            seed=seed,
            tolerant=broken is not None,
        )
        if mixing == NO_MIXING:
            return found
        return found.map(mixed, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    first = first_step * batch_size
    if service is None:
        made = batches(source, first, part)
    else:
        shared = _shareable(source)
        made = (
            # A range, since a service does not divide what a counter gives.
            tf.data.Dataset.range(_SPLITS)
            .map(lambda split: first + split * _BATCHES_A_SPLIT * rows)
            .flat_map(lambda place: batches(shared, place, WHOLE).take(_BATCHES_A_SPLIT))
            .apply(_service(service, _job_name(source, seed, first, rows, per_epoch)))
        )
    return _noted(made, broken).prefetch(tf.data.AUTOTUNE)


def evaluation_batches(
    source: ImageStream,
    rule: Preprocessing,
    batch_size: int,
    part: Part = WHOLE,
    broken: BrokenImages | None = None,
) -> tf.data.Dataset:
    """Every image once, in order: (float32 [b, H, W, C], float32 [b, K]); a worker's every nth.

    With ``broken``, images that cannot be read are noted there and left out; else that is an error.
    """
    pixels = _pixels_in_order(source, rule, batch_size, part, broken)
    classes = len(source.labels)
    return pixels.map(
        lambda images, targets: (normalize(images, rule), shares_of(targets, classes)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    ).prefetch(tf.data.AUTOTUNE)


def evaluation_pixels(source: ImageStream, rule: Preprocessing, batch_size: int) -> tf.data.Dataset:
    """Every image once, before scaling: (float32 [b, H, W, c] on the 0..255 scale, targets)."""
    return _pixels_in_order(source, rule, batch_size).prefetch(tf.data.AUTOTUNE)


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
    """The source's items, every one once."""
    return source.in_order().map(_as_tuple)


def image_loader(source: ImageStream, rule: Preprocessing) -> Callable[..., Example]:
    """Item -> (uint8 [h, w, rule.image_channels], target)."""

    def loaded(*item: tf.Tensor) -> Example:
        image, target = source.load(*item)
        if image.dtype == tf.string:
            return decode_image(image, rule.image_channels), target
        return with_channels(image, rule.image_channels), target

    return loaded


def _pixels_in_order(
    source: ImageStream,
    rule: Preprocessing,
    batch_size: int,
    part: Part = WHOLE,
    broken: BrokenImages | None = None,
) -> tf.data.Dataset:
    load = image_loader(source, rule)

    def prepared(place: tf.Tensor, item: tuple[tf.Tensor, ...]) -> Example:
        image, target = load(*item)
        return resize_and_crop(image, rule), target

    places = items_in_order(source).shard(part.count, part.index).enumerate()
    if broken is None:
        images = places.map(prepared, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return images.batch(batch_size)
    blank = blank_of(source, (*rule.size, rule.image_channels))

    def batch(indices: tf.Tensor, window: Window) -> tf.data.Dataset:
        indices = indices[: window[0].cardinality()]
        images = tf.data.Dataset.zip(*window)
        found = loaded_together(images, prepared, blank, batch_size, tolerant=True)
        return found.map(lambda found: (indices, found))

    def noted(indices: tf.Tensor, found: Loaded) -> Example:
        every = tf.range(tf.size(indices, tf.int64))
        lost = tf.sets.difference(every[None], found.row[None]).values
        broken.note(tf.gather(indices, lost))
        return found.image[:-1], found.target[:-1]

    indices, windows = indices_of(places).batch(batch_size), places.window(batch_size)
    batches = one_after_another(tf.data.Dataset.zip(indices, windows), batch)
    return batches.map(noted).filter(lambda images, _: tf.size(images) > 0)


def _noted(batches: tf.data.Dataset, broken: BrokenImages | None) -> tf.data.Dataset:
    """Batches of (images, shares); what could not be read is noted."""

    def noted(batch: Batch) -> Example:
        if broken is not None:
            broken.note(batch.broken)  # before anything is given on: a function's order is kept
        return batch.images, batch.shares

    return batches.map(noted)


def _shareable(source: ImageStream) -> ImageStream:
    """A source whose work a tf.data service can divide: other processes read its files.

    Raises:
        ConfigError: it cannot be read from where a worker of the service begins.
    """
    if isinstance(source, LabelledDataset):
        raise ConfigError(
            "data_service: a tf.data.Dataset of your own cannot be divided among the workers of a "
            "service: give a folder, a manifest, arrays or TFRecord files, or use "
            "tf.data.experimental.service yourself"
        )
    return source.unheld() if isinstance(source, HeldStream) else source


def _service(address: str, job: str) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    _wait_for(address)
    return tf.data.experimental.service.distribute(
        # What the range of batches gives is divided: each is made by one worker.
        tf.data.experimental.service.ShardingPolicy.DYNAMIC,
        address,
        job_name=job,
    )


def _wait_for(service: str) -> None:
    """TensorFlow would try for an hour, without a word.

    Raises:
        ConfigError: nobody listens at that address, nor within the next half minute.
    """
    host, _, port = service.rpartition("://")[2].rpartition(":")
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            with closing(socket.create_connection((host.strip("[]"), int(port)), timeout=5)):
                return
        except (OSError, ValueError) as error:
            if time.monotonic() > end:
                raise ConfigError(
                    f"data_service: nothing listens at {service} ({error}): start the service's "
                    "dispatcher first, or do without"
                ) from error
        time.sleep(0.5)


def _job_name(source: ImageStream, *numbers: int) -> str:
    """The same for training workers that share a run's batches, and for no others."""
    described = "\0".join([*source.labels, *map(str, [*source.counts.tolist(), *numbers])])
    return f"keras_cls-{hashlib.sha256(described.encode()).hexdigest()[:16]}"


def _as_tuple(*item: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Items are tuples, of one tensor too: what is enumerated stays (place, item)."""
    return item
