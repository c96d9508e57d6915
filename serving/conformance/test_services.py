"""Which services there are, and what health and reflection say."""

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from serving.conformance.asking import SECONDS, refusal, request_for

SERVING = health_pb2.HealthCheckResponse.SERVING


def raw_call(server, method):
    return server.channel.unary_unary(method)


@pytest.mark.parametrize("name", ["", "ModelService", "PredictionService"])
def test_health(server, name):
    stub = health_pb2_grpc.HealthStub(server.channel)
    assert stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=SECONDS).status == (
        SERVING
    )


def test_health_of_an_unknown_service(server):
    stub = health_pb2_grpc.HealthStub(server.channel)
    code, _ = refusal(stub.Check, health_pb2.HealthCheckRequest(service="nobody"))
    assert code == "NOT_FOUND"


def test_reflection_names_the_services(server):
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=SECONDS)
    names = {each.name for each in answer.list_services_response.service}
    assert names >= {
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
        "grpc.health.v1.Health",
    }


def test_reflection_describes_a_message(server):
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    request = reflection_pb2.ServerReflectionRequest(
        file_containing_symbol="tensorflow.serving.PredictionService"
    )
    (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=SECONDS)
    files = b"".join(answer.file_descriptor_response.file_descriptor_proto)
    assert b"PredictRequest" in files


@pytest.mark.parametrize(
    "method",
    [
        "/tensorflow.serving.SessionService/SessionRun",
        "/tensorflow.serving.PredictionService/Unknown",
    ],
)
def test_what_is_not_registered(server, method):
    code, _ = refusal(raw_call(server, method), b"")
    assert code == "UNIMPLEMENTED"


@pytest.mark.differs(
    "bytes that are no message: INVALID_ARGUMENT; the original leaves it to gRPC, INTERNAL"
)
def test_garbage_in_place_of_a_message(server):
    call = raw_call(server, "/tensorflow.serving.PredictionService/Predict")
    code, _ = refusal(call, b"\xff\xff\xff")
    assert code == ("INVALID_ARGUMENT" if server.embedded else "INTERNAL")


def test_messages_beyond_four_mebibytes(server):
    large = b"x" * (5 << 20)
    (answer,) = server.outputs("string", x=[large])["y"]
    assert answer == large


def test_a_deadline_in_the_past(server):
    request = request_for(x=[1.0])
    # Not a moment ahead: gRPC rounds it up to a millisecond, and a server may answer in that time.
    code, _ = refusal(server.prediction.Predict, request, seconds=-1)
    assert code in ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
    assert server.outputs(x=[1.0]) == {"y": [1.5]}
