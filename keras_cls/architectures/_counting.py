"""Multiply-adds of a network, counted on its layers."""

from math import prod

import keras

from keras_cls.errors import ConfigError


def count_multiply_adds(model: keras.Model) -> int:
    """The multiply-adds of a model's convolutions and dense layers for one image.

    A multiplication and its addition count as one. Counted are Conv2D (grouped too),
    DepthwiseConv2D, SeparableConv2D and Dense, in nested models as well, each once; pooling,
    normalization, activations and biases are not.

    Raises:
        ConfigError: a layer's output size is open, because the input's height or width is.
    """
    return sum(
        count_multiply_adds(layer) if isinstance(layer, keras.Model) else _of_layer(layer)
        for layer in model.layers
    )


def _of_layer(layer: "keras.layers.Layer") -> int:
    # At each position of the output, every number of the kernel is used once: grouped and
    # depthwise kernels are already smaller by their number of groups.
    if isinstance(layer, keras.layers.SeparableConv2D):
        return _positions(layer) * (
            prod(layer.depthwise_kernel.shape) + prod(layer.pointwise_kernel.shape)
        )
    if isinstance(
        layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
    ) and not isinstance(layer, keras.layers.Conv2DTranspose):
        return _positions(layer) * prod(layer.kernel.shape)
    return 0


def _positions(layer: "keras.layers.Layer") -> int:
    _, *positions = layer.output.shape
    positions.pop(0 if getattr(layer, "data_format", None) == "channels_first" else -1)
    if None in positions:
        raise ConfigError(
            f"{layer.name}: expected a fixed output size, found {tuple(layer.output.shape)}: "
            "build the model with a height and a width"
        )
    return prod(positions)
