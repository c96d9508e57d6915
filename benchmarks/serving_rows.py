"""The servers that benchmarks/serving.py compares: how each is started, asked and understood."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks import open_inference
from benchmarks.peers import environment
from benchmarks.serving_load import Target
from benchmarks.serving_models import Artefacts
from benchmarks.serving_peers import serve_echo
from benchmarks.tables import ROOT

Best: TypeAlias = tuple[list[str], list[float]]

START_SECONDS = 180
STOP_SECONDS = 15
PEER_MODEL = "network"
_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_JSON = (("Content-Type", "application/json"),)
_JPEG = (("Content-Type", "image/jpeg"),)
_ONNX_RUNTIME = ("numpy==2.4.6", "onnxruntime==1.31.1", "pillow==13.0.0")
REQUIREMENTS = {
    "fastapi": ("fastapi==0.165.0", "httptools==0.9.0", "uvicorn==0.54.0", "uvloop==0.23.0"),
    "litserve": ("litserve==0.2.19", "pyzmq==27.3.0", "uvloop==0.23.0", "httptools==0.9.0"),
    "kserve": ("kserve==0.21.0",),
    "mlserver": ("mlserver==1.7.1",),
}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        title: what the table calls it.
        server: which process answers; several rows may share one.
        target: from the server's ports (HTTP, gRPC), and the model's name.
        body: a request's body, from the model's name and a photo.
        read: an answer's classes and scores.
        models: the networks it is measured with.
    """

    title: str
    server: str
    target: Callable[["Ports", str], Target]
    body: Callable[[str, bytes], bytes]
    read: Callable[[bytes], Best] | None
    models: tuple[str, ...] = ("lenet5", "resnet50")


@dataclass(frozen=True)
class Ports:
    """Free ones of this machine."""

    http: int
    grpc: int
    metrics: int


# --- requests and answers


def _predict_request(model: str, photo: bytes) -> bytes:
    from keras_cls.contract.messages import PredictRequest
    from keras_cls.contract.tensors import encode_tensor

    request: Any = PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = "serving_default"
    request.inputs["image_bytes"].CopyFrom(encode_tensor(np.array([photo], object)))
    request.output_filter.extend(["classes", "scores"])
    return bytes(request.SerializeToString())


def _read_prediction(answer: bytes) -> Best:
    from keras_cls.contract.messages import PredictResponse
    from keras_cls.contract.tensors import decode_tensor

    outputs = PredictResponse.FromString(answer).outputs
    classes = decode_tensor(outputs["classes"])[0]
    return [name.decode() for name in classes], decode_tensor(outputs["scores"])[0].tolist()


def _rest_request(_model: str, photo: bytes) -> bytes:
    return json.dumps({"instances": [{"b64": base64.b64encode(photo).decode()}]}).encode()


def _read_rest(answer: bytes) -> Best:
    (found,) = json.loads(answer)["predictions"]
    return found["classes"], found["scores"]


def _photo_itself(_model: str, photo: bytes) -> bytes:
    return photo


def _read_plain(answer: bytes) -> Best:
    found = json.loads(answer)
    return found["classes"], found["scores"]


def _open_request(_model: str, photo: bytes) -> bytes:
    return open_inference.request(PEER_MODEL, photo)


def _grpc(path: str) -> Callable[[Ports, str], Target]:
    return lambda ports, _model: Target("grpc", ports.grpc, path)


def _http(path: str, headers: tuple[tuple[str, str], ...]) -> Callable[[Ports, str], Target]:
    return lambda ports, model: Target("http", ports.http, path.format(model=model), headers)


_REST_PATH = "/v1/models/{model}:predict"


def _keras_cls(title: str, precision: str) -> Row:
    models = ("lenet5", "resnet50") if precision == "float32" else ("resnet50",)
    server = f"keras_cls {precision}"
    return Row(title, server, _grpc(_PREDICT), _predict_request, _read_prediction, models)


