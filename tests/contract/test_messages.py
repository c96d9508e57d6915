"""Our messages are TensorFlow Serving's on the wire, and live beside it in one process."""

import subprocess
import sys

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor

from keras_cls.contract import messages
from keras_cls.contract.protos.compile import COMPILED, compiled_messages

BOTH_ORDERS = [
    ["keras_cls.contract.messages", "tensorflow", "tensorflow_serving.apis.predict_pb2"],
    ["tensorflow_serving.apis.predict_pb2", "tensorflow", "keras_cls.contract.messages"],
    ["tensorflow", "keras_cls.contract.messages", "tensorflow_serving.apis.prediction_log_pb2"],
]


def test_messages_binpb_is_up_to_date():
    assert COMPILED.read_bytes() == compiled_messages(), "run `make protos`"


@pytest.mark.parametrize("modules", BOTH_ORDERS, ids=lambda names: "-".join(names))
def test_messages_live_beside_tensorflow_in_any_order(modules):
    code = f"""
import importlib
for name in {modules}:
    importlib.import_module(name)
from keras_cls.contract import messages
from tensorflow_serving.apis import predict_pb2
ours = messages.PredictRequest()
ours.inputs["x"].float_val.append(1.5)
theirs = predict_pb2.PredictRequest.FromString(ours.SerializeToString())
assert theirs.inputs["x"].float_val == [1.5]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_contract_does_not_import_tensorflow():
    code = """
import sys
import keras_cls.contract.messages, keras_cls.contract.tensors
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def original_messages() -> dict[str, Descriptor]:
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_management_pb2,
        predict_pb2,
        prediction_log_pb2,
    )

    roots = [
        *(predict_pb2.PredictRequest, predict_pb2.PredictResponse),
        *(get_model_metadata_pb2.GetModelMetadataRequest, get_model_metadata_pb2.SignatureDefMap),
        get_model_metadata_pb2.GetModelMetadataResponse,
        *(get_model_status_pb2.GetModelStatusRequest, get_model_status_pb2.GetModelStatusResponse),
        prediction_log_pb2.PredictionLog,
        *(model_management_pb2.ReloadConfigRequest, model_management_pb2.ReloadConfigResponse),
    ]
    found: dict[str, Descriptor] = {}
    waiting = [root.DESCRIPTOR for root in roots]
    while waiting:
        descriptor = waiting.pop()
        if descriptor.full_name not in found:
            found[descriptor.full_name] = descriptor
            waiting.extend(f.message_type for f in descriptor.fields if f.message_type)
    return found


# The pip package lacks them; they are read as text alone.
TEXT_ALONE = {"SSLConfig", "MonitoringConfig", "PrometheusConfig", "BatchingParameters"}
TEXT_ALONE |= {"StringValue", "BoolValue"}  # theirs alone


def our_messages() -> dict[str, Descriptor]:
    found = {}
    for value in vars(messages).values():
        descriptor = getattr(value, "DESCRIPTOR", None)
        waiting = [descriptor] if isinstance(descriptor, Descriptor) else []
        while waiting:
            descriptor = waiting.pop()
            if descriptor.full_name not in found:
                found[descriptor.full_name] = descriptor
                waiting.extend(f.message_type for f in descriptor.fields if f.message_type)
    return {name: kind for name, kind in found.items() if kind.name not in TEXT_ALONE}


def enum_values(enum: EnumDescriptor | None) -> dict[int, str]:
    return {value.number: value.name for value in enum.values} if enum else {}


@pytest.mark.parametrize("name", sorted(our_messages()))
def test_every_field_is_the_original_s(name):
    ours, theirs = our_messages()[name], original_messages()[name]
    for field in ours.fields:
        original = theirs.fields_by_number[field.number]
        assert field.name == original.name
        assert field.type == original.type
        assert field.is_repeated == original.is_repeated
        assert field.is_packed == original.is_packed
        assert field.json_name == original.json_name
        oneof, original_oneof = field.containing_oneof, original.containing_oneof
        assert getattr(oneof, "name", None) == getattr(original_oneof, "name", None)
        if field.message_type:
            assert field.message_type.full_name == original.message_type.full_name
        if field.enum_type:
            assert field.enum_type.full_name == original.enum_type.full_name
            known = enum_values(field.enum_type)
            assert known.items() <= enum_values(original.enum_type).items()


def test_requests_cross_over_both_ways():
    from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

    theirs = predict_pb2.PredictRequest(output_filter=["scores"])
    theirs.model_spec.name = "pets"
    theirs.model_spec.version.value = 7
    theirs.inputs["image_bytes"].string_val.append(b"\xff\xd8")
    ours = messages.PredictRequest.FromString(theirs.SerializeToString())
    assert ours.model_spec.version.value == 7
    assert ours.model_spec.WhichOneof("version_choice") == "version"
    assert ours.inputs["image_bytes"].string_val == [b"\xff\xd8"]
    assert predict_pb2.PredictRequest.FromString(ours.SerializeToString()) == theirs

    response = messages.GetModelMetadataResponse()
    definitions = messages.SignatureDefMap()
    definitions.signature_def["serving_default"].method_name = "tensorflow/serving/predict"
    response.metadata["signature_def"].Pack(definitions)
    read = get_model_metadata_pb2.GetModelMetadataResponse.FromString(response.SerializeToString())
    unpacked = get_model_metadata_pb2.SignatureDefMap()
    assert read.metadata["signature_def"].Unpack(unpacked)
    assert "serving_default" in unpacked.signature_def


def test_fields_we_do_not_know_survive():
    from tensorflow_serving.apis import prediction_log_pb2

    log = prediction_log_pb2.PredictionLog()
    log.session_run_log.request.model_spec.name = "pets"
    ours = messages.PredictionLog.FromString(log.SerializeToString())
    assert ours.WhichOneof("log_type") is None
    assert ours.SerializeToString() == log.SerializeToString()
