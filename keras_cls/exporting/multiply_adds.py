"""Count what a written SavedModel computes in bytes and what in float."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

from keras_cls import contract

_IN_BYTES = {"_FusedQuantizedConv2D", "_FusedQuantizedDepthwiseConv2D", "_QuantizedMatMul"}
_IN_FLOAT = {"Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMulV2"}


@dataclass(frozen=True)
class MultiplyAdds:
    """Multiply-adds for one image, by what they are computed with.

    A grouped convolution counts as it is computed: in bytes, blocks of groups with zeros between.
    """

    quantized: int
    floating: int

    @property
    def quantized_share(self) -> float:
        """Of all, 0..1."""
        return self.quantized / max(self.quantized + self.floating, 1)


def written_multiply_adds(folder: Path) -> MultiplyAdds:
    """Those of the convolutions and matrix products in a SavedModel's graph."""
    model = saved_model_pb2.SavedModel.FromString((folder / contract.MODEL_FILE).read_bytes())
    library = model.meta_graphs[0].graph_def.library
    counts = dict.fromkeys((*_IN_BYTES, *_IN_FLOAT), 0)
    for definition in library.function:
        if any(node.op in counts for node in definition.node_def):
            for operation in function_def_to_graph(definition).get_operations():
                if operation.type in counts:
                    counts[operation.type] += _multiply_adds(operation)
    return MultiplyAdds(
        quantized=sum(counts[kind] for kind in _IN_BYTES),
        floating=sum(counts[kind] for kind in _IN_FLOAT),
    )


def _multiply_adds(operation: tf.Operation) -> int:
    kernel, output = operation.inputs[1].shape, operation.outputs[0].shape
    if not kernel.is_fully_defined():
        return 0  # not the network's: it prepares images, whose size nobody knows yet
    weights = prod(kernel[:2]) * output[-1] if "Depthwise" in operation.type else prod(kernel)
    return int(prod(output[1:-1]) * weights)
