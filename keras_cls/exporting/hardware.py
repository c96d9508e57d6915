"""What the processor at hand has for numbers below float32."""

import os

from keras_cls.processor import BFLOAT16_FLAGS, BYTE_FLAGS, cpu_flags


def slow_here(precision: str) -> str | None:
    """Why a SavedModel in this precision is slower here than elsewhere; None where it is not.

    Also where the operating system does not say what the processor has.
    """
    if precision == "bfloat16" and os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        return (
            "oneDNN is switched off here (TF_ENABLE_ONEDNN_OPTS=0): bfloat16 gives the same "
            "answers, but is slower than float32"
        )
    flags = cpu_flags()
    if precision == "int8" and flags and not flags & BYTE_FLAGS:
        return (
            "this processor has no instructions for products of bytes (AVX512-VNNI, AVX-VNNI or "
            "AMX): int8 gives the same answers here, but is less of a gain over float32"
        )
    if precision == "bfloat16" and flags and not flags & BFLOAT16_FLAGS:
        return (
            "this processor has no instructions for bfloat16 (AVX512-BF16 or AMX): it gives the "
            "same answers here, but is slower than float32"
        )
    return None
