"""In which arithmetic a run computes."""

from typing import Literal, TypeAlias

import tensorflow as tf

from keras_cls.errors import ConfigError
from keras_cls.processor import BFLOAT16_FLAGS, cpu_flags

Precision: TypeAlias = Literal["float32", "bfloat16"]

_PRECISIONS = ("auto", "float32", "bfloat16")
_AMPERE = (8, 0)  # the first compute capability with bfloat16


def choose_precision(wanted: str) -> tuple[Precision, str]:
    """The precision to compute in, and the reason in words.

    In ``"bfloat16"`` the layers compute in bfloat16; variables, their updates, the logits and the
    loss stay float32, and so does the classifier that is kept. ``"auto"`` takes it where every
    accelerator, or else the CPU, has instructions for it.

    Raises:
        ConfigError: it is neither ``"auto"`` nor a precision.
    """
    if checked_precision(wanted) == "float32":
        return "float32", "as asked for"
    if wanted == "bfloat16":
        return "bfloat16", "as asked for"
    if tf.config.list_logical_devices("TPU"):
        return "bfloat16", "TPUs compute in it"
    if accelerators := tf.config.list_physical_devices("GPU"):
        details = map(tf.config.experimental.get_device_details, accelerators)
        if all(found.get("compute_capability", (0, 0)) >= _AMPERE for found in details):
            return "bfloat16", "the GPU has it"
        return "float32", "the GPU has no bfloat16"
    if cpu_flags() & BFLOAT16_FLAGS:
        return "bfloat16", "the CPU has it"
    return "float32", "the CPU has no bfloat16"


def checked_precision(wanted: str) -> str:
    """Raises ConfigError unless it is ``"auto"`` or a precision."""
    if wanted not in _PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(_PRECISIONS)}; found {wanted!r}")
    return wanted
