"""SavedModels small enough to make in a test, with the contract's signatures and some odd ones."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    input_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from keras_cls.contract import METHOD_CLASSIFY, METHOD_REGRESS, MODEL_FILE

LABELS = ["dark", "medium", "bright"]
SIDE = 8


class TestModel(tf.Module):
    """Tells dark images from bright ones, and does what the server's tests need."""

    __test__ = False

    def __init__(self) -> None:
        super().__init__()
        self.labels = tf.constant(LABELS)
        self.sharpness = tf.Variable(4.0)

    @tf.function(input_signature=[tf.TensorSpec([None, SIDE, SIDE, 3], tf.uint8, name="images")])
    def images(self, images):
        images = tf.ensure_shape(images, [None, SIDE, SIDE, 3])
        return {"probabilities": self._probabilities(images)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def probabilities(self, image_bytes):
        return {"probabilities": self._probabilities(self._decode(image_bytes))}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serving_default(self, image_bytes):
        scores, best = tf.math.top_k(self._probabilities(self._decode(image_bytes)), k=3)
        return {"classes": tf.gather(self.labels, best), "scores": scores}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def divide(self, x):
        """1 / x; zeros make the whole run fail. batch_rows: how many rows were run together."""
        x = tf.ensure_shape(x, [None])
        quotient = tf.debugging.check_numerics(1 / x, "division by zero")
        return {"quotient": quotient, "batch_rows": tf.fill(tf.shape(x), tf.size(x))}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.float32, name="a"),
            tf.TensorSpec([None], tf.float32, name="b"),
        ]
    )
    def pair(self, a, b):
        rows = tf.fill(tf.shape(b), tf.size(b))
        return {"total": tf.reduce_sum(a, axis=1) + b, "batch_rows": rows}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float64, name="seconds")])
    def wait(self, seconds):
        end = tf.timestamp() + tf.reduce_max(seconds)
        tf.while_loop(lambda: tf.timestamp() < end, lambda: (), ())
        with tf.control_dependencies([end]):
            return {"waited": tf.identity(seconds), "batch_rows": tf.fill([1], tf.size(seconds))}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="x")])
    def ninth_byte(self, x):
        """Fails for shorter strings, with a message that quotes them."""
        return {"y": tf.strings.substr(x, 8, 1)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="x")])
    def scalar(self, x):
        return {"y": x + 1}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.bfloat16, name="x")])
    def brain_float(self, x):
        return {"y": x * 2}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(self, inputs):
        """Serialized tf.Examples with an encoded image."""
        features = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
        return self.serving_default(tf.io.parse_example(inputs, features)["image/encoded"])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def regress(self, inputs):
        """Serialized tf.Examples with a number x; 100 x + y, where y is 0 by default."""
        x = tf.io.FixedLenFeature([1], tf.float32)
        y = tf.io.FixedLenFeature([1], tf.float32, default_value=[0.0])
        parsed = tf.io.parse_example(inputs, {"x": x, "y": y})
        return {"outputs": 100 * parsed["x"] + parsed["y"]}

    def _decode(self, image_bytes):
        def decode(encoded):
            image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
            image.set_shape([None, None, 3])
            return tf.cast(tf.image.resize(image, [SIDE, SIDE]), tf.uint8)

        flat = tf.ensure_shape(image_bytes, [None])
        return tf.map_fn(decode, flat, fn_output_signature=tf.TensorSpec([SIDE, SIDE, 3], tf.uint8))

    def _probabilities(self, images):
        brightness = tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2, 3]) / 255
        centres = tf.constant([0.0, 0.5, 1.0])
        return tf.nn.softmax(-self.sharpness * tf.abs(brightness[:, None] - centres))


SIGNATURES = (
    *("serving_default", "probabilities", "images"),
    *("divide", "pair", "wait", "scalar", "brain_float", "ninth_byte"),
    *("classify", "regress"),
)
METHODS = {"classify": METHOD_CLASSIFY, "regress": METHOD_REGRESS}


def save_test_model(folder: Path, **others: str) -> Path:
    """Save the model as a version's folder; ``others`` gives signatures another one's function."""
    model = TestModel()
    signatures = {name: getattr(model, others.get(name, name)) for name in SIGNATURES}
    tf.saved_model.save(model, str(folder), signatures=signatures)
    _declare_methods(folder / MODEL_FILE)
    return folder


def _declare_methods(file: Path) -> None:
    """TensorFlow 2 declares every signature to be for Predict."""
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for name, method in METHODS.items():
        saved.meta_graphs[0].signature_def[name].method_name = method
    file.write_bytes(saved.SerializeToString())


def example_of(**features) -> tf.train.Example:
    """A tf.Example of bytes and floats; ``image=3`` is an encoded image of this brightness."""
    example = tf.train.Example()
    if "image" in features:
        encoded = tf.io.encode_png(image_of(features.pop("image"))).numpy()
        example.features.feature["image/encoded"].bytes_list.value.append(encoded)
    for key, value in features.items():
        example.features.feature[key].float_list.value.append(value)
    return example


def input_of(*examples, context=None) -> input_pb2.Input:
    """TensorFlow Serving's own Input."""
    if context is None:
        return input_pb2.Input(example_list=input_pb2.ExampleList(examples=examples))
    with_context = input_pb2.ExampleListWithContext(examples=examples, context=context)
    return input_pb2.Input(example_list_with_context=with_context)


def image_of(brightness: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), brightness, np.uint8)


def stubs_for(address: str) -> SimpleNamespace:
    """TensorFlow Serving's own stubs on a channel."""
    channel = grpc.insecure_channel(
        address, [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    )
    return SimpleNamespace(
        channel=channel,
        prediction=prediction_service_pb2_grpc.PredictionServiceStub(channel),
        model=model_service_pb2_grpc.ModelServiceStub(channel),
    )


def request_for(signature="", model="shades", version=None, outputs=(), **inputs):
    """A PredictRequest of TensorFlow Serving's own; inputs are arrays, lists or TensorProtos."""
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    for alias, value in inputs.items():
        if not isinstance(value, tensor_pb2.TensorProto):
            value = tf.make_tensor_proto(value)
        request.inputs[alias].CopyFrom(value)
    return request


def refusal(stubs, request, timeout=10):
    """The code and the text with which a Predict call is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        stubs.prediction.Predict(request, timeout=timeout)
    return caught.value.code().name, caught.value.details()


@dataclass
class ServerProcess:
    process: subprocess.Popen
    address: str
    lines: list[str]


@contextmanager
def server_process(base_path: Path, port: int = 0, grace: float = 10.0) -> Iterator[ServerProcess]:
    """`serve` in a process of its own, ready when entered; killed at the end if still there."""
    code = f"""
import logging
logging.basicConfig()
from keras_cls.server import serve
serve({str(base_path)!r}, host="127.0.0.1", port={port}, grace={grace})
print("returned", flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(process.stderr), daemon=True)
    reader.start()
    try:
        ready = process.stdout.readline()
        assert ready.startswith("serving "), "".join(errors)
        yield ServerProcess(process, ready.split(" on ")[1].strip(), errors)
    finally:
        process.kill()
        process.wait()
        reader.join(5)
        process.stdout.close()
        process.stderr.close()
