"""A Keras 3 model's twin in tf_keras, and the way back."""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import keras
import numpy as np
import tf_keras

from keras_cls.architectures.airbench import WhiteningConv2D
from keras_cls.architectures.cells import ScheduledDropPath
from keras_cls.architectures.layers import (
    BatchNormalization,
    Conv2D,
    DropPath,
    FullyConnected,
    Gelu,
    GroupedConv2D,
    LocalResponseNormalization,
    ZeroPadChannels,
)
from keras_cls.compression import twin_layers
from keras_cls.errors import ExportError
from keras_cls.exporting.calls import Call, calls_to_outputs, free_name

LayerRule: TypeAlias = Callable[[keras.layers.Layer, str], tf_keras.layers.Layer]
"""A Keras 3 layer and the name for its twin -> the twin, not built: weights are copied later."""

_RULES: dict[type[keras.layers.Layer], LayerRule] = {}


def twin_of(model: keras.Model) -> tf_keras.Model:
    """The same network in tf_keras, with the same weights, in float32.

    Its outputs differ by no more than rounding. Models within the model are laid flat: a layer's
    name has the model's before it. A layer that is called twice is called twice here. What cannot
    be trained there cannot be trained here; regularizers and constraints come along.

    The wrappers of pruning, clustering and quantization share the twin's layers: make a new twin
    for each of them.

    Args:
        model: functional, or sequential and built; of one input [N, H, W, C] and any number of
            outputs.

    Returns:
        A functional tf_keras model: one output, or a list in the order of ``model.outputs``.

    Raises:
        ExportError: the model is neither; or a layer, or something that it is set to, has no twin;
            it is named.
    """
    calls, outputs = calls_to_outputs(model)
    names = _names_of(calls)
    twins: dict[int, tf_keras.layers.Layer] = {}
    tensors: dict[str, Any] = {}
    source = None
    for call in calls:
        key = id(call.layer)
        if isinstance(call.layer, keras.layers.InputLayer):
            source = tf_keras.Input(call.layer.batch_shape[1:], name=names[key])
            tensors[call.name] = source
            continue
        if key not in twins:
            twins[key] = _twin(call, names[key])
        taken = [tensors[name] for name in call.inputs]
        tensors[call.name] = twins[key](taken if _takes_several(call.layer) else taken[0])
    ends = [tensors[name] for name in outputs]
    twin = tf_keras.Model(source, ends if len(ends) > 1 else ends[0], name=_safe(model.name))
    for call in calls:
        if id(call.layer) in twins:
            _copy_weights(call, twins[id(call.layer)])
    return twin


def refuse_unknown_layers(model: keras.Model) -> None:
    """Raise ExportError where a layer is of a type that has no twin; it is named."""
    calls, _ = calls_to_outputs(model)
    for call in calls:
        if not isinstance(call.layer, keras.layers.InputLayer):
            _rule_of(call)


def copy_back(twin: tf_keras.Model, model: keras.Model) -> None:
    """Copy a twin's weights into the model that it is the twin of, to the last bit.

    The twin may have been trained, or pruned or clustered and stripped, or be one that
    :func:`~keras_cls.compression.quantization.quantizable` made: then its weights come as they are
    trained, in float32. All is checked first: where an error is raised, nothing was copied.

    Raises:
        ExportError: a layer or a variable of the model is missing from the twin or has another
            shape, or pruning or clustering is still in the twin; the layer is named.
    """
    calls, _ = calls_to_outputs(model)
    names = _names_of(calls)
    found = _values_of(twin)
    plan: list[tuple[Any, np.ndarray]] = []
    for layer in {id(call.layer): call.layer for call in calls}.values():
        if isinstance(layer, keras.layers.Normalization):
            continue  # Its twin holds constants.
        values = found.get(names[id(layer)], {})
        for name, variable in _variables(layer):
            place = f"{layer.name}: {variable.name}"
            if name not in values:
                raise ExportError(
                    f"{place}: not in the twin {twin.name}; expected a twin of {model.name}, "
                    "stripped of pruning and clustering"
                )
            value = values[name]
            if tuple(value.shape) != tuple(variable.shape):
                raise ExportError(
                    f"{place}: expected shape {list(variable.shape)}, found {list(value.shape)} in "
                    f"the twin {twin.name}"
                )
            plan.append((variable, value))
    for variable, value in plan:
        variable.assign(value)


