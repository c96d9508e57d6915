"""Blocks that several of the early families share."""

from typing import Any

import keras

from keras_cls.architectures.layers import FullyConnected
from keras_cls.architectures.spec import Tensor


def max_pool_ceil(x: Tensor, name: str) -> Tensor:
    """Maxima of 3x3 every 2 pixels, as Caffe pools: [N, H, W, C] -> [N, H // 2, W // 2, C].

    The windows start in the corner, and the last one may reach one pixel beyond the end (PyTorch's
    ``ceil_mode``). TensorFlow's SAME does that on even sides only. ``x`` must not be negative.
    """
    height, width = x.shape[1:3]
    padding = "valid"
    if height % 2 == 0 and width % 2 == 0:
        padding = "same"
    elif height % 2 == 0 or width % 2 == 0:
        ends = ((0, 1 - height % 2), (0, 1 - width % 2))
        x = keras.layers.ZeroPadding2D(ends, name=f"{name}_pad")(x)
    return keras.layers.MaxPooling2D(3, 2, padding=padding, name=name)(x)


def fully_connected(x: Tensor, units: int, side: int, name: str, **initializers: Any) -> Tensor:
    """A dense layer and its ReLU over a whole map, for maps of any size.

    It is the valid convolution that gives the same numbers: [N, side, side, C] -> [N, 1, 1,
    units]. A larger map gives one such result at each position ([N, H - side + 1, W - side + 1,
    units], to be averaged in the end: OverFeat's and VGG's dense evaluation), and of a smaller one
    the kernel is as small as the map. The dense kernel [side * side * C, units], its rows in the
    order height, width, channel, is this kernel reshaped.
    """
    height, width = x.shape[1:3]
    return FullyConnected(
        units,
        (min(side, height), min(side, width)),
        activation="relu",
        name=name,
        **initializers,
    )(x)
