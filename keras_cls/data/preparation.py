"""From items to batches of varied images: one by one, or, where they lie in memory, all at once."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from keras_cls.data.augmentation import (
    Augmentation,
    Geometry,
    View,
    augment_batch,
    draw_geometry,
    on_canvas,
    vary_canvas,
    view_of,
)
from keras_cls.data.broken import UNKNOWN
from keras_cls.data.decoding import (
    covering,
    decode_image,
    decode_jpeg_part,
    folded,
    is_jpeg,
    jpeg_header,
    with_channels,
)
from keras_cls.data.draws import Draws, Seen
from keras_cls.data.streams import Example, HeldStream, ImageStream
from keras_cls.preprocessing import Preprocessing, normalize, reach

_NONE = np.zeros(0, np.int64)
_SMALL = 1 << 16  # pixels; of an image that has no more, 256 x 256, all are resampled
# So many images are asked for ahead: with as many as there are cores, these wait for batches to
# be put together.
_AHEAD = 8 * (os.cpu_count() or 1)


class Batch(NamedTuple):
    """A batch on its way to the network.

    Attributes:
        first: int64, the place of its first image.
        images: float32 [b, H, W, C].
        shares: float32 [b, K].
        broken: int64 [n], the indices of images that could not be read.
    """

    first: tf.Tensor
    images: tf.Tensor
    shares: tf.Tensor
    broken: tf.Tensor


class Loaded(NamedTuple):
    """An image of a batch, or several, of those that could be read.

    Attributes:
        row: int64, the image's number in the batch.
        image: float32 [H, W, C].
        target: int64, or float32 [K].
    """

    row: tf.Tensor
    image: tf.Tensor
    target: tf.Tensor


def varied_batches(
    places: tf.data.Dataset,
    firsts: tf.data.Dataset,
    source: ImageStream,
    rule: Preprocessing,
    augmentation: Augmentation,
    *,
    rows: int,
    per_epoch: int,
    seed: int,
    tolerant: bool,
) -> tf.data.Dataset:
    """Batches of ``rows`` images, as :class:`Batch`.

    Args:
        places: (int64 place in the run, item), endless; the places of a batch follow each other.
        firsts: int64, the first place of each batch, endless.
        source: whose items they are.
        rule: how images become the network's input.
        augmentation: what is varied.
        rows: images of a batch.
        per_epoch: places of an epoch.
        seed: of the run.
        tolerant: put other images of the batch where one cannot be read, and name it; else that
            is an error.
    """
    if isinstance(source, HeldStream) and augmentation.works_on_batches:
        table = source.pixel_table()
        if table is not None:
            return _all_at_once(
                places, firsts, source, table, rule, augmentation, rows, per_epoch, seed
            )
    return _one_by_one(places, firsts, source, rule, augmentation, rows, per_epoch, seed, tolerant)


def shares_of(targets: tf.Tensor, classes: int) -> tf.Tensor:
    """Classes [b], or zeros and ones [b, K], as float32 [b, K]."""
    return tf.one_hot(targets, classes) if targets.shape.rank == 1 else targets


def _all_at_once(
    places: tf.data.Dataset,
    firsts: tf.data.Dataset,
    source: HeldStream,
    table: tf.Tensor,
    rule: Preprocessing,
    augmentation: Augmentation,
    rows: int,
    per_epoch: int,
    seed: int,
) -> tf.data.Dataset:
    def prepared(first: tf.Tensor, indices: tf.Tensor) -> Batch:
        pixels = with_channels(tf.gather(table, indices), rule.image_channels)
        seen = Seen(indices, first // per_epoch)
        images = normalize(augment_batch(pixels, rule, augmentation, seed, first, seen), rule)
        shares = shares_of(tf.gather(source.target_table(), indices), len(source.labels))
        return Batch(first, images, shares, _NONE)

    indices = places.map(lambda place, item: item[0]).batch(rows, drop_remainder=True)
    return tf.data.Dataset.zip(firsts, indices).map(
        prepared, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )


def _one_by_one(
    places: tf.data.Dataset,
    firsts: tf.data.Dataset,
    source: ImageStream,
    rule: Preprocessing,
    augmentation: Augmentation,
    rows: int,
    per_epoch: int,
    seed: int,
    tolerant: bool,
) -> tf.data.Dataset:
    load = _varied_image(source, rule, augmentation, seed)
    blank = blank_of(source, rule.input_shape)
    indexed = _is_index(places.element_spec[1])
    classes = len(source.labels)

    def batch(first: tf.Tensor, indices: tf.Tensor, window: Window) -> tf.data.Dataset:
        # Drawn one by one, these numbers would cost as much as resampling the pixels.
        seen = Seen(indices, first // per_epoch) if indexed else None
        geometry = draw_geometry(augmentation, Draws(seed, first, rows, seen))
        images = tf.data.Dataset.zip(*window, tf.data.Dataset.from_tensor_slices(geometry))
        found = loaded_together(images, load, blank, rows, tolerant)
        return found.map(lambda found: completed(first, indices, found))

    def completed(first: tf.Tensor, indices: tf.Tensor, found: Loaded) -> Batch:
        every = tf.range(rows, dtype=tf.int64)
        at = tf.searchsorted(found.row, every)
        sound = tf.gather(found.row, at) == every
        shares = shares_of(found.target, classes)
        count = tf.size(found.row) - 1

        def repaired() -> Batch:
            # Where no image of a batch can be read, the blanks stay, and are of no class.
            at_or_other = tf.where(sound, at, tf.range(rows) % tf.maximum(count, 1))
            kept = tf.gather(shares, at_or_other) * tf.cast(count > 0, tf.float32)
            lost = tf.boolean_mask(indices, ~sound)
            return Batch(first, tf.gather(found.image, at_or_other), kept, lost)

        made = tf.cond(
            count < rows,
            repaired,
            lambda: Batch(first, found.image[:rows], shares[:rows], _NONE),
        )
        return made._replace(
            images=tf.ensure_shape(made.images, (rows, *rule.input_shape)),
            shares=tf.ensure_shape(made.shares, (rows, classes)),
        )

    windows = places.window(rows, drop_remainder=True)
    indices = indices_of(places).batch(rows)
    return one_after_another(tf.data.Dataset.zip(firsts, indices, windows), batch)


Window: TypeAlias = tuple[tf.data.Dataset, tuple[tf.data.Dataset, ...]]
"""The places and the items of a batch."""


def blank_of(source: ImageStream, shape: tuple[int, int, int]) -> Example:
    """What stands for an image that could not be read, float32 of that shape, and its target."""
    several = source.multi_label
    return (
        tf.zeros(shape),
        tf.zeros([len(source.labels)]) if several else tf.constant(0, tf.int64),
    )


def indices_of(places: tf.data.Dataset) -> tf.data.Dataset:
    """The index of each image, int64; of what is no index itself, but would have to be read, -1."""
    if _is_index(places.element_spec[1]):
        return places.map(lambda place, item: item[0])
    return tf.data.Dataset.from_tensors(tf.constant(UNKNOWN, tf.int64)).repeat()


def _is_index(item: tuple[Any, ...]) -> bool:
    """Whether an item, or what it is specified as, is an image's index."""
    return len(item) == 1 and item[0].dtype == tf.int64 and item[0].shape.rank == 0


