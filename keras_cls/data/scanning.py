"""Look at every image file before training: what cannot be read is named, not stumbled over.

The training input is made of TensorFlow operations alone, so a file that Pillow reads and
TensorFlow does not (WebP, HEIC, CMYK, ...) is written once more as a PNG into a cache folder.
"""

import hashlib
import io
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_cls.data import ordering
from keras_cls.data.caching import DecodedImages, decoded_if_they_fit
from keras_cls.data.decoding import decode_image
from keras_cls.data.sources import LabelledImages
from keras_cls.errors import DataError, ImageError
from keras_cls.files import new_file
from keras_cls.images import encode_for_graph, encode_png, orientation
from keras_cls.labels import printable

_NAMED_IN_ERRORS = 10

Progress = Callable[[int, int], None]
"""Called with the number of images done and the number of all."""


@dataclass(frozen=True, eq=False)
class ScannedImages:
    """Images that TensorFlow is known to decode.

    Attributes:
        images: the readable ones.
        files: for images that are files, what to read for each: the file, or its copy as PNG.
        unreadable: an error for each image left out.
        shapes: of images that are files, int32 [N, 3]: height and width as shown, and 4 channels
            where pixels may be transparent, else 3. With them, images are held in memory if they
            fit (:func:`~keras_cls.data.caching.decoded_if_they_fit`); None: they are not.
    """

    images: LabelledImages
    files: tuple[Path, ...] | None
    unreadable: tuple[ImageError, ...] = ()
    shapes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names."""
        return self.images.labels

    @property
    def counts(self) -> np.ndarray:
        """int64 [C], images of each class."""
        if self.multi_label:
            return self.images.targets.sum(axis=0).astype(np.int64)
        return np.bincount(self.images.targets, minlength=len(self.labels))

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several classes, or none."""
        return self.images.targets.ndim == 2

    def name(self, index: int) -> str:
        """What messages call an image."""
        return self.images.name(index)

    def in_order(self) -> tf.data.Dataset:
        """The indices, (int64,)."""
        return tf.data.Dataset.range(len(self)).map(lambda index: (index,))

    def shuffled(
        self, seed: int, per_epoch: int, first: int | tf.Tensor, balanced: bool = False
    ) -> tf.data.Dataset:
        """Endless indices, (int64,), as :class:`~keras_cls.data.pipeline.ImageStream` has them."""
        if balanced:
            return ordering.balanced(self.images.targets, seed, per_epoch, first)
        return ordering.shuffled(len(self), seed, per_epoch, first)

    def load(self, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Index -> (the file's bytes or uint8 pixels [h, w, 1 | 3 | 4], target)."""
        target = tf.gather(self._targets, index)
        if self.files is None:
            return tf.gather(self._array, index), target
        if self._decoded is not None:
            return self._decoded.image(index), target
        return tf.io.read_file(tf.gather(self._names, index)), target

    def is_held(self) -> bool:
        """Whether all images are in memory, decoded; where that is still to be done, it is done."""
        return self.files is None or self._decoded is not None

    def unheld(self) -> "ScannedImages":
        """The same images, read anew each time where they are files."""
        return replace(self, shapes=None)

    def pixel_table(self) -> tf.Tensor | None:
        """uint8 [N, h, w, 1 | 3 | 4] where all are held in memory and have one size, else None."""
        if self.files is None:
            return self._array
        return None if self._decoded is None else self._decoded.table

    def target_table(self) -> tf.Tensor:
        """The targets of all, int64 [N]; multi-label, float32 [N, C]."""
        return self._targets

    # Tensors that all datasets share, instead of holding a copy each; made outside of the function
    # that happens to be traced when they are first asked for.

    @cached_property
    def _targets(self) -> tf.Tensor:
        with tf.init_scope():
            return tf.constant(self.images.targets, tf.float32 if self.multi_label else tf.int64)

    @cached_property
    def _names(self) -> tf.Tensor:
        assert self.files is not None
        with tf.init_scope():
            return tf.constant([os.fsencode(file) for file in self.files])

    @cached_property
    def _array(self) -> tf.Tensor:
        array = self.images.pixels
        assert array is not None
        with tf.init_scope():
            return tf.constant(array[..., None] if array.ndim == 3 else array)

    @cached_property
    def _decoded(self) -> DecodedImages | None:
        if self.files is None or self.shapes is None or not len(self):
            return None
        with tf.init_scope():
            channels = int(self.shapes[:, 2].max())
            return decoded_if_they_fit(self.files, self.shapes[:, :2], channels)


def scan(
    images: LabelledImages,
    cache: Path,
    *,
    strict: bool = False,
    every_class: bool = True,
    progress: Progress | None = None,
) -> ScannedImages:
    """Decode every file once, and leave out what cannot be decoded.

    Args:
        images: what to look through; pixels need no look.
        cache: where copies go that TensorFlow can decode.
        strict: stop at unreadable files instead of leaving them out.
        every_class: refuse where a class is left without a readable image.
        progress: told how far it is.

    Raises:
        DataError: with ``strict``, unreadable files; else a class, or everything, unreadable.
    """
    if images.paths is None:
        return ScannedImages(images, None)
    found: list[_Readable | ImageError] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool, warnings.catch_warnings():
        # Pillow warns of damaged metadata, without saying in which file; the pixels count here.
        warnings.simplefilter("ignore")
        for result in pool.map(lambda path: _decodable(path, cache), images.paths):
            found.append(result)
            if progress is not None:
                progress(len(found), len(images))
    unreadable = tuple(result for result in found if isinstance(result, ImageError))
    if unreadable and strict:
        raise DataError(f"{images.origin}: {describe_unreadable(unreadable)}")
    kept = images.subset([i for i, each in enumerate(found) if isinstance(each, _Readable)])
    lost = _classes_in(images) - _classes_in(kept)
    if lost and (every_class or not len(kept)):
        names = ", ".join(repr(images.labels[target]) for target in sorted(lost)[:_NAMED_IN_ERRORS])
        raise DataError(
            f"{images.origin}: no readable image is left in class {names}; add some, or leave out "
            f"the class. {describe_unreadable(unreadable)}"
        )
    readable = [result for result in found if isinstance(result, _Readable)]
    shapes = np.array([result.shape for result in readable], np.int32).reshape(-1, 3)
    return ScannedImages(kept, tuple(result.file for result in readable), unreadable, shapes)


def describe_unreadable(unreadable: tuple[ImageError, ...]) -> str:
    """The unreadable files by name and reason, the first few of them."""
    lines = [f"\n  {printable(str(error))}" for error in unreadable[:_NAMED_IN_ERRORS]]
    if len(unreadable) > _NAMED_IN_ERRORS:
        lines.append(f"\n  ... and {len(unreadable) - _NAMED_IN_ERRORS} more")
    noun = "image cannot" if len(unreadable) == 1 else "images cannot"
    return f"{len(unreadable)} {noun} be read:" + "".join(lines)


def _classes_in(images: LabelledImages) -> set[int]:
    targets = images.targets
    return set((targets if targets.ndim == 1 else np.nonzero(targets)[1]).tolist())


class _Readable(NamedTuple):
    """A file that TensorFlow decodes, and the shape that comes of it."""

    file: Path
    shape: tuple[int, int, int]


def _decodable(path: Path, cache: Path) -> _Readable | ImageError:
    """The file itself, its copy as PNG, or why there is neither."""
    try:
        original = path.read_bytes()
    except OSError as error:
        return ImageError(str(path), (error.strerror or str(error)).lower())
    copy = cache / f"{hashlib.sha256(original).hexdigest()[:24]}.png"
    if copy.exists():
        return _Readable(copy, _shape(copy))
    try:
        encoded = encoded_for_tensorflow(original, str(path))
    except ImageError as error:
        return error
    if encoded == original:
        return _Readable(path, _shape(io.BytesIO(original)))
    with new_file(copy) as temporary:
        temporary.write_bytes(encoded)
    return _Readable(copy, _shape(copy))


def _shape(file: Path | io.BytesIO) -> tuple[int, int, int]:
    """Height and width as shown, and 4 channels where pixels may be transparent, else 3."""
    with Image.open(file, formats=("BMP", "GIF", "JPEG", "PNG")) as image:
        width, height = image.size
        is_png = image.format == "PNG"
        if not is_png and orientation(image) >= 5:
            width, height = height, width
        return height, width, 4 if is_png and image.has_transparency_data else 3


def encoded_for_tensorflow(original: bytes, name: str) -> bytes:
    """An encoded image as it is if TensorFlow's operations decode it, else as PNG.

    Raises:
        ImageError: Pillow does not read it either.
    """
    encoded = encode_for_graph(original, name=name)
    # What looks right to Pillow may not do for TensorFlow's decoders, which are stricter.
    if encoded == original and not tensorflow_decodes(original):
        return encode_png(original, name=name)
    return encoded


def tensorflow_decodes(data: bytes) -> bool:
    """Whether TensorFlow, too, reads an encoded image to its end."""
    try:
        if data.startswith(b"\xff\xd8"):
            # An eighth of the size costs less, and still reads the file to its end.
            tf.io.decode_jpeg(data, channels=3, ratio=8)
        else:
            decode_image(tf.constant(data), channels=3)
    except tf.errors.InvalidArgumentError:
        return False
    return True
