"""Layers and activations that tf_keras lacks, as far as twins need them.

Shapes, results and the names of variables are those of the Keras 3 layers that they stand for.
"""

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from keras_cls.architectures.layers import covers_map

_register = tf_keras.utils.register_keras_serializable(package="keras_cls")


@_register
class ZeroPadChannels(tf_keras.layers.Layer):
    """Adds channels of zeros: [N, H, W, C] -> [N, H, W, before + C + after]."""

    def __init__(self, before: int, after: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.before = before
        self.after = after

    def call(self, inputs: Any) -> Any:
        """Pad the last axis."""
        return tf.pad(inputs, ((0, 0), (0, 0), (0, 0), (self.before, self.after)))

    def get_config(self) -> dict[str, Any]:
        """What ``__init__`` takes."""
        return {**super().get_config(), "before": self.before, "after": self.after}


@_register
class LocalResponseNormalization(tf_keras.layers.Layer):
    """``tf.nn.lrn``: shapes stay."""

    def __init__(
        self, depth_radius: int, bias: float, alpha: float, beta: float, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.depth_radius = depth_radius
        self.bias = bias
        self.alpha = alpha
        self.beta = beta

    def call(self, inputs: Any) -> Any:
        """Normalize [N, H, W, C] over C."""
        return tf.nn.lrn(inputs, self.depth_radius, self.bias, self.alpha, self.beta)

    def get_config(self) -> dict[str, Any]:
        """What ``__init__`` takes."""
        return {
            **super().get_config(),
            "depth_radius": self.depth_radius,
            "bias": self.bias,
            "alpha": self.alpha,
            "beta": self.beta,
        }


@_register
class DropPath(tf_keras.layers.Dropout):
    """Drops all of an example, with probability ``rate``: any shape, which stays."""

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Drop examples in training."""
        self.noise_shape = (None, *(1 for _ in inputs.shape[1:]))
        return super().call(inputs, training=training)


@_register
class Gelu(tf_keras.layers.Layer):
    """``x * Phi(x)``, not approximated: any shape, which stays."""

    def call(self, inputs: Any) -> Any:
        """Apply it to each number."""
        return tf.nn.gelu(inputs, approximate=False)


@_register
class UnfusedBatchNormalization(tf_keras.layers.BatchNormalization):
    """For epsilons below 1e-5, which tf_keras would raise to what its fused kernel takes."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fused = False


class OwnConv2D(tf_keras.layers.Conv2D):
    """With what tensorflow-model-optimization looks for in layers that are not tf_keras'."""

    def get_prunable_weights(self) -> list[Any]:
        """What pruning prunes."""
        return [self.kernel]

    def get_clusterable_weights(self) -> list[tuple[str, Any]]:
        """What clustering clusters."""
        return [("kernel", self.kernel)]

    def get_clusterable_algorithm(self, weight_name: str) -> None:
        """A convolution's own."""


@_register
class GroupedConv2D(OwnConv2D):
    """``Conv2D(groups=g)`` by splitting, whose gradient is 10 to 200 times as fast on CPUs."""

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """What ``call`` does before bias and activation."""
        if self.groups == 1:
            return super().convolution_op(inputs, kernel)
        pairs = zip(
            tf.split(inputs, self.groups, -1), tf.split(kernel, self.groups, -1), strict=True
        )
        return tf.concat(
            [super(GroupedConv2D, self).convolution_op(some, filters) for some, filters in pairs],
            -1,
        )

    def _jit_compiled_convolution_op(self, inputs: Any, kernel: Any) -> Any:
        # What tf_keras calls for groups: without XLA, which would compile each call for long.
        return self.convolution_op(inputs, kernel)


@_register
class FullyConnected(OwnConv2D):
    """A valid convolution that is a matrix product where its window covers the map."""

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """What ``call`` does before bias and activation."""
        if not covers_map(self, inputs.shape):
            return super().convolution_op(inputs, kernel)
        rows = math.prod(kernel.shape[:3])
        product = tf.matmul(
            tf.reshape(inputs, (-1, rows)), tf.reshape(kernel, (rows, self.filters))
        )
        return tf.reshape(product, (-1, 1, 1, self.filters))


@_register
class WhiteningConv2D(tf_keras.layers.Conv2D):
    """A convolution whose kernel is not trained; nor is it pruned, clustered or quantized."""

    def add_weight(self, name: Any = None, **kwargs: Any) -> Any:
        """Of the kernel, one that is not trained."""
        if name == "kernel":
            kwargs["trainable"] = False
        return super().add_weight(name=name, **kwargs)


# ---------------------------------------------------------------- activations, Keras 3's formulas


@_register
def relu6(x: Any) -> Any:
    """``min(max(x, 0), 6)``."""
    return tf.nn.relu6(x)


@_register
def silu(x: Any) -> Any:
    """``x * sigmoid(x)``."""
    return tf.nn.silu(x)


@_register
def hard_sigmoid(x: Any) -> Any:
    """``relu6(x + 3) / 6``; tf_keras' own has another slope."""
    return tf.nn.relu6(x + 3) / 6


@_register
def hard_silu(x: Any) -> Any:
    """``x * hard_sigmoid(x)``."""
    return x * hard_sigmoid(x)


@_register
def leaky_relu(x: Any) -> Any:
    """With Keras 3's slope, 0.2."""
    return tf.nn.leaky_relu(x, 0.2)


@_register
def log_softmax(x: Any) -> Any:
    """Over the last axis."""
    return tf.nn.log_softmax(x)


ACTIVATIONS: dict[str, Any] = {
    **{
        name: getattr(tf_keras.activations, name)
        for name in (
            "elu", "exponential", "gelu", "linear", "mish", "relu", "selu", "sigmoid", "softmax",
            "softplus", "softsign", "tanh",
        )
    },
    **{
        function.__name__: function
        for function in (relu6, silu, hard_sigmoid, hard_silu, leaky_relu, log_softmax)
    },
}  # fmt: skip
"""By Keras 3's names."""

KERNELS: Sequence[type[tf_keras.layers.Layer]] = (
    tf_keras.layers.Conv2D,
    tf_keras.layers.Dense,
    GroupedConv2D,
    FullyConnected,
)
"""The very classes whose ``kernel`` is pruned and clustered."""


def kernel_of(layer: tf_keras.layers.Layer) -> Any:
    """What is pruned and clustered of a layer, [.., C, filters]; None where it is left alone."""
    if type(layer) is tf_keras.layers.SeparableConv2D:
        return layer.pointwise_kernel
    return layer.kernel if type(layer) in KERNELS else None