def twin_layer(*kinds: type[keras.layers.Layer]) -> Callable[[LayerRule], LayerRule]:
    """Say how the twin of a layer is made, of these very classes::

        @twin_layer(MyLayer)
        def _my_layer(layer: MyLayer, name: str) -> tf_keras.layers.Layer:
            return MyTwin(layer.size, name=name)

    The twin's variables have the names and shapes that the layer's have; they get its values.
    """

    def register(rule: LayerRule) -> LayerRule:
        _RULES.update(dict.fromkeys(kinds, rule))
        return rule

    return register


# ---------------------------------------------------------------------------- names and weights


def _safe(name: str) -> str:
    """A name that TensorFlow takes for a scope, without slashes, which it would split at."""
    return re.sub(r"[^A-Za-z0-9_.\-]", "_", name.replace("/", ".")) or "_"


def _names_of(calls: tuple[Call, ...]) -> Mapping[int, str]:
    """For each layer (by its id) the name of its twin, that of its first call."""
    names: dict[int, str] = {}
    taken: set[str] = set()
    for call in calls:
        if id(call.layer) in names:
            continue
        names[id(call.layer)] = free_name(_safe(call.name), taken)
    return names


def _copy_weights(call: Call, twin: tf_keras.layers.Layer) -> None:
    layer = call.layer
    if isinstance(layer, keras.layers.Normalization):
        return
    theirs = dict(_variables(layer))
    ours = {variable_name(variable): variable for variable in twin.weights}
    shapes = [
        {name: tuple(variable.shape) for name, variable in variables.items()}
        for variables in (theirs, ours)
    ]
    if (
        shapes[0] != shapes[1]
        or len(theirs) != len(layer.weights)
        or len(ours) != len(twin.weights)
    ):
        raise ExportError(
            f"{call.name}: variables {shapes[0]} have no twins of the same names and shapes in "
            f"{type(twin).__name__}, which has {shapes[1]}"
        )
    for name, variable in theirs.items():
        ours[name].assign(np.asarray(keras.ops.convert_to_numpy(variable), "float32"))


def _variables(layer: keras.layers.Layer) -> list[tuple[str, Any]]:
    """A Keras 3 layer's weights, each with its name in the twin."""
    depthwise = type(layer) is keras.layers.DepthwiseConv2D
    renamed = {"kernel": "depthwise_kernel"} if depthwise else {}
    return [(renamed.get(variable.name, variable.name), variable) for variable in layer.weights]


def variable_name(variable: Any) -> str:
    """``kernel`` of ``conv1/kernel:0``."""
    return variable.name.split(":")[0].rsplit("/", 1)[-1]


def _values_of(twin: tf_keras.Model) -> dict[str, dict[str, np.ndarray]]:
    """Layer name -> variable name -> value; those of a quantized layer under its own name."""
    found: dict[str, dict[str, np.ndarray]] = {}
    no_renames: dict[str, str] = {}
    for layer in twin.layers:
        inner = getattr(layer, "quantized_layer", layer)
        values = {variable_name(variable): variable.numpy() for variable in layer.weights}
        owner, renamed = getattr(inner, "part_of", (inner.name, no_renames))
        found.setdefault(owner, {}).update(
            {renamed.get(name, name): value for name, value in values.items()}
        )
    return found


# ---------------------------------------------------------------------------------------- rules


