"""The numbers of a network as constants of the graph that is being traced.

TensorFlow copies what its constants hold more than twenty times while a graph is traced, registered
and saved: VGG-16 with its 553 MB took 15 GB. So a graph that is traced to be written holds a zero
for each large constant, and its numbers are put into the file afterwards; and one that is traced to
be run here reads them from without.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, node_def_pb2
from tensorflow.core.protobuf import saved_model_pb2

_ATTRIBUTE = "_stands_in_for"
_FEW = 1024


class StandIns:
    """What stands in the graphs that were traced meanwhile, and for what."""

    def __init__(self) -> None:
        self._numbers: list[np.ndarray] = []

    def add(self, numbers: np.ndarray, dtype: tf.DType) -> tf.Tensor:
        """A zero in that shape; TensorFlow keeps it as one number."""
        standing = tf.constant(0, dtype, numbers.shape)
        mark = attr_value_pb2.AttrValue(i=len(self._numbers))
        standing.op._set_attr(_ATTRIBUTE, mark)
        self._numbers.append(numbers)
        return standing

    def replace_in(self, model: saved_model_pb2.SavedModel) -> None:
        """Let every constant hold its own numbers.

        Raises:
            RuntimeError: there are constants that the model has not.
        """
        missing = set(range(len(self._numbers)))
        for node in _constants(model):
            if _ATTRIBUTE not in node.attr:
                continue
            index = node.attr[_ATTRIBUTE].i
            dtype = tf.as_dtype(node.attr["dtype"].type).as_numpy_dtype
            numbers = tf.make_tensor_proto(self._numbers[index].astype(dtype, copy=False))
            node.attr["value"].tensor.CopyFrom(numbers)
            del node.attr[_ATTRIBUTE]
            missing.discard(index)
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
    """Meanwhile graphs read large constants from without: they are to be run, not to be written."""
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


def _constants(model: saved_model_pb2.SavedModel) -> Iterator[node_def_pb2.NodeDef]:
    for meta_graph in model.meta_graphs:
        graph = meta_graph.graph_def
        for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
            yield from (node for node in nodes if node.op == "Const")
