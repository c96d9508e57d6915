"""The images that a quantized network is calibrated with, and that exports are held to."""

import tempfile
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import tensorflow as tf

from keras_cls.classifier import Classifier
from keras_cls.data.foreign_records import holds_records
from keras_cls.data.opening import Reading, open_parts
from keras_cls.data.pipeline import input_pixels
from keras_cls.data.sources import Data, LabelledImages, images_below, open_source
from keras_cls.data.streams import ImageStream
from keras_cls.data.tfds import PREFIX as TFDS_PREFIX
from keras_cls.errors import ConfigError, DataError, ImageError
from keras_cls.images import IMAGE_SUFFIXES, ImageSource, each_image
from keras_cls.preprocessing import normalize

MOST_IMAGES = 256
"""More change the ranges by less than what is lost by rounding."""

_FEW_IMAGES = 16
_MOST_NAMED = 3


@dataclass(frozen=True, eq=False)
class PreparedImages:
    """Images as a network takes them.

    Attributes:
        prepared: float32 [N, H, W, C].
        pixels: what they look like, to the nearest of 256 levels: uint8 [N, H, W, 3 | 4].
        origin: where they are from, for messages and the card.
    """

    prepared: np.ndarray
    pixels: np.ndarray
    origin: str


CalibrationData: TypeAlias = Data | Iterable[ImageSource] | tf.data.Dataset | PreparedImages


def calibration_images(
    classifier: Classifier, calibration: CalibrationData | None
) -> PreparedImages:
    """At most 256 images, evenly out of all, prepared by the classifier's own rule.

    Args:
        classifier: whose preprocessing it is.
        calibration: what ``data`` is in :func:`keras_cls.train`, a folder of images, or images as
            for :meth:`~keras_cls.classifier.Classifier.predict`; or prepared already; None for the
            sample kept with the classifier. What cannot be read is left out with a warning that
            names it.

    Raises:
        ConfigError: there is no image, or all of them are of one colour.
        DataError: the data cannot be used.
    """
    if isinstance(calibration, PreparedImages):
        return calibration
    if _must_be_read(calibration):
        return _from_stream(classifier, calibration)
    if calibration is None:
        if classifier.sample is None or not len(classifier.sample):
            raise ConfigError(
                "int8 needs images to calibrate with: pass calibration=, such as the training "
                "data; no sample was kept with this classifier"
            )
        origin = "the sample kept with the classifier"
        return prepared_pixels(classifier, classifier.sample, origin)
    images, origin = _found(calibration)
    if len(images) > MOST_IMAGES:
        images = [images[index] for index in _evenly(len(images))]
    with ThreadPoolExecutor() as pool:
        numbered = range(len(images))
        prepared = list(pool.map(lambda n: _prepared(classifier, images[n], n), numbered))
    lost = [found for found in prepared if isinstance(found, ImageError)]
    kept = [found for found in prepared if not isinstance(found, ImageError)]
    named = "; ".join(map(str, lost[:_MOST_NAMED]))
    if len(lost) > _MOST_NAMED:
        named += f"; and {len(lost) - _MOST_NAMED} more"
    if not kept:
        reason = f": {named}" if lost else ""
        raise ConfigError(f"{origin}: no image to calibrate with{reason}")
    if lost:
        warnings.warn(f"{origin}: left out of the calibration: {named}", stacklevel=2)
    stacked = np.stack(kept)
    return _checked(PreparedImages(stacked, _pixels(stacked, classifier), origin))


def prepared_pixels(classifier: Classifier, pixels: np.ndarray, origin: str) -> PreparedImages:
    """Images that have the classifier's input size already.

    Args:
        classifier: whose preprocessing it is.
        pixels: uint8 [N, H, W, 3 | 4], as for
            :meth:`~keras_cls.classifier.Classifier.probabilities_of_pixels`.
        origin: where they are from.

    Raises:
        ConfigError: all of them are of one colour.
    """
    prepared = normalize(pixels, classifier.preprocessing).numpy()
    return _checked(PreparedImages(prepared, pixels, origin))


