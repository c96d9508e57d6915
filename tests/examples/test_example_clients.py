"""The clients of examples/clients, as somebody without keras_cls runs them."""

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from google.protobuf import json_format
from serving_models import image_of, save_test_model, stubs_for
from tensorflow_serving.apis import predict_pb2

from keras_cls.images import encode_png
from keras_cls.server import ModelServer

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "clients"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "shades"
    save_test_model(folder / "1")
    with ModelServer(folder, host="127.0.0.1", port=0) as running:
        yield running


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name, brightness in (("dark", 0), ("bright", 255)):
        (folder / f"{name}.png").write_bytes(encode_png(image_of(brightness)))
    return folder


def run(*command, **variables):
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **variables},
    )


def test_python_with_generated_stubs(server, images, tmp_path):
    made = run("sh", FOLDER / "make_stubs.sh", tmp_path / "stubs", PYTHON=sys.executable)
    assert made.returncode == 0, made.stderr
    arguments = ["--stubs", tmp_path / "stubs", "--address", server.address]
    command = [sys.executable, FOLDER / "ask.py", *arguments]
    paths = [images / "dark.png", images / "bright.png"]
    done = run(*command, "--model", "shades", *paths)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [lines[0], lines[4]] == list(map(str, paths))
    assert [line.split()[1] for line in lines[1:4]] == ["dark", "medium", "bright"]
    assert [line.split()[1] for line in lines[5:]] == ["bright", "medium", "dark"]
    wrong = run(*command, "--model", "dogs", *paths)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith(f"{server.address}: NOT_FOUND: ")


def test_the_example_imports_nothing_of_ours():
    source = (FOLDER / "ask.py").read_text()
    imported = [line.strip() for line in source.splitlines() if line.strip().startswith("from ke")]
    assert imported == [
        "from keras_cls.contract.protos import predict_pb2, services_pb2_grpc, tensor_pb2"
    ]


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_what_curl_sends(images):
    """To a listener that keeps it; the REST API is the server's."""
    kept = {}

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kept.update(path=self.path, body=json.loads(body))
            self.send_response(404 if "dogs" in self.path else 200)
            self.end_headers()
            self.wfile.write(b'{"predictions": []}')

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Listener) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{listener.server_port}"
        done = run("sh", FOLDER / "rest.sh", images / "dark.png", "pets", address)
        missing = run("sh", FOLDER / "rest.sh", images / "dark.png", "dogs", address)
        listener.shutdown()
    assert (done.returncode, done.stdout) == (0, '{"predictions": []}'), done.stderr
    assert missing.returncode != 0
    (instance,) = kept["body"]["instances"]
    assert base64.b64decode(instance["b64"]) == (images / "dark.png").read_bytes()
    assert kept["path"] == "/v1/models/dogs:predict"


def test_what_grpcurl_is_given(server, images, tmp_path):
    """A stand-in prints what it is given; the message is then sent by TensorFlow Serving's stub."""
    stand_in = tmp_path / "grpcurl"
    stand_in.write_text('#!/bin/sh\necho "$@" >&2\ntest -f "$5" && cat\n')
    stand_in.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    script = FOLDER / "grpcurl.sh"
    done = run("sh", script, images / "bright.png", "shades", server.address, PATH=path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.split()[-2:] == [
        server.address,
        "tensorflow.serving.PredictionService/Predict",
    ]
    request = json_format.Parse(done.stdout, predict_pb2.PredictRequest())
    stubs = stubs_for(server.address)
    response = stubs.prediction.Predict(request, timeout=10)
    stubs.channel.close()
    assert response.outputs["classes"].string_val[0] == b"bright"
