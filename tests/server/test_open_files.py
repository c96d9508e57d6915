"""What becomes of a server whose process may open no more files, and so take no connection."""

import asyncio
import errno
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from serve_command import serve_command
from serving_models import request_for, stubs_for

from keras_cls.server.open_files import exhaustion_handler

resource = pytest.importorskip("resource")
of_another_process = pytest.mark.skipif(
    not hasattr(resource, "prlimit"), reason="limits of another process are Linux's"
)


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@of_another_process
def test_a_process_takes_what_it_may_have(base_path):
    with serve_command(f"--model_base_path={base_path}") as server:
        soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        assert soft == hard


@of_another_process
def test_too_many_connections_are_told_of_once_and_survived(base_path):
    flags = (f"--model_base_path={base_path}", "--rest_api_port=-1")
    with serve_command(*flags) as server:
        limit = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir())) + 20
        stubs = stubs_for(server.address)

        def answer():
            request = request_for("divide", x=[4.0])
            return stubs.prediction.Predict(request, timeout=20).outputs["quotient"].float_val[0]

        assert answer() == 0.25
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
        with ExitStack() as stack:
            for _ in range(60):
                place = ("127.0.0.1", server.rest_port)
                stack.enter_context(socket.create_connection(place, timeout=5))
            until(lambda: any("no new connection" in line for line in server.errors))
            time.sleep(2)
            assert answer() == 0.25  # on the connection that there is
        with socket.create_connection(("127.0.0.1", server.rest_port), timeout=20) as connection:
            connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.0 200")
        stubs.channel.close()
    told = [line for line in server.errors if "no new connection" in line]
    assert len(told) == 1
    assert "too many open files" in told[0]
    assert not any("Traceback" in line for line in server.errors)


def test_other_errors_are_told_as_ever():
    told = []

    class Loop(asyncio.SelectorEventLoop):
        def default_exception_handler(self, context):
            told.append(context)

    loop = Loop()
    try:
        loop.set_exception_handler(exhaustion_handler())
        for error in (ValueError("x"), OSError(errno.EPIPE, "x"), OSError(errno.EMFILE, "x")):
            loop.call_exception_handler({"message": "m", "exception": error})
        loop.call_exception_handler({"message": "alone"})
    finally:
        loop.close()
    assert [context["message"] for context in told] == ["m", "m", "alone"]
