"""A ``tf.data.Dataset`` of the user's own as a data source."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from keras_cls.data.decoding import decode_image
from keras_cls.errors import ConfigError, DataError, ImageError
from keras_cls.images import check_range, check_scale
from keras_cls.labels import checked_labels

_SHUFFLE_BUFFER = 4096


@dataclass(frozen=True, eq=False)
class LabelledDataset:
    """A dataset that was looked through once.

    Attributes:
        labels: the class names; integers as text where the caller gives none.
        counts: int64 [C], how many images each class has. (Targets are not kept: another pass may
            come in another order.)
        dataset: unbatched and of known length, (uint8 [h, w, 1 | 3 | 4] or a scalar string of
            encoded bytes, int64; or, multi-label, float32 [C] of zeros and ones).
        origin: how messages name it.
    """

    labels: tuple[str, ...]
    counts: np.ndarray
    dataset: tf.data.Dataset
    origin: str = "tf.data.Dataset"

    def __len__(self) -> int:
        return int(self.dataset.cardinality())

    def name(self, index: int) -> str:
        """What messages call an image."""
        return f"image {index} of {self.origin}"

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several classes, or none."""
        return bool(self.dataset.element_spec[1].shape.rank == 1)

    def in_order(self) -> tf.data.Dataset:
        """(number int64, image, target), as the dataset gives them."""
        return self.dataset.enumerate().map(lambda number, item: (number, *item))

    def shuffled(
        self, seed: int, per_epoch: int, first: int, balanced: bool = False
    ) -> tf.data.Dataset:
        """Endless items, as :class:`~keras_cls.data.pipeline.ImageStream` has them.

        What is not indexed is shuffled through a buffer of 4,096 images. ``balanced`` shows an
        image of a rare class several times and leaves out some of a frequent one, so that in the
        mean all classes come equally often.

        Raises:
            ConfigError: ``balanced``, and an image may have several classes.
        """
        if balanced and self.multi_label:
            raise ConfigError(
                f"{self.origin}: images of several classes cannot be resampled from a dataset; "
                "weight the classes instead, or give a folder, a manifest or arrays"
            )
        frequent = np.count_nonzero(self.counts) * np.maximum(self.counts, 1)
        copies = tf.constant(len(self) / frequent, tf.float32)  # of an image of each class
        buffer = min(len(self), _SHUFFLE_BUFFER)
        first_epoch, passed = divmod(first, per_epoch)

        def repeated(key: tf.Tensor, item: tuple[tf.Tensor, ...]) -> tf.data.Dataset:
            """The item, rounded up or down at random to so many that the mean is right."""
            number, _, target = item
            drawn = tf.random.stateless_uniform([], tf.stack([key, number]))
            count = tf.floor(tf.gather(copies, target) + drawn)
            return tf.data.Dataset.from_tensors(item).repeat(tf.cast(count, tf.int64))

        def epoch(number: tf.Tensor) -> tf.data.Dataset:
            tf.random.set_seed(1)  # of this function's graph: the caller's own seed plays no part
            drawn = tf.random.split(tf.stack([tf.constant(seed, tf.int64), number]), 2)
            items = self.in_order()
            if balanced:
                items = items.flat_map(lambda *item: repeated(drawn[0, 0], item))
            shuffled = items.shuffle(buffer, seed=drawn[1, 0], reshuffle_each_iteration=False)
            skipped = tf.where(number == first_epoch, tf.constant(passed, tf.int64), 0)
            return shuffled.repeat().take(per_epoch).skip(skipped)

        return tf.data.Dataset.counter(first_epoch).flat_map(epoch)

    def load(
        self, number: tf.Tensor, image: tf.Tensor, target: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """An item's image and target."""
        return image, target


def open_dataset(
    dataset: tf.data.Dataset,
    labels: Sequence[str] | None = None,
    *,
    every_class: bool = True,
    multi_label: bool | None = None,
) -> LabelledDataset:
    """Check a dataset's elements and count them, in one pass.

    Args:
        dataset: elements (image, target), or batches of them. Images: [h, w], [h, w, c] with c of
            1, 3 or 4, on the scale of :func:`keras_cls.images.to_uint8`, or encoded JPEG, PNG, GIF
            or BMP; targets: integers, or, with ``multi_label``, [K] of zeros and ones with K of 2
            or more.
        labels: the names of the classes 0, 1, ...
        every_class: refuse where a class has no image.
        multi_label: whether an image may show any number of the classes. Rows of zeros and ones
            are refused without it, as they may be one-hot rows of a single class.

    Raises:
        DataError: the elements are of another kind, cannot be decoded, out of range or endless.
    """
    elements = _rows(dataset) if multi_label else _unbatched(dataset)
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise DataError(
            "tf.data.Dataset: it is endless; leave out repeat(): epochs are counted here"
        )
    try:
        found = _targets_of_sound(elements)
    except ImageError as error:
        raise DataError(str(error)) from error
    if not len(found):
        raise DataError("tf.data.Dataset: it is empty")
    if multi_label:
        names, counts = _names_of_columns(found, labels, every_class), found.sum(axis=0)
    else:
        names = _names(found, labels, every_class)
        counts = np.bincount(found, minlength=len(names))
    counted = elements.map(_as_uint8).apply(tf.data.experimental.assert_cardinality(len(found)))
    return LabelledDataset(names, counts.astype(np.int64), counted)


def _targets_of_sound(elements: tf.data.Dataset) -> np.ndarray:
    """The targets, int64 [N] or [N, K], of elements whose images are all found to be sound.

    Raises:
        ImageError: encoded bytes cannot be decoded, or pixels are beyond the scale.
    """
    dtype = elements.element_spec[0].dtype
    targets: list[np.ndarray] = []
    highest = 0.0
    for position, (image, target) in enumerate(elements):
        name = f"tf.data.Dataset: image {position}"
        if dtype == tf.string:
            try:
                decode_image(image, channels=3)
            except tf.errors.InvalidArgumentError as error:
                raise ImageError(name, f"cannot be decoded: {error.message}") from error
        elif dtype not in (tf.bool, tf.uint16):  # these have scales of their own
            high = float(tf.reduce_max(image))
            check_range(float(tf.reduce_min(image)), high, name)
            highest = max(highest, high)
        targets.append(target.numpy())
    if dtype.is_floating:
        check_scale(highest, "tf.data.Dataset")
    return _whole(np.stack(targets)) if targets else np.zeros(0, np.int64)


def _whole(targets: np.ndarray) -> np.ndarray:
    """Targets as int64; rows must be of zeros and ones."""
    if targets.ndim == 2 and (wrong := np.argwhere((targets != 0) & (targets != 1))).size:
        row, column = wrong[0]
        raise DataError(
            f"tf.data.Dataset: target {row} has {targets[row, column]} in column {column}: "
            "multi-label targets are of zeros and ones"
        )
    return targets.astype(np.int64)


def _unbatched(dataset: tf.data.Dataset) -> tf.data.Dataset:
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise DataError(f"tf.data.Dataset: elements must be (image, target), found {spec}")
    image, target = spec
    refusal = DataError(
        f"tf.data.Dataset: targets must be integer class numbers, found {target}; for one-hot "
        "rows use .map(lambda image, row: (image, tf.argmax(row))). Where an image may show "
        "several classes, pass multi_label=True"
    )
    tensors = isinstance(image, tf.TensorSpec) and isinstance(target, tf.TensorSpec)
    if not tensors or not target.dtype.is_integer:
        raise refusal
    if target.shape.rank == 1:
        try:
            dataset = dataset.unbatch()
        except ValueError as error:  # not as many targets as images: a row for each image
            raise refusal from error
        image, target = dataset.element_spec
    if target.shape.rank != 0 or not _is_image(image):
        raise DataError(
            "tf.data.Dataset: an image must be [h, w], [h, w, 1 | 3 | 4] or encoded bytes, and a "
            f"target one integer; found {image} and {target}"
        )
    return dataset


def _rows(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Unbatched elements of an image and a row of zeros and ones."""
    spec = dataset.element_spec
    batched = (
        isinstance(spec, tuple)
        and len(spec) == 2
        and all(isinstance(part, tf.TensorSpec) for part in spec)
        and spec[1].shape.rank == 2
    )
    try:
        dataset = dataset.unbatch() if batched else dataset
    except ValueError as error:
        raise DataError(f"tf.data.Dataset: not as many rows as images: {spec}") from error
    spec = dataset.element_spec
    if (
        not isinstance(spec, tuple)
        or len(spec) != 2
        or not all(isinstance(part, tf.TensorSpec) for part in spec)
        or not _is_image(spec[0])
        or spec[1].shape.rank != 1
        or (spec[1].shape[0] or 0) < 2
        or not (spec[1].dtype.is_integer or spec[1].dtype.is_floating or spec[1].dtype.is_bool)
    ):
        raise DataError(
            "tf.data.Dataset: multi-label elements must be (image, row): an image [h, w], "
            "[h, w, 1 | 3 | 4] or encoded bytes, and [K] of zeros and ones, K known and 2 or more; "
            f"found {spec}"
        )
    return dataset


def _is_image(spec: tf.TensorSpec) -> bool:
    if spec.dtype == tf.string:
        return bool(spec.shape.rank == 0)
    return bool(spec.shape.rank == 2 or (spec.shape.rank == 3 and spec.shape[-1] in (1, 3, 4)))


def _as_uint8(image: tf.Tensor, target: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The rule of keras_cls.images.to_uint8, in TensorFlow."""
    if image.dtype != tf.string:
        image = image[..., None] if image.shape.rank == 2 else image
        if image.dtype == tf.bool:
            image = tf.where(image, 255, 0)
        elif image.dtype == tf.uint16:
            image = tf.bitwise.right_shift(image, tf.constant(8, tf.uint16))
        elif image.dtype.is_floating:
            image = tf.round(image)
        image = tf.cast(image, tf.uint8)
    return image, tf.cast(target, tf.int64 if target.shape.rank == 0 else tf.float32)


def _names(targets: np.ndarray, labels: Sequence[str] | None, every_class: bool) -> tuple[str, ...]:
    count = int(targets.max()) + 1
    names = checked_labels(labels) if labels is not None else tuple(map(str, range(count)))
    if targets.min() < 0 or count > len(names):
        wrong = int(targets.min()) if targets.min() < 0 else count - 1
        limit = f"in 0..{len(names) - 1}" if names else "a class number from 0 on"
        raise DataError(f"tf.data.Dataset: target {wrong} is not {limit}")
    if every_class:
        if len(names) < 2:
            raise DataError("tf.data.Dataset: there is one class only; at least two are needed")
        missing = np.setdiff1d(np.arange(len(names)), targets)
        if len(missing):
            raise DataError(f"tf.data.Dataset: class {names[missing[0]]!r} has no image")
    return names


def _names_of_columns(
    targets: np.ndarray, labels: Sequence[str] | None, every_class: bool
) -> tuple[str, ...]:
    columns = targets.shape[1]
    names = checked_labels(labels) if labels is not None else tuple(map(str, range(columns)))
    if len(names) != columns:
        raise DataError(f"tf.data.Dataset: rows of {columns} columns, but {len(names)} labels")
    missing = np.flatnonzero(~targets.any(axis=0))
    if every_class and len(missing):
        raise DataError(f"tf.data.Dataset: class {names[missing[0]]!r} has no image")
    return names
