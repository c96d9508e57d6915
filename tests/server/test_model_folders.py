"""Which version is served, and what is said when none can be."""

import os
import shutil
import subprocess
import sys

import grpc
import numpy as np
import pytest
import tensorflow as tf
from serving_models import example_of, image_of, input_of, request_for, stubs_for
from tensorflow_serving.apis import prediction_log_pb2

from keras_cls.contract import METHOD_CLASSIFY, METHOD_REGRESS, WARMUP_FILE
from keras_cls.errors import ConfigError
from keras_cls.server import ModelServer, lifecycle, manager
from keras_cls.server.loading import LoadedModel, clean_message, find_versions, latest_version
from keras_cls.server.predict import read_predict_request
from keras_cls.server.status import RequestError
from keras_cls.server.warmup import MAX_RECORDS, warm_up


def touch_version(base, name):
    (base / name).mkdir(parents=True)
    (base / name / "saved_model.pb").touch()


@pytest.fixture
def own_folder(base_path, tmp_path):
    """A copy of the test model, to spoil."""
    shutil.copytree(base_path / "3", tmp_path / "shades" / "3")
    return tmp_path / "shades"


def start_and_stop(folder, **options):
    with ModelServer(folder, host="127.0.0.1", port=0, **options) as server:
        return server.version


def test_versions_are_numbered_folders_with_a_model(tmp_path):
    for name in ("1", "2", "10", "007", "2.tmp", "tmp-11", "-3", "١٢", "99999999999999999999"):
        touch_version(tmp_path, name)
    (tmp_path / "12").mkdir()  # being copied: no model yet
    (tmp_path / "13").touch()
    assert [v.number for v in find_versions(tmp_path)] == [1, 2, 7, 10]
    assert latest_version(tmp_path).path == tmp_path / "10"


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda base: None, "no such file or directory"),
        (lambda base: base.touch(), "not a directory"),
        (lambda base: base.mkdir(), "no version to serve"),
        (lambda base: (base / "1").mkdir(parents=True), "no version to serve"),
        (lambda base: touch_version(base.parent, base.name), "belongs in a numbered folder"),
    ],
)
def test_folders_without_a_version(tmp_path, prepare, words):
    base = tmp_path / "pets"
    prepare(base)
    with pytest.raises(ConfigError, match=words) as caught:
        start_and_stop(base)
    assert str(caught.value).startswith(str(base))


def test_an_empty_model_file_is_waited_for_and_named(own_folder):
    file = own_folder / "3" / "saved_model.pb"
    file.write_bytes(b"")
    os.utime(file, (1, 1))
    with pytest.raises(ConfigError, match=r"saved_model\.pb is empty") as caught:
        start_and_stop(own_folder)
    assert str(own_folder / "3") in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff" * 100, None])
def test_a_damaged_model_is_named(own_folder, content):
    file = own_folder / "3" / "saved_model.pb"
    if content is None:
        content = file.read_bytes()[:-500]
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be loaded as a SavedModel") as caught:
        start_and_stop(own_folder)
    assert str(own_folder / "3") in str(caught.value)


def test_missing_variables_are_told(own_folder):
    shutil.rmtree(own_folder / "3" / "variables")
    with pytest.raises(ConfigError, match="cannot be loaded as a SavedModel"):
        start_and_stop(own_folder)


def test_the_name_is_the_folder_s_unless_given(own_folder, monkeypatch):
    monkeypatch.chdir(own_folder)
    assert ModelServer(".").model_name == "shades"
    assert ModelServer(own_folder, model_name="pets").model_name == "pets"


def write_warmup(folder, logs):
    path = folder / "3" / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for log in logs:
            writer.write(log if isinstance(log, bytes) else log.SerializeToString())
    return path


def predict_log(*arguments, **inputs):
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(request_for(*arguments, **inputs))
    return log


def example_log(kind, signature, *examples):
    """A ClassifyLog or RegressLog."""
    log = prediction_log_pb2.PredictionLog()
    request = getattr(log, kind).request
    request.model_spec.signature_name = signature
    request.input.CopyFrom(input_of(*examples))
    return log


def multi_inference_log(*tasks, model="shades"):
    """Tasks are (signature, method)."""
    log = prediction_log_pb2.PredictionLog()
    request = log.multi_inference_log.request
    request.input.CopyFrom(input_of(example_of(image=3, x=1)))
    for signature, method in tasks:
        task = request.tasks.add(method_name=method)
        task.model_spec.name = model
        task.model_spec.signature_name = signature
    return log


