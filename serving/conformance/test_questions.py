"""GetModelMetadata, GetModelStatus, version policies and labels."""

import pytest
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from serving.conformance.asking import SECONDS, fill_spec, refusal, request_for
from serving.conformance.models import DATA_TYPES

FLOAT, STRING = 1, 7


def metadata_request(*fields, **which):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    fill_spec(request.model_spec, which.pop("model", "numbers"), **which)
    return request


def status_request(model, **which):
    request = get_model_status_pb2.GetModelStatusRequest()
    fill_spec(request.model_spec, model, **which)
    return request


def test_metadata(server):
    response = server.prediction.GetModelMetadata(
        metadata_request("signature_def"), timeout=SECONDS
    )
    spec = response.model_spec
    assert (spec.name, spec.version.value) == ("numbers", 1)
    assert list(response.metadata) == ["signature_def"]
    found = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(found)
    assert set(found.signature_def) >= {"serving_default", "classify", "regress", *DATA_TYPES}
    default = found.signature_def["serving_default"]
    assert default.method_name == "tensorflow/serving/predict"
    assert default.inputs["x"].dtype == FLOAT
    assert [dim.size for dim in default.inputs["x"].tensor_shape.dim] == [-1]
    assert found.signature_def["classify"].method_name == "tensorflow/serving/classify"
    assert found.signature_def["classify"].inputs["inputs"].dtype == STRING


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ((), "GetModelMetadataRequest must specify at least one metadata_field"),
        (("labels",), "Metadata field labels is not supported"),
        (("signature_def", "labels"), "Metadata field labels is not supported"),
    ],
)
def test_metadata_of_another_field(server, fields, text):
    found = refusal(server.prediction.GetModelMetadata, metadata_request(*fields))
    assert found == ("INVALID_ARGUMENT", text)


def test_metadata_of_what_is_not_there(server):
    call = server.prediction.GetModelMetadata
    empty = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    assert refusal(call, empty) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    found = refusal(call, metadata_request("signature_def", model="nobody"))
    assert found == ("NOT_FOUND", "Servable not found for request: Latest(nobody)")


def test_status(server):
    answer = server.model.GetModelStatus(status_request("numbers"), timeout=SECONDS)
    (version,) = answer.model_version_status
    assert (version.version, version.state) == (1, 30)
    assert (version.status.error_code, version.status.error_message) == (0, "")


def test_status_of_what_is_not_there(server):
    call = server.model.GetModelStatus
    found = refusal(call, get_model_status_pb2.GetModelStatusRequest())
    assert found == ("INVALID_ARGUMENT", "Missing ModelSpec")
    found = refusal(call, status_request("nobody"))
    assert found == ("NOT_FOUND", "Could not find any versions of model nobody")
    found = refusal(call, status_request("numbers", version=9))
    assert found == ("NOT_FOUND", "Could not find version 9 of model numbers")


def test_status_of_one_version_and_by_a_label(server):
    def versions(**which):
        answer = server.model.GetModelStatus(status_request("chosen", **which), timeout=SECONDS)
        return sorted(each.version for each in answer.model_version_status)

    assert versions(version=1) == [1]
    assert versions(label="stable") == [1, 3]  # labels are ignored here
    assert versions(label="nothing") == [1, 3]


@pytest.mark.parametrize(
    ("model", "versions"),
    [("numbers", [1]), ("latest_two", [2, 3]), ("every", [1, 2]), ("chosen", [1, 3])],
)
def test_version_policies(server, model, versions):
    available = [version for version, state in server.states(model).items() if state == "AVAILABLE"]
    assert sorted(available) == versions
    assert server.predict(model=model, x=[0.0]).model_spec.version.value == versions[-1]
    for version in versions:
        assert server.outputs(model=model, version=version, x=[0.0]) == {"y": [float(version)]}


def test_a_version_that_the_policy_leaves_out(server):
    for model, version in (("latest_two", 1), ("chosen", 2)):
        found = refusal(
            server.prediction.Predict, request_for(model=model, version=version, x=[0.0])
        )
        wanted = f"Specific({model}, {version})"
        assert found == ("NOT_FOUND", f"Servable not found for request: {wanted}")


@pytest.mark.parametrize(("label", "version"), [("stable", 1), ("canary", 3)])
def test_labels(server, label, version):
    response = server.predict(model="chosen", label=label, x=[0.0])
    assert response.outputs["y"].float_val[0] == version
    assert response.model_spec.version.value == version
    assert response.model_spec.version_label == ""


def test_an_unknown_label(server):
    found = refusal(server.prediction.Predict, request_for(model="chosen", label="best", x=[0.0]))
    assert found == ("INVALID_ARGUMENT", "Unrecognized servable version label: best")
