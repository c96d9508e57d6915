"""Requests that no good client sends, drawn from a seed, and the codes that fit each kind.

A kind is a function from a random generator to an attempt, one of :class:`GrpcCall`,
:class:`RestCall` and :class:`RawBytes`, with the codes that an answer to it may have. Codes that
say "my fault" (INTERNAL, UNKNOWN, 500) are never among them.
"""

import base64
import functools
import gzip
import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf
from PIL import Image
from serving_models import example_of, image_of, input_of, request_for
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    regression_pb2,
)

# The flags that the server under attack has, so that little is enough to be too much.
MAX_MESSAGE_BYTES = 1 << 20
MAX_BODY_BYTES = 1 << 20
MAX_IMAGE_PIXELS = 1_000_000
FLAGS = (
    f"--grpc_max_message_bytes={MAX_MESSAGE_BYTES}",
    f"--rest_api_max_body_bytes={MAX_BODY_BYTES}",
    f"--max_image_pixels={MAX_IMAGE_PIXELS}",
)

_PREDICTION = "/tensorflow.serving.PredictionService"
_MODELS = "/tensorflow.serving.ModelService"
_SHADES = "/v1/models/shades"
_PREDICT = f"{_SHADES}:predict"


@dataclass(frozen=True, slots=True)
class GrpcCall:
    """``cancel``: the caller goes away at once, in place of waiting for the answer."""

    method: str
    payload: bytes
    timeout: float = 30.0
    cancel: bool = False
    compressed: bool = False
    metadata: tuple[tuple[str, str | bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class RestCall:
    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RawBytes:
    """Bytes for a port; ``answered``: one is waited for, else the caller leaves at once."""

    port: str
    data: bytes
    answered: bool = False


Attempt = GrpcCall | RestCall | RawBytes
Maker = Callable[[random.Random], Attempt]


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    make: Maker
    allowed: frozenset[str]
    weight: float


@dataclass(frozen=True, slots=True)
class Hostile:
    kind: Kind
    attempt: Attempt


KINDS: list[Kind] = []


def kind(*allowed: str, weight: float = 1.0) -> Callable[[Maker], Maker]:
    def register(make: Maker) -> Maker:
        name = make.__name__
        KINDS.append(Kind(name, make, frozenset(allowed), weight))
        return make

    return register


def hostile_requests(seed: int) -> Iterator[Hostile]:
    """Without an end; the first ones are one of each kind."""
    draw = random.Random(seed)
    for each in KINDS:
        yield Hostile(each, each.make(draw))
    weights = [each.weight for each in KINDS]
    while True:
        (chosen,) = draw.choices(KINDS, weights)
        yield Hostile(chosen, chosen.make(draw))


# Parts.


def _name(draw: random.Random) -> str:
    letters = ["a", "Z", "0", " ", "/", ":", "%", "\n", "\0", '"', "ä", "模", "🙂", "\u202e", "."]
    return "".join(draw.choices(letters, k=draw.choice([1, 3, 20, 2000])))


def _png(shape: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros(shape, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@functools.cache
def _images() -> tuple[bytes, ...]:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    found = []
    for format, options in (
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("GIF", {}),
        ("BMP", {}),
    ):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format, **options)
        found.append(buffer.getvalue())
    return tuple(found)


@functools.cache
def _bombs() -> tuple[bytes, ...]:
    """Small files that declare more pixels than the server takes, some of which are there."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    found = []
    for width, height in ((30_000, 30_000), ((1 << 31) - 1, (1 << 31) - 1), (1_000_001, 1)):
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        data = chunk(b"IDAT", zlib.compress(bytes(1000)))
        found.append(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b""))
    found.append(_png((2000, 2000)))
    found.append(b"GIF89a" + struct.pack("<HH", 65535, 65535) + _images()[3][10:])
    found.append(_images()[4][:18] + struct.pack("<ii", 40_000, -40_000) + _images()[4][26:])
    frame = _images()[1].index(b"\xff\xc0") + 5
    found.append(_images()[1][:frame] + b"\xff\xff\xff\xff" + _images()[1][frame + 4 :])
    return tuple(found)


def _spoilt_image(draw: random.Random) -> bytes:
    """Cut at any length, or with a few bytes that are others."""
    image = bytearray(draw.choice(_images()))
    if draw.random() < 0.5:
        return bytes(image[: draw.randrange(1, len(image))])
    # The sizes stay as they are: another kind is for those.
    for _ in range(draw.choice([1, 3, 20])):
        image[draw.randrange(50, len(image))] = draw.randrange(256)
    return bytes(image)


def _random_image(draw: random.Random) -> bytes:
    heads = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\0\0\0\0WEBPVP8 "]
    return draw.choice(heads) + draw.randbytes(draw.choice([0, 1, 20, 3000]))


def _mutated(draw: random.Random, message: bytes) -> bytes:
    """A message with bytes that are others, away, twice, or too many."""
    changed = bytearray(message)
    for _ in range(draw.choice([1, 1, 2, 8])):
        place = draw.randrange(len(changed) + 1)
        end = min(len(changed), place + draw.choice([1, 1, 4, 30]))
        how = draw.randrange(4)
        if how == 0:
            changed[place:end] = draw.randbytes(end - place)
        elif how == 1:
            del changed[place:end]
        elif how == 2:
            changed[place:place] = changed[place:end]
        else:
            changed[place:place] = draw.randbytes(draw.choice([1, 5]))
    return bytes(changed)


def _inference(*tasks: tuple[str, str]) -> inference_pb2.MultiInferenceRequest:
    request = inference_pb2.MultiInferenceRequest(input=input_of(example_of(image=3, x=1.0)))
    for signature, method in tasks:
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name = "shades"
        task.model_spec.signature_name = signature
    return request


def _question(request_type: type, model: str = "shades", **fields: object) -> object:
    request = request_type(**fields)
    request.model_spec.name = model
    return request


@functools.cache
def _good_messages() -> tuple[tuple[str, bytes], ...]:
    """Methods and requests that the server answers; nothing among them takes long."""
    example = input_of(example_of(image=3, x=1.0))
    classify = _question(classification_pb2.ClassificationRequest, input=example)
    classify.model_spec.signature_name = "classify"
    regress = _question(regression_pb2.RegressionRequest, input=example)
    regress.model_spec.signature_name = "regress"
    both = _inference(("classify", "classify"), ("regress", "regress"))
    metadata = get_model_metadata_pb2.GetModelMetadataRequest
    status = get_model_status_pb2.GetModelStatusRequest
    found = [
        ("Predict", request_for("divide", x=np.float32([1, 2, 4]))),
        ("Predict", request_for("pair", a=np.ones((2, 3), np.float32), b=np.ones(2, np.float32))),
        ("Predict", request_for("images", images=image_of(200)[None])),
        ("Predict", request_for("", image_bytes=[_images()[0]], outputs=["scores"])),
        ("Predict", request_for("brain_float", x=tf.constant([1.0], tf.bfloat16))),
        ("Predict", request_for("scalar", version=3, x=np.float32(1))),
        ("Classify", classify),
        ("Regress", regress),
        ("MultiInference", both),
        ("GetModelMetadata", _question(metadata, metadata_field=["signature_def"])),
        ("GetModelStatus", _question(status)),
    ]
    return tuple((_path(method), each.SerializeToString()) for method, each in found)


def _path(method: str) -> str:
    service = _MODELS if method in ("GetModelStatus", "HandleReloadConfigRequest") else _PREDICTION
    return f"{service}/{method}"


def _predict(request: object) -> GrpcCall:
    return GrpcCall(_path("Predict"), request.SerializeToString())


# gRPC.

_REFUSED = ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION")


@kind("INVALID_ARGUMENT", weight=4)
def random_payload(draw):
    method, _ = draw.choice(_good_messages())
    return GrpcCall(method, draw.randbytes(draw.choice([0, 1, 10, 300, 10_000])))


# UNIMPLEMENTED is the original's word for a task of MultiInference that is neither of the two.
@kind("OK", "UNIMPLEMENTED", *_REFUSED, weight=12)
def mutated_payload(draw):
    method, message = draw.choice(_good_messages())
    return GrpcCall(method, _mutated(draw, message))


@kind("OK", *_REFUSED, weight=4)
def half_a_payload(draw):
    method, message = draw.choice(_good_messages())
    return GrpcCall(method, message[: draw.randrange(len(message))])


@kind("OK", *_REFUSED, weight=2)
def payload_of_another_method(draw):
    (method, _), (_, message) = draw.choices(_good_messages(), k=2)
    return GrpcCall(method, message)


@kind("INVALID_ARGUMENT", weight=12)
def tensor_that_does_not_fit(draw):
    """For an input [?] of float."""
    tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT)
    sizes = tensor.tensor_shape.dim
    how = draw.randrange(9)
    if how == 0:  # another dtype, its values too
        tensor.dtype = draw.choice([n for n in range(200) if n != types_pb2.DT_FLOAT])
        sizes.add(size=1)
        tensor.tensor_content = draw.randbytes(8)
    elif how == 1:
        for _ in range(draw.choice([0, 2, 3, 8, 64, 65, 254, 255, 300])):
            sizes.add(size=1)
        tensor.float_val.append(1)
    elif how == 2:
        sizes.add(size=-draw.choice([1, 2, 1 << 31, 1 << 63]))
    elif how == 3:  # declared, and not there
        sizes.add(size=draw.choice([1 << 20, 1 << 31, 1 << 32, 1 << 40, (1 << 63) - 1]))
        tensor.float_val.extend([1.0] * draw.choice([0, 1, 2]))
    elif how == 4:
        sizes.add(size=3)
        tensor.tensor_content = draw.randbytes(draw.choice([1, 4, 11, 13, 16, 1000]))
    elif how == 5:  # more values than room
        sizes.add(size=2)
        tensor.float_val.extend([1.0] * draw.choice([3, 1000]))
    elif how == 6:
        tensor.tensor_shape.unknown_rank = True
        tensor.float_val.append(1)
    elif how == 7:  # more rows than a request may bring
        tensor = tf.make_tensor_proto(np.ones(draw.choice([1001, 20_000]), np.float32))
    else:  # more than a number can be: all together overflow
        for _ in range(draw.choice([2, 3, 5])):
            sizes.add(size=(1 << 62) + 1)
        tensor.tensor_content = b"1234"
    return _predict(request_for("divide", x=tensor))


@kind("INVALID_ARGUMENT", weight=4)
def wrong_shape(draw):
    signature = draw.choice(["images", "pair", "unequal", "image_bytes"])
    if signature == "images":
        shape = draw.choice([(8, 8, 3), (1, 8, 8), (1, 8, 8, 1), (1, 9, 8, 3), (1, 0, 0, 3), ()])
        return _predict(request_for("images", images=np.zeros(shape, np.uint8)))
    if signature == "image_bytes":
        shape = draw.choice([(), (1, 1), (2, 0), (1, 1, 1)])
        return _predict(request_for("", image_bytes=np.full(shape, _images()[0], object)))
    a = (2, 2, 2) if signature == "pair" else (3, 2)
    return _predict(request_for("pair", a=np.ones(a, np.float32), b=np.ones(2, np.float32)))


@functools.cache
def _segments() -> bytes:
    """A JPEG that is nothing but the beginnings of its header."""
    return b"\xff\xd8" + b"\xff\xe0\0\x02" * 60_000


@kind("INVALID_ARGUMENT", weight=0.2)
def headers_without_an_end(draw):
    """Each image is within the limit on parts, all together are not."""
    return _predict(request_for("", image_bytes=[_segments()] * 4))


_SHAPES = {
    "": [(1,), (2,), ()],
    "divide": [(1,), (3,), (1, 1)],
    "images": [(1, 8, 8, 3), (2, 8, 8, 3), (8, 8, 3), (1, 8, 8, 1)],
    "brain_float": [(1,), (5,)],
    "scalar": [(), (1,)],
    "ninth_byte": [(1,), (2,)],
    "classify": [(1,), (2,)],
    "regress": [(1,), (2,)],
}
_INPUTS = {"": "image_bytes", "images": "images", "classify": "inputs", "regress": "inputs"}


@kind("OK", "INVALID_ARGUMENT", weight=10)
def random_tensor(draw):
    """Shapes, dtypes and ways to write values that may or may not be a signature's."""
    signature = draw.choice(list(_SHAPES))
    shape = list(draw.choice(_SHAPES[signature]))
    if draw.random() < 0.3:
        sizes = [0, 1, 2, 100, -1, 1 << 20, 1 << 31, 1 << 60]
        shape.insert(draw.randrange(len(shape) + 1), draw.choice(sizes))
    if shape and draw.random() < 0.3:
        shape[draw.randrange(len(shape))] = draw.choice([0, 1, 7, 1000, 1 << 24])
    types = [types_pb2.DT_FLOAT, types_pb2.DT_UINT8, types_pb2.DT_STRING, types_pb2.DT_BFLOAT16]
    tensor = tensor_pb2.TensorProto(dtype=draw.choice([*types, *types, draw.randrange(30)]))
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    many = draw.choice([0, 1, 1, 2, 192])
    for name in draw.sample(
        ["tensor_content", "float_val", "int_val", "string_val", "half_val"], 2
    ):
        if name == "tensor_content":
            tensor.tensor_content = draw.randbytes(many)
        elif name == "string_val":
            tensor.string_val.extend([_spoilt_image(draw)] * min(many, 2))
        else:
            getattr(tensor, name).extend([draw.randrange(300)] * many)
    return _predict(request_for(signature, **{_INPUTS.get(signature, "x"): tensor}))


@kind("OK", "INVALID_ARGUMENT", weight=2)
def strings_that_are_missing(draw):
    """The last one stands for all that are left out, as in the original."""
    tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[_images()[0]])
    tensor.tensor_shape.dim.add(size=draw.choice([0, 2, 5, 1001, 1 << 20, 1 << 30, 1 << 62]))
    if draw.random() < 0.5:
        tensor.ClearField("string_val")
        tensor.tensor_content = draw.randbytes(5)
    return _predict(request_for("", image_bytes=tensor))


@kind("INVALID_ARGUMENT", weight=1)
def values_that_the_model_refuses(draw):
    if draw.random() < 0.5:
        return _predict(request_for("divide", x=np.float32([1, draw.choice([0, np.nan]), 2])))
    texts = [draw.randbytes(draw.randrange(8)) for _ in range(3)]
    return _predict(request_for("ninth_byte", x=np.array(texts, object)))


@kind(*_REFUSED, weight=6)
def unknown_name(draw):
    good = {"x": np.float32([1])}
    name = _name(draw)
    how = draw.randrange(6)
    request = request_for("divide", **good)
    if how == 0:
        request.model_spec.name = name
    elif how == 1:
        request.model_spec.version.value = draw.choice([-1, 0, 2, 1 << 62, -(1 << 63)])
    elif how == 2:
        request.model_spec.version_label = draw.choice(["", name])
    elif how == 3:
        request.model_spec.signature_name = draw.choice(["__saved_model_init_op", name])
    elif how == 4:
        request.inputs[name].CopyFrom(request.inputs["x"])
        if draw.random() < 0.5:
            del request.inputs["x"]
    else:
        request.ClearField("model_spec")
    return _predict(request)


@kind("INVALID_ARGUMENT", weight=1)
def output_filter(draw):
    count = draw.choice([2, 1000, 100_000])
    names = draw.choice([["quotient"] * count, ["quotient", _name(draw)], [""] * count])
    return _predict(request_for("divide", x=np.float32([1]), outputs=names))


@kind("UNIMPLEMENTED", weight=1)
def unknown_method(draw):
    service = draw.choice([_PREDICTION, _MODELS, "", "/tensorflow.serving.SessionService"])
    return GrpcCall(f"{service}/X{draw.randrange(1000)}", draw.randbytes(20))


@kind("RESOURCE_EXHAUSTED", weight=0.3)
def message_that_is_too_large(draw):
    size = MAX_MESSAGE_BYTES + draw.choice([1, 1000, 1 << 20])
    return GrpcCall(draw.choice(_good_messages())[0], bytes(size))


@kind("RESOURCE_EXHAUSTED", weight=0.2)
def message_that_inflates(draw):
    return GrpcCall(_path("Predict"), bytes(draw.choice([2, 30]) << 20), compressed=True)


@kind("OK", "INVALID_ARGUMENT", weight=5)
def spoilt_image(draw):
    return _predict(request_for("", image_bytes=[_spoilt_image(draw)]))


@kind("INVALID_ARGUMENT", weight=3)
def random_image(draw):
    return _predict(request_for("", image_bytes=[_random_image(draw)]))


@kind("INVALID_ARGUMENT", weight=2)
def image_bomb(draw):
    images = [_images()[0], draw.choice(_bombs())]
    return _predict(request_for("", image_bytes=images))


@kind("OK", "UNIMPLEMENTED", *_REFUSED, weight=5)
def odd_examples(draw):
    """Without features, with those of other kinds, with too many values, or none."""
    example = tf.train.Example()
    for key in draw.sample(["image/encoded", "x", "y", _name(draw)], k=draw.randrange(4)):
        feature = example.features.feature[key]
        how = draw.randrange(4)
        if how == 0:
            images = [_spoilt_image(draw), _random_image(draw), draw.choice(_bombs())]
            feature.bytes_list.value.extend(draw.choices(images, k=draw.choice([0, 1, 2])))
        elif how == 1:
            feature.float_list.value.extend([draw.uniform(-9, 9)] * draw.choice([0, 1, 1000]))
        elif how == 2:
            feature.int64_list.value.extend([1] * draw.choice([0, 1, 2]))
    most = 1001 if example.ByteSize() < 500 else 2
    sent = input_of(*[example] * draw.choice([0, 1, 1, 2, most]))
    if draw.random() < 0.2:
        sent = input_of(*sent.example_list.examples, context=example)
    method = draw.choice(["Classify", "Regress", "MultiInference"])
    if method == "MultiInference":
        names = ["classify", "regress", "divide", _name(draw)]
        tasks = [(draw.choice(names), draw.choice(names)) for _ in range(draw.randrange(4))]
        request = _inference(*tasks)
        request.input.CopyFrom(sent)
    else:
        messages = {
            "Classify": classification_pb2.ClassificationRequest,
            "Regress": regression_pb2.RegressionRequest,
        }
        request = _question(messages[method], input=sent)
        names = ["classify", "regress", "", "divide", _name(draw)]
        request.model_spec.signature_name = draw.choice(names)
    return GrpcCall(_path(method), request.SerializeToString())


@kind(*_REFUSED, weight=1)
def odd_question(draw):
    if draw.random() < 0.5:
        kind = get_model_status_pb2.GetModelStatusRequest
        return GrpcCall(_path("GetModelStatus"), _question(kind, _name(draw)).SerializeToString())
    kind = get_model_metadata_pb2.GetModelMetadataRequest
    fields = draw.choice([[], [_name(draw)], ["signature_def", "x"]])
    request = _question(kind, metadata_field=fields)
    return GrpcCall(_path("GetModelMetadata"), request.SerializeToString())


@kind("INVALID_ARGUMENT", weight=1)
def odd_configuration(draw):
    """What would put another model in place of the one that is served is not among these."""
    request = model_management_pb2.ReloadConfigRequest(metric_names=[_name(draw)])
    configs = request.config.model_config_list.config
    how = draw.randrange(4)
    if how == 0:
        request.config.custom_model_config.type_url = "x"
    elif how == 1:
        for _ in range(2):
            configs.add(name="twice", base_path="/nowhere", model_platform="tensorflow")
    elif how == 2:
        configs.add(name="relative", base_path="here", model_platform="tensorflow")
    else:
        configs.add(name=_name(draw), base_path="/nowhere", model_platform=_name(draw))
    return GrpcCall(_path("HandleReloadConfigRequest"), request.SerializeToString())


@kind("OK", "CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", weight=4)
def caller_who_goes(draw):
    request = request_for("", image_bytes=[_images()[0]] * draw.choice([1, 40, 200]))
    message = request.SerializeToString()
    if draw.random() < 0.5:
        return GrpcCall(_path("Predict"), message, cancel=True)
    return GrpcCall(_path("Predict"), message, timeout=draw.choice([1e-6, 0.001, 0.005]))


@kind("OK", "RESOURCE_EXHAUSTED", weight=0.5)
def odd_metadata(draw):
    method, message = draw.choice(_good_messages())
    value = draw.randbytes(draw.choice([0, 10, 5000, 20_000]))
    return GrpcCall(method, message, metadata=(("x-odd-bin", value), ("x-odd", "a" * 100)))


# REST.


def _post(body: bytes, path: str = _PREDICT, **headers: str) -> RestCall:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return RestCall("POST", path, body, named)


def _rows(signature: str, *rows: object) -> bytes:
    return json.dumps({"signature_name": signature, "instances": rows}).encode()


@functools.cache
def _good_bodies() -> tuple[tuple[str, bytes], ...]:
    image = {"b64": base64.b64encode(_images()[0]).decode()}
    example = {"image/encoded": image, "x": 1.0}
    return (
        (_PREDICT, _rows("divide", 1, 2.5, 4)),
        (_PREDICT, _rows("pair", {"a": [1, 2], "b": 3})),
        (_PREDICT, _rows("images", image_of(9).tolist())),
        (_PREDICT, _rows("", image)),
        (_PREDICT, json.dumps({"inputs": {"image_bytes": [image]}}).encode()),
        (
            f"{_SHADES}:classify",
            json.dumps({"signature_name": "classify", "examples": [example]}).encode(),
        ),
        (
            f"{_SHADES}/versions/3:regress",
            json.dumps({"signature_name": "regress", "examples": [{"x": 1.0}]}).encode(),
        ),
    )


@kind("400", weight=4)
def random_body(draw):
    path, _ = draw.choice(_good_bodies())
    return _post(draw.randbytes(draw.choice([0, 1, 20, 5000])), path)


@kind("200", "400", "404", weight=12)
def mutated_body(draw):
    path, body = draw.choice(_good_bodies())
    return _post(_mutated(draw, body), path)


@kind("200", "400", weight=4)
def half_a_body(draw):
    path, body = draw.choice(_good_bodies())
    return _post(body[: draw.randrange(len(body))], path)


@kind("400", weight=3)
def deep_body(draw):
    depth = draw.choice([65, 1000, 100_000])
    opening, closing = draw.choice([("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
    nested = opening * depth + "1" + closing * draw.choice([0, depth])
    return _post(f'{{"instances": {nested}}}'.encode())


@kind("200", "400", weight=4)
def odd_numbers(draw):
    odd = ["NaN", "-Infinity", "1e999", "-1e-999", "9" * 400, "9" * 5000, "0x10", "1_0", "-", "1."]
    odd += ["1" + "0" * 30, "true", "null", "01", "+1", ".5", "1e", "18446744073709551616"]
    signature = draw.choice(["divide", "images", "scalar", "pair", "image_bytes", ""])
    text = ",".join(draw.choices(odd, k=draw.choice([1, 1, 5])))
    return _post(f'{{"signature_name": "{signature}", "instances": [{text}]}}'.encode())


@kind("200", "400", weight=2)
def names_that_come_twice(draw):
    parts = [
        '"instances": [1]',
        '"instances": [[2]]',
        '"inputs": [1]',
        '"signature_name": "divide"',
    ]
    parts += ['"signature_name": 7', '"": {}', '"instances": {}']
    return _post(("{" + ",".join(draw.choices(parts, k=4)) + "}").encode())


@kind("400", weight=3)
def bad_base64(draw):
    texts = ["?", "AA=A", "A", "====", "AAAA AAA", "ä", "\0", "A" * 5]
    values = [{"b64": draw.choice(texts)}, {"b64": 7}, {"b64": None}, {"b64": "AAAA", "b": 1}, {}]
    return _post(_rows("", draw.choice(values)))


@kind("400", weight=3)
def bad_text(draw):
    odd = [rb"\ud800", rb"\udc00\ud800", b"\xff\xfe", b"\xc0\x80", rb"\u12", b"\0", b"\n", rb"\x"]
    text = b"".join(draw.choices(odd, k=draw.choice([1, 3])))
    where = draw.choice(
        [
            b'{"signature_name": "%b", "instances": [1]}',
            b'{"instances": ["%b"]}',
            b'{"instances": [{"%b": 1}]}',
            b'{"%b": 1}',
            b'{"instances": [{"b64": "%b"}]}',
        ]
    )
    return _post(where.replace(b"%b", text))


@kind("400", weight=4)
def odd_image_in_json(draw):
    image = draw.choice([_random_image(draw), draw.choice(_bombs())])
    return _post(_rows("", {"b64": base64.b64encode(image).decode()}))


@kind("200", "400", weight=2)
def spoilt_image_in_json(draw):
    return _post(_rows("", {"b64": base64.b64encode(_spoilt_image(draw)).decode()}))


@kind("200", "400", weight=2)
def odd_rows(draw):
    rows = [[], [[]], [1, [2]], {"a": 1}, None, [None] * 9, [[1], [1, 2]], "x", [True], [{}] * 1001]
    signature = draw.choice(["divide", "images", "pair", "scalar", "classify", ""])
    key = draw.choice(["instances", "inputs", "examples"])
    return _post(json.dumps({"signature_name": signature, key: draw.choice(rows)}).encode())


@functools.cache
def _inflating(megabytes: int) -> bytes:
    return gzip.compress(b" " * (megabytes << 20), mtime=0)


@kind("413", weight=0.5)
def gzip_bomb(draw):
    return _post(_inflating(draw.choice([2, 100])), Content_Encoding="gzip")


@kind("400", weight=2)
def broken_gzip(draw):
    body = gzip.compress(draw.choice(_good_bodies())[1], mtime=0)
    broken = draw.choice([body[: draw.randrange(1, len(body))], body + b"x", draw.randbytes(50)])
    return _post(broken, Content_Encoding=draw.choice(["gzip", "GZIP", "x-gzip"]))


@kind("415", weight=0.5)
def other_encoding(draw):
    return _post(b"{}", Content_Encoding=draw.choice(["br", "deflate", "zstd", "x" * 2000]))


@kind("413", weight=0.3)
def body_that_is_too_large(draw):
    return _post(b" " * (MAX_BODY_BYTES + draw.choice([1, 1 << 20])))


@kind("400", "404", "200", weight=4)
def odd_path(draw):
    parts = ["v1", "models", "shades", "versions", "labels", "3", "9" * 30, "..", "%2e%2e", "%ff"]
    parts += ["%00", "%", "%zz", "a" * 3000, "metadata", "shades:predict", ":predict", "?x=1", ""]
    path = "/" + "/".join(draw.choices(parts, k=draw.randrange(1, 7)))
    if draw.random() < 0.5:
        path = f"{_SHADES}/{path}"
    return RestCall(draw.choice(["GET", "POST"]), path, b"{}")


@kind("400", "404", "405", weight=1)
def odd_http_method(draw):
    method = draw.choice(["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "QUERY", "BREW"])
    return RestCall(method, draw.choice([_PREDICT, _SHADES, "/", "/healthz"]), b"{}")


@kind("404", weight=1)
def unknown_model_in_path(draw):
    return _post(
        b'{"instances": [1]}',
        draw.choice(
            [
                "/v1/models/nothing:predict",
                f"{_SHADES}/versions/{draw.randrange(4, 1 << 62)}:predict",
            ]
        ),
    )


# Bytes on the ports. What comes back differs; that the server stays is what counts.

_NOTHING = ("closed", "silent")
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
_TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32)


def _frame(draw: random.Random) -> bytes:
    """An HTTP/2 frame of any kind, for any stream, whose length may be a lie."""
    content = draw.randbytes(draw.choice([0, 1, 8, 100]))
    length = draw.choice([len(content), len(content), 0, 1 << 14, (1 << 24) - 1])
    kind, flags = draw.choice([*range(10), 255]), draw.choice([0, 1, 4, 5, 0x25, 0xFF])
    stream = draw.choice([0, 1, 2, 3, (1 << 31) - 1])
    return length.to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + content


@kind(*_NOTHING, "answered", "400", weight=2)  # 400: HTTP/1 is told so
def raw_grpc(draw):
    http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    frames = _PREFACE + _SETTINGS + b"".join(_frame(draw) for _ in range(draw.choice([1, 5])))
    starts = [
        _PREFACE[: draw.randrange(1, len(_PREFACE))],
        _PREFACE,
        _PREFACE + _SETTINGS[: draw.randrange(len(_SETTINGS))],
        _PREFACE + draw.randbytes(100),
        frames,
        frames,
        _TLS_HELLO,
        http,
        draw.randbytes(draw.choice([1, 30, 3000])),
    ]
    return RawBytes("grpc", draw.choice(starts))


@kind(*_NOTHING, weight=2)
def caller_who_leaves_a_body(draw):
    """In the head of a request, in its body, or before the answer."""
    _, body = draw.choice(_good_bodies())
    head = f"POST {_PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    whole = head + body
    return RawBytes("rest", whole[: draw.choice([draw.randrange(len(whole)), len(whole)])])


@kind("400", "closed", weight=1)
def odd_head(draw):
    start = f"POST {_PREDICT} HTTP/1.1\r\nHost: x\r\n".encode()
    heads = [
        start + b"X: " + b"a" * 20_000 + b"\r\n\r\n",
        start + b"X: a\r\n" * 2000 + b"\r\n",
        start + b"Content-Length: -1\r\n\r\n",
        start + b"Content-Length: 1e3\r\n\r\n",
        start + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        start + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        start + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
        start + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        start + b"No colon here\r\n\r\n",
        start + b" : x\r\n\r\n",
        start + b"X\0: a\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
        _TLS_HELLO,
        _PREFACE + _SETTINGS,
        b"\0" * 100,
    ]
    return RawBytes("rest", draw.choice(heads), answered=True)


@kind(*_NOTHING, weight=1)
def random_bytes_for_rest(draw):
    return RawBytes("rest", draw.randbytes(draw.choice([1, 30, 3000])))
