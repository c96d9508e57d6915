"""The numbers of a network as constants of the graph that is being traced.

TensorFlow copies what a function's own constants hold more than twenty times while the function is
traced, registered, saved and loaded: VGG-16 with its 553 MB took 15 GB to write. So large constants
stay outside: functions take them as inputs, the file's main graph holds them once. While a graph is
traced to be written, zeros stand in, and the numbers are put into the file afterwards.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2, saved_object_graph_pb2

_FEW = 1024


class StandIns:
    """What stands in the graphs that were traced meanwhile, and for what."""

    def __init__(self) -> None:
        self._numbers: dict[Any, np.ndarray] = {}

    def add(self, numbers: np.ndarray, dtype: tf.DType) -> tf.Tensor:
        """Zeros in that shape; TensorFlow writes equal numbers as one."""
        standing = _outside(np.zeros(numbers.shape, dtype.as_numpy_dtype), dtype)
        self._numbers[standing.ref()] = numbers
        return standing

    def replace_in(self, model: saved_model_pb2.SavedModel, signatures: Mapping[str, Any]) -> None:
        """Let every constant hold its own numbers.

        Args:
            model: what TensorFlow wrote.
            signatures: the concrete functions that it wrote, by signature.

        Raises:
            RuntimeError: a constant is not there, or not the one that it should be.
        """
        missing = set(self._numbers)
        (meta_graph,) = model.meta_graphs
        nodes = {node.name: node for node in meta_graph.graph_def.node}
        for name, function in signatures.items():
            operations = _captured_constants(meta_graph.object_graph_def, name)
            for place, capture in enumerate(function.captured_inputs):
                if capture.ref() not in missing:
                    continue
                node = nodes[operations[f"capture_{place}"]]
                held = node.attr["value"].tensor
                dtype, shape = tf.as_dtype(held.dtype), tf.TensorShape(held.tensor_shape)
                if (dtype, shape) != (capture.dtype, capture.shape):
                    raise RuntimeError(f"{node.name} of the written graph is another constant")
                numbers = self._numbers[capture.ref()].astype(dtype.as_numpy_dtype, copy=False)
                held.CopyFrom(tf.make_tensor_proto(numbers))
                missing.discard(capture.ref())
        if missing:
            raise RuntimeError(f"{len(missing)} constants were lost while the graph was written")


_MAKE: ContextVar[Callable[[np.ndarray, tf.DType], tf.Tensor]] = ContextVar(
    "make", default=tf.constant
)


@contextmanager
def stand_ins() -> Iterator[StandIns]:
    """Meanwhile graphs are traced with stand-ins: they are to be written, not to be run."""
    found = StandIns()
    with _made_by(found.add):
        yield found


@contextmanager
def shared() -> Iterator[None]:
    """Meanwhile graphs read large constants from outside: they are to be run, not to be written."""
    with _made_by(_outside):
        yield


def constant(numbers: np.ndarray, dtype: tf.DType) -> tf.Tensor:
    """These numbers, as the graphs of now hold them."""
    make = tf.constant if numbers.size <= _FEW else _MAKE.get()
    return make(numbers, dtype)


@contextmanager
def _made_by(make: Callable[[np.ndarray, tf.DType], tf.Tensor]) -> Iterator[None]:
    token = _MAKE.set(make)
    try:
        yield
    finally:
        _MAKE.reset(token)


def _outside(numbers: np.ndarray, dtype: tf.DType) -> tf.Tensor:
    with tf.init_scope():
        return tf.constant(numbers, dtype)


def _captured_constants(
    objects: saved_object_graph_pb2.SavedObjectGraph, signature: str
) -> dict[str, str]:
    """What a signature's function captures -> the operation of the main graph that holds it."""

    def child(node: saved_object_graph_pb2.SavedObject, name: str) -> Any:
        return next(objects.nodes[c.node_id] for c in node.children if c.local_name == name)

    function = child(child(objects.nodes[0], "signatures"), signature)
    return {
        each.local_name: objects.nodes[each.node_id].constant.operation
        for each in function.children
    }
