"""The client against a real server: images in, labels out, and errors that say what to do."""

import io
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image
from serving_models import LABELS, image_of, save_test_model, server_process

import keras_cls
from keras_cls import Client, Prediction
from keras_cls.errors import ConfigError, ImageError, ServingError
from keras_cls.server import ModelServer


@pytest.fixture(scope="module")
def base_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "shades"
    save_test_model(folder / "3")
    return folder


@pytest.fixture(scope="module")
def server(base_path):
    with ModelServer(base_path, host="127.0.0.1", port=0) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with Client(server.address, model="shades") as connected:
        yield connected


def encoded(brightness, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(image_of(brightness)).save(buffer, format=kind)
    return buffer.getvalue()


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def best(predictions):
    return [row[0].label for row in predictions]


def test_every_kind_of_image(client, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(250, "JPEG"))
    images = [
        path,
        str(path),
        encoded(0),
        Image.fromarray(image_of(128)),
        image_of(255),
        encoded(0, "WEBP"),  # not for the graph: sent as PNG
    ]
    predictions = client.classify(images)
    assert best(predictions) == ["bright", "bright", "dark", "medium", "bright", "dark"]
    first = predictions[0]
    assert [p.label for p in first] == ["bright", "medium", "dark"]
    assert all(isinstance(p, Prediction) and p.index is None for p in first)
    assert sum(p.score for p in first) == pytest.approx(1)
    for image in images:
        assert len(client.classify(image)) == 1


def test_an_array_of_images_and_a_generator(client):
    stack = np.stack([image_of(0), image_of(255)])
    assert best(client.classify(stack)) == ["dark", "bright"]
    assert best(client.classify(image for image in stack)) == ["dark", "bright"]
    assert client.classify([]) == []


def test_probabilities(client):
    probabilities = client.probabilities([encoded(0), encoded(255)])
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (2, len(LABELS))
    assert probabilities.argmax(axis=1).tolist() == [0, 2]
    with pytest.raises(ConfigError, match="one image at least"):
        client.probabilities([])


def test_many_images_take_several_calls(server):
    shades = [0, 128, 255] * 40
    expected = ["dark", "medium", "bright"] * 40
    images = [encoded(shade) for shade in shades]
    largest = max(len(image) for image in images)
    for limits in (
        {"images_per_call": 7},
        {"max_message_bytes": largest},
        {"max_message_bytes": 3 * largest + 1},
        {},
    ):
        with Client(server.address, model="shades", **limits) as client:
            assert best(client.classify(images)) == expected


def test_status(client):
    assert client.status() == {3: "AVAILABLE"}


def test_versions(server):
    with Client(server.address, model="shades", version=3) as client:
        assert best(client.classify(encoded(0))) == ["dark"]
    with (
        Client(server.address, model="shades", version=8) as client,
        pytest.raises(ServingError, match="'shades', version 8") as caught,
    ):
        client.classify(encoded(0))
    assert caught.value.code == "NOT_FOUND"


def test_images_that_cannot_be_sent_are_named(client, server, tmp_path):
    with pytest.raises(ImageError, match=r"missing\.jpg"):
        client.classify(tmp_path / "missing.jpg")
    with pytest.raises(ImageError, match=r"image 1: .*not an image"):
        client.classify([encoded(0), b"junk"])
    with (
        Client(server.address, model="shades", max_message_bytes=10) as small,
        pytest.raises(ImageError, match=r"image 0: .* do not fit into one message of 10"),
    ):
        small.classify(encoded(0))


def test_what_only_the_client_can_read_is_sent_again_as_a_png(client):
    cut = encoded(0)[:60]  # all pixels are there, the end of the file is not
    assert client.classify([encoded(0), cut]) == client.classify([encoded(0), encoded(0)])


def test_what_nobody_can_read_is_named(client, tmp_path):
    path = tmp_path / "cut.png"
    path.write_bytes(encoded(0)[:45])  # the header is whole, so the client sends it at first
    with pytest.raises(ImageError, match=r"cut\.png"):
        client.classify([encoded(0), path])


def test_unknown_model(server):
    with Client(server.address, model="dogs") as client:
        for ask in (client.status, lambda: client.classify(encoded(0))):
            with pytest.raises(ServingError, match="have a model named 'dogs'") as caught:
                ask()
            assert caught.value.code == "NOT_FOUND"


def test_nobody_there():
    port = free_port()
    with Client(f"127.0.0.1:{port}", model="shades", retries=2) as client:
        start = time.monotonic()
        with pytest.raises(ServingError, match=f"running at 127.0.0.1:{port}") as caught:
            client.classify(encoded(0))
    assert caught.value.code == "UNAVAILABLE"
    assert 0.2 < time.monotonic() - start < 5


def test_retries_end_with_the_timeout():
    with Client(f"127.0.0.1:{free_port()}", model="m", retries=1000, timeout=0.8) as client:
        start = time.monotonic()
        with pytest.raises(ServingError):
            client.status()
        assert time.monotonic() - start < 1.5


def test_no_answer_in_time(tmp_path):
    """A server that accepts and never answers."""
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with (
            Client(address, model="shades", timeout=0.5, retries=0) as client,
            pytest.raises(ServingError) as caught,
        ):
            client.status()
    assert caught.value.code in ("DEADLINE_EXCEEDED", "UNAVAILABLE")


def test_kill_and_restart_is_bridged(base_path):
    port = free_port()
    with Client(f"127.0.0.1:{port}", model="shades", retries=50, timeout=60) as client:
        with server_process(base_path, port) as server:
            assert best(client.classify(encoded(0))) == ["dark"]
            server.process.kill()
            server.process.wait()
        answers = []
        asking = threading.Thread(target=lambda: answers.extend(client.classify(encoded(255))))
        asking.start()
        time.sleep(0.5)
        assert not answers
        with server_process(base_path, port):
            asking.join(30)
            assert best(answers) == ["bright"]


def test_tls(base_path, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    try:
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
                *("-keyout", key, "-out", certificate, "-subj", "/CN=localhost"),
                *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            ],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("no openssl to make a certificate with")
    pair = (key.read_bytes(), certificate.read_bytes())
    options = {"host": "127.0.0.1", "port": 0}
    with ModelServer(
        base_path, credentials=grpc.ssl_server_credentials([pair]), **options
    ) as server:
        trusting = grpc.ssl_channel_credentials(pair[1])
        with Client(server.address, model="shades", credentials=trusting) as client:
            assert best(client.classify(encoded(0))) == ["dark"]
        with (
            Client(server.address, model="shades", retries=0) as plain,
            pytest.raises(ServingError) as caught,
        ):
            plain.classify(encoded(0))
        assert caught.value.code == "UNAVAILABLE"


@pytest.mark.parametrize(
    "arguments",
    [{}, {"model": ""}, {"model": "m", "timeout": 0}, {"model": "m", "retries": -1}],
)
def test_arguments_that_make_no_sense(arguments):
    with pytest.raises(ConfigError):
        Client("localhost:1", **arguments)


def test_the_client_needs_no_tensorflow(server, tmp_path):
    """In a fresh interpreter, after a real call; of this package, only the contract and images."""
    path = tmp_path / "dark.png"
    path.write_bytes(encoded(0))
    code = f"""
import sys
import keras_cls
with keras_cls.Client({server.address!r}, model="shades") as client:
    assert client.classify({str(path)!r})[0][0].label == "dark"
assert not {{"tensorflow", "keras"}} & set(sys.modules)
print(*sorted(name for name in sys.modules if name.startswith("keras_cls")))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(keras_cls.__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "keras_cls",
        "keras_cls.client",
        "keras_cls.contract",
        "keras_cls.contract.messages",
        "keras_cls.contract.protos",
        "keras_cls.contract.tensors",
        "keras_cls.errors",
        "keras_cls.images",
    ]
