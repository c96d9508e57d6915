"""A server on real sockets, from its start to its end; test_shutdown.py has more of the end."""

import http.client
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from serve_command import serve_command
from serving_models import refusal, request_for, stubs_for
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tiny_models import models_text, save_tiny_model

from keras_cls.cli import main
from keras_cls.errors import ConfigError
from keras_cls.server import BatchingOptions, ModelServer, ServerOptions
from keras_cls.server.manager import ManagerOptions
from keras_cls.server.rest import RestSettings

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory):
    """A model of two versions: y = 2 x and y = 3 x."""
    folder = tmp_path_factory.mktemp("tiny") / "scale"
    for factor in (2, 3):
        save_tiny_model(folder / str(factor), factor)
    return folder


def asked(stubs, model, x=1.0, **options):
    request = request_for("serving_default", model, x=np.float32([x]), **options)
    return stubs.prediction.Predict(request, timeout=20).outputs["y"].float_val[0]


def answers(stubs, request):
    """Whether there is an answer, rather than a refusal."""
    return stubs.prediction.Predict.future(request, timeout=20).exception() is None


def get(port, path):
    """The status and the content of a page."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@contextmanager
def local_server(base_path=None, **settings):
    """A server of gRPC and REST in this process, and stubs for it."""
    with ModelServer(base_path, host="127.0.0.1", port=0, rest_api_port=0, **settings) as running:
        stubs = stubs_for(running.address)
        try:
            yield running, stubs
        finally:
            stubs.channel.close()


def eventually(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# What is told of the services.


def test_reflection_is_all_that_a_client_needs(server):
    """As grpcurl does: the services, their messages, and a call with messages made from these."""
    with grpc.insecure_channel(server.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(database.get_services()) == {
            "tensorflow.serving.PredictionService",
            "tensorflow.serving.ModelService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        pool = descriptor_pool.DescriptorPool(database)
        service = pool.FindServiceByName("tensorflow.serving.PredictionService")
        method = service.FindMethodByName("Predict")
        request = message_factory.GetMessageClass(method.input_type)()
        request.model_spec.name = "shades"
        request.model_spec.signature_name = "divide"
        request.inputs["x"].dtype = 1
        request.inputs["x"].tensor_shape.dim.add(size=1)
        request.inputs["x"].float_val.append(4)
        call = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=type(request).SerializeToString,
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        assert call(request, timeout=20).outputs["quotient"].float_val[:] == [0.25]
        for name in ("tensorflow.serving.ModelService", "grpc.health.v1.Health"):
            assert pool.FindServiceByName(name).methods


def test_a_service_that_the_health_service_does_not_know(stubs):
    health = health_pb2_grpc.HealthStub(stubs.channel)
    unknown = health_pb2.HealthCheckRequest(service="tensorflow.serving.SessionService")
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(unknown, timeout=20)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = health.Watch(unknown, timeout=20)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_a_server_that_lives_need_not_be_ready(tiny_path, tmp_path):
    """While a model has no version: not ready, by REST and gRPC; but alive."""
    folder = tmp_path / "scale"
    shutil.copytree(tiny_path / "2", folder / "2")
    options = ServerOptions(ManagerOptions(poll_seconds=0.05, keep_last_version=False))
    with local_server(folder, options=options) as (server, stubs):
        watch = health_pb2_grpc.HealthStub(stubs.channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == SERVING
        assert get(server.rest_port, "/readyz") == (200, "ready\n")

        shutil.rmtree(folder / "2")
        assert next(watch).status == NOT_SERVING
        assert get(server.rest_port, "/readyz") == (503, "not ready\n")
        assert get(server.rest_port, "/healthz") == (200, "ok\n")
        with pytest.raises(grpc.RpcError) as caught:
            asked(stubs, "scale")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

        shutil.copytree(tiny_path / "3", folder / "3")
        assert next(watch).status == SERVING
        assert get(server.rest_port, "/readyz") == (200, "ready\n")
        assert asked(stubs, "scale") == 3
        watch.cancel()


# Several models.


def test_several_models_from_a_file_that_changes(tiny_path, tmp_path):
    file = tmp_path / "models.txt"
    file.write_text(models_text(one=tiny_path, two=(tiny_path, "model_version_policy { all {} }")))
    options = ServerOptions(
        ManagerOptions(poll_seconds=0.1), model_config_file=file, config_poll_seconds=0.05
    )
    with local_server(options=options) as (server, stubs):
        assert server.served == "one version 3, two versions 2 and 3"
        assert asked(stubs, "one") == asked(stubs, "two") == 3
        assert asked(stubs, "two", version=2) == 2
        for port_path, status in [("/v1/models/one", 200), ("/v1/models/three", 404)]:
            assert get(server.rest_port, port_path)[0] == status

        file.write_text("this is no such file {")  # told, and what is served stays
        time.sleep(0.3)
        assert asked(stubs, "one") == 3

        policy = "model_version_policy { specific { versions: 2 } }"
        file.write_text(models_text(two=tiny_path, three=(tiny_path, policy)))
        eventually(lambda: server.served == "three version 2, two version 3")

        # As in the original: a label can be given to a version that is there already.
        label = 'version_labels { key: "a" value: 2 }'
        file.write_text(models_text(two=tiny_path, three=(tiny_path, f"{policy} {label}")))
        request = request_for("serving_default", "three", x=np.float32([1]))
        request.model_spec.version_label = "a"
        eventually(lambda: answers(stubs, request))
        answer = stubs.prediction.Predict(request, timeout=20)
        assert answer.outputs["y"].float_val[:] == [2]
        code, text = refusal(stubs, request_for("serving_default", "one", x=np.float32([1])))
        assert (code, text) == ("NOT_FOUND", "Servable not found for request: Latest(one)")


def test_a_model_of_several_that_cannot_be_had(tiny_path, tmp_path):
    file = tmp_path / "models.txt"
    file.write_text(models_text(good=tiny_path, bad=tmp_path / "none"))
    server = ModelServer(host="127.0.0.1", port=0, options=ServerOptions(model_config_file=file))
    with pytest.raises(ConfigError, match=r"none: no such file or directory"):
        server.start()


# Sockets.


def test_a_unix_socket_beside_the_port(tiny_path, tmp_path):
    path = tmp_path / "socket"
    options = ServerOptions(socket_path=str(path))
    with local_server(tiny_path, options=options) as (_, stubs):
        beside = stubs_for(f"unix:{path}")
        assert asked(stubs, "scale") == asked(beside, "scale") == 3
        beside.channel.close()
        second = ModelServer(tiny_path, host="127.0.0.1", port=0, options=options)
        with pytest.raises(ConfigError, match="another program listens there"):
            second.start()
        assert asked(stubs, "scale") == 3
    with local_server(tiny_path, options=options):  # the socket is free again
        pass


def test_a_socket_that_was_left_is_taken_over(tiny_path, tmp_path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert path.is_socket()
    with local_server(tiny_path, options=ServerOptions(socket_path=str(path))):
        beside = stubs_for(f"unix:{path}")
        assert asked(beside, "scale") == 3
        beside.channel.close()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file", "a file is there already"),
        ("none/socket", "is its folder there"),
        ("s" * 200, "too long"),
    ],
    ids=["file", "no folder", "long"],
)
def test_sockets_that_cannot_be_had(tiny_path, tmp_path, name, reason):
    (tmp_path / "file").write_text("precious")
    options = ServerOptions(socket_path=str(tmp_path / name))
    server = ModelServer(tiny_path, host="127.0.0.1", port=0, options=options)
    with pytest.raises(ConfigError, match=reason) as caught:
        server.start()
    assert str(caught.value).startswith(f"cannot listen on the socket {tmp_path / name}: ")
    assert (tmp_path / "file").read_text() == "precious"


def test_a_rest_port_that_is_taken(tiny_path, capfd):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        flags = (f"--model_base_path={tiny_path}", "--host=127.0.0.1", "--port=0")
        assert main(["serve", *flags, f"--rest_api_port={port}"]) == 1
    out, err = capfd.readouterr()
    assert (out, err) == (
        "",
        f"keras-cls: cannot listen on 127.0.0.1:{port}: the port is taken by another program\n",
    )


def test_what_only_grpc_s_own_server_can_do_is_done_by_it(tiny_path):
    arguments = ServerOptions(channel_arguments=(("grpc.max_connection_age_ms", 300),))
    with local_server(tiny_path, options=arguments) as (server, stubs):
        assert asked(stubs, "scale") == 3
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
            frames = connection.makefile("rb")
            while (head := frames.read(9))[3] != 7:  # GOAWAY, to what has become old
                frames.read(int.from_bytes(head[:3]))
        assert asked(stubs, "scale") == 3


# TLS.


@pytest.fixture(scope="module")
def pems(tmp_path_factory):
    """Names to PEM texts: an authority, and what it signed for a server and a client."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates with")
    folder = tmp_path_factory.mktemp("pems")

    def make(name, *options):
        new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1")
        files = ("-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem")
        command = ("openssl", "req", "-x509", *new, "-subj", f"/CN={name}", *files, *options)
        subprocess.run(command, check=True, capture_output=True)

    make("authority")
    make("stranger")
    signed = ("-CA", folder / "authority.pem", "-CAkey", folder / "authority.key")
    make("server", *signed, "-addext", "subjectAltName=IP:127.0.0.1")
    make("client", *signed)
    return {path.name: path.read_text() for path in folder.iterdir()}


