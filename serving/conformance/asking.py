"""Ask a server as its users do: with the stubs of tensorflow-serving-api, and over plain HTTP."""

import http.client
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

from serving.conformance.models import MODEL_CONFIG

METRICS_PATH = "/monitoring/prometheus/metrics"
SECONDS = 30.0
"""For a call; a server that has not answered by then hangs."""


@dataclass(frozen=True)
class HttpAnswer:
    status: int
    text: str
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True)
class Server:
    """A server by its addresses.

    ``kind`` is ``embedded`` or ``original``; ``folder`` is None where the suite cannot write into
    the models' folder.
    """

    kind: str
    grpc_address: str
    rest_address: str
    folder: Path | None
    channel: grpc.Channel = field(init=False)
    prediction: Any = field(init=False)
    model: Any = field(init=False)

    def __post_init__(self) -> None:
        unlimited = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        ]
        channel = grpc.insecure_channel(self.grpc_address, unlimited)
        object.__setattr__(self, "channel", channel)
        prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        object.__setattr__(self, "prediction", prediction)
        object.__setattr__(self, "model", model_service_pb2_grpc.ModelServiceStub(channel))

    @property
    def embedded(self) -> bool:
        return self.kind == "embedded"

    def predict(self, *arguments: Any, **options: Any) -> Any:
        """The response to :func:`request_for`."""
        return self.prediction.Predict(request_for(*arguments, **options), timeout=SECONDS)

    def outputs(self, *arguments: Any, **options: Any) -> dict[str, list[Any]]:
        """The outputs of a prediction as lists."""
        response = self.predict(*arguments, **options)
        return {alias: tf.make_ndarray(t).tolist() for alias, t in response.outputs.items()}

    def http(
        self,
        method: str,
        path: str,
        body: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpAnswer:
        """The answer to an HTTP request, whatever its code."""
        connection = http.client.HTTPConnection(self.rest_address, timeout=SECONDS)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return HttpAnswer(answer.status, answer.read().decode(), dict(answer.getheaders()))
        finally:
            connection.close()

    def rest(self, path: str, document: Any = None) -> HttpAnswer:
        """POST a document to ``/v1/models/PATH``, or GET it where there is none."""
        if document is None:
            return self.http("GET", f"/v1/models/{path}")
        body = document if isinstance(document, str) else json.dumps(document)
        return self.http("POST", f"/v1/models/{path}", body)

    def states(self, model: str) -> dict[int, str]:
        """The states of a model's versions; none for a model that was never known."""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        try:
            answer = self.model.GetModelStatus(request, timeout=SECONDS)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return {}
            raise
        names = get_model_status_pb2.ModelVersionStatus.State.Name
        return {each.version: names(each.state) for each in answer.model_version_status}

    def metrics(self) -> str:
        """The Prometheus page."""
        answer = self.http("GET", METRICS_PATH)
        assert answer.status == 200, answer.text
        return answer.text

    def counter(self, name: str, **labels: str) -> float:
        """The sum of a metric's points that have these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        total = 0.0
        for line in self.metrics().splitlines():
            if line.startswith((f"{name}{{", f"{name} ")) and all(pair in line for pair in wanted):
                total += float(line.rpartition(" ")[2])
        return total


def request_for(
    signature: str = "",
    model: str = "numbers",
    version: int | None = None,
    label: str | None = None,
    outputs: Iterable[str] = (),
    **inputs: Any,
) -> predict_pb2.PredictRequest:
    """A request to predict; inputs are lists, arrays or ``TensorProto`` messages."""
    request = predict_pb2.PredictRequest(output_filter=outputs)
    fill_spec(request.model_spec, model, signature, version, label)
    for alias, value in inputs.items():
        if not isinstance(value, tensor_pb2.TensorProto):
            value = tf.make_tensor_proto(value, None if _has_type(value) else tf.float32)
        request.inputs[alias].CopyFrom(value)
    return request


def fill_spec(
    spec: Any, model: str, signature: str = "", version: int | None = None, label: str | None = None
) -> None:
    spec.name = model
    spec.signature_name = signature
    if version is not None:
        spec.version.value = version
    if label is not None:
        spec.version_label = label


def example_input(*numbers: float, context: float | None = None) -> input_pb2.Input:
    """Examples with the feature ``x``; those of NaN have none."""
    examples = [_example(number) for number in numbers]
    if context is None:
        return input_pb2.Input(example_list=input_pb2.ExampleList(examples=examples))
    with_context = input_pb2.ExampleListWithContext(examples=examples, context=_example(context))
    return input_pb2.Input(example_list_with_context=with_context)


def classification(
    signature: str, *numbers: float, **others: Any
) -> classification_pb2.ClassificationRequest:
    request = classification_pb2.ClassificationRequest()
    fill_spec(request.model_spec, "numbers", signature)
    request.input.CopyFrom(example_input(*numbers, **others))
    return request


def regression(signature: str, *numbers: float, **others: Any) -> regression_pb2.RegressionRequest:
    request = regression_pb2.RegressionRequest()
    fill_spec(request.model_spec, "numbers", signature)
    request.input.CopyFrom(example_input(*numbers, **others))
    return request


def tasks(
    *wanted: tuple[str, str], model: str = "numbers", numbers: Iterable[float] = (1.0,)
) -> inference_pb2.MultiInferenceRequest:
    """Tasks of (signature, method)."""
    request = inference_pb2.MultiInferenceRequest()
    request.input.CopyFrom(example_input(*numbers))
    for signature, method in wanted:
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        fill_spec(task.model_spec, model, signature)
    return request


def refusal(call: Callable[..., Any], request: Any, seconds: float = SECONDS) -> tuple[str, str]:
    """Code and text with which a gRPC call is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=seconds)
    return caught.value.code().name, caught.value.details()


def configuration(folder: Path) -> Any:
    """The ``ModelServerConfig`` with which the server was started."""
    text = (folder / MODEL_CONFIG).read_text()
    return text_format.Parse(text, model_server_config_pb2.ModelServerConfig())


def reload_request(config: Any, *metrics: str) -> model_management_pb2.ReloadConfigRequest:
    return model_management_pb2.ReloadConfigRequest(config=config, metric_names=metrics)


def until(what: Callable[[], bool], seconds: float = 15.0) -> None:
    """Wait until something is so; polling for versions takes the server a second or two."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"not so after {seconds:g} s"
        time.sleep(0.05)


def _has_type(value: Any) -> bool:
    """Whether it is an array or a list of text, truth values or bytes."""
    first = value
    while isinstance(first, list):
        first = first[0] if first else 0.0
    return hasattr(first, "dtype") or isinstance(first, str | bytes | bool)


def _example(number: float) -> tf.train.Example:
    example = tf.train.Example()
    if number == number:
        example.features.feature["x"].float_list.value.append(number)
    return example