def _rule_of(call: Call) -> LayerRule:
    rule = _RULES.get(type(call.layer))
    if rule is None:
        raise ExportError(
            f"{call.name}: a layer of type {type(call.layer).__name__} has no twin in tf_keras; "
            "say how to make one with keras_cls.compression.twin_layer; known are "
            f"{', '.join(sorted({kind.__name__ for kind in _RULES}))}"
        )
    return rule


def _twin(call: Call, name: str) -> tf_keras.layers.Layer:
    rule = _rule_of(call)
    try:
        twin = rule(call.layer, name)
    except (TypeError, ValueError) as error:
        if isinstance(error, ExportError):
            raise
        raise ExportError(
            f"{call.name}: a {type(call.layer).__name__} as it is set has no twin in tf_keras: "
            f"{error}"
        ) from error
    twin.trainable = call.layer.trainable
    return twin


_MERGES = (
    keras.layers.Add,
    keras.layers.Average,
    keras.layers.Concatenate,
    keras.layers.Maximum,
    keras.layers.Minimum,
    keras.layers.Multiply,
    keras.layers.Subtract,
)


def _takes_several(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, _MERGES)


def _config(layer: keras.layers.Layer) -> dict[str, Any]:
    """A layer's configuration in tf_keras' words, without its name."""
    found = {}
    for key, value in layer.get_config().items():
        # Weights are copied, and computed with in float32.
        if key in ("name", "dtype", "trainable") or key.endswith("_initializer"):
            continue
        if key.endswith("_regularizer"):
            value = _in_tf_keras(tf_keras.regularizers, value)
        elif key.endswith("_constraint"):
            value = _in_tf_keras(tf_keras.constraints, value)
        elif key == "activation":
            value = _activation(layer)
        elif key.endswith("quantization_config"):
            if value is not None:
                raise ValueError("it is quantized")
            continue
        found[key] = value
    return found


def _in_tf_keras(module: Any, serialized: Any) -> Any:
    """A regularizer or constraint of Keras 3 -> tf_keras' of the same class and arguments."""
    if serialized is None:
        return None
    kind = getattr(module, serialized["class_name"], None)
    if kind is None or not serialized["module"].startswith("keras."):
        raise ValueError(f"{serialized['class_name']} is not known in {module.__name__}")
    return kind(**serialized["config"])


def _activation(layer: keras.layers.Layer) -> Any:
    activation = layer.activation
    name = getattr(activation, "__name__", repr(activation))
    # Of the same name, and not merely called so.
    if getattr(keras.activations, name, None) is not activation or (
        name not in twin_layers.ACTIVATIONS
    ):
        raise ValueError(
            f"the activation {name}; known are {', '.join(sorted(twin_layers.ACTIVATIONS))}"
        )
    return twin_layers.ACTIVATIONS[name]


@twin_layer(
    keras.layers.Activation,
    keras.layers.ActivityRegularization,
    keras.layers.Add,
    keras.layers.Average,
    keras.layers.AveragePooling2D,
    keras.layers.Concatenate,
    keras.layers.Conv2D,
    keras.layers.Conv2DTranspose,
    keras.layers.Cropping2D,
    keras.layers.Dense,
    keras.layers.DepthwiseConv2D,
    keras.layers.Dropout,
    keras.layers.ELU,
    keras.layers.Flatten,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Identity,
    keras.layers.MaxPooling2D,
    keras.layers.Maximum,
    keras.layers.Minimum,
    keras.layers.Multiply,
    keras.layers.PReLU,
    keras.layers.Permute,
    keras.layers.ReLU,
    keras.layers.Rescaling,
    keras.layers.Reshape,
    keras.layers.SeparableConv2D,
    keras.layers.Softmax,
    keras.layers.SpatialDropout2D,
    keras.layers.Subtract,
    keras.layers.ZeroPadding2D,
)
def _same_class(layer: keras.layers.Layer, name: str) -> tf_keras.layers.Layer:
    kind = getattr(tf_keras.layers, type(layer).__name__)
    if isinstance(layer, keras.layers.Conv2D) and layer.groups > 1:
        kind = twin_layers.GroupedConv2D
    return kind(**_config(layer), name=name)


