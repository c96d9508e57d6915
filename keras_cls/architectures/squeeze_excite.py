"""Squeeze-and-excitation (Hu et al. 2017, arXiv 1709.01507), for every family that has it."""

import keras

from keras_cls.architectures.spec import Tensor


def squeeze_excite(x: Tensor, reduction: int, name: str) -> Tensor:
    """Scale each channel by what all of them say on average: [N, H, W, C] -> the same shape.

    ``x * sigmoid(W2 relu(W1 mean(x) + b1) + b2)``, W1 giving C // reduction channels. The two
    dense layers of the paper are 1x1 convolutions on a map of one pixel, as in the releases.
    """
    channels = x.shape[-1]
    gate = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(x)
    gate = keras.layers.Conv2D(
        channels // reduction,
        1,
        activation="relu",
        kernel_initializer="he_normal",
        name=f"{name}_reduce",
    )(gate)
    gate = keras.layers.Conv2D(channels, 1, activation="sigmoid", name=f"{name}_expand")(gate)
    return keras.layers.Multiply(name=f"{name}_scale")([x, gate])
