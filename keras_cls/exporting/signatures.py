"""The serving signatures of a classifier: TensorFlow functions with the preprocessing inside."""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_cls import contract
from keras_cls.classifier import Classifier
from keras_cls.data.decoding import decode_image, decode_small_alike
from keras_cls.exporting.networks import Network
from keras_cls.preprocessing import SMALL_PIXELS, normalize, resample_small, resize_and_crop


class ServingSignatures:
    """A classifier's signatures, ready for ``tf.saved_model.save``.

    Every tensor input passes ``tf.ensure_shape``: a request of another rank would otherwise end
    the serving process (a failed check in oneDNN's layout code, not an error that it reports).
    """

    def __init__(self, classifier: Classifier, network: Network) -> None:
        self._rule = classifier.preprocessing
        self._labels = classifier.labels
        self._pixels_shape = (None, *self._rule.size, self._rule.image_channels)
        self._network = network.probabilities
        # One function for all signatures: the file holds it once.
        encoded = tf.TensorSpec((None,), tf.string)
        self._prepared = _function(self._prepare, encoded)

    def functions(self) -> dict[str, Any]:
        """Signature name -> concrete function."""
        encoded = tf.TensorSpec((None,), tf.string, name=contract.INPUT_IMAGE_BYTES)
        pixels = tf.TensorSpec(self._pixels_shape, tf.uint8, name=contract.INPUT_IMAGES)
        examples = tf.TensorSpec((None,), tf.string, name=contract.INPUT_EXAMPLES)
        functions = {
            contract.SIGNATURE_DEFAULT: _function(self._serving_default, encoded),
            contract.SIGNATURE_PROBABILITIES: _function(self._serving_probabilities, encoded),
            contract.SIGNATURE_IMAGES: _function(self._serving_images, pixels),
            contract.SIGNATURE_CLASSIFY: _function(self._serving_classify, examples),
        }
        return {name: f.get_concrete_function() for name, f in functions.items()}

    def _serving_default(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._best(self._of_encoded(image_bytes))

    def _serving_probabilities(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return {contract.OUTPUT_PROBABILITIES: self._of_encoded(image_bytes)}

    def _serving_images(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.ensure_shape(images, self._pixels_shape)
        black = tf.zeros(self._pixels_shape[1:], tf.uint8)
        prepared = normalize(_never_empty(images, black), self._rule)
        probabilities = self._network(prepared)[: tf.shape(images)[0]]
        return {contract.OUTPUT_PROBABILITIES: probabilities}

    def _serving_classify(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        feature = tf.io.FixedLenFeature((), tf.string)
        examples = tf.ensure_shape(inputs, (None,))
        parsed = tf.io.parse_example(examples, {contract.EXAMPLE_IMAGE_KEY: feature})
        return self._best(self._of_encoded(parsed[contract.EXAMPLE_IMAGE_KEY]))

    def _of_encoded(self, image_bytes: tf.Tensor) -> tf.Tensor:
        image_bytes = tf.ensure_shape(image_bytes, (None,))
        filler = tf.io.encode_png(tf.zeros((1, 1, 3), tf.uint8))
        images = self._prepared(_never_empty(image_bytes, filler))
        return self._network(images)[: tf.shape(image_bytes)[0]]

    def _prepare(self, image_bytes: tf.Tensor) -> tf.Tensor:
        """String [N] -> float32 [N, H, W, C], the network's input."""
        rule = self._rule

        def one_by_one() -> tf.Tensor:
            return tf.map_fn(
                lambda data: resize_and_crop(decode_image(data, rule.image_channels), rule),
                image_bytes,
                fn_output_signature=tf.TensorSpec((*rule.size, rule.image_channels), tf.float32),
            )

        if math.prod(rule.size) > SMALL_PIXELS:
            return normalize(one_by_one(), rule)
        alike, pixels = decode_small_alike(image_bytes, rule.image_channels)
        return normalize(tf.cond(alike, lambda: resample_small(pixels, rule), one_by_one), rule)

    def _best(self, probabilities: tf.Tensor) -> dict[str, tf.Tensor]:
        scores, indices = tf.math.top_k(probabilities, min(contract.TOP_K, len(self._labels)))
        names = tf.gather(tf.constant(self._labels), indices)
        return {contract.OUTPUT_CLASSES: names, contract.OUTPUT_SCORES: scores}


def _never_empty(batch: tf.Tensor, filler: tf.Tensor) -> tf.Tensor:
    """The batch, or one row of filler: TensorFlow's convolutions fail on no rows at all."""
    missing = tf.cast(tf.equal(tf.shape(batch)[0], 0), tf.int32)
    return tf.concat([batch, tf.repeat(filler[None], missing, axis=0)], axis=0)


def _function(python_function: Callable[..., Any], spec: tf.TensorSpec) -> Any:
    return tf.function(python_function, input_signature=[spec], autograph=False)
