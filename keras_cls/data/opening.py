"""From whatever the caller calls ``data`` to streams that the pipeline reads."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from keras_cls.data.datasets import LabelledDataset, open_dataset
from keras_cls.data.foreign_records import holds_records, open_foreign
from keras_cls.data.records import DATASET_FILE, RecordShards, RecordSources, is_packed, open_packed
from keras_cls.data.scanning import Progress, ScannedImages, scan
from keras_cls.data.sources import LabelledImages, open_source, split
from keras_cls.data.streams import ImageStream
from keras_cls.data.tfds import PREFIX as TFDS_PREFIX
from keras_cls.data.tfds import open_tfds
from keras_cls.errors import DataError, ImageError
from keras_cls.labels import listing

VALIDATION_FRACTION = 0.2
"""The share of each class that is held out where no validation data is given."""

Opened: TypeAlias = LabelledImages | LabelledDataset | RecordShards
"""Labelled images of any kind, before image files are looked through."""


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What a training run reads, with one set of labels."""

    labels: tuple[str, ...]
    train: ImageStream
    validation: ImageStream
    unreadable: tuple[ImageError, ...]


@dataclass(frozen=True)
class Reading:
    """How data are opened.

    Attributes:
        cache: where copies of images go that TensorFlow cannot decode, and what is found out about
            TFRecord files.
        strict: stop at unreadable images.
        progress: told how far the scan is.
    """

    cache: Path
    strict: bool = False
    progress: Progress | None = None


def open_training_data(
    data: Any,
    validation: Any = None,
    *,
    labels: Sequence[str] | None = None,
    multi_label: bool | None = None,
    cache: Path,
    seed: int,
    strict: bool = False,
    progress: Progress | None = None,
) -> TrainingData:
    """Open, scan and divide the data of a training run.

    Args:
        data: as in :func:`keras_cls.data.sources.open_source`; a folder that
            :func:`keras_cls.data.packing.pack` wrote, or one of other TFRecord files;
            ``"tfds:NAME"``; or a ``tf.data.Dataset``.
        validation: the same, or the share of the training images to hold out, or None: the data's
            own validation part where it has one, else one fifth of each class.
        labels: the class names, for arrays, datasets and TFRecord files of integers.
        multi_label: as in :func:`keras_cls.data.sources.open_source`.
        cache: where copies of images go that TensorFlow cannot decode, and what is found out about
            TFRecord files.
        seed: what the division is drawn from.
        strict: stop at unreadable images.
        progress: told how far the scan is.

    Raises:
        DataError: the data cannot be used.
    """
    reading = Reading(cache, strict, progress)
    share = None
    if isinstance(validation, Real) and not isinstance(validation, bool):
        share, validation = float(validation), None
    train, held_out = open_parts(data, labels, reading, multi_label=multi_label)
    if isinstance(train, LabelledDataset):
        if validation is None:
            raise DataError(
                "tf.data.Dataset: pass validation data as well, such as validation=dataset.take(n) "
                "with data=dataset.skip(n): a dataset is not divided here"
            )
    elif validation is None and (share is not None or held_out is None):
        fraction = VALIDATION_FRACTION if share is None else share
        train, held_out = (
            train.divided(fraction, seed)
            if isinstance(train, RecordShards)
            else split(train, fraction, seed)
        )
    train_stream = _scanned(train, reading, every_class=True)
    if validation is not None:
        validation_stream = open_evaluation_data(
            validation,
            train.labels,
            multi_label=train.multi_label,
            cache=cache,
            strict=strict,
            progress=progress,
        )
    else:
        assert held_out is not None
        validation_stream = _scanned(held_out, reading, every_class=False)
    unreadable = dict.fromkeys(unreadable_in(train_stream) + unreadable_in(validation_stream))
    return TrainingData(train.labels, train_stream, validation_stream, tuple(unreadable))


def open_evaluation_data(
    data: Any,
    labels: Sequence[str],
    *,
    multi_label: bool | None = None,
    cache: Path,
    strict: bool = False,
    progress: Progress | None = None,
) -> ImageStream:
    """Open and scan labelled images of known classes; not every class need be there.

    Of data that set a validation part apart, that part is taken.

    Raises:
        DataError: the data cannot be used, or hold classes that are not among ``labels``.
    """
    reading = Reading(cache, strict, progress)
    opened, held_out = open_parts(data, labels, reading, every_class=False, multi_label=multi_label)
    return _scanned(opened if held_out is None else held_out, reading, every_class=False)


