"""Weights under TF-slim's names, drawn by a rule, so that a fixture holds names and shapes only.

The rule: a tensor's generator is ``numpy.random.Generator(PCG64(crc32(name)))``. What is drawn
depends on the last part of its name, in float64, rounded to float32 at the end:

* ``moving_variance`` and ``gamma``: uniform in 0.8..1.2
* ``moving_mean``, ``beta`` and ``biases``: normal, deviation 0.1
* ``weights``, ``depthwise_weights`` and ``pointwise_weights``: normal, deviation
  sqrt(gain / fan_in). fan_in is the product of all axes but the last, for depthwise kernels that of
  the first two; gain is 1 for dense layers and pointwise kernels, which no ReLU precedes, else 2.

Images are uniform in -1..1, as in drawn_weights.py, layout NHWC.
"""

import zlib

import drawn_weights
import numpy as np


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of that name and shape."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    kind = name.rpartition("/")[2]
    if kind in ("moving_variance", "gamma"):
        return generator.uniform(0.8, 1.2, shape).astype(np.float32)
    if kind in ("moving_mean", "beta", "biases"):
        return generator.normal(0, 0.1, shape).astype(np.float32)
    if kind not in ("weights", "depthwise_weights", "pointwise_weights"):
        raise ValueError(f"no rule for {name}")
    fan_in = np.prod(shape[:2] if kind == "depthwise_weights" else shape[:-1])
    gain = 1 if kind == "pointwise_weights" or len(shape) == 2 else 2
    return generator.normal(0, np.sqrt(gain / fan_in), shape).astype(np.float32)


def draw_images(height: int, width: int) -> np.ndarray:
    """One image, float32 [1, height, width, 3]."""
    return drawn_weights.draw_images(height, width).transpose(0, 2, 3, 1)
