"""The messages of the Open Inference Protocol (V2) that KServe and MLServer speak over gRPC.

Only the fields that the benchmark needs; what else an answer holds is skipped.
"""

import struct
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

METHOD = "/inference.GRPCInferenceService/ModelInfer"

_FIELD = descriptor_pb2.FieldDescriptorProto
_TENSOR = {
    "name": (1, _FIELD.TYPE_STRING, False),
    "datatype": (2, _FIELD.TYPE_STRING, False),
    "shape": (3, _FIELD.TYPE_INT64, True),
    "contents": (5, ".inference.Contents", False),
}
_MESSAGES = {
    "Contents": {
        "fp32_contents": (6, _FIELD.TYPE_FLOAT, True),
        "bytes_contents": (8, _FIELD.TYPE_BYTES, True),
    },
    "Tensor": _TENSOR,
    "ModelInferRequest": {
        "model_name": (1, _FIELD.TYPE_STRING, False),
        "inputs": (5, ".inference.Tensor", True),
        "raw_input_contents": (7, _FIELD.TYPE_BYTES, True),
    },
    "ModelInferResponse": {
        "outputs": (5, ".inference.Tensor", True),
        "raw_output_contents": (6, _FIELD.TYPE_BYTES, True),
    },
}


def request(model: str, photo: bytes) -> bytes:
    """A ``ModelInferRequest`` about one photo, a tensor of bytes."""
    message = _message("ModelInferRequest")(model_name=model)
    tensor = message.inputs.add(name="image", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(photo)
    return message.SerializeToString()


def read_answer(answer: bytes) -> tuple[list[str], list[float]]:
    """Classes and scores of a ``ModelInferResponse``."""
    message = _message("ModelInferResponse").FromString(answer)
    classes: list[bytes] = []
    scores: list[float] = []
    for place, output in enumerate(message.outputs):
        raw = message.raw_output_contents[place] if message.raw_output_contents else b""
        if output.datatype == "BYTES":
            classes = list(output.contents.bytes_contents) or _raw_bytes(raw)
        else:
            scores = list(output.contents.fp32_contents)
            scores = scores or list(struct.unpack(f"<{len(raw) // 4}f", raw))
    return [name.decode() for name in classes], scores


def _raw_bytes(raw: bytes) -> list[bytes]:
    found, place = [], 0
    while place < len(raw):
        (length,) = struct.unpack_from("<I", raw, place)
        found.append(raw[place + 4 : place + 4 + length])
        place += 4 + length
    return found


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="open_inference.proto", package="inference", syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = _FIELD.TYPE_MESSAGE, kind
            else:
                added.type = kind
    return file


_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_file())


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"inference.{name}"))