def open_parts(
    data: Any,
    labels: Sequence[str] | None,
    reading: Reading,
    *,
    every_class: bool = True,
    multi_label: bool | None = None,
) -> tuple[Opened, Opened | None]:
    """What ``data`` has to train on and, where it sets some apart, to validate on.

    Both have the same labels. Image files are not looked into yet.

    Raises:
        DataError: the data cannot be used.
    """
    if isinstance(data, tf.data.Dataset):
        dataset = open_dataset(data, labels, every_class=every_class, multi_label=multi_label)
        return dataset, None
    records = _open_records(data, labels, reading, multi_label)
    if records is None:
        sources = open_source(data, labels, every_class=every_class, multi_label=multi_label)
        return sources.train, sources.validation
    parts = [records.train, *([] if records.validation is None else [records.validation])]
    if labels is not None:
        parts = [part.aligned_to(labels) for part in parts]
    parts = [_of_kind(part, multi_label) for part in parts]
    if every_class:
        _require_every_class(parts[0])
    return parts[0], parts[1] if len(parts) > 1 else None


def _open_records(
    data: Any, labels: Sequence[str] | None, reading: Reading, multi_label: bool | None
) -> RecordSources | None:
    """The TFRecord files of a folder, or of TensorFlow Datasets; None where it is neither."""
    if not isinstance(data, str | os.PathLike):
        return None
    if isinstance(data, str) and data.startswith(TFDS_PREFIX):
        return open_tfds(
            data,
            labels=labels,
            multi_label=multi_label,
            cache=reading.cache,
            strict=reading.strict,
            progress=reading.progress,
        )
    path = Path(data).expanduser()
    has_records = holds_records(path)
    if is_packed(path) or (has_records and (path / DATASET_FILE).is_file()):
        return open_packed(path)
    if not has_records:
        return None
    return open_foreign(
        path,
        labels=labels,
        multi_label=multi_label,
        cache=reading.cache,
        strict=reading.strict,
        progress=reading.progress,
    )


def _of_kind(stream: RecordShards, multi_label: bool | None) -> RecordShards:
    if multi_label is False and stream.multi_label:
        raise DataError(
            f"{stream.origin}: its images may have several classes, but here each image has "
            "exactly one (a classifier for several is trained with multi_label=True)"
        )
    return replace(stream, multi_label=stream.multi_label or bool(multi_label))


def _require_every_class(stream: RecordShards) -> None:
    empty = [stream.labels[place] for place in np.flatnonzero(stream.counts == 0)]
    if empty:
        raise DataError(
            f"{stream.origin}: no images of {listing(empty)} to train on: add images, or leave it "
            "out of labels"
        )
    if len(stream.labels) < 2 and (not stream.multi_label or stream.counts.min() == len(stream)):
        raise DataError(
            f"{stream.origin}: only one class, {listing(stream.labels)}: there is nothing to tell "
            "it from. Add images of another class"
        )


def _scanned(images: Opened, reading: Reading, every_class: bool) -> ImageStream:
    if not isinstance(images, LabelledImages):
        return images
    return scan(
        images,
        reading.cache,
        strict=reading.strict,
        every_class=every_class,
        progress=reading.progress,
    )


def unreadable_in(stream: ImageStream) -> tuple[ImageError, ...]:
    """The images that were left out."""
    return stream.unreadable if isinstance(stream, ScannedImages | RecordShards) else ()


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
    """A digest of a stream's images: their names and classes; of a dataset, the classes' counts.

    Of TFRecord files, which records count, and the files' own digests where they are known.
    """
    digest = hashlib.sha256("\0".join(stream.labels).encode())
    if isinstance(stream, RecordShards):
        digest.update(stream.fingerprint().encode())
    elif isinstance(stream, ScannedImages):
        images = stream.images
        digest.update(images.targets.tobytes())
        digest.update("\0".join(map(images.name, range(len(images)))).encode(errors="replace"))
    else:
        digest.update(stream.counts.tobytes())
    return digest.hexdigest()[:16]