def tls_channel(server, pems, client=None):
    pair = [pems[f"{client}.{kind}"].encode() for kind in ("key", "pem")] if client else [None] * 2
    credentials = grpc.ssl_channel_credentials(pems["authority.pem"].encode(), *pair)
    return grpc.secure_channel(server.address, credentials)


def test_both_sides_show_certificates(tiny_path, tmp_path, pems):
    """By --ssl_config_file; REST stays in plain text, as in the original."""
    values = {"server_key": "server.key", "server_cert": "server.pem", "custom_ca": "authority.pem"}
    lines = [f"{name}: {json.dumps(pems[file])}" for name, file in values.items()]
    config = tmp_path / "ssl.txt"
    config.write_text("\n".join([*lines, "client_verify: true"]))
    flags = (f"--model_base_path={tiny_path}", f"--ssl_config_file={config}", "--rest_api_port=-1")
    with serve_command(*flags) as server:
        request = request_for("serving_default", "scale", x=np.float32([1]))
        with tls_channel(server, pems, "client") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            assert stub.Predict(request, timeout=20).outputs["y"].float_val[:] == [3]
            check = health_pb2_grpc.HealthStub(channel).Check
            assert check(health_pb2.HealthCheckRequest(), timeout=20).status == SERVING
        refused = [
            tls_channel(server, pems),
            tls_channel(server, pems, "stranger"),
            tls_channel(server, pems | {"authority.pem": pems["stranger.pem"]}, "client"),
            grpc.insecure_channel(server.address),
        ]
        for channel in refused:
            with channel, pytest.raises(grpc.RpcError) as caught:
                prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(
                    request, timeout=10
                )
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert get(server.rest_port, "/v1/models/scale")[0] == 200
        assert server.process.poll() is None


