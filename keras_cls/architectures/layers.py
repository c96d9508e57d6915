"""The layers that the networks need and Keras lacks, registered for ``keras.saving``."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
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


@_register
class Gelu(keras.layers.Layer):
    """``x * Phi(x)``, Phi being the normal distribution (arXiv 1606.08415), not approximated.

    Any shape and float dtype, which stay. In training on a CPU it is compiled, each way into one
    kernel that computes in float32: five times as fast in bfloat16 as TensorFlow's operations.
    """

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Apply it to each number."""
        if training and keras.config.backend() == "tensorflow" and not has_accelerator():
            return _compiled_gelu()(inputs)
        return keras.ops.gelu(inputs, approximate=False)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The input's."""
        return input_shape


@cache
def _compiled_gelu() -> Callable[[Any], Any]:
    import tensorflow as tf

    def below(x: Any) -> Any:
        return 0.5 * (1 + tf.math.erf(x * math.sqrt(0.5)))

    @tf.function(autograph=False, jit_compile=True)
    def forward(inputs: Any) -> Any:
        x = tf.cast(inputs, tf.float32)
        return tf.cast(x * below(x), inputs.dtype)

    @tf.function(autograph=False, jit_compile=True)
    def backward(inputs: Any, outputs: Any) -> Any:
        x = tf.cast(inputs, tf.float32)
        density = tf.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
        slope = below(x) + x * density
        return tf.cast(tf.cast(outputs, tf.float32) * slope, inputs.dtype)

    @tf.custom_gradient
    def gelu(inputs: Any) -> Any:
        return forward(inputs), lambda outputs: backward(inputs, outputs)

    return gelu


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
        if has_accelerator() and not _SPLIT_EVERYWHERE.get():
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


_FEWEST_CHANNELS = 128


@_register
class Conv2D(keras.layers.Conv2D):
    """``keras.layers.Conv2D``, trained through matrix products where these are faster on CPUs.

    Arguments, variables, saved weights and results are Conv2D's, to rounding. In bfloat16 on a CPU,
    of 128 channels or more, and where these times the stride are at least as many as the positions,
    a 1x1 convolution is a matrix product. So is, for each place of a larger window, the gradient of
    its kernel: oneDNN's own takes up to four times as long in the last stage of a ResNet.
    Everything else, and all of it where TensorFlow sees a GPU or TPU, is Keras' own code. For
    networks in training: the custom gradient is of no use in a graph that is saved.
    """

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """What ``call`` does before bias and activation."""
        if not self._products_pay(inputs):
            return super().convolution_op(inputs, kernel)
        import tensorflow as tf

        # Not the variable itself, which a custom gradient refuses.
        kernel = tf.convert_to_tensor(keras.ops.convert_to_tensor(kernel))
        if self.kernel_size == (1, 1):
            return _pointwise_convolution(inputs, kernel)
        return _convolution(inputs, kernel, self.strides[0], self.padding.upper())

    def _products_pay(self, inputs: Any) -> bool:
        """Whether matrix products are faster, by measurements."""
        if (
            keras.config.backend() != "tensorflow"
            or inputs.dtype != "bfloat16"
            or self.data_format != "channels_last"
            or self.groups != 1
            or self.dilation_rate != (1, 1)
            or self.strides[0] != self.strides[1]
            or (self.kernel_size == (1, 1) and self.strides != (1, 1))
            or None in inputs.shape[1:]
            or has_accelerator()
        ):
            return False
        height, width = self.compute_output_shape(inputs.shape)[1:3]
        channels = inputs.shape[-1]
        return channels >= _FEWEST_CHANNELS and channels * self.strides[0] >= height * width


def _pointwise_convolution(images: Any, kernel: Any) -> Any:
    """[N, H, W, C] and [1, 1, C, filters] -> [N, H, W, filters]."""
    import tensorflow as tf

    *_, height, width, channels = images.shape
    filters = kernel.shape[-1]
    product = tf.matmul(tf.reshape(images, (-1, channels)), tf.reshape(kernel, (channels, filters)))
    return tf.reshape(product, (-1, height, width, filters))


