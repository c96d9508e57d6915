"""Predict by gRPC."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2

from serving.conformance.asking import SECONDS, refusal, request_for
from serving.conformance.models import DATA_TYPES

VALUES = {"string": [b"", b"\x00\xff", "grün".encode()], "bool": [True, False]}


def refused(server, *arguments, **options):
    return refusal(server.prediction.Predict, request_for(*arguments, **options))


def test_the_answer_and_the_model_that_gave_it(server):
    response = server.predict(x=[1.0, 2.0])
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [1.5, 2.0]
    assert response.model_spec.name == "numbers"
    assert response.model_spec.signature_name == "serving_default"
    assert response.model_spec.version.value == 1


def test_values_come_in_typed_fields(server):
    output = server.predict(x=[1.0]).outputs["y"]
    assert list(output.float_val) == [1.5]
    assert output.tensor_content == b""
    assert [dim.size for dim in output.tensor_shape.dim] == [1]


@pytest.mark.parametrize("data_type", DATA_TYPES)
def test_every_data_type_comes_back(server, data_type):
    sent = VALUES.get(data_type, [0, 1, 100])
    proto = tf.make_tensor_proto(sent, getattr(tf, data_type))
    output = server.predict(data_type, x=proto).outputs["y"]
    assert output.dtype == proto.dtype
    assert tf.make_ndarray(output).tolist() == sent


@pytest.mark.parametrize("data_type", ["float32", "float64", "int64", "uint8", "float16"])
def test_tensor_content_is_read(server, data_type):
    array = np.array([3, 5], data_type)
    proto = tensor_pb2.TensorProto(
        dtype=tf.as_dtype(data_type).as_datatype_enum, tensor_content=array.tobytes()
    )
    proto.tensor_shape.dim.add(size=2)
    assert server.outputs(data_type, x=proto) == {"y": [3, 5]}


def test_one_value_stands_for_all(server):
    proto = tensor_pb2.TensorProto(dtype=tf.float32.as_datatype_enum, float_val=[4.0])
    proto.tensor_shape.dim.add(size=3)
    assert server.outputs(x=proto) == {"y": [3.0, 3.0, 3.0]}


def test_no_model_spec(server):
    request = predict_pb2.PredictRequest()
    assert refusal(server.prediction.Predict, request) == ("INVALID_ARGUMENT", "Missing ModelSpec")


def test_no_model_name(server):
    found = refused(server, model="", signature="serving_default", x=[1.0])
    assert found == ("INVALID_ARGUMENT", "ModelSpec has no name specified.")


@pytest.mark.parametrize(
    ("which", "wanted"),
    [
        ({"model": "nobody"}, "Latest(nobody)"),
        ({"version": 99}, "Specific(numbers, 99)"),
        ({"model": "nobody", "version": 1}, "Specific(nobody, 1)"),
    ],
)
def test_a_model_or_version_that_is_not_there(server, which, wanted):
    found = refused(server, **which, x=[1.0])
    assert found == ("NOT_FOUND", f"Servable not found for request: {wanted}")


def test_an_unknown_signature(server):
    found = refused(server, "nowhere", x=[1.0])
    assert found == ("FAILED_PRECONDITION", 'Serving signature key "nowhere" not found.')


def test_a_missing_input(server):
    assert refused(server, "add", a=[1.0]) == (
        "INVALID_ARGUMENT",
        "input size does not match signature: 1!=2 len({a}) != len({a,b}). Sent extra: {}. "
        "Missing but required: {b}.",
    )


def test_an_extra_input(server):
    assert refused(server, x=[1.0], z=[1.0]) == (
        "INVALID_ARGUMENT",
        "input size does not match signature: 2!=1 len({x,z}) != len({x}). Sent extra: {z}. "
        "Missing but required: {}.",
    )


def test_an_input_of_another_name(server):
    code, text = refused(server, "add", a=[1.0], c=[1.0])
    assert code == "INVALID_ARGUMENT"
    assert "not found in request and no default value provided" in text
    assert "Inputs expected to be in the request {" in text


def test_an_input_with_a_default_may_be_missing(server):
    assert server.outputs("with_default", a=[1.0]) == {"total": [101.0]}
    assert server.outputs("with_default", a=[1.0], b=[2.0]) == {"total": [3.0]}


def test_a_tensor_whose_bytes_do_not_fit_its_shape(server):
    proto = tensor_pb2.TensorProto(dtype=tf.float32.as_datatype_enum, tensor_content=b"1234")
    proto.tensor_shape.dim.add(size=2)
    code, text = refused(server, x=proto)
    assert code == "INVALID_ARGUMENT"
    assert text.startswith("tensor parsing error: x")


@pytest.mark.differs(
    "dtypes are held against the signature before anything runs; the original leaves it to the "
    "session, whose message begins alike"
)
def test_another_data_type(server):
    code, text = refused(server, x=np.array([1], np.int32))
    assert code == "INVALID_ARGUMENT"
    assert text.startswith("Type mismatch: actual int32 vs. expect float")
    assert ('for input "x"' in text) == server.embedded


@pytest.mark.differs(
    "shapes are held against the signature before anything runs; the original runs the graph, "
    "which may refuse them in its own words, answer nonsense, or end the process"
)
@pytest.mark.parametrize("shape", [[1, 2, 4], [1, 6]])
def test_another_shape(server, shape):
    code, text = refused(server, "matrix", x=np.zeros(shape, np.float32))
    assert code == "INVALID_ARGUMENT"
    if server.embedded:
        sent = ",".join(map(str, shape))
        assert text == f'Shape mismatch: actual [{sent}] vs. expect [?,2,3] for input "x"'
    assert server.outputs("matrix", x=np.ones([1, 2, 3], np.float32)) == {"y": [6.0]}


def test_what_the_graph_refuses(server):
    code, text = refused(server, "divide", x=[0.0])
    assert code == "INVALID_ARGUMENT"
    assert "division by zero : Tensor had Inf" in text


def test_an_output_filter(server):
    assert server.outputs("two_outputs", x=[3.0]) == {"double": [6.0], "square": [9.0]}
    assert server.outputs("two_outputs", outputs=["square"], x=[3.0]) == {"square": [9.0]}


def test_an_output_filter_with_an_unknown_name(server):
    assert refused(server, "two_outputs", outputs=["cube"], x=[3.0]) == (
        "INVALID_ARGUMENT",
        "output tensor alias not found in signature: cube Outputs expected to be in the set "
        "{double,square}.",
    )


def test_an_output_filter_with_a_name_twice(server):
    found = refused(server, "two_outputs", outputs=["square", "square"], x=[3.0])
    assert found == ("INVALID_ARGUMENT", "duplicate output tensor alias: square")


def test_long_texts_are_cut(server):
    code, text = refused(server, "s" * 3000, x=[1.0])
    assert code == "FAILED_PRECONDITION"
    assert len(text) == 1024 + len("...TRUNCATED")
    assert text.startswith('Serving signature key "sss')
    assert text.endswith("s...TRUNCATED")


def test_a_signature_for_examples_answers_predict_too(server):
    example = tf.train.Example()
    example.features.feature["x"].float_list.value.append(2.0)
    sent = [example.SerializeToString()]
    assert server.outputs("scores_only", inputs=sent) == {"scores": [[2.0, 3.0, 4.0]]}


def test_many_requests_on_one_channel(server):
    futures = [
        server.prediction.Predict.future(request_for(x=[float(n)]), timeout=SECONDS)
        for n in range(8)
    ]
    answers = [future.result().outputs["y"].float_val[0] for future in futures]
    assert answers == [n / 2 + 1 for n in range(8)]
