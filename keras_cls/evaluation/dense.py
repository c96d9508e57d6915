"""A classifier's network over whole images: fully convolutional, at any size, the same weights.

VGG, section 3.2, and ResNet, section 3.4, test so. Networks that end in an average over their last
map take other sizes as they are. In those that flatten it, the dense layer behind becomes the
convolution over a map of that size that gives the same numbers, those behind it run at each
position, and the scores are averaged.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_cls.architectures import build_model, list_models, model_spec
from keras_cls.classifier import Classifier
from keras_cls.errors import ConfigError

# Each size has a graph of its own; the weights are shared.
_GRAPHS_KEPT = 64

# Layers that do the same at every position of a map, and so may follow a flattened one.
_POSITION_WISE = (
    keras.layers.Dense,
    keras.layers.Dropout,
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.BatchNormalization,
)


def at_size(model: keras.Model, height: int, width: int) -> keras.Model:
    """The same network, with the same variables, for images of another size.

    Args:
        model: [N, H, W, C] -> logits [N, K]; its layers are shared, not copied.
        height: of the images, in pixels.
        width: likewise.

    Returns:
        [N, height, width, C] -> logits [N, K], averaged over the positions at which the network
        fits.

    Raises:
        ConfigError: the network cannot take images of this size.
    """
    channels = model.input_shape[-1]
    own = {layer.name: layer for layer in model.layers}
    if not _is_published(model):
        images = keras.Input((height, width, channels), name="images")
        return _convolutional(model, images)
    # The registry's builders choose the padding by the size; only the weights come from `model`.
    with keras.StatelessScope(initialize_variables=False):  # the new ones are never needed
        plan = build_model(model.name, model.output_shape[-1], (height, width, channels))
        if strange := [
            layer.name for layer in plan.layers if layer.weights and layer.name not in own
        ]:
            raise _refusal(model, height, width, f"there it has a layer {strange[0]} of its own")
        try:
            return keras.models.clone_model(
                plan,
                input_tensors=keras.Input((height, width, channels), name="images"),
                clone_function=lambda layer: own[layer.name] if layer.weights else layer,
            )
        except ValueError as error:
            raise _refusal(model, height, width, str(error)) from error


class DenseNetwork:
    """Probabilities of whole images of any size, with a classifier's weights."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._graphs: OrderedDict[tuple[int, int], Callable[..., tf.Tensor]] = OrderedDict()

    def forward(self, batch: np.ndarray | tf.Tensor) -> np.ndarray:
        """Prepared images float32 ``[N, h, w, C]``, all of one size -> probabilities ``[N, K]``."""
        size = (int(batch.shape[1]), int(batch.shape[2]))
        if size not in self._graphs:
            self._graphs[size] = self._graph(size)
        self._graphs.move_to_end(size)
        if len(self._graphs) > _GRAPHS_KEPT:
            self._graphs.popitem(last=False)
        return self._graphs[size](batch).numpy()

    def _graph(self, size: tuple[int, int]) -> Callable[..., tf.Tensor]:
        model, activation = at_size(self._classifier.model, *size), self._classifier.activation

        def probabilities(batch: tf.Tensor) -> tf.Tensor:
            return activation(model(batch, training=False))

        spec = tf.TensorSpec((None, *size, model.input_shape[-1]), tf.float32)
        return tf.function(probabilities, input_signature=[spec], autograph=False)


def check_dense(model: keras.Model, shorter_side: int) -> None:
    """Refuse a network that cannot be evaluated densely, before any image is read.

    Raises:
        ConfigError: it cannot; the message says why.
    """
    if _is_published(model):
        least = max(model_spec(model.name).min_size)
        if shorter_side < least:
            raise ConfigError(
                f"{model.name}: takes images of {least} pixels and more, but scales asks for "
                f"{shorter_side}"
            )
    at_size(model, shorter_side, shorter_side)


def _is_published(model: keras.Model) -> bool:
    """Whether the registry builds it, layer for layer."""
    if model.name not in list_models():
        return False
    head = model_spec(model.name).head
    return any(layer.name == head for layer in model.layers)


def _convolutional(model: keras.Model, images: keras.KerasTensor) -> keras.Model:
    """Any functional model on other images: the same layers, but for the flattening."""
    flat = next((at for at, layer in enumerate(model.layers) if _flattens(layer)), None)
    behind = () if flat is None else tuple(model.layers[flat + 1 :])
    first_dense = next((layer for layer in behind if isinstance(layer, keras.layers.Dense)), None)
    strange = [
        layer
        for at, layer in enumerate(behind)
        if not isinstance(layer, _POSITION_WISE)
        or (layer.weights and first_dense not in behind[: at + 1])
    ]
    if strange:
        raise ConfigError(
            f"{model.name}: crops='dense' cannot be: {strange[0].name} "
            f"({type(strange[0]).__name__}) follows the flattened map and does not work position "
            "by position; take crops=10 or 144"
        )

    def converted(layer: keras.layers.Layer) -> keras.layers.Layer:
        if _flattens(layer):
            return keras.layers.Identity(name=layer.name)
        return _as_convolution(layer, model) if layer is first_dense else layer

    try:
        whole = keras.models.clone_model(model, input_tensors=images, clone_function=converted)
    except ValueError as error:
        raise _refusal(model, images.shape[1], images.shape[2], str(error)) from error
    if flat is None:
        return whole
    scores = keras.layers.GlobalAveragePooling2D(name="score_map_average")(whole.outputs[0])
    return keras.Model(whole.inputs[0], scores, name=model.name)


def _refusal(model: keras.Model, height: int, width: int, reason: str) -> ConfigError:
    return ConfigError(
        f"{model.name}: crops='dense' cannot be: with these weights it does not take images of "
        f"{height} x {width} pixels; take larger scales, or crops=10 or 144 ({reason})"
    )


def _flattens(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.Flatten)


def _as_convolution(dense: Any, model: keras.Model) -> keras.layers.Layer:
    """The convolution over a whole map that is the dense layer behind the flattened map."""
    flatten = next(layer for layer in model.layers if _flattens(layer))
    height, width, channels = flatten.input.shape[1:]
    convolution = keras.layers.Conv2D(
        dense.units,
        (height, width),
        activation=dense.activation,
        use_bias=dense.use_bias,
        dtype=dense.dtype_policy,
        name=dense.name,
    )
    convolution.build((None, height, width, channels))
    kernel, *bias = dense.get_weights()
    convolution.set_weights([kernel.reshape(height, width, channels, dense.units), *bias])
    return convolution
