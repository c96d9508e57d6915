"""Images decoded and resized by the client are those that the server makes, to half a level."""

import asyncio
import json

import numpy as np
import preprocessing_reference as reference
import pytest
import tensorflow as tf
from classifiers import LABELS, encoded, photo, small_classifier
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from serving_models import save_test_model

import keras_cls
from keras_cls import AsyncClient, Client, Preprocessing
from keras_cls.client.decoding import Decoder, resize_and_crop, rule_for
from keras_cls.client.retrying import GET_METADATA, Send
from keras_cls.data.decoding import decode_image
from keras_cls.errors import ConfigError, ImageError, ServingError
from keras_cls.preprocessing import normalize
from keras_cls.preprocessing import resize_and_crop as resize_and_crop_in_a_graph
from keras_cls.server import ModelServer

KERNELS = ["bilinear", "bicubic", "lanczos"]
HALF_A_LEVEL = 0.5 + reference.BOUND
CASES = [
    case
    for case in json.loads(reference.GOLDEN.read_text(encoding="utf-8"))["cases"]
    if case["rule"]["interpolation"] != "box"
]


class TestTheRule:
    @pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
    def test_it_meets_the_golden_vectors(self, case):
        rule = Preprocessing.from_dict(case["rule"])
        image = np.array(case["image"]["pixels"], np.uint8).reshape(case["image"]["shape"])
        out = normalize(resize_and_crop(image, rule), rule).numpy()
        expected = np.array(case["expected"]["values"]).reshape(case["expected"]["shape"])
        assert out.shape == expected.shape
        assert (abs(out - expected) * 255 * np.array(rule.std)).max() <= reference.BOUND

    @given(
        st.integers(1, 90),
        st.integers(1, 90),
        st.builds(
            Preprocessing,
            size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
            resize=st.sampled_from(["shorter", "squash", "pad"]),
            crop=st.sampled_from([1.0, 0.875, 0.5, 0.4]) | st.floats(0.3, 1),
            interpolation=st.sampled_from(KERNELS),
        ),
        st.integers(0, 9),
    )
    @settings(max_examples=150, deadline=None)
    def test_it_agrees_with_the_reference_on_any_sizes(self, height, width, rule, seed):
        image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        expected = reference.resize_and_crop(image, rule.to_dict())
        assert abs(resize_and_crop(image, rule) - expected).max() <= reference.BOUND
        pixels = Decoder(rule)(image, "image")
        assert pixels.dtype == np.uint8
        assert abs(pixels - expected).max() <= HALF_A_LEVEL

    @pytest.mark.data
    @pytest.mark.parametrize("interpolation", KERNELS)
    @pytest.mark.parametrize("resize", ["shorter", "squash", "pad"])
    def test_photos_are_the_server_s(self, data_dir, interpolation, resize):
        rule = Preprocessing(interpolation=interpolation, resize=resize)
        for path in sorted((data_dir / "gallery" / "photos").iterdir())[:6]:
            decoded = decode_image(tf.constant(path.read_bytes()), 3)
            expected = resize_and_crop_in_a_graph(decoded, rule).numpy()
            assert abs(Decoder(rule)(path, str(path)) - expected).max() <= 0.51


