"""From whatever the caller calls ``data`` to streams that the pipeline reads."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_cls.data.datasets import LabelledDataset, open_dataset
from keras_cls.data.pipeline import ImageStream
from keras_cls.data.scanning import Progress, ScannedImages, scan
from keras_cls.data.sources import LabelledImages, open_source, split
from keras_cls.errors import DataError, ImageError

VALIDATION_FRACTION = 0.2
"""The share of each class that is held out where no validation data is given."""


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What a training run reads, with one set of labels."""

    labels: tuple[str, ...]
    train: ImageStream
    validation: ImageStream
    unreadable: tuple[ImageError, ...]


def open_training_data(
    data: Any,
    validation: Any = None,
    *,
    labels: Sequence[str] | None = None,
    cache: Path,
    seed: int,
    strict: bool = False,
    progress: Progress | None = None,
) -> TrainingData:
    """Open, scan and divide the data of a training run.

    Args:
        data: as in :func:`keras_cls.data.sources.open_source`, or a ``tf.data.Dataset``.
        validation: the same, or the share of the training images to hold out, or None: the data's
            own validation part where it has one, else one fifth of each class.
        labels: the class names, for arrays and datasets of integers.
        cache: where copies of images go that TensorFlow cannot decode.
        seed: what the division is drawn from.
        strict: stop at unreadable images.
        progress: told how far the scan is.

    Raises:
        DataError: the data cannot be used.
    """
    share = None
    if isinstance(validation, Real) and not isinstance(validation, bool):
        share, validation = float(validation), None
    if isinstance(data, tf.data.Dataset):
        train: LabelledImages | LabelledDataset = open_dataset(data, labels)
        if validation is None:
            raise DataError(
                "tf.data.Dataset: pass validation data as well, such as validation=dataset.take(n) "
                "with data=dataset.skip(n): a dataset is not divided here"
            )
        held_out = None
    else:
        sources = open_source(data, labels)
        train, held_out = sources.train, sources.validation
        if share is None and held_out is None:
            share = VALIDATION_FRACTION
        if validation is None and share is not None:
            train, held_out = split(train, share, seed)

    def scanned(images: LabelledImages | LabelledDataset, every_class: bool) -> ImageStream:
        if isinstance(images, LabelledDataset):
            return images
        return scan(images, cache, strict=strict, every_class=every_class, progress=progress)

    train_stream = scanned(train, every_class=True)
    if validation is not None:
        validation_stream = open_evaluation_data(
            validation, train.labels, cache=cache, strict=strict, progress=progress
        )
    else:
        assert held_out is not None
        validation_stream = scanned(held_out, every_class=False)
    unreadable = unreadable_in(train_stream) + unreadable_in(validation_stream)
    return TrainingData(train.labels, train_stream, validation_stream, unreadable)


def open_evaluation_data(
    data: Any,
    labels: Sequence[str],
    *,
    cache: Path,
    strict: bool = False,
    progress: Progress | None = None,
) -> ImageStream:
    """Open and scan labelled images of known classes; not every class need be there.

    Of a folder or manifest that sets a validation part apart, that part is taken.

    Raises:
        DataError: the data cannot be used, or holds classes that are not among ``labels``.
    """
    if isinstance(data, tf.data.Dataset):
        return open_dataset(data, labels, every_class=False)
    sources = open_source(data, labels, every_class=False)
    images = sources.train if sources.validation is None else sources.validation
    return scan(images, cache, strict=strict, every_class=False, progress=progress)


def unreadable_in(stream: ImageStream) -> tuple[ImageError, ...]:
    """The images that the scan left out."""
    return stream.unreadable if isinstance(stream, ScannedImages) else ()


def describe_data(data: Any) -> Any:
    """What identifies ``data`` in a run's settings: a path as text, a digest of arrays."""
    if data is None or isinstance(data, str | int | float):
        return data
    if isinstance(data, os.PathLike):
        return os.fspath(data)
    if isinstance(data, tf.data.Dataset):
        return f"tf.data.Dataset {data.element_spec}"
    if not isinstance(data, tuple | list) or len(data) != 2:
        return type(data).__name__  # open_source will refuse it
    digest = hashlib.sha256()
    for part in data:
        array = np.ascontiguousarray(part)
        digest.update(f"{array.dtype} {array.shape}".encode())
        content = repr(array.tolist()).encode() if array.dtype == object else array.data.cast("B")
        digest.update(content)
    return f"arrays {digest.hexdigest()[:16]}"


def fingerprint(stream: ImageStream) -> str:
    """A digest of a stream's images by name and class; of a dataset, of its classes' counts."""
    digest = hashlib.sha256("\0".join(stream.labels).encode())
    if isinstance(stream, LabelledDataset):
        digest.update(stream.counts.tobytes())
    else:
        images = stream.images
        digest.update(images.targets.tobytes())
        digest.update("\0".join(map(images.name, range(len(images)))).encode(errors="replace"))
    return digest.hexdigest()[:16]
