"""Whatever comes in is answered with a code that fits, and the server stays.

The server is a process of its own, so that a crash of it is seen. The requests are those of
hostile_requests.py, drawn from a seed.
"""

import base64
import gc
import http.client
import io
import itertools
import json
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType

import grpc
import numpy as np
import pytest
import tensorflow as tf
from hostile_requests import (
    FLAGS,
    KINDS,
    MAX_BODY_BYTES,
    GrpcCall,
    RestCall,
    hostile_requests,
)
from PIL import Image
from serve_command import serve_command
from serving_models import image_of, request_for, stubs_for

FEW = 800
MANY = 100_000
WORKERS = 4
GOOD_EVERY = 100
# How long an answer to bytes that are no request is waited for.
_SILENCE = 10.0
_MEGABYTE = 1 << 20
PREDICT_METHOD = "/tensorflow.serving.PredictionService/Predict"


class Attacker:
    """One client, with connections of its own; not for several threads at once."""

    def __init__(self, server):
        self._server = server
        self._stubs = stubs_for(server.address)
        self._connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)
        self.said = ""

    def close(self):
        self._stubs.channel.close()
        self._connection.close()

    def attempt(self, attempt):
        """The code of the answer."""
        if isinstance(attempt, GrpcCall):
            return self._grpc(attempt)
        return self._rest(attempt) if isinstance(attempt, RestCall) else self._raw(attempt)

    def check_good_answers(self):
        answer = self._stubs.prediction.Predict(
            request_for("divide", x=np.float32([2, 4])), timeout=30
        )
        # In a run with others TensorFlow divides several at once, which may be a bit off.
        assert answer.outputs["quotient"].float_val[:] == pytest.approx([0.5, 0.25], rel=1e-6)
        image = base64.b64encode(tf.io.encode_png(image_of(255)).numpy()).decode()
        body = json.dumps({"instances": [{"b64": image}]}).encode()
        status, content = self._ask(RestCall("POST", "/v1/models/shades:predict", body))
        assert status == 200
        assert json.loads(content)["predictions"][0]["classes"][0] == "bright"

    def _grpc(self, call):
        method = self._stubs.channel.unary_unary(call.method)
        future = method.future(
            call.payload,
            timeout=call.timeout,
            metadata=call.metadata,
            compression=grpc.Compression.Gzip if call.compressed else None,
        )
        if call.cancel:
            future.cancel()
            return "CANCELLED"
        error = future.exception()
        self.said = "" if error is None else error.details()
        return "OK" if error is None else error.code().name

    def _rest(self, call):
        return str(self._ask(call)[0])

    def _ask(self, call):
        connection = self._connection
        try:
            connection.putrequest(call.method, call.path, skip_accept_encoding=True)
            for name, value in call.headers.items():
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(call.body)))
            connection.endheaders()
            with suppress(OSError):  # refused before it was read
                connection.send(call.body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            # A body that was refused unread would be taken for the next request.
            connection.close()

    def _raw(self, raw):
        port = int(self._server.address.rpartition(":")[2])
        place = ("127.0.0.1", port if raw.port == "grpc" else self._server.rest_port)
        with socket.create_connection(place, timeout=_SILENCE) as connection:
            try:
                connection.sendall(raw.data)
                if not raw.answered:
                    return "silent"
                found = connection.recv(4096)
            except TimeoutError:
                return "silent"
            except OSError:
                return "closed"
        if not found:
            return "closed"
        words = found.split(None, 2)
        return words[1].decode() if found.startswith(b"HTTP/1.") else "answered"


@pytest.fixture(scope="module")
def hostile_server(base_path):
    flags = (f"--model_base_path={base_path}", "--rest_api_port=-1", *FLAGS)
    with serve_command(*flags) as server:
        yield server


@pytest.fixture
def attacker(hostile_server):
    client = Attacker(hostile_server)
    yield client
    client.close()


def resident_bytes(process):
    """What the process has in memory; on Linux only."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        pytest.skip("the memory of a process is read from /proc")
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


def open_files(process):
    """How many, connections among them; after a moment in which those who left are noticed."""
    time.sleep(2)
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


def threads_of(process):
    """How many there are."""
    return len(list(Path(f"/proc/{process.pid}/task").iterdir()))


def attack(server, first, count):
    """Send requests from several threads, each with a seed of its own.

    Args:
        server: the process.
        first: how many of each seed's requests are passed over.
        count: of all threads together.

    Returns:
        How often each kind was answered with each code, and the attempts whose code does not fit.
    """
    counts, wrong, lock = Counter(), [], threading.Lock()

    def work(seed):
        attacker = Attacker(server)
        stream = itertools.islice(hostile_requests(seed), first, first + count // WORKERS)
        try:
            for number, hostile in enumerate(stream, first):
                try:
                    code = attacker.attempt(hostile.attempt)
                except OSError as error:  # nobody answers any more
                    code = f"{type(error).__name__}: {error}"
                with lock:
                    counts[hostile.kind.name, code] += 1
                    # Another's request of a thousand rows may fill the queue for a moment.
                    full = code == "UNAVAILABLE" and "is full" in attacker.said
                    if code not in hostile.kind.allowed and not full:
                        where = f"seed {seed}, number {number}"
                        wrong.append(f"{where}: {code} {attacker.said}: {str(hostile)[:500]}")
                assert server.process.poll() is None, f"it ended: {str(hostile)[:500]}"
                if number % GOOD_EVERY == 0:
                    attacker.check_good_answers()
        finally:
            attacker.close()

    with ThreadPoolExecutor(WORKERS) as pool:
        for each in [pool.submit(work, seed) for seed in range(WORKERS)]:
            each.result()
    return counts, wrong


def check_after(server):
    """The server is still there, answers, and did not find fault with itself."""
    attacker = Attacker(server)
    attacker.check_good_answers()
    attacker.close()
    assert server.process.poll() is None
    text = "".join(server.errors)
    assert "Traceback" not in text, text[-4000:]


def test_hostile_requests_are_answered(hostile_server):
    counts, wrong = attack(hostile_server, 0, FEW)
    assert not wrong, "\n".join(wrong[:20])
    assert {name for name, _ in counts} == {kind.name for kind in KINDS}
    check_after(hostile_server)


@pytest.mark.slow
def test_very_many_hostile_requests_leave_no_trace(hostile_server, capsys):
    """The same, and the server's memory, open files and threads stay what they were."""
    early = MANY // 5
    process = hostile_server.process
    first_counts, first_wrong = attack(hostile_server, 0, early)
    before, files_before = resident_bytes(process), open_files(process)
    threads_before = threads_of(process)
    counts, wrong = attack(hostile_server, early // WORKERS, MANY - early)
    after, files_after, threads = resident_bytes(process), open_files(process), threads_of(process)
    codes = Counter()
    for (_, code), count in (first_counts + counts).items():
        codes[code] += count
    with capsys.disabled():
        print(f"\n{codes.total()} requests: {dict(codes.most_common())}")
        print(f"resident after a fifth {before / _MEGABYTE:.0f} MB, then {after / _MEGABYTE:.0f}")
        print(f"open files after a fifth {files_before}, then {files_after}")
        print(f"threads after a fifth {threads_before}, then {threads}")
    assert not first_wrong + wrong, "\n".join((first_wrong + wrong)[:20])
    assert codes.total() == MANY
    check_after(hostile_server)
    assert after < 1.1 * before + 50 * _MEGABYTE
    assert files_after <= files_before + 20
    assert threads <= threads_before + 10


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_images_cut_at_every_length(attacker, kind):
    buffer = io.BytesIO()
    Image.fromarray(image_of(255)).save(buffer, kind)
    whole = buffer.getvalue()
    step = max(1, len(whole) // 50)
    codes = {predict_image(attacker, whole[:length]) for length in range(0, len(whole), step)}
    assert codes <= {"OK", "INVALID_ARGUMENT"}
    assert "INVALID_ARGUMENT" in codes
    assert predict_image(attacker, whole) == "OK"


@pytest.mark.data
def test_odd_images(attacker, hostile_server, data_dir):
    files = [path for path in (data_dir / "odd_images").iterdir() if path.suffix != ".json"]
    codes = {}
    for path in sorted(files):
        image = path.read_bytes()
        codes[path.name] = predict_image(attacker, image)
        body = json.dumps({"instances": [{"b64": base64.b64encode(image).decode()}]}).encode()
        status = attacker.attempt(RestCall("POST", "/v1/models/shades:predict", body))
        if len(body) > MAX_BODY_BYTES:
            assert status == "413"
        else:
            assert status == {"OK": "200", "INVALID_ARGUMENT": "400"}[codes[path.name]]
    assert set(codes.values()) <= {"OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
    assert codes["exif_orientation_1.jpg"] == "OK"
    assert codes["bomb_50000x50000.png"] == codes["zero_bytes.jpg"] == "INVALID_ARGUMENT"
    check_after(hostile_server)


def test_slow_senders_hold_nobody_up(attacker, hostile_server):
    """Connections on which a little comes now and then, in heads and bodies, on both ports."""
    grpc_port = int(hostile_server.address.rpartition(":")[2])
    head = b"POST /v1/models/shades:predict HTTP/1.1\r\nHost: x\r\n"
    starts = [
        (hostile_server.rest_port, b""),
        (hostile_server.rest_port, head[:20]),
        (hostile_server.rest_port, head + b"Content-Length: 1000\r\n\r\n{"),
        (hostile_server.rest_port, head + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"),
        (grpc_port, b"PRI * HTTP/2.0"),
        (grpc_port, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ]
    with ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            for port, _ in starts * 20
        ]
        for connection, (_, start) in zip(connections, starts * 20, strict=True):
            connection.sendall(start)
        for _ in range(5):
            for connection in connections:
                with suppress(OSError):  # gRPC may have closed it
                    connection.sendall(b" ")
            attacker.check_good_answers()
    check_after(hostile_server)


def predict_image(attacker, image):
    request = request_for("", image_bytes=[image])
    return attacker.attempt(GrpcCall(PREDICT_METHOD, request.SerializeToString()))


def test_refused_requests_are_let_go(server, stubs):
    """Their tensors do not wait for Python to look for cycles."""
    megabyte = _MEGABYTE // 4
    requests = [
        bytes(_MEGABYTE),
        request_for("divide", x=np.zeros((megabyte, 1), np.float32)).SerializeToString(),
        request_for("divide", x=np.zeros(megabyte, np.float32)).SerializeToString(),
        request_for("divide", x=np.zeros(100, np.float32)).SerializeToString(),
        request_for("no", x=np.zeros(megabyte, np.float32)).SerializeToString(),
    ]
    method = stubs.channel.unary_unary(PREDICT_METHOD)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for request in requests:
            for _ in range(3):
                code = method.future(request, timeout=20).exception().code()
                assert code in (
                    grpc.StatusCode.INVALID_ARGUMENT,
                    grpc.StatusCode.FAILED_PRECONDITION,
                )
        gc.collect()
        frames = [found for found in gc.garbage if isinstance(found, FrameType)]
        ours = [frame for frame in frames if "keras_cls" in frame.f_code.co_filename]
        kept = [
            (frame.f_code.co_qualname, name)
            for frame in ours
            for name in frame.f_locals
            if name in ("payload", "request", "call", "task", "tasks", "inputs", "batch")
        ]
        assert not kept
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
