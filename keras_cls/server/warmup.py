"""Replay the requests that a SavedModel brings along, so that no user waits for the first run."""

from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from google.protobuf.unknown_fields import UnknownFieldSet  # type: ignore[import-untyped]

from keras_cls.contract import WARMUP_FILE
from keras_cls.contract.messages import Message, PredictionLog
from keras_cls.errors import ConfigError
from keras_cls.server.arguments import check_whole
from keras_cls.server.inference import (
    check_tasks,
    classification_call,
    classification_result,
    find_signature,
    multi_inference_response,
    read_examples,
    regression_call,
    regression_result,
    task_calls,
)
from keras_cls.server.loading import ServableModel
from keras_cls.server.predict import PredictCall, read_predict_request
from keras_cls.server.status import Code, RequestError

MAX_RECORDS = 1000

# Kinds of log that PredictionLog has and no warm-up can run, by their field number.
_UNSUPPORTED_LOGS = {5: "session_run_log", 7: "predict_streamed_log"}


def warm_up(model: ServableModel, iterations: int = 1) -> int:
    """Run every request in the model's warm-up file, if it has one, and say how many there were.

    Args:
        model: the model, and with it the folder.
        iterations: how many times each request is run.

    Raises:
        ConfigError: the file is damaged, too long, or a request in it fails. A model that cannot
            answer its own examples is not to be served.
    """
    check_whole("iterations", iterations, 1)
    path = model.path / WARMUP_FILE
    if not path.is_file():
        return 0
    records = _read_records(path)
    for number, record in enumerate(records, start=1):
        try:
            log = PredictionLog.FromString(record)
            for _ in range(iterations):
                _replay(log, model)
        except DecodeError as error:
            raise ConfigError(f"{path}: record {number} is no PredictionLog message") from error
        except RequestError as error:
            raise ConfigError(
                f"{path}: record {number} fails: {error.code.name}: {error.message}"
            ) from error
    return len(records)


def _replay(log: Message, model: ServableModel) -> None:
    """Answer the request of a ``PredictionLog`` (RequestError), and forget the answer."""
    kind = log.WhichOneof("log_type")
    if kind is None:
        raise _unsupported(log)
    request = getattr(log, kind).request
    if kind == "predict_log":
        _run(model, read_predict_request(request, model.signatures))
        return
    if kind == "multi_inference_log":
        check_tasks(request)
        examples = read_examples(request.input)
        calls = task_calls(request, model.signatures, examples)
        outputs = [_run(model, call) for call in calls]
        multi_inference_response(request, model.version, outputs, len(examples))
        return
    signature = find_signature(model.signatures, request.model_spec.signature_name)
    examples = read_examples(request.input)
    if kind == "classify_log":
        call = classification_call(signature, examples)
        classification_result(_run(model, call), len(examples))
    else:
        call = regression_call(signature, examples)
        regression_result(_run(model, call), len(examples))


def _run(model: ServableModel, call: PredictCall) -> dict:
    return model.run(call.signature, call.inputs, call.outputs)


def _unsupported(log: Message) -> RequestError:
    numbers = {field.field_number for field in UnknownFieldSet(log)}
    for number, name in _UNSUPPORTED_LOGS.items():
        if number in numbers:
            return RequestError(
                Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {number} ({name})"
            )
    return RequestError(Code.INVALID_ARGUMENT, "the PredictionLog holds no request")


def _read_records(path: Path) -> list[bytes]:
    try:
        records = list(tf.data.TFRecordDataset(str(path)).take(MAX_RECORDS + 1).as_numpy_iterator())
    except tf.errors.OpError as error:
        raise ConfigError(f"{path}: damaged: {error.message}") from error
    if len(records) > MAX_RECORDS:
        raise ConfigError(
            f"{path}: more than {MAX_RECORDS} records; a warm-up file should hold a few"
        )
    return records