def unsupported_log(kind):
    log = prediction_log_pb2.PredictionLog()
    getattr(log, kind).SetInParent()
    return log


def test_warm_up_requests_are_run(own_folder):
    model = LoadedModel("shades", latest_version(own_folder))
    assert warm_up(model) == 0
    write_warmup(
        own_folder,
        [predict_log("images", images=image_of(3)[None]), predict_log("divide", x=[1.0])],
    )
    assert warm_up(model) == 2
    assert start_and_stop(own_folder) == 3


def test_every_method_can_be_warmed_up_several_times(own_folder, monkeypatch):
    model = LoadedModel("shades", latest_version(own_folder))
    write_warmup(
        own_folder,
        [
            example_log("classify_log", "classify", example_of(image=3), example_of(image=4)),
            example_log("regress_log", "regress", example_of(x=1)),
            multi_inference_log(("classify", METHOD_CLASSIFY), ("regress", METHOD_REGRESS)),
            predict_log("divide", x=[1.0]),
        ],
    )
    run, names = model.run, []

    def noted_run(signature, inputs, outputs):
        names.append(signature.name)
        return run(signature, inputs, outputs)

    monkeypatch.setattr(model, "run", noted_run)
    assert warm_up(model, iterations=2) == 4
    assert names == [
        *("classify", "classify", "regress", "regress"),
        *("classify", "regress", "classify", "regress", "divide", "divide"),
    ]
    model.close()
    for iterations in (0, -1, 1.5, True):
        with pytest.raises(ConfigError, match="iterations must be a whole number"):
            warm_up(model, iterations)


@pytest.mark.parametrize(
    ("logs", "words"),
    [
        ([predict_log("divide", x=[1.0]), predict_log("divide", x=[0.0])], "record 2 fails: INVAL"),
        ([predict_log("nope", x=[0.0])], "record 1 fails: FAILED_PRECONDITION"),
        ([b"\xff\xff\xff"], "record 1 is no PredictionLog message"),
        (
            [prediction_log_pb2.PredictionLog()],
            "record 1 fails: INVALID_ARGUMENT: the PredictionLog holds no request",
        ),
        ([b""] * (MAX_RECORDS + 1), "more than 1000 records"),
        (
            [unsupported_log("session_run_log")],
            "UNIMPLEMENTED: Unsupported log_type for warmup: 5 .session_run_log.",
        ),
        (
            [unsupported_log("predict_streamed_log")],
            "UNIMPLEMENTED: Unsupported log_type for warmup: 7 .predict_streamed_log.",
        ),
        (
            [example_log("classify_log", "nope", example_of(image=3))],
            "record 1 fails: INVALID_ARGUMENT: No signature was found with the name: nope",
        ),
        ([example_log("regress_log", "regress")], "INVALID_ARGUMENT: Input is empty"),
        (
            [example_log("regress_log", "regress", example_of(image=3))],
            "record 1 fails: INVALID_ARGUMENT: .*x",
        ),
        ([multi_inference_log(("regress", ""))], "UNIMPLEMENTED: Unsupported signature method"),
    ],
    ids=[
        *("fails", "signature", "garbage", "other", "many", "session", "streamed"),
        *("no_classify", "empty", "no_feature", "method"),
    ],
)
def test_a_warm_up_that_fails_fails_the_start(own_folder, logs, words):
    path = write_warmup(own_folder, logs)
    with pytest.raises(ConfigError, match=words) as caught:
        start_and_stop(own_folder)
    assert str(path) in str(caught.value)


def test_a_damaged_warm_up_file(own_folder):
    write_warmup(own_folder, []).write_bytes(b"no TFRecord at all, this")
    with pytest.raises(ConfigError, match="damaged"):
        start_and_stop(own_folder)


def test_a_server_starts_again_after_a_failure_and_after_stopping(own_folder):
    path = write_warmup(own_folder, [b"\xff"])
    server = ModelServer(own_folder, host="127.0.0.1", port=0)
    with pytest.raises(ConfigError):
        server.start()
    path.unlink()
    for _ in range(2):
        server.start()
        assert server.port > 0
        with pytest.raises(ConfigError, match="running already"):
            server.start()
        server.stop()
        server.stop()
    with pytest.raises(ConfigError, match="not running"):
        _ = server.port


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("127.0.0.1", "the port is taken by another program"),
        ("localhost", "the port is taken by another program"),
        ("0.0.0.0", "the port is taken by another program"),
        ("192.0.2.1", "the address is not this machine's"),  # nobody's: kept for documents
        ("no.such.invalid", "no host of this name is known"),
        ("a" * 100, "no host of this name is known"),
    ],
)
def test_addresses_that_cannot_be_had_are_told_before_a_model_is_loaded(
    base_path, server, monkeypatch, host, reason
):
    monkeypatch.setattr(manager, "LoadedModel", None)
    with pytest.raises(ConfigError) as caught:
        ModelServer(base_path, host=host, port=server.port).start()
    assert str(caught.value) == f"cannot listen on {host}:{server.port}: {reason}"


