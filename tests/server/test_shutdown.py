"""SIGTERM on a real process: not ready at once, what is in flight ends, nothing new begins."""

import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving_models import refusal, request_for, server_process, stubs_for
from tensorflow_serving.apis import get_model_status_pb2

from keras_cls.errors import ConfigError
from keras_cls.server import ModelServer, lifecycle, serve


def wait_request(seconds):
    return request_for("wait", seconds=np.float64([seconds]))


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_drains_the_server(base_path, number):
    with server_process(base_path) as server, ThreadPoolExecutor(2) as pool:
        stubs = stubs_for(server.address)
        health = health_pb2_grpc.HealthStub(stubs.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING

        in_flight = pool.submit(stubs.prediction.Predict, wait_request(2.0), timeout=20)
        time.sleep(0.5)
        server.process.send_signal(number)

        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert refusal(stubs, wait_request(0)) == ("UNAVAILABLE", "The server is shutting down")
        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = "shades"
        (entry,) = stubs.model.GetModelStatus(status, timeout=5).model_version_status
        assert entry.state == get_model_status_pb2.ModelVersionStatus.UNLOADING
        assert not in_flight.done()

        assert in_flight.result().outputs["waited"].double_val == [2.0]
        assert server.process.wait(5) == 0
        assert server.process.stdout.read() == "stopped\nreturned\n"
        with pytest.raises(grpc.RpcError) as caught:
            stubs.prediction.Predict(wait_request(0), timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        watch.cancel()
        stubs.channel.close()
    text = "".join(server.lines)
    assert "Traceback" not in text, text


def test_the_grace_time_ends(base_path):
    """What is not done by then is dropped, and the process still ends well."""
    with server_process(base_path, grace=0.5) as server, ThreadPoolExecutor(1) as pool:
        stubs = stubs_for(server.address)
        in_flight = pool.submit(stubs.prediction.Predict, wait_request(60), timeout=60)
        time.sleep(0.5)
        server.process.terminate()
        assert server.process.wait(10) == 0
        assert server.process.stdout.readline() == "stopped; requests dropped: 1\n"
        with pytest.raises(grpc.RpcError) as caught:
            in_flight.result()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == "The server is shutting down"
        stubs.channel.close()
    assert "requests still in flight after 0.5 s, dropped: 1" in "".join(server.lines)
    text = "".join(server.lines)
    assert "Traceback" not in text, text


def test_an_idle_server_stops_at_once(base_path):
    server = ModelServer(base_path, host="127.0.0.1", port=0)
    server.start()
    start = time.monotonic()
    server.stop(grace=60)
    assert time.monotonic() - start < 30
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))


def test_two_servers_in_one_process(base_path):
    with (
        ModelServer(base_path, host="127.0.0.1", port=0, model_name="one") as one,
        ModelServer(base_path, host="127.0.0.1", port=0, model_name="two") as two,
    ):
        for server in (one, two):
            stubs = stubs_for(server.address)
            request = request_for("divide", model=server.model_name, x=np.float32([2]))
            for _ in range(20):
                stubs.prediction.Predict(request, timeout=10)
            stubs.channel.close()


def test_stop_tells_how_many_requests_it_dropped(base_path):
    server = ModelServer(base_path, host="127.0.0.1", port=0)
    server.start()
    stubs = stubs_for(server.address)
    with ThreadPoolExecutor(1) as pool:
        in_flight = pool.submit(stubs.prediction.Predict, wait_request(60), timeout=60)
        time.sleep(0.5)
        assert server.stop(grace=0.2) == 1
        assert in_flight.exception().code() is grpc.StatusCode.UNAVAILABLE
    stubs.channel.close()
    server.start()
    assert server.stop() == 0


def test_waiting_for_signals_lets_others_in_between(base_path, monkeypatch):
    """On Windows, a wait without a timeout cannot be interrupted."""
    waits = []

    class Event(threading.Event):
        def wait(self, timeout=None):
            waits.append(timeout)
            if len(waits) == 3:
                signal.raise_signal(signal.SIGINT)
            return super().wait(0)

    monkeypatch.setattr(
        lifecycle, "threading", SimpleNamespace(**vars(threading) | {"Event": Event})
    )
    serve(base_path, host="127.0.0.1", port=0)
    assert len(waits) == 3
    assert all(0 < seconds <= 1 for seconds in waits)


@pytest.mark.parametrize("grace", [-1, float("nan"), None, "10", True])
def test_a_grace_that_makes_no_sense(base_path, grace):
    for wrong in (serve, ModelServer.stop):
        with pytest.raises(ConfigError, match="grace must be a number of seconds"):
            wrong(ModelServer(base_path) if wrong is ModelServer.stop else base_path, grace=grace)


def test_serve_wants_the_main_thread(base_path):
    with ThreadPoolExecutor(1) as pool, pytest.raises(ConfigError, match="main thread"):
        pool.submit(serve, base_path, port=0).result()
