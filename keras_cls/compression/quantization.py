"""Quantization-aware training of a twin: the steps of int8 are felt, all numbers stay float32.

tensorflow-model-optimization's own way (``quantize_apply``) knows few layers and one output, and
takes minutes for networks of hundreds of layers: it searches a serialized model for patterns, one
after the other. Here its wrapper and its quantizers for kernels are put where the graph says that
they belong, in one pass.

A map is quantized where its numbers are made, once, behind what a runtime computes in one go with
it: a convolution's normalization and activation, a sum's ReLU. What only moves numbers (maxima,
paddings, reshapes, drop path at inference) is not, and a convolution that a normalization across
channels alone reads is not either. The input and the outputs are quantized.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import tensorflow as tf
import tf_keras

from keras_cls.compression import twin_layers
from keras_cls.compression.rebuilding import Step, rebuilt, steps_of
from keras_cls.compression.settings import Quantization
from keras_cls.compression.toolkit import tfmot
from keras_cls.errors import ConfigError
from keras_cls.exporting.onednn import WEIGHT_BITS

layers = tf_keras.layers

_MOVES = (
    layers.ActivityRegularization,
    layers.Cropping2D,
    layers.Dropout,  # and what derives from it: SpatialDropout2D, DropPath
    layers.Flatten,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.GlobalMaxPooling2D,
    layers.InputLayer,
    layers.MaxPooling2D,
    layers.Permute,
    layers.Reshape,
    layers.ZeroPadding2D,
    twin_layers.ZeroPadChannels,
)
"""What makes no new numbers (or zeros, which int8 has exactly)."""

_LINEAR: Any = (*twin_layers.KERNELS, layers.DepthwiseConv2D, layers.SeparableConv2D)
_RECTIFIERS = ("relu", "relu6")

_OBSERVING: ContextVar[bool] = ContextVar("_OBSERVING", default=False)


def quantizable(twin: tf_keras.Model, settings: Quantization | None = None) -> tf_keras.Model:
    """A model whose kernels and maps are rounded to int8 as they are used, to be trained so.

    Kernels of convolutions (depthwise and separable ones too) and dense layers are rounded
    symmetrically for each output channel, in ``fit`` with the range that they have in that step.
    Maps are rounded where an export in int8 rounds them. A map's range is learnt in training, or
    from images with :func:`calibrate`; before that the map passes as it is. Biases stay float; so
    do a kernel that is not trained (whitening) and the weights of other layers. It shares the
    twin's layers: the twin is used up.

    Args:
        twin: what :func:`~keras_cls.compression.twin.twin_of` makes; pruned or clustered, trained
            and stripped before, where ``settings`` say that this shall stay.
        settings: None for the defaults.

    Raises:
        ConfigError: the twin is no functional tf_keras model.
    """
    settings = settings or Quantization()
    deferred = _deferred(twin)
    found = rebuilt(twin, lambda layer: _replacements(layer, deferred, settings))
    for layer in found.layers:
        if isinstance(layer, Quantized):
            layer.measure_kernels()
    return found


def calibrate(model: tf_keras.Model, batches: Iterable[Any]) -> None:
    """Learn the maps' ranges from images, without training: the widest that is seen.

    Kernels' ranges become those of their present values.

    Args:
        model: what :func:`quantizable` made.
        batches: float32 [N, H, W, C] each, scaled as the network takes them.

    Raises:
        ConfigError: nothing in the model is quantized, or there is no batch.
    """
    quantized = _quantized_layers(model)
    for layer in quantized:
        layer.measure_kernels()
        layer.forget()
    seen = False
    with _observing():
        for batch in batches:
            # Eagerly: what is compiled would not look at the switch again.
            model(tf.convert_to_tensor(batch), training=False)
            seen = True
    if not seen:
        raise ConfigError("calibrate: batches: expected one at least, found none")


def ranges_of(model: tf_keras.Model) -> dict[str, tuple[float, float]]:
    """The range (smallest, largest) of each quantized map, by the name of the layer that gives it.

    The network's input goes by the name of its input layer. Layers whose output is not quantized
    where it arises, and those that have seen no image, are left out.

    Raises:
        ConfigError: nothing in the model is quantized.
    """
    found = {}
    for layer in _quantized_layers(model):
        limits = layer.limits()
        if limits is not None:
            name = layer.quantized_layer.name
            found[name.removesuffix(_INPUT)] = limits
    return found


def _quantized_layers(model: tf_keras.Model) -> list["Quantized"]:
    found = [layer for layer in model.layers if isinstance(layer, Quantized)]
    if not found:
        raise ConfigError(f"{model.name}: expected what quantizable() makes; nothing is quantized")
    return found


# ------------------------------------------------------------------------------- where to round


def _deferred(twin: tf_keras.Model) -> set[int]:
    """The layers (by id) whose output is not rounded, wherever they are called."""
    readers: dict[int, list[Step]] = {}
    maker: dict[int, Step] = {}
    steps = steps_of(twin)
    for step in steps:
        maker[id(step.output)] = step
        for tensor in step.taken:
            readers.setdefault(id(tensor), []).append(step)
    ends = {id(tensor) for tensor in twin.outputs}
    precise: set[int] = set()
    """Outputs that only normalizations across channels read, which make rounding large."""
    rounded: set[int] = set()
    for step in reversed(steps):
        found = readers.get(id(step.output), []) if id(step.output) not in ends else []
        wanted = [
            isinstance(each.layer, twin_layers.LocalResponseNormalization)
            or id(each.output) in precise
            for each in found
        ]
        if wanted and all(wanted) and _can_be_exact(step, maker):
            precise.add(id(step.output))
        elif len(found) != 1 or not _joins(step.layer, found[0].layer):
            rounded.add(id(step.layer))
    return {id(step.layer) for step in steps} - rounded


def _can_be_exact(step: Step, maker: dict[int, Step]) -> bool:
    """Whether int8 has it in full: a convolution and what is joined to it; what moves numbers."""
    layer = step.layer
    if isinstance(layer, _LINEAR):
        activation = getattr(layer.activation, "__name__", "")
        return activation in ("linear", *_RECTIFIERS)
    if _rectifies(layer):
        return not isinstance(maker[id(step.arguments)].layer, layers.Add)  # sums are bytes
    able = (*_MOVES, layers.BatchNormalization, layers.AveragePooling2D, layers.Concatenate)
    return isinstance(layer, able) and not isinstance(layer, layers.InputLayer)


def _joins(layer: Any, follower: Any) -> bool:
    """Whether a runtime computes the two in one go."""
    if isinstance(layer, _LINEAR):
        plain = layer.activation is tf_keras.activations.linear
        return plain and (_rectifies(follower) or isinstance(follower, layers.BatchNormalization))
    return isinstance(layer, (layers.BatchNormalization, layers.Add)) and _rectifies(follower)


def _rectifies(layer: tf_keras.layers.Layer) -> bool:
    if isinstance(layer, layers.Activation):
        return getattr(layer.activation, "__name__", "") in _RECTIFIERS
    return isinstance(layer, layers.ReLU)


_INPUT = ".quantized_input"


def _replacements(
    layer: tf_keras.layers.Layer, deferred: set[int], settings: Quantization
) -> list[tf_keras.layers.Layer]:
    rounds = id(layer) not in deferred
    if isinstance(layer, layers.InputLayer):
        identity = layers.Identity(name=f"{layer.name}{_INPUT}")
        return [_quantized(identity, None, None, True, settings)]
    if isinstance(layer, layers.SeparableConv2D):
        depthwise, pointwise = _parts(layer)
        return [
            _quantized(depthwise, "depthwise_kernel", _depthwise_rounding(), True, settings),
            _quantized(pointwise, "kernel", _kernel_rounding(settings), rounds, settings),
        ]
    if type(layer) is layers.DepthwiseConv2D:
        rounding = _depthwise_rounding()
        return [_quantized(layer, "depthwise_kernel", rounding, rounds, settings)]
    if type(layer) in twin_layers.KERNELS:
        return [_quantized(layer, "kernel", _kernel_rounding(settings), rounds, settings)]
    if isinstance(layer, _MOVES) or type(layer) is layers.Identity or not rounds:
        return [layer]
    return [_quantized(layer, None, None, True, settings)]


def _parts(layer: tf_keras.layers.Layer) -> tuple[Any, Any]:
    """A separable convolution's two, between which int8 rounds."""
    config = layer.get_config()
    spatial = {key: config[key] for key in ("kernel_size", "strides", "padding", "data_format")} | {
        "depth_multiplier": config["depth_multiplier"],
        "dilation_rate": config["dilation_rate"],
    }
    depthwise = layers.DepthwiseConv2D(
        **spatial,
        use_bias=False,
        depthwise_regularizer=layer.depthwise_regularizer,
        depthwise_constraint=layer.depthwise_constraint,
        name=f"{layer.name}.depthwise",
    )
    pointwise = layers.Conv2D(
        layer.filters,
        1,
        data_format=layer.data_format,
        activation=layer.activation,
        use_bias=layer.use_bias,
        kernel_regularizer=layer.pointwise_regularizer,
        bias_regularizer=layer.bias_regularizer,
        kernel_constraint=layer.pointwise_constraint,
        bias_constraint=layer.bias_constraint,
        name=layer.name,
    )
    *_, channels, multiplier = layer.depthwise_kernel.shape
    depthwise.build((None, None, None, channels))
    pointwise.build((None, None, None, channels * multiplier))
    depthwise.depthwise_kernel.assign(layer.depthwise_kernel)
    pointwise.kernel.assign(layer.pointwise_kernel)
    if layer.use_bias:
        pointwise.bias.assign(layer.bias)
    depthwise.trainable = pointwise.trainable = layer.trainable
    depthwise.part_of = (layer.name, {})
    pointwise.part_of = (layer.name, {"kernel": "pointwise_kernel"})
    return depthwise, pointwise


