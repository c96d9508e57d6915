"""What an exported SavedModel is worth and what it costs, measured on this machine."""

import lzma
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np

from keras_cls import contract
from keras_cls.data.pipeline import ImageStream, evaluation_pixels
from keras_cls.evaluation.multi_label import average_precision
from keras_cls.exporting.verification import SessionModel
from keras_cls.preprocessing import Preprocessing

_BATCH = 64
_WARM_UP = 5
_LEAST_RUNS, _LEAST_SECONDS = 20, 1.0
_STRETCHES, _SHORTEST_STRETCH = 10, 5


def accuracy_of(
    probabilities: Callable[[np.ndarray], np.ndarray], images: ImageStream, rule: Preprocessing
) -> float:
    """The share of images classified correctly; multi-label: the mean average precision.

    Args:
        probabilities: uint8 [N, H, W, c] at the network's input size -> [N, K].
        images: all are looked at once.
        rule: how images come to that size.
    """
    scores, truths = [], []
    for pixels, targets in evaluation_pixels(images, rule, _BATCH):
        scores.append(probabilities(np.clip(np.rint(pixels.numpy()), 0, 255).astype(np.uint8)))
        truths.append(targets.numpy())
    found, wanted = np.concatenate(scores), np.concatenate(truths)
    if images.multi_label:
        return float(np.nanmean(average_precision(found, wanted)))
    return float(np.mean(found.argmax(axis=1) == wanted))


def share_of_zeros(model: keras.Model) -> float:
    """Of all weights in kernels."""
    kernels = [np.asarray(each) for each in model.weights if each.name.endswith("kernel")]
    weights = sum(kernel.size for kernel in kernels)
    return sum(kernel.size - np.count_nonzero(kernel) for kernel in kernels) / max(weights, 1)


def accuracy_of_version(version: Path, images: ImageStream, rule: Preprocessing) -> float:
    """The same of an exported SavedModel, in a session as TensorFlow Serving has it."""
    with SessionModel(version) as run:
        return accuracy_of(lambda pixels: _answer(run, pixels), images, rule)


def latency_of_version(version: Path, pixels: np.ndarray) -> float:
    """Milliseconds for one image: the median of the quietest stretch of 20 runs or more, warm.

    Args:
        version: the exported SavedModel.
        pixels: uint8 [1, H, W, c].
    """
    with SessionModel(version) as run:
        for _ in range(_WARM_UP):
            _answer(run, pixels)
        seconds: list[float] = []
        begun = time.perf_counter()
        while len(seconds) < _LEAST_RUNS or time.perf_counter() - begun < _LEAST_SECONDS:
            start = time.perf_counter()
            _answer(run, pixels)
            seconds.append(time.perf_counter() - start)
    return 1000 * quietest(seconds)


def quietest(seconds: Sequence[float]) -> float:
    """The smallest median of a tenth of the runs, or five of them, one after the other.

    On a machine that does other things as well most runs may be disturbed, and their median with
    them; a single fast run may be luck.
    """
    length = max(_SHORTEST_STRETCH, len(seconds) // _STRETCHES)
    starts = range(0, max(len(seconds) - length, 0) + 1, length)
    return min(statistics.median(seconds[start : start + length]) for start in starts)


def sizes_of_version(version: Path) -> tuple[int, int]:
    """Bytes of the files that a server loads: as they are, and packed as .tar.xz."""
    parts = [version / contract.MODEL_FILE, version / "variables"]
    files = [file for part in parts for file in sorted([part, *part.rglob("*")]) if file.is_file()]
    with tempfile.TemporaryFile() as packed:
        with lzma.open(packed, "wb") as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
            for file in files:
                archive.add(file, file.relative_to(version).as_posix())
        compressed = packed.tell()
    return sum(file.stat().st_size for file in files), compressed


def _answer(run: SessionModel, pixels: np.ndarray) -> np.ndarray:
    found = run(contract.SIGNATURE_IMAGES, {contract.INPUT_IMAGES: pixels})
    return found[contract.OUTPUT_PROBABILITIES]
