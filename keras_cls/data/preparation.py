"""From items to batches of varied images: one by one, or, where they lie in memory, all at once."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_cls.data.augmentation import (
    Augmentation,
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
    is_jpeg,
    jpeg_header,
    with_channels,
)
from keras_cls.data.draws import Draws, Seen
from keras_cls.data.streams import HeldStream, ImageStream
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
    """An image, varied.

    Attributes:
        image: float32 [H, W, C].
        target: int64, or float32 [K].
        sound: bool, whether it could be read.
    """

    image: tf.Tensor
    target: tf.Tensor
    sound: tf.Tensor


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
    load = _varied_image(source, rule, augmentation, per_epoch, seed)
    classes = len(source.labels)
    if not tolerant:
        batches = places.map(load, num_parallel_calls=_AHEAD, deterministic=True).batch(
            rows, drop_remainder=True
        )
        return tf.data.Dataset.zip(firsts, batches).map(
            lambda first, of: Batch(first, of.image, shares_of(of.target, classes), _NONE)
        )
    blank = blank_of(source, rule.input_shape)

    def completed(first: tf.Tensor, indices: tf.Tensor, of: Loaded) -> Batch:
        shares = shares_of(of.target, classes)
        sound = tf.where(of.sound)[:, 0]
        count = tf.size(sound)

        def repaired() -> Batch:
            # Where no image of a batch can be read, the blanks stay, and are of no class.
            turns = tf.gather(tf.concat([sound, [0]], 0), tf.range(rows) % tf.maximum(count, 1))
            row = tf.where(of.sound, tf.range(rows, dtype=tf.int64), turns)
            kept = tf.gather(shares, row) * tf.cast(count > 0, tf.float32)
            return Batch(first, tf.gather(of.image, row), kept, tf.boolean_mask(indices, ~of.sound))

        return tf.cond(count < rows, repaired, lambda: Batch(first, of.image, shares, _NONE))

    return tf.data.Dataset.zip(
        firsts,
        indices_of(places).batch(rows),
        loaded_or_blank(places, firsts, load, blank, rows).batch(rows, drop_remainder=True),
    ).map(completed, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def blank_of(source: ImageStream, shape: tuple[int, int, int]) -> Loaded:
    """What stands for an image that could not be read."""
    several = source.multi_label
    return Loaded(
        image=tf.zeros(shape),
        target=tf.zeros([len(source.labels)]) if several else tf.constant(0, tf.int64),
        sound=tf.constant(False),
    )


def indices_of(places: tf.data.Dataset) -> tf.data.Dataset:
    """The index of each image, int64; of what is no index itself, but would have to be read, -1."""
    if _is_index(places.element_spec[1]):
        return places.map(lambda place, item: item[0])
    return tf.data.Dataset.from_tensors(tf.constant(UNKNOWN, tf.int64)).repeat()


def _is_index(item: tuple[Any, ...]) -> bool:
    """Whether an item, or what it is specified as, is an image's index."""
    return len(item) == 1 and item[0].dtype == tf.int64 and item[0].shape.rank == 0


def loaded_or_blank(
    places: tf.data.Dataset,
    firsts: tf.data.Dataset,
    load: Callable[..., Loaded],
    blank: Loaded,
    rows: int,
) -> tf.data.Dataset:
    """One :class:`Loaded` for each place, ``blank`` where the image cannot be read.

    Of the last batch of a finite number of places, blanks at the end are left out if it is not
    full.

    What fails to load is dropped from the stream. To know where, each batch is preceded by a mark
    that cannot fail, with the batch's first place: what is missing before an element is filled up.
    """
    nothing = tf.nest.map_structure(
        lambda spec: (
            tf.zeros([side or 0 for side in spec.shape], spec.dtype)
            if spec.dtype != tf.string
            else tf.fill(spec.shape, "")
        ),
        places.element_spec[1],
    )
    marks = firsts.map(lambda first: (first, nothing, True))
    unmarked = places.map(lambda place, item: (place, item, False))
    turns = tf.data.Dataset.from_tensor_slices(np.array([0] + [1] * rows)).repeat()
    stream = tf.data.Dataset.choose_from_datasets([marks, unmarked], turns)

    def loaded(
        place: tf.Tensor, item: tuple[tf.Tensor, ...], is_mark: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, Loaded]:
        return place, is_mark, tf.cond(is_mark, lambda: blank, lambda: load(place, item))

    start, end = tf.constant(0, tf.int64), tf.constant(rows, tf.int64)

    def gap(
        state: tuple[tf.Tensor, tf.Tensor], element: tuple[tf.Tensor, tf.Tensor, Loaded]
    ) -> tuple[tuple[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor, Loaded]]:
        """How many images are missing before this one, and whether it is one itself."""
        (first, done), (place, is_mark, of) = state, element
        row = tf.where(is_mark, end, place - first)
        following = tf.where(is_mark, place, first), tf.where(is_mark, start, row + 1)
        return following, (row - done, tf.where(is_mark, start, start + 1), of)

    def filled(missing: tf.Tensor, images: tf.Tensor, of: Loaded) -> tf.data.Dataset:
        blanks = tf.data.Dataset.from_tensors(blank).repeat(missing)
        return blanks.concatenate(tf.data.Dataset.from_tensors(of).take(images))

    return (
        stream.map(loaded, num_parallel_calls=_AHEAD, deterministic=True)
        .ignore_errors()
        .scan((start, end), gap)
        .flat_map(filled)
    )


def _varied_image(
    source: ImageStream,
    rule: Preprocessing,
    augmentation: Augmentation,
    per_epoch: int,
    seed: int,
) -> Callable[..., Loaded]:
    """(place, item) -> the image, varied."""

    def load(place: tf.Tensor, item: tuple[tf.Tensor, ...]) -> Loaded:
        image, target = source.load(*item)
        seen = Seen(item[0][None], place // per_epoch) if _is_index(item) else None
        draws = Draws(seed, place, 1, seen)
        geometry = draw_geometry(augmentation, draws)

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

        if image.dtype != tf.string:
            canvas = from_pixels(image)
        else:
            canvas = tf.cond(
                _is_large_jpeg(image),
                from_jpeg,
                lambda: from_pixels(decode_image(image, rule.image_channels)),
            )
        varied = vary_canvas(canvas, rule, augmentation, geometry, draws)
        return Loaded(normalize(varied, rule), target, tf.constant(True))

    return load


def _is_large_jpeg(data: tf.Tensor) -> tf.Tensor:
    """Whether it pays to decode a part."""
    return tf.cond(
        is_jpeg(data),
        lambda: tf.reduce_prod(tf.io.extract_jpeg_shape(data)[:2]) > _SMALL,
        lambda: False,
    )