# -------------------------------------------------------------------------------- how to round


class Quantized(tfmot.quantization.keras.QuantizeWrapperV2):
    """A layer whose kernel and output are rounded; frozen where the layer is."""

    @property
    def quantized_layer(self) -> tf_keras.layers.Layer:
        """The layer within."""
        return self.layer

    @property
    def trainable_weights(self) -> list[Any]:
        """None of a frozen layer, to which the base class would add its kernel."""
        return super().trainable_weights if self.layer.trainable else []

    @property
    def non_trainable_weights(self) -> list[Any]:
        """Of a frozen layer its kernel too."""
        frozen = [] if self.layer.trainable else [weight for weight, *_ in self._weight_vars]
        return self._dedup_weights([*super().non_trainable_weights, *frozen])

    @tf.autograph.experimental.do_not_convert
    def call(self, inputs: Any, training: Any = None, **kwargs: Any) -> Any:
        """Round. Nothing here needs autograph, which takes long to convert it."""
        return super().call(inputs, training=training, **kwargs)

    def measure_kernels(self) -> None:
        """Make the kernel's range that of its present values."""
        for weight, quantizer, variables in self._weight_vars:
            values = getattr(quantizer, "in_channels", lambda x: x)(weight)
            largest = tf.reduce_max(tf.abs(values), axis=list(range(len(values.shape) - 1)))
            variables["min_var"].assign(-largest)
            variables["max_var"].assign(largest)

    def forget(self) -> None:
        """Make the output's range one that has seen nothing."""
        if self._output_quantizers:
            self._output_quantizer_vars["seen"].assign(0)

    def limits(self) -> tuple[float, float] | None:
        """The output's range; None where it is not rounded, or nothing was seen."""
        if not self._output_quantizers or not self._output_quantizer_vars["seen"].numpy():
            return None
        variables = self._output_quantizer_vars
        return float(variables["min_var"].numpy()), float(variables["max_var"].numpy())


