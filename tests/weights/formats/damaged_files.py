"""What the tests of all formats need: hurt a file, read it, and see what comes of it."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from keras_cls.errors import ConfigError
from keras_cls.weights import formats

MEGABYTE = 1 << 20


def examples(count: int) -> settings:
    """So many examples, each as long as a busy machine takes; they share one temporary folder."""
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def tensors_or_refusal(path: Path, content: bytes) -> dict[str, np.ndarray] | str:
    """What the content is read as under the path's name; whatever else is raised is a failure."""
    path.write_bytes(content)
    try:
        file = formats.read(path)
    except ConfigError as error:
        assert str(error).startswith(f"{path}: weights: ")
        return str(error)
    for name, tensor in file.tensors.items():
        assert isinstance(name, str) and isinstance(tensor, np.ndarray)
        tensor.tobytes()  # every number can be had
    return dict(file.tensors)


def refusal(path: Path, content: bytes, at_most: int = 32 * MEGABYTE) -> str:
    """Why the content is refused; ``at_most`` bytes of memory may be taken on the way."""
    with memory_below(at_most):
        said = tensors_or_refusal(path, content)
    assert isinstance(said, str), f"read {list(said)}"
    return said


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    """What the block allocates, NumPy's arrays included, stays below ``limit`` bytes."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with some bytes changed, left out, put in, or cut off."""
    spoilt = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(spoilt) - 1, 0)))
        match draw(st.sampled_from(["flip", "bytes", "drop", "insert", "cut"])):
            case "flip":
                if spoilt:
                    spoilt[at] ^= 1 << draw(st.integers(0, 7))
            case "bytes":
                new = draw(st.binary(min_size=1, max_size=8))
                spoilt[at : at + len(new)] = new
            case "drop":
                del spoilt[at : at + draw(st.integers(1, 16))]
            case "insert":
                spoilt[at:at] = draw(st.binary(min_size=1, max_size=16))
            case "cut":
                del spoilt[at:]
    return bytes(spoilt)