# Callers who have gone, and the end.


def runs(server, signature):
    """How often a signature has been run."""
    _, text = get(server.rest_port, "/metrics")
    counts = re.findall(rf'keras_cls_run_seconds_count{{.*"{signature}".*}} (\d+)', text)
    return sum(map(int, counts))


def test_nothing_is_run_for_a_caller_who_has_gone(base_path):
    one_at_a_time = BatchingOptions(
        max_batch_size=1,
        max_execution_batch_size=1,
        num_batch_threads=1,
        enable_large_batch_splitting=False,
    )
    options = ServerOptions(rest=RestSettings(metrics_path="/metrics"))
    with local_server(base_path, options=options, batching=one_at_a_time) as (server, stubs):
        predict = stubs.prediction.Predict
        first = predict.future(request_for("wait", seconds=np.float64([1.0])), timeout=20)
        time.sleep(0.3)
        cancelled = [
            predict.future(request_for("wait", seconds=np.float64([0])), timeout=20)
            for _ in range(3)
        ]
        late = predict.future(request_for("wait", seconds=np.float64([0])), timeout=0.2)
        time.sleep(0.1)
        for call in cancelled:
            call.cancel()
        assert late.exception().code() in (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        )
        assert first.result().outputs["waited"].double_val[:] == [1]
        predict(request_for("wait", seconds=np.float64([0])), timeout=20)
        assert runs(server, "wait") == 2


