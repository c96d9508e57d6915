"""Images in memory, decoded once."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_cls.data.decoding import decode_image

_SHARE = 4
"""Decoded images may take one part in this many of the free memory."""

_AT_ONCE = 256
_ALIGNMENT = 64  # what TensorFlow asks of memory that is not its own


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """Images of whatever sizes, one behind the other.

    Attributes:
        values: uint8 [bytes of all].
        sizes: int32 [N, 2], height and width of each.
        channels: of all, 3 or 4.
    """

    values: tf.Tensor
    sizes: np.ndarray
    channels: int

    def image(self, index: tf.Tensor) -> tf.Tensor:
        """One of them, uint8 [h, w, channels]."""
        size = tf.gather(tf.constant(self.sizes), index)
        end = tf.gather(self._ends, index)
        length = tf.cast(tf.reduce_prod(size), tf.int64) * self.channels
        return tf.reshape(self.values[end - length : end], [size[0], size[1], self.channels])

    @cached_property
    def table(self) -> tf.Tensor | None:
        """uint8 [N, h, w, channels], the same memory, if all have one size."""
        if not (self.sizes == self.sizes[0]).all():
            return None
        with tf.init_scope():
            return tf.reshape(self.values, [len(self.sizes), *self.sizes[0], self.channels])

    @cached_property
    def _ends(self) -> tf.Tensor:
        with tf.init_scope():
            return tf.constant(np.cumsum(_lengths(self.sizes, self.channels)))


def decoded_if_they_fit(
    files: Sequence[Path], sizes: np.ndarray, channels: int, free: int | None = None
) -> DecodedImages | None:
    """Decode files into memory if together they fit.

    They fit in a quarter of the memory that is free: what the kernel calls available, or what is
    left below the container's limit, if that is less. (Where neither is known, they do not.)

    Args:
        files: the images.
        sizes: int32 [N, 2], the height and width of each as shown.
        channels: 3, transparent pixels on white, or 4.
        free: bytes of memory; None asks how much there is now.

    Returns:
        None as well where a file has changed since its size was taken; who reads it will find out.
    """
    lengths = _lengths(sizes, channels)
    if not len(files) or lengths.sum() > (free_memory() if free is None else free) // _SHARE:
        return None

    def values(file: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        image = decode_image(tf.io.read_file(file), channels)
        tf.debugging.assert_equal(tf.shape(image)[:2], size)
        return tf.reshape(image, [-1])

    names = [os.fsencode(file) for file in files]
    parts = (
        tf.data.Dataset.from_tensor_slices((names, sizes.astype(np.int32)))
        .map(values, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .ragged_batch(_AT_ONCE)
        .map(lambda batch: batch.flat_values)
    )
    # Filled piece by piece and then lent to TensorFlow: never twice in memory.
    room = np.empty(int(lengths.sum()) + _ALIGNMENT, np.uint8)
    room = room[-room.ctypes.data % _ALIGNMENT :][: int(lengths.sum())]
    done = 0
    try:
        for part in parts.as_numpy_iterator():
            room[done : done + len(part)] = part
            done += len(part)
    except tf.errors.OpError:
        return None
    lent = tf.experimental.dlpack.from_dlpack(room.__dlpack__())
    return DecodedImages(lent, sizes.astype(np.int32), channels)


def free_memory() -> int:
    """Bytes that this process may take without others having to give way; 0 if nobody says."""
    limits = [_available(Path("/proc/meminfo")), _below_limit(Path("/sys/fs/cgroup"))]
    return min((limit for limit in limits if limit is not None), default=0)


def _available(meminfo: Path) -> int | None:
    found = re.search(r"(?m)^MemAvailable: +(\d+) kB$", _text(meminfo))
    return int(found[1]) * 1024 if found else None


def _below_limit(group: Path) -> int | None:
    """What is left of a container's memory, by either version of control groups."""
    for folder, limit, used in (
        (group, "memory.max", "memory.current"),
        (group / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        numbers = [_text(folder / name).strip() for name in (limit, used)]
        if all(number.isdecimal() for number in numbers):
            # Files that were read lately count as used, but give way.
            files = re.search(
                r"(?m)^(?:total_)?inactive_file (\d+)$", _text(folder / "memory.stat")
            )
            return max(int(numbers[0]) - int(numbers[1]) + (int(files[1]) if files else 0), 0)
    return None


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _lengths(sizes: np.ndarray, channels: int) -> np.ndarray:
    """int64 [N], the bytes of each image."""
    return sizes.astype(np.int64).prod(axis=1) * channels