def _convolution(images: Any, kernel: Any, stride: int, padding: str) -> Any:
    """``tf.nn.conv2d`` with a gradient of the kernel by matrix products."""
    import tensorflow as tf

    @tf.custom_gradient
    def convolve(images: Any, kernel: Any) -> Any:
        def gradients(outputs: Any) -> tuple[Any, Any]:
            towards_images = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(images),
                filter=kernel,
                out_backprop=outputs,
                strides=(1, stride, stride, 1),
                padding=padding,
            )
            return towards_images, _kernel_gradient(images, outputs, kernel.shape, stride, padding)

        return tf.nn.conv2d(images, kernel, stride, padding), gradients

    return convolve(images, kernel)


def _kernel_gradient(images: Any, outputs: Any, shape: Any, stride: int, padding: str) -> Any:
    """The gradient of a convolution's kernel: one matrix product for each place of the window.

    Args:
        images: what was convolved, [N, H, W, C].
        outputs: the gradient of what came out, [N, h, w, filters].
        shape: the kernel's, [kh, kw, C, filters].
        stride: between windows, in both directions.
        padding: ``"SAME"`` or ``"VALID"``.
    """
    import tensorflow as tf

    *window, channels, filters = shape
    margins = []
    for size, positions, side in zip(images.shape[1:3], outputs.shape[1:3], window, strict=True):
        reach = (positions - 1) * stride + side
        before = max(reach - size, 0) // 2 if padding == "SAME" else 0
        # To whole strides: pixels that no window starts at are zeros, or not looked at.
        margins.append((before, -(-max(reach, before + size) // stride) * stride - before - size))
    padded = tf.pad(images, ((0, 0), *margins, (0, 0))) if any(map(any, margins)) else images
    # Every stride-th pixel side by side, in the channels: slices with gaps are slow.
    phases = tf.nn.space_to_depth(padded, stride) if stride > 1 else padded
    height, width = outputs.shape[1:3]
    rows = tf.reshape(outputs, (-1, filters))

    def at(i: int, j: int) -> Any:
        phase = (i % stride * stride + j % stride) * channels
        start = (0, i // stride, j // stride, phase)
        seen = tf.slice(phases, start, (-1, height, width, channels))
        return tf.matmul(tf.reshape(seen, (-1, channels)), rows, transpose_a=True)

    places = [at(i, j) for i in range(window[0]) for j in range(window[1])]
    return tf.reshape(tf.stack(places), shape)


@_register
class FullyConnected(keras.layers.Conv2D):
    """A valid ``keras.layers.Conv2D`` that is a matrix product where its window covers the map.

    Arguments, variables, saved weights and results are Conv2D's. Of a window as large as the map
    ([N, h, w, C] -> [N, 1, 1, filters]) the kernel need not be brought into a convolution's layout,
    which takes longer than the product itself for the hundred million weights of VGG's fc6.
    """

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """What ``call`` does before bias and activation."""
        if not covers_map(self, inputs.shape):
            return super().convolution_op(inputs, kernel)
        rows = math.prod(kernel.shape[:3])
        product = keras.ops.matmul(
            keras.ops.reshape(inputs, (-1, rows)), keras.ops.reshape(kernel, (rows, self.filters))
        )
        return keras.ops.reshape(product, (-1, 1, 1, self.filters))


def covers_map(layer: Any, shape: Sequence[int | None]) -> bool:
    """Whether a Conv2D's window is as large as the map [N, h, w, C], of Keras 3 or tf_keras."""
    return (
        tuple(shape[1:3]) == layer.kernel_size
        and layer.data_format == "channels_last"
        and layer.padding == "valid"
        and layer.groups == 1
        and layer.dilation_rate == (1, 1)
    )


def has_accelerator() -> bool:
    """Whether TensorFlow sees a GPU or a TPU."""
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