def test_a_port_that_is_taken_while_the_model_is_loaded(base_path, server, monkeypatch):
    monkeypatch.setattr(lifecycle, "_check_free", lambda host, port: None)
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{server.port}: Failed to"):
        ModelServer(base_path, host="127.0.0.1", port=server.port).start()


def test_a_certificate_that_is_none(base_path):
    credentials = grpc.ssl_server_credentials([(b"no key", b"no certificate")])
    server = ModelServer(base_path, host="127.0.0.1", port=0, credentials=credentials)
    with pytest.raises(ConfigError, match="are the TLS key and certificate PEM files"):
        server.start()


@pytest.mark.parametrize(
    "options",
    [
        *({"port": 70000}, {"port": -1}, {"port": "x"}, {"port": 1.5}, {"port": True}),
        *({"max_message_bytes": 0}, {"max_message_bytes": None}, {"max_message_bytes": 1 << 31}),
        *({"host": 5}, {"host": None}, {"host": ""}, {"base_path": None}, {"base_path": 5}),
        *({"model_name": 5}, {"batching": 32}, {"credentials": "key.pem"}),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense(base_path, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        ModelServer(**{"base_path": base_path, **options})


def test_ipv6(base_path):
    try:
        server = ModelServer(base_path, host="::1", port=0)
        server.start()
    except ConfigError:
        pytest.skip("no IPv6 here")
    stubs = stubs_for(server.address)
    stubs.prediction.Predict(request_for("divide", x=np.float32([1])), timeout=10)
    stubs.channel.close()
    server.stop()


def test_a_model_that_is_closed_runs_no_more(base_path):
    model = LoadedModel("shades", latest_version(base_path))
    request = request_for("divide", x=np.float32([2]))
    call = read_predict_request(request, model.signatures)
    assert model.run(call.signature, call.inputs, ("quotient",))["quotient"] == [0.5]
    model.close()
    for outputs in (("quotient",), ("batch_rows",)):
        with pytest.raises(RequestError, match="Session has been closed"):
            model.run(call.signature, call.inputs, outputs)


SHARES_OF_THE_CALLER = """
import resource
import sys
from pathlib import Path
import numpy as np
from keras_cls.server.loading import LoadedModel, LoadOptions, latest_version

def share(**options):
    model = LoadedModel("m", latest_version(Path(sys.argv[1])), LoadOptions(**options))
    signature = model.signatures["images"]
    images = np.zeros((4096, 8, 8, 3), np.uint8)
    def run(times):
        for _ in range(times):
            model.run(signature, {"images": images}, ("probabilities",))
    def used(who):
        usage = resource.getrusage(who)
        return usage.ru_utime + usage.ru_stime
    run(5)
    before = [used(resource.RUSAGE_THREAD), used(resource.RUSAGE_SELF)]
    run(200)
    mine, all_threads = used(resource.RUSAGE_THREAD), used(resource.RUSAGE_SELF)
    return (mine - before[0]) / (all_threads - before[1])

print(share(intra_op_threads=2), share(), share(intra_op_threads=2))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the CPU time of a thread is Linux'")
def test_a_small_model_runs_in_the_thread_that_asks(base_path):
    """Others in the same process have their own threads."""
    done = subprocess.run(
        [sys.executable, "-c", SHARES_OF_THE_CALLER, base_path],
        check=True,
        capture_output=True,
        text=True,
    )
    before, alone, after = map(float, done.stdout.split())
    assert alone > 0.9
    assert before < 0.9 and after < 0.9


@pytest.mark.parametrize(
    ("message", "cleaned"),
    [
        ("Graph execution error:\n\nbad image\n\t [[{{node x}}]]", "bad image\n\t [[{{node x}}]]"),
        ("bad\n\nOriginal stack trace for 'x':\n  File ...", "bad"),
        ("bad\n\nErrors may have originated from an input operation.\nInput ...", "bad"),
        ("1 root error(s) found.\n  (0) INVALID_ARGUMENT: bad", "(0) INVALID_ARGUMENT: bad"),
    ],
)
def test_messages_are_cleaned(message, cleaned):
    assert clean_message(message) == cleaned