def test_what_the_model_takes_and_what_the_caller_says():
    assert rule_for((8, 9, 3), None) == Preprocessing(size=(8, 9))
    assert rule_for((8, 9, 4), None).color_mode == "rgba"
    rule = Preprocessing(size=(8, 9), crop=1.0)
    assert rule_for((8, 9, 3), rule) is rule
    assert rule_for((-1, -1, 3), rule) is rule
    grey = Preprocessing(size=(8, 9), color_mode="grayscale", mean=(0.5,), std=(0.5,))
    assert rule_for((8, 9, 3), grey) is grey
    with pytest.raises(ConfigError, match=r"makes images of shape \[8, 9, 3\], .* \[8, 8, 3\]"):
        rule_for((8, 8, 3), rule)
    with pytest.raises(ConfigError, match="preprocessing= must say"):
        rule_for((-1, -1, 3), None)
    with pytest.raises(ConfigError, match="'box'"):
        rule_for((8, 9, 3), Preprocessing(size=(8, 9), interpolation="box"))


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Servers of exported classifiers with one rule each, by a name."""
    folder = tmp_path_factory.mktemp("exported")
    classifiers = {
        "plain": small_classifier(),
        "rgba": small_classifier(channels=4, interpolation="bicubic", crop=0.7, resize="pad"),
        "grey": small_classifier(channels=1),
    }
    servers = {}
    try:
        for name, classifier in classifiers.items():
            keras_cls.export(classifier, folder / name)
            server = ModelServer(folder / name, host="127.0.0.1", port=0)
            server.start()
            servers[name] = (server, classifier)
        yield servers
    finally:
        for server, _ in servers.values():
            server.stop()


IMAGES = [
    *(encoded(photo(label, 70, 90, seed), "JPEG") for seed, label in enumerate(LABELS * 2)),
    encoded(photo("red", 20, 16)),
    encoded(photo("green"), "WEBP"),
    photo("blue", 33, 44),
    Image.fromarray(photo("blue", 200, 30)).convert("CMYK"),
]


@pytest.mark.parametrize("name", ["plain", "rgba", "grey"])
def test_the_answers_are_the_server_s(colours, name):
    server, classifier = colours[name]
    options = {
        "decode": "client",
        "preprocessing": None if name == "plain" else classifier.preprocessing,
        "labels": classifier.labels,
        "images_per_call": 3,
    }
    with (
        Client(server.address, model=name) as at_the_server,
        Client(server.address, model=name, **options) as here,
    ):
        expected, found = at_the_server.probabilities(IMAGES), here.probabilities(IMAGES)
        assert found.dtype == np.float32
        assert abs(found - expected).max() < 0.02
        predictions = here.classify(IMAGES)

    async def ask():
        async with AsyncClient(server.address, model=name, **options) as client:
            return await client.classify(IMAGES)

    for row, other in zip(predictions, asyncio.run(ask()), strict=True):
        assert [p.label for p in other] == [p.label for p in row]
        # The batches of the two may differ, and with them the last bit.
        assert [p.score for p in other] == pytest.approx([p.score for p in row], abs=1e-6)
    for row, probabilities in zip(predictions, found, strict=True):
        assert [p.label for p in row] == [classifier.labels[p.index] for p in row]
        assert [p.score for p in row] == sorted(map(float, probabilities), reverse=True)


def test_the_server_is_asked_once_how_large_its_images_are(colours):
    server, _ = colours["plain"]
    sent = []
    with Client(server.address, model="plain", decode="client") as client:
        real = client._take

        def take(step):
            sent.append(step)
            return real(step)

        client._take = take
        for _ in range(3):
            client.probabilities(IMAGES[0])
    methods = [step.method for step in sent if isinstance(step, Send)]
    assert methods.count(GET_METADATA) == 1
    (pixels,) = (step.request.inputs["images"] for step in sent[1:2])
    assert [dim.size for dim in pixels.tensor_shape.dim] == [1, 24, 20, 3]


def test_what_cannot_be_read_is_named(colours, tmp_path):
    server, _ = colours["plain"]
    path = tmp_path / "cut.png"
    path.write_bytes(encoded(photo())[:60])
    with (
        Client(server.address, model="plain", decode="client") as client,
        pytest.raises(ImageError, match=r"cut\.png: damaged"),
    ):
        client.probabilities([IMAGES[0], path])


def test_names_are_needed_to_classify(colours):
    server, _ = colours["plain"]
    with (
        Client(server.address, model="plain", decode="client") as client,
        pytest.raises(ConfigError, match="needs labels="),
    ):
        client.classify(IMAGES)
    with (
        Client(server.address, model="plain", decode="client", labels=["a", "b"]) as client,
        pytest.raises(ConfigError, match="has 3 classes, but 2 labels"),
    ):
        client.classify(IMAGES)


def test_a_rule_for_another_size(colours):
    server, _ = colours["plain"]
    with (
        Client(
            server.address, model="plain", decode="client", preprocessing=Preprocessing()
        ) as client,
        pytest.raises(ConfigError, match=r"\[224, 224, 3\], but the model takes \[24, 20, 3\]"),
    ):
        client.probabilities(IMAGES)


def test_a_model_that_takes_no_pixels(tmp_path):
    save_test_model(tmp_path / "odd" / "1", images="scalar")
    with (
        ModelServer(tmp_path / "odd", host="127.0.0.1", port=0) as server,
        Client(server.address, model="odd", decode="client") as client,
        pytest.raises(ServingError, match="no signature 'images'") as caught,
    ):
        client.probabilities(IMAGES)
    assert caught.value.code == "FAILED_PRECONDITION"


def test_the_size_of_pixels_counts(colours):
    server, _ = colours["plain"]
    size = 24 * 20 * 3
    for limit, calls in ((size, 3), (2 * size, 2), (3 * size, 1)):
        with Client(
            server.address, model="plain", decode="client", max_message_bytes=limit
        ) as client:
            prepare = client._carry_out(client._conversation.preparation())
            assert len(list(client._conversation.chunks(IMAGES[:3], prepare))) == calls


@pytest.mark.parametrize(
    "arguments",
    [
        *({"decode": "both"}, {"decode": None}),
        *({"labels": ["a"]}, {"preprocessing": Preprocessing()}),
        *({"labels": [], "decode": "client"}, {"labels": "abc", "decode": "client"}),
        *({"labels": [1], "decode": "client"}, {"preprocessing": {}, "decode": "client"}),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense(arguments):
    for kind in (Client, AsyncClient):
        with pytest.raises(ConfigError, match=next(iter(arguments))):
            kind("localhost:1", model="m", **arguments)
