"""Weights and images drawn by a rule, so that a fixture holds names, shapes and logits only.

The rule: a tensor's generator is ``numpy.random.Generator(PCG64(crc32(name)))``. What is drawn
depends on the last part of its name and its rank, in float64, rounded to float32 at the end:

* ``running_var``: uniform in 0.8..1.2; ``running_mean``: normal, deviation 0.1
* ``num_batches_tracked``: zero (int64)
* ``bias``: normal, deviation 0.1
* ``weight`` of rank 1 (a normalization's): uniform in 0.8..1.2
* ``weight`` of higher rank: normal, deviation sqrt(gain / fan_in), where fan_in is the product of
  all axes but the first, and gain is 2 for convolutions and 1 for dense layers. In a gate
  (``se_module``) it is 0.03 times that: saturated gates amplify rounding errors so much that, in a
  deep network, PyTorch's own logits in float32 and in float64 have little in common.

Images are uniform in -1..1, drawn from the generator of the name ``"images"``, layout NCHW.
"""

import zlib

import numpy as np


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of that name and shape."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    kind = name.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if kind == "running_var" or (kind == "weight" and len(shape) == 1):
        return generator.uniform(0.8, 1.2, shape).astype(np.float32)
    if kind in ("running_mean", "bias"):
        return generator.normal(0, 0.1, shape).astype(np.float32)
    if kind != "weight":
        raise ValueError(f"no rule for {name}")
    gain = 2 if len(shape) > 2 else 1
    deviation = np.sqrt(gain / np.prod(shape[1:])) * (0.03 if ".se_module." in name else 1)
    return generator.normal(0, deviation, shape).astype(np.float32)


def draw_images(height: int, width: int) -> np.ndarray:
    """One image, float32 [1, 3, height, width]."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(b"images")))
    return generator.uniform(-1, 1, (1, 3, height, width)).astype(np.float32)