@twin_layer(Conv2D)
def _convolution(layer: keras.layers.Layer, name: str) -> tf_keras.layers.Layer:
    return tf_keras.layers.Conv2D(**_config(layer), name=name)


@twin_layer(FullyConnected)
def _fully_connected(layer: Any, name: str) -> tf_keras.layers.Layer:
    return twin_layers.FullyConnected(**_config(layer), name=name)


@twin_layer(GroupedConv2D)
def _grouped_convolution(layer: keras.layers.Layer, name: str) -> tf_keras.layers.Layer:
    return twin_layers.GroupedConv2D(**_config(layer), name=name)


@twin_layer(WhiteningConv2D)
def _whitening(layer: keras.layers.Layer, name: str) -> tf_keras.layers.Layer:
    return twin_layers.WhiteningConv2D(**_config(layer), name=name)


@twin_layer(keras.layers.LeakyReLU)
def _leaky_relu(layer: keras.layers.Layer, name: str) -> tf_keras.layers.Layer:
    return tf_keras.layers.LeakyReLU(alpha=float(layer.negative_slope), name=name)


# tf_keras' fused kernel takes 1.001e-5 at the least; a thousandth more of 1e-5 is no difference.
_LEAST_FUSED_EPSILON = 1e-5


@twin_layer(keras.layers.BatchNormalization, BatchNormalization)
def _batch_normalization(layer: keras.layers.Layer, name: str) -> tf_keras.layers.Layer:
    config = {key: value for key, value in _config(layer).items() if not key.startswith("renorm")}
    if getattr(layer, "renorm", False):
        raise ValueError("it renormalizes")
    if layer.epsilon < _LEAST_FUSED_EPSILON:
        return twin_layers.UnfusedBatchNormalization(**config, name=name)
    return tf_keras.layers.BatchNormalization(**config, name=name)


@twin_layer(keras.layers.Normalization)
def _normalization(layer: keras.layers.Layer, name: str) -> tf_keras.layers.Layer:
    mean, variance = (
        np.asarray(keras.ops.convert_to_numpy(each), "float32").reshape(-1)
        for each in (layer.mean, layer.variance)
    )
    axis = layer.get_config()["axis"]
    return tf_keras.layers.Normalization(
        axis=axis,
        mean=mean if axis is not None else float(mean[0]),
        variance=variance if axis is not None else float(variance[0]),
        invert=layer.invert,
        name=name,
    )


@twin_layer(ZeroPadChannels)
def _zero_pad_channels(layer: ZeroPadChannels, name: str) -> tf_keras.layers.Layer:
    return twin_layers.ZeroPadChannels(layer.before, layer.after, name=name)


@twin_layer(LocalResponseNormalization)
def _local_response(layer: LocalResponseNormalization, name: str) -> tf_keras.layers.Layer:
    return twin_layers.LocalResponseNormalization(
        layer.depth_radius, layer.bias, layer.alpha, layer.beta, name=name
    )


@twin_layer(DropPath)
def _drop_path(layer: DropPath, name: str) -> tf_keras.layers.Layer:
    return twin_layers.DropPath(layer.rate, seed=layer.seed, name=name)


@twin_layer(ScheduledDropPath)
def _scheduled_drop_path(layer: ScheduledDropPath, name: str) -> tf_keras.layers.Layer:
    # The twin is trained on, where the schedule stands.
    return twin_layers.DropPath(layer.rate * layer.progress, seed=layer.seed, name=name)


@twin_layer(Gelu)
def _gelu(layer: Gelu, name: str) -> tf_keras.layers.Layer:
    return twin_layers.Gelu(name=name)
