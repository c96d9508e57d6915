"""What an export computes: the folded network, as constants of its graph."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import tensorflow as tf

from keras_cls.classifier import Classifier
from keras_cls.errors import ConfigError, ExportError
from keras_cls.exporting.float_network import run_in_float
from keras_cls.exporting.folding import fold
from keras_cls.exporting.lowering import lower

Precision: TypeAlias = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True, eq=False)
class Network:
    """A network that is ready for a graph.

    Attributes:
        probabilities: a ``tf.function``: prepared images float32 [N, H, W, C] -> probabilities
            float32 [N, K].
        variables: what it reads, where its numbers are not constants of the graph.
        precision: what it computes in.
        unfolded: why it is Keras' own network, layer by layer; None where it is the folded one.
    """

    probabilities: Any
    variables: tuple[tf.Variable, ...]
    precision: Precision
    unfolded: str | None

    def card(self) -> dict[str, Any]:
        """What is worth knowing of it, as plain JSON types."""
        why = {} if self.unfolded is None else {"unfolded": self.unfolded}
        return {"precision": self.precision, "folded": self.unfolded is None, **why}


def network_of(classifier: Classifier, precision: Precision) -> Network:
    """A classifier's network at inference, folded, in a precision.

    In float32 a network with a layer that cannot be lowered is taken as Keras runs it.

    Raises:
        ConfigError: there is no such precision.
        ExportError: in bfloat16, a layer cannot be lowered; it is named.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}; found {precision!r}")
    try:
        graph = fold(lower(classifier.model))
    except ExportError as error:
        if precision != "float32":
            raise
        variables = tuple(variable.value for variable in classifier.model.variables)
        return Network(classifier.network, variables, precision, unfolded=str(error))
    dtype = tf.as_dtype(precision)

    def probabilities(images: tf.Tensor) -> tf.Tensor:
        return classifier.activation(run_in_float(graph, images, dtype))

    spec = tf.TensorSpec((None, *classifier.preprocessing.input_shape), tf.float32)
    function = tf.function(probabilities, input_signature=[spec], autograph=False)
    return Network(function, (), precision, unfolded=None)
