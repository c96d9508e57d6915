"""What can go wrong in the middle of a run, said so that the user can put it right."""

import errno
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import tensorflow as tf

from keras_cls.data.caching import free_memory
from keras_cls.data.opening import TrainingData
from keras_cls.data.records import RecordShards
from keras_cls.errors import ConfigError, DataError, TrainingDivergedError, TrainingStoppedError
from keras_cls.training.precision import Precision
from keras_cls.training.run_folder import RunState

# What oneDNN says where TensorFlow raises no ResourceExhaustedError.
_OUT_OF_MEMORY = ("could not create a memory", "out_of_memory", "OOM when allocating")

_BYTES: dict[Precision, int] = {"float32": 4, "bfloat16": 2}
_MORE_THAN_KEPT = 4  # what a step takes in all, as a multiple of what it must keep

_UNREADABLE = (
    tf.errors.DataLossError,
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
)


@contextmanager
def training_errors_named(
    folder: Path, state: RunState, batch_size: int, images: TrainingData
) -> Iterator[None]:
    """Errors of the loop and of TensorFlow inside become what the user can use.

    Args:
        folder: the run's.
        state: what it has kept; read when something goes wrong.
        batch_size: images a step.
        images: what is trained on.

    Raises:
        TrainingStoppedError: with how to go on.
        TrainingDivergedError: with what is kept and what to try.
        ConfigError: out of memory.
        DataError: images have gone, or a file of them is damaged.
        OSError: the disk is full.
    """
    try:
        yield
    except TrainingStoppedError as error:
        raise TrainingStoppedError(
            f"{error} in {folder}; the same call on that folder goes on", error.signal
        ) from None
    except TrainingDivergedError as error:
        raise TrainingDivergedError(
            f"{error}. {_what_is_kept(folder, state)}. Lower the learning rate (a smaller "
            "batch_size lowers it too, or take another recipe), try precision='float32', or look "
            "for faulty images or labels"
        ) from None
    except MemoryError as error:
        raise _out_of_memory(batch_size, "") from error
    except tf.errors.OpError as error:
        reason = _first_line(error)
        if "No space left" in reason:  # TensorFlow calls it an exhausted resource as well
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        if _is_out_of_memory(error, reason):
            raise _out_of_memory(batch_size, f" ({reason})") from error
        for stream in (images.train, images.validation):
            if isinstance(stream, RecordShards):
                damage = stream.explained(error)
                if damage is not error:
                    raise damage from error
        if isinstance(error, _UNREADABLE):
            raise DataError(
                "the images could not be read to the end while training; has a file been removed "
                f"or changed? {reason}"
            ) from error
        raise


def require_memory(
    network: keras.Model, batch_size: int, precision: Precision, free: int | None = None
) -> None:
    """Refuse a batch that cannot fit, since Linux kills who takes too much without a word.

    What is counted is the least that a step keeps: the images, and for the way back the outputs of
    the layers with a kernel.

    Args:
        network: what is to be trained, on the CPUs of this machine.
        batch_size: images a step of this process.
        precision: what the layers compute in.
        free: bytes of memory; None asks how much there is now, 0 is unknown.

    Raises:
        ConfigError: there is not so much memory.
    """
    free = free_memory() if free is None else free
    an_image = 4 * math.prod(network.input_shape[1:]) + _BYTES[precision] * sum(
        math.prod(node.outputs[0].shape[1:])
        for layer in network.layers
        if hasattr(layer, "kernel")
        for node in layer._inbound_nodes[:1]
    )
    if free and batch_size * an_image > free:
        fitting = free // an_image // _MORE_THAN_KEPT
        raise ConfigError(
            f"out of memory: at batch size {batch_size:,} a step needs "
            f"{batch_size * an_image / 1e9:,.1f} GB or more, and {free / 1e9:,.1f} GB are free; "
            f"try {f'batch_size={fitting}' if fitting else 'a smaller input_shape'}"
        )


@contextmanager
def memory_errors_named() -> Iterator[None]:
    """Too little memory whatever the batch size: a ConfigError that says what else to change."""
    try:
        yield
    except (MemoryError, tf.errors.OpError) as error:
        reason = _first_line(error)
        if not isinstance(error, MemoryError) and not _is_out_of_memory(error, reason):
            raise
        raise ConfigError(
            "out of memory for the network and a few images: take a smaller input_shape or "
            f"another network, in another run_dir ({reason})"
        ) from error


@contextmanager
def disk_errors_named(folder: Path) -> Iterator[None]:
    """A full disk, a folder that cannot be written: a ConfigError with the place."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder}: {(error.strerror or str(error)).lower()}. What the run "
            "had written before is intact; put it right, and the same call goes on from there"
        ) from error


def _what_is_kept(folder: Path, state: RunState) -> str:
    if state.best is None:
        return "No epoch was kept before"
    return (
        f"The best classifier so far, of epoch {state.best_epoch}, is kept in "
        f"{folder / state.best}; it can be loaded, or trained on in another run_dir"
    )


def _first_line(error: MemoryError | tf.errors.OpError) -> str:
    said = str(error.message if isinstance(error, tf.errors.OpError) else error)
    return (said.splitlines() or [""])[0][:300]


def _is_out_of_memory(error: tf.errors.OpError, reason: str) -> bool:
    return isinstance(error, tf.errors.ResourceExhaustedError) or any(
        sign in reason for sign in _OUT_OF_MEMORY
    )


def _out_of_memory(batch_size: int, reason: str) -> ConfigError:
    remedy = f"batch_size={batch_size // 2}" if batch_size > 1 else "a smaller input_shape"
    return ConfigError(
        f"out of memory at batch size {batch_size}; try {remedy}, in another run_dir{reason}"
    )
