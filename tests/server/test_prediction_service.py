"""The gRPC API as TensorFlow Serving's own stubs see it: answers, codes and texts."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving_models import (
    LABELS,
    SIGNATURES,
    example_of,
    image_of,
    refusal,
    request_for,
    stubs_for,
)
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

from keras_cls.server import ModelServer

PREDICT = "/tensorflow.serving.PredictionService/Predict"


def png(brightness):
    return tf.io.encode_png(image_of(brightness)).numpy()


def test_classify_images(stubs):
    response = stubs.prediction.Predict(request_for(image_bytes=[png(0), png(255)]), timeout=10)
    classes = tf.make_ndarray(response.outputs["classes"])
    scores = tf.make_ndarray(response.outputs["scores"])
    assert classes.tolist() == [
        [b"dark", b"medium", b"bright"],
        [b"bright", b"medium", b"dark"],
    ]
    assert scores.dtype == np.float32
    assert scores.shape == (2, len(LABELS))
    assert (np.diff(scores) <= 0).all()
    assert response.model_spec.name == "shades"
    assert response.model_spec.signature_name == "serving_default"
    assert response.model_spec.version.value == 3
    assert len(response.outputs["scores"].float_val) == 6  # typed fields, as the original


def test_both_image_signatures_agree(stubs):
    pixels = np.stack([image_of(30), image_of(200)])
    from_pixels = stubs.prediction.Predict(request_for("images", images=pixels))
    from_bytes = stubs.prediction.Predict(
        request_for("probabilities", image_bytes=[png(30), png(200)])
    )
    np.testing.assert_array_equal(
        tf.make_ndarray(from_pixels.outputs["probabilities"]),
        tf.make_ndarray(from_bytes.outputs["probabilities"]),
    )


def test_output_filter(stubs):
    response = stubs.prediction.Predict(request_for(outputs=["scores"], image_bytes=[png(0)]))
    assert list(response.outputs) == ["scores"]
    code, text = refusal(stubs, request_for(outputs=["nope"], image_bytes=[png(0)]))
    assert code == "INVALID_ARGUMENT"
    assert text == (
        "output tensor alias not found in signature: nope Outputs expected to be in the set "
        "{classes,scores}."
    )
    code, text = refusal(stubs, request_for(outputs=["scores", "scores"], image_bytes=[png(0)]))
    assert (code, text) == ("INVALID_ARGUMENT", "duplicate output tensor alias: scores")


def test_scalar_inputs_are_not_batched(stubs):
    response = stubs.prediction.Predict(request_for("scalar", x=np.float32(2)))
    assert tf.make_ndarray(response.outputs["y"]) == 3


def test_bfloat16_both_ways(stubs):
    values = tf.constant([1.5, -2], tf.bfloat16)
    response = stubs.prediction.Predict(request_for("brain_float", x=values.numpy()))
    doubled = tf.make_ndarray(response.outputs["y"])
    assert doubled.dtype == tf.bfloat16.as_numpy_dtype
    assert doubled.tolist() == [3, -4]


def test_no_rows(stubs):
    response = stubs.prediction.Predict(request_for("divide", x=np.zeros(0, np.float32)))
    assert tf.make_ndarray(response.outputs["quotient"]).shape == (0,)


def test_more_rows_than_one_run_takes_are_run_in_parts(stubs):
    x = np.arange(1, 101, dtype=np.float32)
    response = stubs.prediction.Predict(request_for("divide", x=x))
    np.testing.assert_allclose(tf.make_ndarray(response.outputs["quotient"]), 1 / x, rtol=1e-6)
    assert tf.make_ndarray(response.outputs["batch_rows"]).max() <= 32


def test_a_message_far_beyond_grpc_s_default_limit(stubs):
    pixels = np.zeros((60_000, 8, 8, 3), np.uint8)  # 11.5 MB
    code, text = refusal(stubs, request_for("images", images=pixels), timeout=30)
    assert code == "INVALID_ARGUMENT"
    assert text == "Task size 60000 is larger than maximum input batch size 1000"


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (request_for(model=""), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (
            request_for(model="dogs"),
            "NOT_FOUND",
            "Servable not found for request: Latest(dogs)",
        ),
        (
            request_for(version=4),
            "NOT_FOUND",
            "Servable not found for request: Specific(shades, 4)",
        ),
        (
            request_for("nope"),
            "FAILED_PRECONDITION",
            'Serving signature key "nope" not found.',
        ),
        (
            request_for("__saved_model_init_op"),
            "FAILED_PRECONDITION",
            'Serving signature key "__saved_model_init_op" not found.',
        ),
        (
            request_for(),
            "INVALID_ARGUMENT",
            "input size does not match signature: 0!=1 len({}) != len({image_bytes}). "
            "Sent extra: {}. Missing but required: {image_bytes}.",
        ),
        (
            request_for(image_bytes=[b""], zebra=[1], apple=[1]),
            "INVALID_ARGUMENT",
            "input size does not match signature: 3!=1 len({apple,image_bytes,zebra}) != "
            "len({image_bytes}). Sent extra: {apple,zebra}. Missing but required: {}.",
        ),
        (
            request_for("divide", y=[1.0]),
            "INVALID_ARGUMENT",
            "Signature input alias: x(feed name: divide_x:0) not found in request and no default "
            "value provided. Inputs expected to be in the request {y}, or default input alias "
            "set: ",
        ),
        (
            request_for("divide", x=np.int32([1])),
            "INVALID_ARGUMENT",
            'Type mismatch: actual int32 vs. expect float for input "x"',
        ),
        (
            request_for("images", images=image_of(0)),
            "INVALID_ARGUMENT",
            'Shape mismatch: actual [8,8,3] vs. expect [?,8,8,3] for input "images"',
        ),
        (
            request_for("images", images=np.zeros((1, 8, 8, 1), np.uint8)),
            "INVALID_ARGUMENT",
            'Shape mismatch: actual [1,8,8,1] vs. expect [?,8,8,3] for input "images"',
        ),
        (
            request_for("pair", a=np.float32([[1], [2]]), b=np.float32([1])),
            "INVALID_ARGUMENT",
            "Batching Run() input tensors must have equal 0th-dimension size",
        ),
        (
            request_for("divide", x=[0.0]),
            "INVALID_ARGUMENT",
            "division by zero : Tensor had Inf values",
        ),
    ],
    ids=lambda value: value.replace(" ", "-")[:40] if isinstance(value, str) else "",
)
def test_refusals(stubs, request_, code, text):
    found_code, found_text = refusal(stubs, request_)
    assert found_code == code
    assert found_text.split("\n")[0] == text


def test_version_label(stubs):
    request = request_for(image_bytes=[png(0)])
    request.model_spec.version_label = "stable"
    assert refusal(stubs, request) == (
        "INVALID_ARGUMENT",
        "Unrecognized servable version label: stable",
    )


def test_an_image_that_is_none(stubs):
    code, text = refusal(stubs, request_for(image_bytes=[b"not an image"]))
    assert code == "INVALID_ARGUMENT"
    assert text.startswith("Unknown image file format")
    assert "Traceback" not in text


def test_an_error_that_quotes_raw_bytes(stubs):
    code, text = refusal(stubs, request_for("ninth_byte", x=[b"\x89PNG"]))
    assert code == "INVALID_ARGUMENT"
    assert "pos 8 out of range for string b'\ufffdPNG'" in text.replace('"', "'")


def test_a_tensor_that_lies_about_its_size(stubs):
    proto = tf.make_tensor_proto(np.float32([1]))
    proto.tensor_shape.dim[0].size = 1 << 40
    code, text = refusal(stubs, request_for("divide", x=proto))
    assert code == "INVALID_ARGUMENT"
    assert text.startswith("tensor parsing error: x")


def test_long_messages_are_cut(stubs):
    code, text = refusal(stubs, request_for(**{"x" * 3000: [1.0], "image_bytes": [b""]}))
    assert code == "INVALID_ARGUMENT"
    assert text.endswith("...TRUNCATED")
    assert len(text) == 1024 + len("...TRUNCATED")


def test_garbage_is_the_sender_s_fault(stubs):
    call = stubs.channel.unary_unary(PREDICT)
    for garbage in (b"\xff\xff\xff", b"\x0a\xff", b"GET / HTTP/1.1"):
        with pytest.raises(grpc.RpcError) as caught:
            call(garbage, timeout=10)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "no tensorflow.serving.PredictRequest" in caught.value.details()


@pytest.mark.parametrize(
    "method",
    [
        "/tensorflow.serving.SessionService/SessionRun",  # the original has its proto, and no more
        "/tensorflow.serving.PredictionService/PredictStreamed",
        "/tensorflow.ProfilerService/Profile",
        "/nothing/at.all",
    ],
)
def test_methods_that_are_not_there(stubs, method):
    with pytest.raises(grpc.RpcError) as caught:
        stubs.channel.unary_unary(method)(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def classification_request(signature="classify", **examples):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "shades", signature
    for name, value in examples.items():
        request.input.example_list.examples.add().CopyFrom(example_of(**{name: value}))
    return request


def test_classify(stubs):
    response = stubs.prediction.Classify(classification_request(image=250), timeout=10)
    (answer,) = response.result.classifications
    assert [each.label for each in answer.classes] == ["bright", "medium", "dark"]
    assert answer.classes[0].score > 0.8
    assert response.model_spec.version.value == 3
    assert response.model_spec.signature_name == "classify"


def test_regress(stubs):
    request = regression_pb2.RegressionRequest()
    request.model_spec.name, request.model_spec.signature_name = "shades", "regress"
    for x in (1, 2):
        request.input.example_list.examples.add().CopyFrom(example_of(x=x))
    response = stubs.prediction.Regress(request, timeout=10)
    assert [each.value for each in response.result.regressions] == [100, 200]


def test_multi_inference(stubs):
    request = inference_pb2.MultiInferenceRequest()
    for method in ("classify", "regress"):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "shades", method
    request.input.example_list.examples.add().CopyFrom(example_of(image=250, x=3))
    response = stubs.prediction.MultiInference(request, timeout=10)
    classified, regressed = response.results
    assert classified.classification_result.classifications[0].classes[0].label == "bright"
    assert regressed.regression_result.regressions[0].value == 300


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (lambda r: r.ClearField("model_spec"), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (lambda r: r.ClearField("input"), "INVALID_ARGUMENT", "Input is empty."),
        (
            lambda r: setattr(r.model_spec, "signature_name", "none"),
            "INVALID_ARGUMENT",
            "No signature was found with the name: none",
        ),
        (
            lambda r: setattr(r.model_spec, "name", "none"),
            "NOT_FOUND",
            "Servable not found for request: Latest(none)",
        ),
    ],
)
def test_classify_refuses(stubs, change, code, text):
    request = classification_request(image=250)
    change(request)
    with pytest.raises(grpc.RpcError) as caught:
        stubs.prediction.Classify(request, timeout=10)
    assert (caught.value.code().name, caught.value.details()) == (code, text)


def metadata_request(*fields, model="shades"):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = model
    return request


def test_metadata(stubs):
    response = stubs.prediction.GetModelMetadata(metadata_request("signature_def"), timeout=10)
    assert (response.model_spec.name, response.model_spec.version.value) == ("shades", 3)
    definitions = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(definitions)
    assert set(definitions.signature_def) == {*SIGNATURES, "__saved_model_init_op"}
    images = definitions.signature_def["images"].inputs["images"]
    assert [dim.size for dim in images.tensor_shape.dim] == [-1, 8, 8, 3]


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (
            metadata_request(),
            "INVALID_ARGUMENT",
            "GetModelMetadataRequest must specify at least one metadata_field",
        ),
        (
            metadata_request("labels"),
            "INVALID_ARGUMENT",
            "Metadata field labels is not supported",
        ),
        (
            metadata_request("signature_def", model="dogs"),
            "NOT_FOUND",
            "Servable not found for request: Latest(dogs)",
        ),
    ],
)
def test_metadata_refusals(stubs, request_, code, text):
    with pytest.raises(grpc.RpcError) as caught:
        stubs.prediction.GetModelMetadata(request_, timeout=10)
    assert (caught.value.code().name, caught.value.details()) == (code, text)


def test_status(stubs):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "shades"
    request.model_spec.version_label = "ignored, as in the original"
    (status,) = stubs.model.GetModelStatus(request, timeout=10).model_version_status
    assert status.version == 3
    assert status.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert status.HasField("status")
    assert status.status.error_code == 0


@pytest.mark.parametrize(
    ("model", "version", "text"),
    [
        ("dogs", None, "Could not find any versions of model dogs"),
        ("shades", 9, "Could not find version 9 of model shades"),
    ],
)
def test_status_refusals(stubs, model, version, text):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = model
    if version:
        request.model_spec.version.value = version
    with pytest.raises(grpc.RpcError) as caught:
        stubs.model.GetModelStatus(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == text


@pytest.mark.parametrize(
    "service", ["", "tensorflow.serving.PredictionService", "PredictionService", "ModelService"]
)
def test_health(stubs, service):
    health = health_pb2_grpc.HealthStub(stubs.channel)
    answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_message_size_can_be_capped(base_path, server):
    with ModelServer(base_path, host="127.0.0.1", port=0, max_message_bytes=1000) as small:
        assert small.port != server.port
        code, _ = refusal(stubs_for(small.address), request_for(image_bytes=[b"x" * 2000]))
    assert code == "RESOURCE_EXHAUSTED"
