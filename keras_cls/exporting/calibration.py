"""Run a network on real images and choose what its bytes stand for.

A byte tells 255 steps apart. Where the steps end is a choice: at the largest number that was seen
("max"), or lower, so that the steps are finer and a few large numbers are cut off. How far, three
rules answer: a fixed share of numbers is cut off ("percentile"); the mean squared difference is
smallest ("mse"); the distribution of the numbers changes least ("entropy", the rule of Migacz,
8-bit Inference with TensorRT, GTC 2017).
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias, get_args

import numpy as np
import tensorflow as tf

from keras_cls.exporting.byte_formats import (
    ByteFormat,
    Kind,
    choose_formats,
    families,
    kinds,
    levels,
    offset_of,
)
from keras_cls.exporting.constants import shared
from keras_cls.exporting.float_network import run_all_in_float
from keras_cls.exporting.nodes import Fused, Graph

Method: TypeAlias = Literal["max", "percentile", "mse", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)

_BINS = 2048
_SHARE_KEPT = 0.9999
_BATCH = 16


def calibrated_formats(
    graph: Graph, images: np.ndarray, method: Method = "mse"
) -> dict[str, ByteFormat]:
    """The formats for all of a fused graph's bytes.

    Args:
        graph: fused.
        images: prepared, float32 [N, H, W, C].
        method: where the steps of a byte end.
    """
    names = sorted(name for family in families(graph) for name in family)
    low, high = _extremes(graph, images, names)
    _warn_of_silent(graph, low, high, len(images))
    kind = kinds(graph, low)
    limit = {name: _largest(kind[name], low[name], high[name]) for name in names}
    if method != "max":
        counts = _histograms(graph, images, kind, low, limit)
        limit = {
            name: limit[name] * _share(counts[name], method, levels(kind[name] == "signed"))
            for name in names
        }
    return choose_formats(graph, kind, low, limit)


def _warn_of_silent(
    graph: Graph, low: dict[str, np.ndarray], high: dict[str, np.ndarray], images: int
) -> None:
    """What gave nothing but zeros has a range that is made up."""
    silent = [
        node.name
        for node in graph
        if isinstance(node, Fused)
        and node.name in high
        and node.linear.kernel.any()
        and not (low[node.name].any() or high[node.name].any())
    ]
    if silent:
        warnings.warn(
            f"{', '.join(silent)}: zero on all {images} images of the calibration: what other "
            "images make of it is lost in int8; calibrate with images such as the model will see",
            stacklevel=2,
        )


def _largest(kind: Kind, low: np.ndarray, high: np.ndarray) -> float:
    offset = offset_of(kind, low)
    if offset is not None:
        return float(np.max(high + offset))
    return float(max(np.max(high), -np.min(low) if kind == "signed" else 0.0))


def _extremes(
    graph: Graph, images: np.ndarray, names: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The smallest and the largest number of each channel, [C], by name."""

    @tf.function(autograph=False)
    def found(batch: tf.Tensor) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        values = run_all_in_float(graph, batch)
        flat = {name: tf.reshape(values[name], (-1, values[name].shape[-1])) for name in names}
        return {k: (tf.reduce_min(v, axis=0), tf.reduce_max(v, axis=0)) for k, v in flat.items()}

    with shared():
        each = [found(batch) for batch in batches(images)]
    low = {k: np.min([of_batch[k][0].numpy() for of_batch in each], axis=0) for k in names}
    high = {k: np.max([of_batch[k][1].numpy() for of_batch in each], axis=0) for k in names}
    return low, high


def _histograms(
    graph: Graph,
    images: np.ndarray,
    kind: dict[str, Kind],
    low: dict[str, np.ndarray],
    limit: dict[str, float],
) -> dict[str, np.ndarray]:
    """How many numbers lie in each of equal parts of zero to the limit, int64 [bins], by name."""

    @tf.function(autograph=False)
    def found(batch: tf.Tensor) -> dict[str, tf.Tensor]:
        values = run_all_in_float(graph, batch)
        return {name: _counted(values[name], kind[name], low[name], limit[name]) for name in kind}

    totals = {name: np.zeros(_BINS, np.int64) for name in kind}
    with shared():
        for batch in batches(images):
            for name, counts in found(batch).items():
                totals[name] += counts.numpy()
    return totals


def _counted(x: tf.Tensor, kind: Kind, low: np.ndarray, limit: float) -> tf.Tensor:
    offset = offset_of(kind, low)
    if offset is not None:
        x = x + offset.astype(np.float32)
    elif kind == "signed":
        x = tf.abs(x)
    top = max(limit, np.finfo(np.float32).tiny)
    return tf.histogram_fixed_width(x, [0.0, top], _BINS, dtype=tf.int32)


def batches(images: np.ndarray) -> Iterator[tf.Tensor]:
    """Prepared images, a few at a time, float32."""
    for start in range(0, len(images), _BATCH):
        yield tf.constant(images[start : start + _BATCH], tf.float32)


def _share(counts: np.ndarray, method: Method, levels: int) -> float:
    """At which share of the histogram's range the largest byte shall stand."""
    rule: dict[str, Callable[[np.ndarray, int], float]] = {
        "percentile": _percentile,
        "mse": _least_squares,
        "entropy": _least_divergence,
    }
    # What is exactly zero (a ReLU's work) is told apart in any case.
    counts = counts.copy()
    counts[0] = 0
    return rule[method](counts, levels) if counts.any() else 1.0


def _percentile(counts: np.ndarray, levels: int) -> float:
    below = np.cumsum(counts) / counts.sum()
    return float((np.searchsorted(below, _SHARE_KEPT) + 1) / len(counts))


def _least_squares(counts: np.ndarray, levels: int) -> float:
    bins = len(counts)
    centres = (np.arange(bins) + 0.5) / bins
    shares = np.linspace(0.2, 1.0, 161)

    def error(share: float) -> float:
        step = share / levels
        rounded = np.minimum(np.rint(centres / step), levels) * step
        # A bin is wider than a step of the finest limits: within it numbers lie anywhere.
        cut = centres > share
        squared = np.where(cut, (centres - rounded) ** 2, step**2 / 12)
        return float((counts * squared).sum())

    return float(min(shares, key=error))


def _least_divergence(counts: np.ndarray, levels: int) -> float:
    parts = levels + 1
    tried = range(parts, len(counts) + 1, 8)
    return min(tried, key=lambda kept: _divergence(counts, kept, parts)) / len(counts)


def _divergence(counts: np.ndarray, kept: int, parts: int) -> float:
    """Kullback-Leibler's, from the numbers cut off at ``kept`` bins to the same in ``parts``."""
    cut = counts[:kept].astype(np.float64)
    cut[-1] += counts[kept:].sum()
    seen = counts[:kept] > 0
    starts = np.arange(parts) * kept // parts
    totals = np.add.reduceat(counts[:kept].astype(np.float64), starts)
    occupied = np.add.reduceat(seen.astype(np.int64), starts)
    level = np.divide(totals, occupied, out=np.zeros(parts), where=occupied > 0)
    quantized = np.repeat(level, np.diff([*starts, kept])) * seen
    if quantized.sum() == 0:
        return np.inf
    # Outliers alone in the last bin have no counterpart: that is what makes a cut too early bad.
    p, q = cut / cut.sum(), np.maximum(quantized / quantized.sum(), 1e-12)
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())