def _quantized(
    layer: tf_keras.layers.Layer,
    kernel: str | None,
    rounding: Any,
    rounds_output: bool,
    settings: Quantization,
) -> Quantized:
    return Quantized(layer, _Places(kernel, rounding, rounds_output, settings.range_decay))


class _Places(tfmot.quantization.keras.QuantizeConfig):
    """What of a layer is rounded, in the words of tensorflow-model-optimization."""

    def __init__(self, kernel: str | None, rounding: Any, output: bool, decay: float) -> None:
        self.kernel = kernel
        self.rounding = rounding
        self.output = output
        self.decay = decay

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """The kernel, where there is one."""
        return [] if self.kernel is None else [(getattr(layer, self.kernel), self.rounding)]

    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """None: outputs are rounded behind the activation."""
        return []

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        """Let the layer compute with a rounded kernel."""
        for value in quantize_weights:
            setattr(layer, self.kernel or "", value)

    def set_quantize_activations(self, layer: Any, quantize_activations: list[Any]) -> None:
        """Nothing."""

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        """Of the output, where it is rounded here."""
        return [_MovingRange(self.decay)] if self.output else []

    def get_config(self) -> dict[str, Any]:
        """For the wrapper's own configuration; nothing is loaded from it."""
        return {"kernel": self.kernel, "output": self.output, "decay": self.decay}


