"""Grad-CAM: where in an image a network found what speaks for a class.

Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization" (arXiv:1610.02391), section 3: each channel of the last feature map is weighted by the
mean gradient of the class's logit, and what is left above zero of their sum is the heat.
"""

from collections.abc import Sequence
from typing import Any

import keras
import matplotlib
import numpy as np
import tensorflow as tf

from keras_cls.architectures.walking import steps_to
from keras_cls.classifier import Classifier
from keras_cls.errors import ConfigError
from keras_cls.preprocessing import KERNELS, normalize

COLOUR_MAP = "inferno"
"""Perceptually uniform, and its order shows in grey as well."""

# The share of the picture that shows where there is most heat.
_MOST_COVER = 0.65

# These only make a map coarser: what feeds them says the same, more finely.
_POOLING = (
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.GlobalAveragePooling2D,
)


class GradCam:
    """Explains a classifier's answers; the graph that gives maps and logits is made once.

    Args:
        classifier: one whose network is a Keras functional or sequential model.
        layer: the name of the layer whose map is weighted, such as ``"conv4_3_relu"``; None for
            the last map larger than 1x1, before any pooling of it.

    Raises:
        ConfigError: there is no such layer, or it gives no map larger than 1x1.
    """

    def __init__(self, classifier: Classifier, layer: str | None = None) -> None:
        self._rule = classifier.preprocessing
        self._classes = len(classifier.labels)
        model = classifier.model
        name, map_ = _named_map(model, layer) if layer is not None else _last_map(model)
        self.layer: str = name
        self._network = keras.Model(model.inputs, [map_, model.outputs[0]])

    def heat(self, pixels: np.ndarray, class_indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The heat maps of images, each for a class of its own.

        Args:
            pixels: uint8 or float ``[N, H, W, 3]`` on the 0..255 scale, at the input size of the
                classifier; RGB also for a grayscale model, 4 channels for an rgba model.
            class_indices: integers ``[N]``, the classes to explain.

        Returns:
            float32 ``[N, H, W]`` in 0..1: the greatest heat of each image is 1; all is 0 where
            nothing in the map speaks for the class.

        Raises:
            ConfigError: pixels or classes do not fit the classifier or each other.
        """
        pixels, indices = np.asarray(pixels), np.asarray(class_indices)
        self._check(pixels, indices)
        images = normalize(tf.convert_to_tensor(pixels), self._rule)
        with tf.GradientTape() as tape:
            tape.watch(images)  # from here on all is recorded, whether variables train or not
            maps, logits = self._network(images, training=False)
            scores = tf.gather(tf.cast(logits, tf.float32), indices, axis=1, batch_dims=1)
        gradients = tape.gradient(scores, maps, unconnected_gradients="zero")
        weights = tf.reduce_mean(tf.cast(gradients, tf.float32), axis=(1, 2), keepdims=True)
        heat = tf.nn.relu(tf.reduce_sum(weights * tf.cast(maps, tf.float32), -1, keepdims=True))
        heat = _resized(heat, self._rule.size)[..., 0].numpy()
        highest = heat.max(axis=(1, 2), keepdims=True)
        return np.divide(heat, highest, out=np.zeros_like(heat), where=highest > 0)

    def _check(self, pixels: np.ndarray, indices: np.ndarray) -> None:
        expected = (*self._rule.size, self._rule.image_channels)
        if pixels.ndim != 4 or pixels.shape[1:] != expected:
            raise ConfigError(
                f"Grad-CAM: pixels must be [N, {', '.join(map(str, expected))}], the classifier's "
                f"input; found {list(pixels.shape)}"
            )
        if indices.shape != (len(pixels),) or indices.dtype.kind not in "iu":
            raise ConfigError(
                f"Grad-CAM: one class number is needed for each of the {len(pixels)} images; found "
                f"{indices.dtype} {list(indices.shape)}"
            )
        wrong = indices[(indices < 0) | (indices >= self._classes)]
        if wrong.size:
            raise ConfigError(
                f"Grad-CAM: class {wrong[0]} does not exist; expected 0..{self._classes - 1}"
            )


def grad_cam(
    classifier: Classifier, pixels: np.ndarray, class_index: int, layer: str | None = None
) -> np.ndarray:
    """Where in one image the network found what speaks for a class.

    Args:
        classifier: the classifier.
        pixels: ``[H, W, 3]`` on the 0..255 scale, at the classifier's input size (4 channels for an
            rgba model).
        class_index: the class to explain, right or wrong.
        layer: as for :class:`GradCam`, which is quicker for several images.

    Returns:
        float32 ``[H, W]`` in 0..1.

    Raises:
        ConfigError: the network has no such map, or pixels or class do not fit it.
    """
    return GradCam(classifier, layer).heat(np.asarray(pixels)[None], np.array([class_index]))[0]


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The picture under its heat: as it is where there is none, hidden most where it is greatest.

    Args:
        image: uint8 ``[H, W, 3]``; a fourth channel is left out.
        heat: float ``[H, W]`` in 0..1.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    colours = matplotlib.colormaps[COLOUR_MAP](heat)[..., :3] * 255
    cover = _MOST_COVER * heat[..., None]
    return np.rint((1 - cover) * image[..., :3] + cover * colours).astype(np.uint8)


def _resized(maps: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """float32 [N, h, w, c] -> [N, *size, c], by the operation that resizes all images here."""
    found = tf.cast(tf.shape(maps)[1:3], tf.float32)
    return tf.raw_ops.ScaleAndTranslate(
        images=maps,
        size=tf.constant(size, tf.int32),
        scale=tf.constant(size, tf.float32) / found,
        translation=tf.zeros(2),
        kernel_type=KERNELS["bilinear"],
        antialias=True,
    )


# --------------------------------------------------------------------------- the map to be weighted


def _last_map(model: keras.Model) -> tuple[str, Any]:
    """The layer whose output is the last map larger than 1x1, and that output."""
    for name, map_ in reversed(_maps(model, unlike=_POOLING).items()):
        return name, map_
    raise ConfigError(
        f"{model.name}: Grad-CAM needs a feature map larger than 1x1, and no layer of this network "
        "gives one"
    )


def _named_map(model: keras.Model, name: str) -> tuple[str, Any]:
    maps = _maps(model)
    if name not in maps:
        raise ConfigError(
            f"{model.name}: Grad-CAM: no layer {name!r} gives a feature map larger than 1x1; the "
            f"last that do are {', '.join(list(maps)[-5:]) or 'none'}"
        )
    return name, maps[name]


def _maps(model: keras.Model, unlike: tuple[type, ...] = ()) -> dict[str, Any]:
    """The feature maps larger than 1x1 by the name of their layer, in the order of the layers.

    They are looked for on the way back from the output: a layer may have been called in other
    graphs as well, and a nested model's ``output`` is that of its inner graph.
    """
    outputs: dict[int, Any] = {}
    for step in steps_to(model.outputs[0]):
        if len(step.outputs) == 1:
            outputs.setdefault(id(step.operation), step.outputs[0])
    return {
        layer.name: outputs[id(layer)]
        for layer in model.layers
        if id(layer) in outputs
        and _is_map(outputs[id(layer)])
        and not isinstance(layer, (*unlike, keras.layers.InputLayer))
    }


def _is_map(tensor: Any) -> bool:
    return len(tensor.shape) == 4 and tuple(tensor.shape[1:3]) != (1, 1)
