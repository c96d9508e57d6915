"""Look at every image file before training: what cannot be read is named, not stumbled over.

The training input is made of TensorFlow operations alone, so a file that Pillow reads and
TensorFlow does not (WebP, HEIC, CMYK, ...) is written once more as a PNG into a cache folder.
"""

import hashlib
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_cls.data.decoding import decode_image
from keras_cls.data.sources import LabelledImages
from keras_cls.errors import DataError, ImageError
from keras_cls.files import new_file
from keras_cls.images import encode_for_graph, encode_png

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
    """

    images: LabelledImages
    files: tuple[Path, ...] | None
    unreadable: tuple[ImageError, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names."""
        return self.images.labels

    def name(self, index: int) -> str:
        """What messages call an image."""
        return self.images.name(index)


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
    found: list[Path | ImageError] = []
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
    readable = np.array([isinstance(result, Path) for result in found])
    kept = images.subset(np.flatnonzero(readable))
    lost = set(images.targets.tolist()) - set(kept.targets.tolist())
    if lost and (every_class or not len(kept)):
        names = ", ".join(repr(images.labels[target]) for target in sorted(lost)[:_NAMED_IN_ERRORS])
        raise DataError(
            f"{images.origin}: no readable image is left in class {names}: "
            f"{describe_unreadable(unreadable)}"
        )
    files = tuple(result for result in found if isinstance(result, Path))
    return ScannedImages(kept, files, unreadable)


def describe_unreadable(unreadable: tuple[ImageError, ...]) -> str:
    """The unreadable files by name and reason, the first few of them."""
    lines = [f"\n  {error}" for error in unreadable[:_NAMED_IN_ERRORS]]
    if len(unreadable) > _NAMED_IN_ERRORS:
        lines.append(f"\n  ... and {len(unreadable) - _NAMED_IN_ERRORS} more")
    noun = "image cannot" if len(unreadable) == 1 else "images cannot"
    return f"{len(unreadable)} {noun} be read:" + "".join(lines)


def _decodable(path: Path, cache: Path) -> Path | ImageError:
    """The file itself, its copy as PNG, or why there is neither."""
    try:
        original = path.read_bytes()
    except OSError as error:
        return ImageError(str(path), (error.strerror or str(error)).lower())
    copy = cache / f"{hashlib.sha256(original).hexdigest()[:24]}.png"
    if copy.exists():
        return copy
    try:
        encoded = encode_for_graph(original, name=str(path))
        if encoded == original:
            if _tensorflow_decodes(original):
                return path
            # It looks right to Pillow, but TensorFlow's decoders are stricter.
            encoded = encode_png(original, name=str(path))
    except ImageError as error:
        return error
    with new_file(copy) as temporary:
        temporary.write_bytes(encoded)
    return copy


def _tensorflow_decodes(data: bytes) -> bool:
    try:
        if data.startswith(b"\xff\xd8"):
            # An eighth of the size costs less, and still reads the file to its end.
            tf.io.decode_jpeg(data, channels=3, ratio=8)
        else:
            decode_image(tf.constant(data), channels=3)
    except tf.errors.InvalidArgumentError:
        return False
    return True
