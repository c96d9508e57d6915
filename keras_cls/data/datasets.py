"""A ``tf.data.Dataset`` of the user's own as a data source."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from keras_cls.data.decoding import decode_image
from keras_cls.errors import DataError, ImageError
from keras_cls.images import check_range, check_scale
from keras_cls.labels import checked_labels


@dataclass(frozen=True, eq=False)
class LabelledDataset:
    """A dataset that was looked through once.

    Attributes:
        labels: the class names; integers as text where the caller gives none.
        counts: int64 [C], how many images each class has. (Targets are not kept: another pass may
            come in another order.)
        dataset: unbatched, (uint8 [h, w, 1 | 3 | 4] or a scalar string of encoded bytes, int64).
        origin: how messages name it.
    """

    labels: tuple[str, ...]
    counts: np.ndarray
    dataset: tf.data.Dataset
    origin: str = "tf.data.Dataset"

    def __len__(self) -> int:
        return int(self.counts.sum())

    def name(self, index: int) -> str:
        """What messages call an image."""
        return f"image {index} of {self.origin}"


def open_dataset(
    dataset: tf.data.Dataset, labels: Sequence[str] | None = None, *, every_class: bool = True
) -> LabelledDataset:
    """Check a dataset's elements and count them, in one pass.

    Args:
        dataset: elements (image, target), or batches of them. Images: [h, w], [h, w, c] with c of
            1, 3 or 4, on the scale of :func:`keras_cls.images.to_uint8`, or encoded JPEG, PNG, GIF
            or BMP; targets: integers.
        labels: the names of the classes 0, 1, ...
        every_class: refuse where a class has no image.

    Raises:
        DataError: the elements are of another kind, cannot be decoded, out of range or endless.
    """
    elements = _unbatched(dataset)
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
    names = _names(found, labels, every_class)
    counted = elements.map(_as_uint8).apply(tf.data.experimental.assert_cardinality(len(found)))
    return LabelledDataset(names, np.bincount(found, minlength=len(names)), counted)


def _targets_of_sound(elements: tf.data.Dataset) -> np.ndarray:
    """The targets, int64 [N], of elements whose images are all found to be sound.

    Raises:
        ImageError: encoded bytes cannot be decoded, or pixels are beyond the scale.
    """
    dtype = elements.element_spec[0].dtype
    targets: list[int] = []
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
        targets.append(int(target))
    if dtype.is_floating:
        check_scale(highest, "tf.data.Dataset")
    return np.array(targets, dtype=np.int64)


def _unbatched(dataset: tf.data.Dataset) -> tf.data.Dataset:
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise DataError(f"tf.data.Dataset: elements must be (image, target), found {spec}")
    image, target = spec
    refusal = DataError(
        f"tf.data.Dataset: targets must be integer class numbers, found {target}; for one-hot "
        "rows use .map(lambda image, row: (image, tf.argmax(row)))"
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
    is_encoded = image.dtype == tf.string and image.shape.rank == 0
    is_pixels = image.dtype != tf.string and (
        image.shape.rank == 2 or (image.shape.rank == 3 and image.shape[-1] in (1, 3, 4))
    )
    if target.shape.rank != 0 or not (is_encoded or is_pixels):
        raise DataError(
            "tf.data.Dataset: an image must be [h, w], [h, w, 1 | 3 | 4] or encoded bytes, and a "
            f"target one integer; found {image} and {target}"
        )
    return dataset


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
    return image, tf.cast(target, tf.int64)


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
