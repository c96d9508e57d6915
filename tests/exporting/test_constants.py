"""What stands in for a constant while a graph is traced is replaced in the written file."""

import threading

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from keras_cls.exporting.constants import _FEW, constant, shared, stand_ins

SIDE = 40
assert SIDE * SIDE > _FEW


def numbers(dtype: str) -> np.ndarray:
    random = np.random.default_rng(0)
    if dtype == "int8":
        return random.integers(-128, 128, (SIDE, SIDE)).astype(np.int8)
    return random.normal(size=(SIDE, SIDE)).astype(np.float32)


def product(matrix: np.ndarray, dtype: str) -> tf.types.experimental.ConcreteFunction:
    """x + 1 to 40, times the matrix, computed in float32."""

    @tf.function(input_signature=[tf.TensorSpec((None, SIDE), tf.float32)], autograph=False)
    def run(x: tf.Tensor) -> dict[str, tf.Tensor]:
        x = x + constant(np.arange(SIDE, dtype=np.float32), tf.float32)
        return {"y": x @ tf.cast(constant(matrix, tf.as_dtype(dtype)), tf.float32)}

    return run.get_concrete_function()


def written(folder, function) -> saved_model_pb2.SavedModel:
    tf.saved_model.save(tf.Module(), str(folder), signatures={"run": function})
    return saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_the_file_is_as_without_stand_ins(dtype, tmp_path):
    matrix = numbers(dtype)
    with stand_ins() as standing:
        function = product(matrix, dtype)
        model = written(tmp_path, function)
    assert model.ByteSize() < 15_000
    standing.replace_in(model, {"run": function})
    assert model.ByteSize() > matrix.size * tf.as_dtype(dtype).size
    (tmp_path / "saved_model.pb").write_bytes(model.SerializeToString())
    x = tf.ones((2, SIDE))
    found = tf.saved_model.load(str(tmp_path)).signatures["run"](x=x)["y"]
    np.testing.assert_array_equal(found, product(matrix, dtype)(x)["y"])


def test_a_matrix_that_is_used_twice_is_right_twice(tmp_path):
    matrix = numbers("float32")

    @tf.function(input_signature=[tf.TensorSpec((None, SIDE), tf.float32)], autograph=False)
    def run(x):
        return {"y": x @ constant(matrix, tf.float32) @ constant(matrix.T, tf.float32)}

    with stand_ins() as standing:
        function = run.get_concrete_function()
        model = written(tmp_path, function)
    standing.replace_in(model, {"run": function})
    (tmp_path / "saved_model.pb").write_bytes(model.SerializeToString())
    found = tf.saved_model.load(str(tmp_path)).signatures["run"](x=tf.eye(SIDE))["y"]
    np.testing.assert_allclose(found, matrix @ matrix.T, rtol=1e-4, atol=1e-4)


def test_a_constant_that_was_lost_is_noticed(tmp_path):
    with stand_ins() as standing:
        product(numbers("float32"), "float32")
        function = product(numbers("float32"), "float32")
        model = written(tmp_path, function)
    with pytest.raises(RuntimeError, match="1 constants were lost"):
        standing.replace_in(model, {"run": function})


def test_the_constants_of_another_function_are_refused(tmp_path):
    with stand_ins() as standing:
        function = product(numbers("float32"), "float32")
        model = written(tmp_path, product(numbers("int8"), "int8"))
    with pytest.raises(RuntimeError, match=r"Const.* is another constant"):
        standing.replace_in(model, {"run": function})


def test_large_constants_are_in_the_main_graph_once(tmp_path):
    """TensorFlow copies its function library for whatever a session runs."""
    matrix = numbers("float32")

    def large(nodes) -> int:
        return sum(node.op == "Const" and node.ByteSize() > matrix.nbytes for node in nodes)

    with stand_ins() as standing:
        function = product(matrix, "float32")
        tf.saved_model.save(
            tf.Module(), str(tmp_path), signatures={"run": function, "again": function}
        )
        path = tmp_path / "saved_model.pb"
        model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    standing.replace_in(model, {"run": function, "again": function})
    graph = model.meta_graphs[0].graph_def
    assert large(graph.node) == 1
    assert [large(each.node_def) for each in graph.library.function] == [0] * len(
        graph.library.function
    )


def test_other_threads_trace_what_they_run():
    found = []
    x = tf.ones((1, SIDE))
    wanted = product(numbers("float32"), "float32")(x)["y"]

    def elsewhere() -> None:
        found.append(product(numbers("float32"), "float32")(x)["y"])

    with stand_ins():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    np.testing.assert_array_equal(found[0], wanted)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_what_is_shared_is_read_from_without(dtype):
    matrix, x = numbers(dtype), tf.ones((2, SIDE))
    with shared():
        function = product(matrix, dtype)
    assert function.graph.as_graph_def().ByteSize() < 5_000
    assert len(function.captured_inputs) == 1
    np.testing.assert_array_equal(function(x)["y"], product(matrix, dtype)(x)["y"])