def _checked(images: PreparedImages) -> PreparedImages:
    if np.ptp(images.prepared, axis=(1, 2)).max() == 0:
        raise ConfigError(
            f"{images.origin}: each of the {len(images.prepared)} images is of one colour "
            "throughout: with these the ranges of a network cannot be found; calibrate with images "
            "such as it will see"
        )
    if len(images.prepared) < _FEW_IMAGES:
        warnings.warn(
            f"{images.origin}: {len(images.prepared)} are few to calibrate with: what other "
            f"images have beyond is cut off; give {MOST_IMAGES}, such as the training data",
            stacklevel=3,
        )
    return images


def _pixels(prepared: np.ndarray, classifier: Classifier) -> np.ndarray:
    rule = classifier.preprocessing
    found = (prepared * np.asarray(rule.std) + np.asarray(rule.mean)) * 255
    pixels = np.clip(np.rint(found), 0, 255).astype(np.uint8)
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def _evenly(count: int) -> np.ndarray:
    return np.linspace(0, count - 1, min(count, MOST_IMAGES)).round().astype(np.int64)


def _must_be_read(calibration: Any) -> bool:
    """Whether it has to be read from the front to find its images."""
    if isinstance(calibration, str | Path):
        path = Path(calibration).expanduser()
        return str(calibration).startswith(TFDS_PREFIX) or holds_records(path)
    return isinstance(calibration, tf.data.Dataset)


def _from_stream(classifier: Classifier, calibration: Any) -> PreparedImages:
    """Those of TFRecord files and of a ``tf.data.Dataset``."""
    with tempfile.TemporaryDirectory() as cache:
        opened, _ = open_parts(calibration, None, Reading(Path(cache)), every_class=False)
        assert not isinstance(opened, LabelledImages)
        try:
            return images_of_stream(classifier, opened, opened.origin)
        except tf.errors.OpError as error:
            raise DataError(f"{opened.origin}: an image cannot be read: {error.message}") from error


def images_of_stream(classifier: Classifier, stream: ImageStream, origin: str) -> PreparedImages:
    """At most 256 images of a stream, evenly out of all.

    Raises:
        ConfigError: all of them are of one colour.
    """
    places = np.unique(_evenly(len(stream)))
    return prepared_pixels(
        classifier, input_pixels(stream, classifier.preprocessing, places), origin
    )


def _found(calibration: CalibrationData) -> tuple[Sequence[ImageSource], str]:
    if isinstance(calibration, str | Path):
        path = Path(calibration).expanduser()
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return [path], str(path)
        try:
            found = open_source(calibration, every_class=False).train
        except DataError:
            if not path.is_dir():
                raise
            return images_below(path), str(path)
    elif _is_pair(calibration):
        found = open_source(cast(Data, calibration), every_class=False).train
    else:
        images = cast(Iterable[ImageSource], calibration)
        return list(each_image(images)), "the calibration images"
    return list(found.pixels if found.paths is None else found.paths), found.origin  # type: ignore[arg-type]


def _is_pair(calibration: CalibrationData) -> bool:
    """Whether it is (images, targets), not two images."""
    if not isinstance(calibration, tuple | list) or len(calibration) != 2:
        return False
    images, targets = map(_rank, calibration)
    return images >= 3 and targets <= 2


def _rank(found: Any) -> int:
    """The number of axes; of a list those of its first, and one more."""
    if isinstance(found, list | tuple):
        return 1 + (_rank(found[0]) if found else 0)
    return getattr(found, "ndim", 0)


def _prepared(classifier: Classifier, image: ImageSource, number: int) -> np.ndarray | ImageError:
    try:
        return classifier.prepared(image, number)
    except ImageError as error:
        return error
