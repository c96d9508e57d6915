"""The layers that the networks need and Keras lacks, registered for ``keras.saving``."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras

from keras_cls.errors import ConfigError

_register = keras.saving.register_keras_serializable(package="keras_cls")


@_register
class ZeroPadChannels(keras.layers.Layer):
    """Adds channels of zeros: [N, H, W, C] -> [N, H, W, before + C + after], any float dtype.

    Args:
        before: how many channels of zeros come first.
        after: how many come last.
    """

    def __init__(self, before: int, after: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.before = before
        self.after = after

    def call(self, inputs: Any) -> Any:
        """Pad the last axis."""
        return keras.ops.pad(inputs, ((0, 0), (0, 0), (0, 0), (self.before, self.after)))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Only the last axis grows."""
        *rest, channels = input_shape
        return (*rest, None if channels is None else self.before + channels + self.after)

    def get_config(self) -> dict[str, Any]:
        """What ``__init__`` takes."""
        return {**super().get_config(), "before": self.before, "after": self.after}


@_register
class LocalResponseNormalization(keras.layers.Layer):
    """Normalization across neighbouring channels (AlexNet, section 3.3): shapes stay.

    ``y[c] = x[c] / (bias + alpha * sum(x[c - depth_radius .. c + depth_radius] ** 2)) ** beta``,
    channels beyond the ends counting as zero: TensorFlow's ``tf.nn.lrn`` and the paper's formula,
    the paper's n being ``2 * depth_radius + 1``. Caffe and PyTorch divide alpha by n: their
    ``alpha=1e-4, n=5`` is ``alpha=2e-5`` here. The defaults are the paper's. Computed in float32.

    Args:
        depth_radius: how many channels on either side take part.
        bias: the paper's k.
        alpha: the weight of the sum of squares, not divided by the number of channels.
        beta: the exponent.
    """

    def __init__(
        self,
        depth_radius: int = 2,
        bias: float = 2.0,
        alpha: float = 1e-4,
        beta: float = 0.75,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.depth_radius = depth_radius
        self.bias = bias
        self.alpha = alpha
        self.beta = beta

    def call(self, inputs: Any) -> Any:
        """Normalize [N, H, W, C] over C."""
        x = keras.ops.cast(inputs, "float32")
        if keras.config.backend() == "tensorflow":
            import tensorflow as tf

            # One operation, which LiteRT, ONNX and TF.js have too.
            x = tf.nn.lrn(x, self.depth_radius, self.bias, self.alpha, self.beta)
        else:
            x = x * (self.bias + self.alpha * self._energy(x)) ** -self.beta
        return keras.ops.cast(x, self.compute_dtype)

    def _energy(self, x: Any) -> Any:
        """The sum of squares over each channel's neighbourhood."""
        radius, channels = self.depth_radius, x.shape[-1]
        squares = keras.ops.pad(x * x, ((0, 0), (0, 0), (0, 0), (radius, radius)))
        return sum(squares[..., shift : shift + channels] for shift in range(2 * radius + 1))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The input's."""
        return input_shape

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
class DropPath(keras.layers.Layer):
    """Drops a whole path of the network for some of the images (FractalNet, arXiv 1605.07648).

    In training an example becomes zero with probability ``rate``, else it is divided by
    ``1 - rate``, so that its expectation stays; at inference the layer is the identity. Any shape
    whose first axis counts the examples, any float dtype.

    Args:
        rate: the probability of dropping, 0 <= rate < 1; papers often give 1 - rate.
        seed: an integer makes the choice repeatable; None draws one.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ConfigError(f"DropPath: rate: expected 0 <= rate < 1, found {rate!r}")
        self.rate = rate
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Drop examples in training."""
        if not training or self.rate == 0:
            return inputs
        each_example = (keras.ops.shape(inputs)[0], *(1 for _ in inputs.shape[1:]))
        # Drawn in float32: half precision would round the rate.
        ones = keras.ops.ones(each_example, "float32")
        scale = keras.random.dropout(ones, self.rate, seed=self.seed_generator)
        return inputs * keras.ops.cast(scale, inputs.dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The input's."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """What ``__init__`` takes."""
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


_SPLIT_EVERYWHERE: ContextVar[bool] = ContextVar("_SPLIT_EVERYWHERE", default=False)


@contextmanager
def split_grouped_convolutions() -> Iterator[None]:
    """Trace grouped convolutions as on a CPU, whatever the machine.

    For graphs that leave the machine: TensorFlow's CPU kernels refuse what a GPU computes.
    """
    token = _SPLIT_EVERYWHERE.set(True)
    try:
        yield
    finally:
        _SPLIT_EVERYWHERE.reset(token)


@_register
class GroupedConv2D(keras.layers.Conv2D):
    """``keras.layers.Conv2D(groups=g)``, with a gradient that is fast on CPUs.

    Arguments, variables (one kernel [kh, kw, C / g, filters], a bias), saved weights and results
    are Conv2D's. On a CPU, where the gradient of a grouped convolution takes 10 to 200 times as
    long as it should, the input and the kernel are split into their groups, convolved, and
    concatenated; where TensorFlow sees a GPU or TPU, its own grouped convolution runs. The choice
    is made when the layer is called or traced; :func:`split_grouped_convolutions` overrides it.
    """

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """What ``call`` does before bias and activation."""
        if self.groups == 1 or keras.config.backend() != "tensorflow":
            return super().convolution_op(inputs, kernel)
        if _has_accelerator() and not _SPLIT_EVERYWHERE.get():
            import tensorflow as tf

            # Keras would compile each call with XLA, for the sake of CPUs.
            return tf.nn.convolution(
                inputs,
                kernel,
                strides=self.strides,
                padding=self.padding.upper(),
                data_format="NHWC" if self.data_format == "channels_last" else "NCHW",
                dilations=self.dilation_rate,
            )
        axis = -1 if self.data_format == "channels_last" else 1
        convolved = [
            super(GroupedConv2D, self).convolution_op(some_inputs, some_filters)
            for some_inputs, some_filters in zip(
                keras.ops.split(inputs, self.groups, axis),
                keras.ops.split(kernel, self.groups, -1),
                strict=True,
            )
        ]
        return keras.ops.concatenate(convolved, axis)


@_register
class FullyConnected(keras.layers.Conv2D):
    """A valid ``keras.layers.Conv2D`` that is a matrix product where its window covers the map.

    Arguments, variables, saved weights and results are Conv2D's. Of a window as large as the map
    ([N, h, w, C] -> [N, 1, 1, filters]) the kernel need not be brought into a convolution's layout,
    which takes longer than the product itself for the hundred million weights of VGG's fc6.
    """

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """What ``call`` does before bias and activation."""
        covered = (
            tuple(inputs.shape[1:3]) == self.kernel_size
            and self.data_format == "channels_last"
            and self.padding == "valid"
            and self.groups == 1
            and self.dilation_rate == (1, 1)
        )
        if not covered:
            return super().convolution_op(inputs, kernel)
        rows = math.prod(kernel.shape[:3])
        product = keras.ops.matmul(
            keras.ops.reshape(inputs, (-1, rows)), keras.ops.reshape(kernel, (rows, self.filters))
        )
        return keras.ops.reshape(product, (-1, 1, 1, self.filters))


def _has_accelerator() -> bool:
    import tensorflow as tf

    return any(device.device_type in ("GPU", "TPU") for device in tf.config.list_logical_devices())


@_register
class BatchNormalization(keras.layers.BatchNormalization):
    """``keras.layers.BatchNormalization``, trained through TensorFlow's fused kernel.

    Arguments, variables, configuration and saved weights are Keras', and so are the results, to
    rounding; models with the one layer load weights of the other. The fused kernel takes
    [N, H, W, C] in float32, bfloat16 or float16 and computes its statistics in float32. In all
    other cases (inference, other ranks, axes and dtypes, masks, renormalization, statistics
    synchronized over several replicas, other backends) Keras' own code runs.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalize; in training with the batch's statistics, updating the moving ones."""
        if not (training and self.trainable and mask is None and self._fuses(inputs)):
            return super().call(inputs, training=training, mask=mask)

        import tensorflow as tf

        def in_float32(variable: Any) -> Any:
            return keras.ops.cast(variable, "float32")

        channels = inputs.shape[-1]
        # The raw operation: tf.compat.v1.nn.fused_batch_norm raises epsilon to 1.001e-5.
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=in_float32(self.gamma) if self.scale else tf.ones(channels),
            offset=in_float32(self.beta) if self.center else tf.zeros(channels),
            mean=tf.constant([], "float32"),
            variance=tf.constant([], "float32"),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The kernel reports the unbiased variance (divided by count - 1); Keras keeps the biased
        # one. Of a single number the kernel's is undefined and the biased one zero.
        count = tf.cast(tf.size(inputs, out_type=tf.int64), "float32") / channels
        variance = tf.math.multiply_no_nan(variance, (count - 1) / count)
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(in_float32(moving) * self.momentum + batch * (1 - self.momentum))
        return keras.ops.cast(outputs, self.compute_dtype)

    def _fuses(self, inputs: Any) -> bool:
        if (
            keras.config.backend() != "tensorflow"
            or self.renorm
            or len(inputs.shape) != 4
            or self.axis not in (-1, 3)
            or inputs.shape[-1] is None
            or inputs.dtype not in ("float32", "bfloat16", "float16")
        ):
            return False
        if not self.synchronized:
            return True
        import tensorflow as tf

        replica = tf.distribute.get_replica_context()
        return replica is None or replica.num_replicas_in_sync == 1
