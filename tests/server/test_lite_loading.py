"""LiteRT files behind the server: which one is taken, what it answers, and what is refused."""

import http.client
import json
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
import tensorflow as tf
from classifiers import LABELS, pixels, small_classifier
from serve_command import serve_command
from serving_models import refusal, request_for, stubs_for
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2
from tiny_models import save_tiny_model

from keras_cls.errors import ConfigError
from keras_cls.exporting import export
from keras_cls.server import ManagerOptions, ModelServer, ServerOptions
from keras_cls.server.lite_loading import LiteModel
from keras_cls.server.loading import VersionFolder


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """A LiteRT file: y = -x for x [?, 3], and the sums of the rows."""

    class Negate(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
        def __call__(self, x):
            return {"y": -x, "sums": tf.reduce_sum(x, axis=1)}

    folder = str(tmp_path_factory.mktemp("negate"))
    model = Negate()
    tf.saved_model.save(model, folder, {"serving_default": model.__call__})
    return tf.lite.TFLiteConverter.from_saved_model(folder).convert()


def lite_version(folder, content):
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(content)
    return folder


@contextmanager
def lite_server(base_path, **manager):
    """A server that prefers LiteRT files, and stubs for it."""
    options = ServerOptions(ManagerOptions(prefer_lite=True, **manager))
    with ModelServer(base_path, host="127.0.0.1", port=0, options=options) as running:
        stubs = stubs_for(running.address)
        try:
            yield running, stubs
        finally:
            stubs.channel.close()


@pytest.fixture(scope="module")
def negate(tmp_path_factory, content):
    base_path = tmp_path_factory.mktemp("lite") / "negate"
    lite_version(base_path / "1", content)
    with lite_server(base_path) as (_, stubs):
        yield stubs


def negated(stubs, array, **options):
    request = request_for("", "negate", x=array, **options)
    return stubs.prediction.Predict(request, timeout=20).outputs


def test_a_classifier_s_file_by_the_command(tmp_path):
    """From the exporter to the flag: gRPC and REST answer as the classifier does."""
    classifier = small_classifier()
    base_path = tmp_path / "colours"
    export(classifier, base_path, "litert")
    wanted = classifier.probabilities_of_pixels(pixels())
    flags = (f"--model_base_path={base_path}", "--prefer_tflite_model", "--rest_api_port=-1")
    with serve_command(*flags) as server:
        stubs = stubs_for(server.address)
        request = request_for("", "colours", images=pixels())
        answer = stubs.prediction.Predict(request, timeout=20).outputs["probabilities"]
        assert np.abs(tf.make_ndarray(answer) - wanted).max() < 1e-5
        stubs.channel.close()
        connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=20)
        body = json.dumps({"instances": pixels()[:2].tolist()})
        connection.request("POST", "/v1/models/colours:predict", body)
        found = json.loads(connection.getresponse().read())["predictions"]
        connection.close()
        assert np.abs(np.array(found) - wanted[:2]).max() < 1e-5
        assert len(found[0]) == len(LABELS)
        assert server.process.poll() is None


def test_answers(negate):
    for rows in (1, 5, 2, 0, 40):
        x = np.arange(3 * rows, dtype=np.float32).reshape(rows, 3)
        found = negated(negate, x)
        assert np.array_equal(tf.make_ndarray(found["y"]), -x)
        assert np.array_equal(tf.make_ndarray(found["sums"]), x.sum(axis=1))
    found = negated(negate, np.ones((1, 3), np.float32), outputs=["sums"])
    assert dict(found).keys() == {"sums"}


def test_many_at_once_do_not_disturb_each_other(negate):
    """An interpreter holds the values of one run: each thread has its own."""

    def ask(number):
        x = np.full((1 + number % 3, 3), number, np.float32)
        return np.array_equal(tf.make_ndarray(negated(negate, x)["y"]), -x)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(300)))