class _MovingRange(tfmot.quantization.keras.quantizers.Quantizer):
    """To 256 steps between limits that follow the batches; the first batch sets them."""

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """Make the limits, and a note of whether something was seen."""
        return {
            key: layer.add_weight(
                f"{name}_{suffix}", shape=(), initializer="zeros", trainable=False
            )
            for key, suffix in (("min_var", "min"), ("max_var", "max"), ("seen", "seen"))
        }

    def __call__(self, inputs: Any, training: bool, weights: dict[str, Any], **kwargs: Any) -> Any:
        """Round, and follow the batch in training or calibration."""
        lower, upper, seen = weights["min_var"], weights["max_var"], weights["seen"]
        if training or _OBSERVING.get():
            # Zero is among the steps always: paddings need it.
            smallest = tf.minimum(tf.reduce_min(inputs), 0)
            largest = tf.maximum(tf.reduce_max(inputs), 0)
            known = tf.cast(seen > 0, tf.float32)
            if training:
                share = known * self.decay
                smallest = share * lower + (1 - share) * smallest
                largest = share * upper + (1 - share) * largest
            else:
                smallest = tf.minimum(known * lower, smallest)
                largest = tf.maximum(known * upper, largest)
            lower.assign(smallest)
            upper.assign(largest)
            seen.assign(1)
            if not training:
                return inputs
        rounded = tf.quantization.fake_quant_with_min_max_vars(inputs, lower, upper)
        return tf.where(seen > 0, rounded, inputs)

    def get_config(self) -> dict[str, Any]:
        """What ``__init__`` takes."""
        return {"decay": self.decay}


@contextmanager
def _observing() -> Iterator[None]:
    token = _OBSERVING.set(True)
    try:
        yield
    finally:
        _OBSERVING.reset(token)


def _kernel_rounding(settings: Quantization) -> Any:
    """A new one for each layer: some keep notes of it."""
    from tensorflow_model_optimization.python.core.quantization.keras.collab_opts import (
        cluster_preserve,
        prune_preserve,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantizers,
    )

    if settings.preserve_clusters:
        kind = cluster_preserve.cluster_preserve_quantize_registry
        found = kind.ClusterPreserveDefault8BitConvWeightsQuantizer(settings.preserve_sparsity)
    elif settings.preserve_sparsity:
        registry = prune_preserve.prune_preserve_quantize_registry
        found = registry.PrunePreserveDefault8BitConvWeightsQuantizer()
    else:
        found = default_8bit_quantizers.Default8BitConvWeightsQuantizer()
    found.num_bits = WEIGHT_BITS  # as exports in int8 have
    return found


def _depthwise_rounding() -> Any:
    return _DepthwiseRounding(
        num_bits=WEIGHT_BITS, per_axis=True, symmetric=True, narrow_range=True
    )


class _DepthwiseRounding(tfmot.quantization.keras.quantizers.LastValueQuantizer):
    """For each output channel, which in [kh, kw, C, multiplier] are the last two axes."""

    def in_channels(self, kernel: Any) -> Any:
        """[kh, kw, C, multiplier] -> [kh, kw, 1, C * multiplier]."""
        return tf.reshape(kernel, (*kernel.shape[:2], 1, -1))

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """Make the limits of each channel."""
        channels = tensor_shape[-1] * tensor_shape[-2]
        return super().build((*tensor_shape[:2], 1, channels), name, layer)

    def __call__(self, inputs: Any, training: bool, weights: dict[str, Any], **kwargs: Any) -> Any:
        """Round."""
        rounded = super().__call__(self.in_channels(inputs), training, weights, **kwargs)
        return tf.reshape(rounded, inputs.shape)
