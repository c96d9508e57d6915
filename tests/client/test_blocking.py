"""The blocking client on a real server: images in, labels out, errors that say what to do."""

import threading
import time

import numpy as np
import pytest
from PIL import Image
from serving_models import LABELS, image_of, save_test_model, server_process
from shades import best, encoded, free_port, saved, silent_address

from keras_cls import Client, Prediction
from keras_cls.client.retrying import Send, pause_before_retry
from keras_cls.errors import ConfigError, ImageError, ServingError
from keras_cls.images import encode_png
from keras_cls.server import BatchingOptions, ModelServer


@pytest.fixture
def sent(client, monkeypatch):
    """The images of each Predict call that the client makes, as they go to the server."""
    calls = []

    def take(step):
        if isinstance(step, Send):
            calls.append(list(step.request.inputs["image_bytes"].string_val))
        return real(step)

    real = client._take
    monkeypatch.setattr(client, "_take", take)
    return calls


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
    with Client(server.address, model="shades", version=np.int64(3)) as client:
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


CUT = encoded(0)[:60]  # all pixels are there, the end of the file is not


def test_only_what_the_server_cannot_read_is_sent_again_as_a_png(client, sent):
    images = [encoded(255, "JPEG"), CUT, encoded(128, "JPEG")]
    assert best(client.classify(images)) == ["bright", "dark", "medium"]
    together, *alone = sent
    assert together == images
    assert alone == [images[:1], [CUT], [encode_png(CUT)], images[2:]]
    np.testing.assert_array_equal(
        client.probabilities(images), np.concatenate([client.probabilities(i) for i in images])
    )


def test_what_nobody_can_read_is_named(client, tmp_path):
    path = tmp_path / "cut.png"
    path.write_bytes(encoded(0)[:45])  # the header is whole, so the client sends it at first
    with pytest.raises(ImageError, match=r"cut\.png: damaged"):
        client.classify([encoded(0), path])
    with pytest.raises(ImageError, match="image 1: damaged"):
        client.classify([encoded(0), path.read_bytes()])


def test_the_size_of_what_is_sent_again_is_looked_at(server):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    image = Image.fromarray(noise).convert("P")
    image.putpalette(np.random.default_rng(1).bytes(768))
    cut = saved(image)[:-12]
    assert len(cut) < 6000 < len(encode_png(cut))
    with (
        Client(server.address, model="shades", max_message_bytes=6000) as small,
        pytest.raises(ImageError, match=r"image 1: .* do not fit into one message of 6,000"),
    ):
        small.classify([encoded(0), cut])


def test_refusals_that_are_not_about_an_image(tmp_path):
    """The images are good, so the service's own words are told, and soon."""
    save_test_model(tmp_path / "odd" / "1", serving_default="ninth_byte")
    calls = []
    with (
        ModelServer(tmp_path / "odd", host="127.0.0.1", port=0) as server,
        Client(server.address, model="odd") as client,
    ):
        real = client._take
        client._take = lambda step: calls.append(1) or real(step)
        with pytest.raises(ServingError, match="Signature input alias: x") as caught:
            client.classify([encoded(0)] * 9)
    assert caught.value.code == "INVALID_ARGUMENT"
    assert len(calls) == 3


def test_more_images_than_the_server_takes_at_once(base_path):
    batching = BatchingOptions(max_batch_size=4)
    with ModelServer(base_path, host="127.0.0.1", port=0, batching=batching) as server:
        with (
            Client(server.address, model="shades") as client,
            pytest.raises(ServingError, match=r"Task size 9 .*images_per_call= sends fewer"),
        ):
            client.classify([encoded(0)] * 9)
        with Client(server.address, model="shades", images_per_call=4) as client:
            assert best(client.classify([encoded(0)] * 9)) == ["dark"] * 9


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


@pytest.mark.parametrize("retries", [1000, None])
def test_retries_go_on_until_the_timeout(retries):
    with Client(f"127.0.0.1:{free_port()}", model="m", retries=retries, timeout=2) as client:
        start = time.monotonic()
        with pytest.raises(ServingError):
            client.status()
        assert 1.7 < time.monotonic() - start < 3.8


def test_pauses_grow_to_a_limit():
    pauses = [pause_before_retry(attempt) for attempt in (0, 3, 10, 100_000)]
    assert 0.1 <= pauses[0] <= 0.2 and 0.8 <= pauses[1] <= 1.6
    assert all(2.5 <= pause <= 5 for pause in pauses[2:])


def test_no_answer_in_time():
    with (
        silent_address() as address,
        Client(address, model="shades", timeout=0.5, retries=0) as client,
        pytest.raises(ServingError) as caught,
    ):
        client.status()
    assert caught.value.code in ("DEADLINE_EXCEEDED", "UNAVAILABLE")


def test_kill_and_restart_is_bridged(base_path):
    port = free_port()
    with Client(f"127.0.0.1:{port}", model="shades", timeout=60) as client:
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


@pytest.mark.parametrize(
    "arguments",
    [
        *({"model": ""}, {"model": None}, {"model": 5}),
        *({"version": -1}, {"version": "3"}, {"version": True}, {"version": 1 << 63}),
        *({"timeout": 0}, {"timeout": -1}, {"timeout": None}, {"timeout": "10"}, {"timeout": True}),
        *({"timeout": float("inf")}, {"timeout": float("nan")}),
        *({"retries": -1}, {"retries": 1.5}, {"retries": "3"}, {"retries": True}),
        *({"images_per_call": 0}, {"images_per_call": "9"}),
        *({"max_message_bytes": 0}, {"max_message_bytes": None}, {"credentials": "key.pem"}),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        Client("localhost:1", **{"model": "m", **arguments})


def test_the_model_must_be_named():
    with pytest.raises(ConfigError, match="name the model"):
        Client("localhost:1")


def test_a_name_for_the_resolver(server):
    with Client(f"dns:///{server.address}", model="shades") as client:
        assert client.status() == {3: "AVAILABLE"}


@pytest.mark.parametrize("timeout", [1e300, 10**400])
def test_timeouts_without_a_real_end_are_no_short_ones(server, timeout):
    with Client(server.address, model="shades", timeout=timeout) as client:
        assert client.status() == {3: "AVAILABLE"}


def test_a_closed_client(server):
    with Client(server.address, model="shades") as client:
        client.status()
    client.close()  # again: nothing
    for ask in (
        client.status,
        lambda: client.classify(encoded(0)),
        lambda: client.probabilities(encoded(0)),
    ):
        with pytest.raises(ConfigError, match="the client is closed"):
            ask()
