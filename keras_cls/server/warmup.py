"""Replay the requests that a SavedModel brings along, so that no user waits for the first run."""

from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from keras_cls.contract import WARMUP_FILE
from keras_cls.contract.messages import PredictionLog
from keras_cls.errors import ConfigError
from keras_cls.server.loading import LoadedModel
from keras_cls.server.predict import read_predict_request
from keras_cls.server.status import RequestError

MAX_RECORDS = 1000


def warm_up(model: LoadedModel) -> int:
    """Run every request in the model's warm-up file, if it has one, and say how many there were.

    Raises:
        ConfigError: the file is damaged, too long, or a request in it fails. A model that cannot
            answer its own examples is not to be served.
    """
    path = model.path / WARMUP_FILE
    if not path.is_file():
        return 0
    records = _read_records(path)
    for number, record in enumerate(records, start=1):
        try:
            log = PredictionLog.FromString(record)
            if log.WhichOneof("log_type") != "predict_log":
                raise ConfigError(f"{path}: record {number} is no PredictLog")
            call = read_predict_request(log.predict_log.request, model.signatures)
            model.run(call.signature, call.inputs, call.outputs)
        except DecodeError as error:
            raise ConfigError(f"{path}: record {number} is no PredictionLog message") from error
        except RequestError as error:
            raise ConfigError(
                f"{path}: record {number} fails: {error.code.name}: {error.message}"
            ) from error
    return len(records)


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
