"""What an export computes: the folded network, as constants of its graph."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import keras
import tensorflow as tf

from keras_cls.classifier import Classifier
from keras_cls.errors import ConfigError, ExportError
from keras_cls.exporting import onednn
from keras_cls.exporting.bias_correction import bias_corrected
from keras_cls.exporting.byte_formats import pixel_format, reads_pixels
from keras_cls.exporting.calibration import METHODS, Method, calibrated_formats
from keras_cls.exporting.calibration_images import PreparedImages
from keras_cls.exporting.float_network import run_in_float
from keras_cls.exporting.folding import fold
from keras_cls.exporting.fusing import fuse
from keras_cls.exporting.int8_network import in_float, run_in_int8
from keras_cls.exporting.lowering import lower

Precision: TypeAlias = Literal["float32", "bfloat16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True, eq=False)
class Network:
    """A network that is ready for a graph.

    Attributes:
        probabilities: a ``tf.function``: prepared images float32 [N, H, W, C] -> probabilities
            float32 [N, K].
        precision: what it computes in.
        variables: what it reads, where its numbers are not constants of the graph.
        notes: what is worth knowing of it, as plain JSON types.
    """

    probabilities: Any
    precision: Precision
    variables: tuple[tf.Variable, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)

    def tracked(self) -> tf.Module:
        """What it reads, for TensorFlow to track.

        The C++ loader finds the variables themselves only, not Keras' wrappers of them; and a
        model tracked beside them would be stored a second time.
        """
        module = tf.Module()
        module.variables_of_model = list(self.variables)
        return module

    def card(self) -> dict[str, Any]:
        """What is worth knowing of it, as plain JSON types."""
        return {"precision": self.precision, **self.notes}


def refuse_what_cannot_be_written(model: keras.Model, precision: Precision) -> None:
    """Find out at little cost whether an export in this precision is possible at all.

    Raises:
        ExportError: below float32, a layer cannot be lowered, it is named; or TensorFlow cannot
            compute in bytes here.
    """
    if precision == "int8":
        onednn.require()
    if precision != "float32":
        lower(model)


def float_network_of(classifier: Classifier, precision: Precision) -> Network:
    """A classifier's network at inference, folded, in float32 or bfloat16.

    In float32 a network with a layer that cannot be lowered is taken as Keras runs it.

    Raises:
        ExportError: in bfloat16, a layer cannot be lowered; it is named.
    """
    try:
        graph = fold(lower(classifier.model))
    except ExportError as error:
        if precision != "float32":
            raise
        variables = tuple(variable.value for variable in classifier.model.variables)
        notes = {"folded": False, "unfolded": str(error)}
        return Network(classifier.network, precision, variables, notes)
    dtype = tf.as_dtype(precision)
    function = _function(classifier, lambda images: run_in_float(graph, images, dtype))
    return Network(function, precision, notes={"folded": True})


def int8_network_of(classifier: Classifier, images: PreparedImages, method: Method) -> Network:
    """A classifier's network in bytes, wherever TensorFlow has operations for them.

    Args:
        classifier: with its preprocessing: the first bytes are the pixels themselves.
        images: to calibrate with.
        method: where the steps of a byte end.

    Raises:
        ConfigError: there is no such method.
        ExportError: a layer cannot be lowered, or TensorFlow cannot compute in bytes here.
    """
    if method not in METHODS:
        raise ConfigError(
            f"calibration_method must be one of {', '.join(METHODS)}; found {method!r}"
        )
    onednn.require()
    graph = fuse(fold(lower(classifier.model)))
    formats = calibrated_formats(graph, images.prepared, method)
    if reads_pixels(graph):
        rule = classifier.preprocessing
        formats[graph.input.name] = pixel_format(rule.mean, rule.std, rule.channels)
    corrects = not _trained_for_int8(classifier)
    if corrects:
        graph = bias_corrected(graph, formats, images.prepared)
    notes = {
        "folded": True,
        "calibration": {
            "images": len(images.prepared),
            "origin": images.origin,
            "method": method,
            "bias_correction": corrects,
        },
        "in_float": in_float(graph),
    }
    function = _function(classifier, lambda inputs: run_in_int8(graph, formats, inputs))
    return Network(function, "int8", notes=notes)


def _trained_for_int8(classifier: Classifier) -> bool:
    """Whether its biases were learnt last with rounded kernels and maps, and are right for these.

    ``refine()`` of keras_cls.compression writes what it has done.
    """
    refined = classifier.training.get("refined", ())
    return bool(refined) and "Quantization" in refined[-1]["technique"]


def _function(classifier: Classifier, logits: Callable[[tf.Tensor], tf.Tensor]) -> Any:
    def probabilities(images: tf.Tensor) -> tf.Tensor:
        return classifier.activation(logits(images))

    spec = tf.TensorSpec((None, *classifier.preprocessing.input_shape), tf.float32)
    return tf.function(probabilities, input_signature=[spec], autograph=False)