def one_after_another(
    groups: tf.data.Dataset, made_of: Callable[..., tf.data.Dataset]
) -> tf.data.Dataset:
    """What is made of each group, in order; while one is made the next is begun."""
    return groups.interleave(made_of, cycle_length=2, num_parallel_calls=2, deterministic=True)


def loaded_together(
    images: tf.data.Dataset,
    load: Callable[..., Example],
    blank: Example,
    rows: int,
    tolerant: bool,
) -> tf.data.Dataset:
    """Images as one :class:`Loaded`, in which ``blank`` follows them.

    Args:
        images: at most ``rows`` elements.
        load: makes an image and its target of one, each of a shape known beforehand.
        blank: such an image and target.
        rows: the row of ``blank``.
        tolerant: leave out what fails to load; else that is an error.
    """

    def loaded(row: tf.Tensor, image: tuple[Any, ...]) -> Loaded:
        # What waits for nothing, as constants do, would each be a task of the thread pool's.
        with tf.control_dependencies([row]):
            return Loaded(row, *load(*image))

    found = images.enumerate().map(loaded, num_parallel_calls=_AHEAD, deterministic=True)
    if tolerant:
        found = found.ignore_errors()
    # With it there is a batch even where nothing was found.
    end = tf.data.Dataset.from_tensors(Loaded(tf.constant(rows, tf.int64), *blank))
    return found.concatenate(end).batch(rows + 1)


def _varied_image(
    source: ImageStream, rule: Preprocessing, augmentation: Augmentation, seed: int
) -> Callable[..., Example]:
    """(place, item, its geometry) -> the image, varied, and its target."""

    def load(place: tf.Tensor, item: tuple[tf.Tensor, ...], geometry: Geometry) -> Example:
        image, target = source.load(*item)

        def seen_part(view: View) -> tuple[tf.Tensor, tf.Tensor]:
            """Where what has a say in the canvas begins and ends, in pixels of the image."""
            begin = view.offset / view.scale
            end = begin + tf.constant(augmentation.canvas(rule), tf.float32) / view.scale
            beyond = reach(rule, view.scale)
            return begin - beyond, end + beyond

        def shown(pixels: tf.Tensor, view: View) -> tf.Tensor:
            pixels = with_channels(pixels, rule.image_channels)
            return on_canvas(pixels, rule, augmentation, view)

        def from_pixels(pixels: tf.Tensor) -> tf.Tensor:
            size = tf.shape(pixels)[:2]
            view = view_of(size, rule, augmentation, geometry)

            def part() -> tf.Tensor:
                first, last = covering(size, *seen_part(view))
                cut = pixels[first[0] : last[0], first[1] : last[1]]
                return shown(cut, view.of_part(tf.cast(first, tf.float32)))

            return tf.cond(tf.reduce_prod(size) > _SMALL, part, lambda: shown(pixels, view))

        def from_jpeg() -> tf.Tensor:
            header = jpeg_header(image)
            view = view_of(header.upright_size, rule, augmentation, geometry)
            # Reduced where the scale is random anyway; else it is what the evaluation sees.
            coarsest = (
                tf.reduce_min(1 / view.scale) if augmentation.random_scale else tf.constant(1.0)
            )
            found = decode_jpeg_part(image, header, *seen_part(view), coarsest)
            return shown(found.pixels, view.of_part(found.corner, found.reduction))

        @folded
        def from_others() -> tf.Tensor:
            return from_pixels(decode_image(image, rule.image_channels))

        if image.dtype != tf.string:
            canvas = from_pixels(image)
        else:
            canvas = tf.cond(_is_large_jpeg(image), from_jpeg, from_others)
        draws = Draws(seed, place, 1)
        varied = vary_canvas(canvas, rule, augmentation, geometry, draws)
        return normalize(varied, rule), target

    return load


def _is_large_jpeg(data: tf.Tensor) -> tf.Tensor:
    """Whether it pays to decode a part."""
    return tf.cond(
        is_jpeg(data),
        lambda: tf.reduce_prod(tf.io.extract_jpeg_shape(data)[:2]) > _SMALL,
        lambda: False,
    )
