"""What can go wrong in the middle of a run, said so that the user can put it right."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

from keras_cls.data.opening import TrainingData
from keras_cls.data.records import RecordShards
from keras_cls.errors import ConfigError, DataError, TrainingDivergedError, TrainingStoppedError
from keras_cls.training.run_folder import RunState

# What oneDNN says where TensorFlow raises no ResourceExhaustedError.
_OUT_OF_MEMORY = ("could not create a memory", "out_of_memory", "OOM when allocating")

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
        reason = (str(error.message).splitlines() or [""])[0][:300]
        if "No space left" in reason:  # TensorFlow calls it an exhausted resource as well
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        if isinstance(error, tf.errors.ResourceExhaustedError) or any(
            sign in reason for sign in _OUT_OF_MEMORY
        ):
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


def _out_of_memory(batch_size: int, reason: str) -> ConfigError:
    return ConfigError(
        f"out of memory at batch size {batch_size}; try batch_size={max(1, batch_size // 2)}, in "
        f"another run_dir{reason}"
    )