def test_sigterm_under_load(base_path):
    """Every request gets an answer or a clean refusal, and the process ends well and in time."""
    grace = 8.0
    flags = (f"--model_base_path={base_path}", "--rest_api_port=-1", f"--grace={grace}")
    with serve_command(*flags) as server, ThreadPoolExecutor(9) as pool:
        outcomes, signalled, ended = Counter(), threading.Event(), threading.Event()
        stubs = stubs_for(server.address)
        body = json.dumps({"signature_name": "divide", "instances": [4]}).encode()

        def ask_grpc():
            request = request_for("divide", x=np.float32([4]))
            while not ended.is_set():
                after = signalled.is_set()
                try:
                    answer = stubs.prediction.Predict(request, timeout=20)
                    assert answer.outputs["quotient"].float_val[:] == [0.25]
                    outcomes["OK", after] += 1
                except grpc.RpcError as error:
                    outcomes[error.code().name, after] += 1

        def ask_rest():
            while not ended.is_set():
                after = signalled.is_set()
                connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=20)
                try:
                    connection.request("POST", "/v1/models/shades:predict", body)
                    answer = connection.getresponse()
                    outcomes[answer.status, after] += 1
                    if answer.status == 200:
                        (row,) = json.loads(answer.read())["predictions"]
                        assert row["quotient"] == 0.25
                except OSError:  # at the end, nobody listens
                    outcomes["closed", after] += 1
                finally:
                    connection.close()

        askers = [pool.submit(ask) for ask in (ask_grpc, ask_rest) * 3]
        time.sleep(1.0)
        in_flight = [
            pool.submit(
                stubs.prediction.Predict,
                request_for("wait", seconds=np.float64([seconds])),
                timeout=20,
            )
            for seconds in (1.5, 2)
        ]
        time.sleep(0.5)
        start = time.monotonic()
        signalled.set()
        server.process.terminate()
        assert [call.result().outputs["waited"].double_val[:] for call in in_flight] == [[1.5], [2]]
        assert server.process.wait(grace + 5) == 0
        assert time.monotonic() - start < grace
        ended.set()
        for asker in askers:
            asker.result()
        stubs.channel.close()
        said = "".join(server.errors)
        assert "Traceback" not in said, said
        assert server.process.stdout.read() == "stopped\n"
    before = {code for code, after in outcomes if not after}
    assert before - {"OK", 200} <= {"UNAVAILABLE", 503, "closed"}  # as the signal came
    late = {code for code, after in outcomes if after}
    # gRPC cancels a call that reaches it just as it closes (grpc issue 41785).
    assert late <= {"OK", 200, "UNAVAILABLE", 503, "closed", "CANCELLED"}
    assert outcomes["CANCELLED", True] <= 3
    assert {"UNAVAILABLE", 503} <= late
    assert outcomes["OK", False] > 10
    assert outcomes[200, False] > 10