def test_metadata(negate):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "negate"
    answer = negate.prediction.GetModelMetadata(request, timeout=20)
    found = get_model_metadata_pb2.SignatureDefMap()
    answer.metadata["signature_def"].Unpack(found)
    (definition,) = found.signature_def.values()
    assert definition.method_name == "tensorflow/serving/predict"
    info = definition.inputs["x"]
    assert (info.dtype, [dim.size for dim in info.tensor_shape.dim]) == (1, [-1, 3])
    assert set(definition.outputs) == {"y", "sums"}


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (np.ones((1, 4), np.float32), "Shape mismatch: actual [1,4] vs. expect [?,3]"),
        (np.ones(3, np.float32), "Shape mismatch: actual [3] vs. expect [?,3]"),
        (np.ones((1, 1, 3), np.float32), "Shape mismatch: actual [1,1,3] vs. expect [?,3]"),
        (np.float32(1), "Shape mismatch: actual [] vs. expect [?,3]"),
        (np.ones((1, 3), np.int32), "Type mismatch: actual int32 vs. expect float"),
        (np.ones((1, 3), np.float64), "Type mismatch: actual double vs. expect float"),
        (np.array([["a"] * 3]), "Type mismatch: actual string vs. expect float"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused_before_anything_runs(negate, monkeypatch, x, text):
    monkeypatch.setattr(LiteModel, "run", lambda *_: pytest.fail("it ran"))
    code, said = refusal(negate, request_for("", "negate", x=x))
    assert code == "INVALID_ARGUMENT"
    assert said == f'{text} for input "x"'


def test_other_mistakes(negate):
    x = np.ones((1, 3), np.float32)
    assert refusal(negate, request_for("other", "negate", x=x)) == (
        "FAILED_PRECONDITION",
        'Serving signature key "other" not found.',
    )
    code, said = refusal(negate, request_for("", "negate", y=x))
    assert code == "INVALID_ARGUMENT"
    assert "x" in said
    code, said = refusal(negate, request_for("", "negate", x=x, outputs=["z"]))
    assert (code, said.split(" Outputs")[0]) == (
        "INVALID_ARGUMENT",
        "output tensor alias not found in signature: z",
    )


@pytest.mark.parametrize(("prefer", "answer"), [(True, -1.0), (False, 5.0)])
def test_which_file_is_taken(tmp_path, content, prefer, answer):
    """Where a version has both; and a SavedModel alone is served either way."""
    base_path = tmp_path / "both"
    save_tiny_model(base_path / "1", 5)
    (base_path / "1" / "model.tflite").write_bytes(content)
    save_tiny_model(base_path / "2", 7)
    options = ServerOptions(ManagerOptions(prefer_lite=prefer))
    with ModelServer(base_path, host="127.0.0.1", port=0, options=options) as server:
        stubs = stubs_for(server.address)
        request = request_for("serving_default", "both", x=np.ones(1, np.float32))
        found = stubs.prediction.Predict(request, timeout=20)
        assert (found.model_spec.version.value, found.outputs["y"].float_val[:]) == (2, [7])
        stubs.channel.close()
    (base_path / "2").rename(tmp_path / "away")
    with ModelServer(base_path, host="127.0.0.1", port=0, options=options) as server:
        stubs = stubs_for(server.address)
        x = np.ones((1, 3) if prefer else 1, np.float32)
        found = stubs.prediction.Predict(request_for("", "both", x=x), timeout=20)
        assert found.outputs["y"].float_val[0] == answer
        stubs.channel.close()


def test_a_lite_file_alone_is_no_version_without_the_flag(tmp_path, content):
    lite_version(tmp_path / "m" / "1", content)
    with pytest.raises(ConfigError, match="no version to serve"):
        ModelServer(tmp_path / "m", host="127.0.0.1", port=0).start()


@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.6, 0.9, 0.999])
def test_a_file_that_is_cut_off(tmp_path, content, share):
    folder = lite_version(tmp_path / "1", content[: int(share * len(content)) + 1])
    with pytest.raises(ConfigError) as caught:
        LiteModel("m", VersionFolder(1, folder))
    start = f"{folder / 'model.tflite'}: cannot be loaded as a LiteRT file: "
    assert str(caught.value).startswith(start)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) > len(start)


@pytest.mark.parametrize(
    "wrong", [b"", b"no model", bytes(1000), b"\x1c\0\0\0TFL3" + bytes(200)], ids=range(4)
)
def test_a_file_that_is_none(tmp_path, wrong):
    folder = lite_version(tmp_path / "1", wrong)
    with pytest.raises(ConfigError, match="cannot be loaded as a LiteRT file: "):
        LiteModel("m", VersionFolder(1, folder))


def test_a_file_without_a_signature(tmp_path):
    negate = tf.function(lambda x: -x, input_signature=[tf.TensorSpec([2], tf.float32)])
    function = negate.get_concrete_function()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
        found = tf.lite.Interpreter(model_content=converter.convert())
    if found.get_signature_list():
        pytest.skip("this TensorFlow gives it one")
    folder = lite_version(tmp_path / "1", converter.convert())
    with pytest.raises(ConfigError, match="it has no signature, so requests cannot name"):
        LiteModel("m", VersionFolder(1, folder))


def test_a_server_does_not_start_with_a_file_that_is_cut_off(tmp_path, content):
    lite_version(tmp_path / "m" / "1", content[:-100])
    with (
        pytest.raises(ConfigError, match="cannot be loaded as a LiteRT file"),
        lite_server(tmp_path / "m", max_load_retries=0),
    ):
        pass


def test_the_old_version_stays_when_the_new_one_is_cut_off(tmp_path, content):
    base_path = tmp_path / "negate"
    lite_version(base_path / "1", content)
    with lite_server(base_path, poll_seconds=0.05, load_retry_seconds=0.1) as (_, stubs):
        lite_version(tmp_path / "2", content[:-100]).rename(base_path / "2")
        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = "negate"
        end = time.monotonic() + 20
        failed = []
        while not failed:
            assert time.monotonic() < end
            time.sleep(0.02)
            entries = stubs.model.GetModelStatus(status, timeout=20).model_version_status
            failed = [each for each in entries if each.status.error_message]
        (entry,) = failed
        assert entry.version == 2
        assert "cannot be loaded as a LiteRT file" in entry.status.error_message

        x = np.ones((2, 3), np.float32)
        answer = stubs.prediction.Predict(request_for("", "negate", x=x), timeout=20)
        assert answer.model_spec.version.value == 1
        assert np.array_equal(tf.make_ndarray(answer.outputs["y"]), -x)
        with pytest.raises(grpc.RpcError) as caught:
            negated(stubs, x, version=2)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

        (base_path / "2" / "model.tflite").write_bytes(content)  # mended, it is taken
        while negated_by(stubs, x) != 2:
            assert time.monotonic() < end
            time.sleep(0.02)


def negated_by(stubs, x):
    """The version that answers."""
    answer = stubs.prediction.Predict(request_for("", "negate", x=x), timeout=20)
    return answer.model_spec.version.value