ROWS = {
    "echo": Row(
        "grpc.aio that answers at once", "echo", _grpc(serve_echo.METHOD), _photo_itself, None
    ),
    "keras_cls": _keras_cls("**keras_cls**, gRPC", "float32"),
    "keras_cls_rest": Row(
        "**keras_cls**, REST",
        "keras_cls float32",
        _http(_REST_PATH, _JSON),
        _rest_request,
        _read_rest,
    ),
    "keras_cls_bfloat16": _keras_cls("**keras_cls** bfloat16, gRPC", "bfloat16"),
    "keras_cls_int8": _keras_cls("**keras_cls** int8, gRPC", "int8"),
    "fastapi": Row(
        "FastAPI + ONNX Runtime, HTTP",
        "fastapi",
        _http("/classify", _JPEG),
        _photo_itself,
        _read_plain,
    ),
    "litserve": Row(
        "LitServe, HTTP", "litserve", _http("/classify", _JPEG), _photo_itself, _read_plain
    ),
    "kserve": Row(
        "KServe, gRPC",
        "kserve",
        _grpc(open_inference.METHOD),
        _open_request,
        open_inference.read_answer,
    ),
    "mlserver": Row(
        "MLServer, gRPC",
        "mlserver",
        _grpc(open_inference.METHOD),
        _open_request,
        open_inference.read_answer,
    ),
}


# --- processes


def server_command(server: str, artefacts: Artefacts, ports: Ports) -> list[object]:
    """What starts a server of that network on those ports."""
    if server.startswith("keras_cls"):
        return keras_cls_command(artefacts.model(server.split()[1]), ports)
    script = ROOT / "benchmarks/serving_peers" / f"serve_{server}.py"
    if server == "echo":
        return [sys.executable, script, ports.grpc]
    arguments = [artefacts.onnx, ports.http, ports.grpc, ports.metrics]
    return [peer_python(server), script, *arguments]


def keras_cls_command(model: Path, ports: Ports) -> list[object]:
    """This project's server, with the flags it comes with."""
    flags = [f"--port={ports.grpc}", f"--rest_api_port={ports.http}", "--host=127.0.0.1"]
    return [sys.executable, "-m", "keras_cls", "serve", f"--model_base_path={model}", *flags]


def peer_python(peer: str) -> Path:
    """The Python of a peer's environment, made if it is not there."""
    return environment(f"serving/{peer}", REQUIREMENTS[peer] + _ONNX_RUNTIME)


class Server:
    """The processes of a server, in a session of their own; they can be made to rest."""

    def __init__(self, command: Sequence[object], cores: Sequence[int], log: Path) -> None:
        self._log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=log.parent,
                env=os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"},
                start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )

    @property
    def session(self) -> int:
        """By which its processes are known."""
        return self._process.pid

    def check(self) -> None:
        """Raise SystemExit, with the end of what it said, if it has ended."""
        if self._process.poll() is not None:
            said = self._log.read_text(errors="replace")[-2000:]
            raise SystemExit(f"the server ended: {' '.join(self._process.args)}\n{said}")

    def rest(self) -> None:
        """Stand still, so that others have the cores for themselves."""
        os.killpg(self.session, signal.SIGSTOP)

    def work(self) -> None:
        """Go on."""
        os.killpg(self.session, signal.SIGCONT)

    def stop(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self.work()
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self.session, signal.SIGKILL)  # also what it has left behind
        self._process.wait()


@contextmanager
def running(command: Sequence[object], cores: Sequence[int], log: Path) -> Iterator[Server]:
    """A server for as long as it is entered; it may not answer yet."""
    server = Server(command, cores, log)
    try:
        yield server
    finally:
        server.stop()


class Load:
    """The process that asks; see benchmarks/serving_load.py."""

    def __init__(self, cores: Sequence[int]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving_load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )

    def begin(self, target: Target, bodies: Sequence[Path], **job: Any) -> None:
        """Give it a job."""
        self._say(json.dumps({"target": asdict(target), "bodies": list(map(str, bodies)), **job}))

    def end(self) -> None:
        """Let a job end that has no end of its own."""
        self._say("")

    def found(self) -> dict[str, Any]:
        """What the job found, when it is over; ``problem`` where it could not begin."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the load generator ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()


def first_answer(load: Load, server: Server, target: Target, bodies: Sequence[Path]) -> bytes:
    """What a server says when it first answers; SystemExit if it does not in time."""
    end = time.monotonic() + START_SECONDS
    while True:
        load.begin(target, bodies, once=True)
        found = load.found()
        if "answer" in found:
            return base64.b64decode(found["answer"])
        server.check()
        if time.monotonic() > end:
            raise SystemExit(f"{target.path}: no answer in {START_SECONDS} s: {found['problem']}")
        time.sleep(0.2)


def free_ports() -> Ports:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    numbers = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return Ports(*numbers)


def cores_for_all() -> tuple[list[int], list[int]]:
    """Two cores for each server, and others for the load; the same where there are no others."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[:2], cores[2:4] or cores[:2]
