"""Images that would become enormous are refused before anything is decoded."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from serving_models import example_of, image_of, refusal, request_for, stubs_for

from keras_cls.errors import ConfigError
from keras_cls.server import ManagerOptions, ModelServer, ServerOptions
from keras_cls.server.image_sizes import image_check, image_pixels
from keras_cls.server.predict import PredictCall
from keras_cls.server.signatures import Signature, TensorSpec
from keras_cls.server.status import RequestError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")


def encoded(kind, width, height, frames=1, **options):
    file = io.BytesIO()
    images = [Image.new("L", (width, height), 30 * place) for place in range(frames)]
    if frames > 1:
        options = {"save_all": True, "append_images": images[1:], **options}
    if kind != "GIF":
        images = [image.convert("RGB") for image in images]
    images[0].save(file, kind, **options)
    return file.getvalue()


def png_bomb(width, height):
    """A PNG that declares a size and holds a byte."""

    def chunk(kind, content):
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


def jpeg_bomb(width, height):
    """A JPEG of 8 x 8 pixels whose header says otherwise."""
    data = encoded("JPEG", 8, 8)
    size = struct.pack(">HH", 8, 8)
    place = data.index(b"\xff\xc0") + 5
    assert data[place : place + 4] == size
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def gif_bomb(width, height, frames=1):
    data = encoded("GIF", 8, 8, frames)
    size = struct.pack("<HH", 8, 8)
    return data.replace(size, struct.pack("<HH", width, height))


def bmp_bomb(width, height):
    data = encoded("BMP", 8, 8)
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


def webp_bomb(width, height):
    assert max(width, height) <= 1 << 14
    data = encoded("WEBP", 8, 8, lossless=True)
    assert data[12:16] == b"VP8L"
    bits = (width - 1) | (height - 1) << 14
    return data[:21] + struct.pack("<I", bits) + data[25:]


BOMBS = {
    "png": png_bomb(30_000, 30_000),
    "jpeg": jpeg_bomb(30_000, 30_000),
    "gif": gif_bomb(30_000, 30_000),
    "bmp": bmp_bomb(30_000, 30_000),
    "bmp upside down": bmp_bomb(30_000, -30_000),
    "webp": webp_bomb(16_384, 16_384),
}


@given(
    kind=st.sampled_from(FORMATS),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    lossless=st.booleans(),
    progressive=st.booleans(),
    comment=st.binary(max_size=300),
)
@settings(deadline=None, max_examples=60)
def test_sizes_are_those_that_pillow_finds(kind, width, height, lossless, progressive, comment):
    options = {}
    if kind == "WEBP":
        options = {"lossless": lossless}
    if kind == "JPEG":
        options = {"progressive": progressive, "comment": comment}
    assert image_pixels(encoded(kind, width, height, **options)) == width * height


@pytest.mark.parametrize(
    ("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True, "minimize_size": True})]
)
def test_all_frames_count(kind, options):
    data = encoded(kind, 20, 10, frames=7, **options)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 7
    assert image_pixels(data) == 7 * 20 * 10


def test_a_webp_with_more_than_pixels():
    data = encoded("WEBP", 20, 10, exif=Image.Exif().tobytes())
    assert data[12:16] == b"VP8X"
    assert image_pixels(data) == 200


@pytest.mark.parametrize("name", BOMBS)
def test_declared_sizes(name):
    assert image_pixels(BOMBS[name]) == (16_384**2 if name == "webp" else 30_000**2)


def test_a_jpeg_s_size_stands_behind_other_segments():
    plain = encoded("JPEG", 30, 20)
    for between in (
        b"\xff\xe1\x00\x04\xff\xc0",  # a segment that holds what looks like another one
        b"\xff\xff\xff\xfe\x00\x02",  # padding
        b"junk",  # which libjpeg passes over
        b"\xff\x00\xff\x01",
        b"\xff\xc4\x00\x02",
    ):
        assert image_pixels(plain[:2] + b"\xff\xe0\x00\x02" + between + plain[2:]) == 600


@given(st.sampled_from([b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF....WEBPVP8X", b""]))
def test_headers_that_are_cut_off(start):
    assert image_pixels(start) == 0


@given(
    start=st.sampled_from(
        [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF1234WEBP"]
    ),
    rest=st.binary(max_size=200),
)
def test_any_bytes_have_a_size(start, rest):
    assert image_pixels(start + rest) >= 0


@given(kind=st.sampled_from(FORMATS), data=st.data())
@settings(deadline=None)
def test_files_that_are_cut_off_or_damaged(kind, data):
    whole = bytearray(encoded(kind, 20, 10, frames=3 if kind == "GIF" else 1))
    for _ in range(data.draw(st.integers(0, 5))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    assert image_pixels(bytes(whole[: data.draw(st.integers(0, len(whole)))])) >= 0


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff\xe0\x00\x02" * 300_000,
        encoded("GIF", 8, 8)[:-1] + b"\x21\xff" + b"\x01\0" * 300_000,
        b"RIFF1234WEBPVP8X\n" + bytes(13) + b"ANMF\0\0\0\0" * 300_000,
    ],
    ids=["jpeg", "gif", "webp"],
)
def test_headers_of_very_many_parts_are_not_walked(data):
    start = time.process_time()
    with pytest.raises(RequestError, match="more than 200000 parts"):
        image_pixels(data)
    assert time.process_time() - start < 2


def test_all_images_of_a_request_share_the_parts():
    """Else a large request could hold everybody up for minutes."""
    image = b"\xff\xd8" + b"\xff\xe0\0\x02" * 60_000
    signature = Signature(
        "s",
        "",
        {"image_bytes": TensorSpec("x:0", 7, (None,))},
        {"y": TensorSpec("y:0", 1, None)},
        {},
    )
    check = image_check({"s": signature}, 1000)

    def call(count):
        return PredictCall(signature, {"image_bytes": np.array([image] * count, object)}, ("y",))

    check(call(3))
    with pytest.raises(RequestError, match="a request's images have more than 200000 parts"):
        check(call(4))


def test_padding_without_an_end_is_read_once():
    start = time.process_time()
    assert image_pixels(b"\xff\xd8" + b"\xff" * 20_000_000) == 0
    assert time.process_time() - start < 2


def test_other_models_strings_are_nobody_s_business():
    strings = TensorSpec("x:0", 7, (None,))
    numbers = TensorSpec("x:0", 1, (None,))
    for inputs in ({"text": strings}, {"inputs": strings}, {"image_bytes": numbers}, {}):
        signature = Signature("classify", "", inputs, {}, {})
        assert image_check({"classify": signature}, 1) is None


@pytest.fixture(scope="module")
def small_server(base_path):
    options = ServerOptions(manager=ManagerOptions(max_image_pixels=100))
    with ModelServer(base_path, host="127.0.0.1", port=0, options=options) as running:
        stubs = stubs_for(running.address)
        yield stubs
        stubs.channel.close()


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("signature", ["", "probabilities"])
def test_bombs_are_refused_in_no_time(stubs, name, signature):
    image = tf.io.encode_png(image_of(3)).numpy()
    start = time.process_time()
    code, text = refusal(stubs, request_for(signature, image_bytes=[image, BOMBS[name]]))
    assert code == "INVALID_ARGUMENT"
    pixels = image_pixels(BOMBS[name])
    assert text == (
        f"image 1 would have {pixels} pixels, and this server takes 100000000 at most: "
        "send it smaller"
    )
    assert time.process_time() - start < 1


def test_bombs_in_examples(stubs, small_server):
    def request(image):
        example = tf.train.Example()
        example.features.feature["image/encoded"].bytes_list.value.append(image)
        return request_for("classify", inputs=[example.SerializeToString()])

    for bomb in BOMBS.values():
        code, text = refusal(stubs, request(bomb))
        assert (code, "this server takes 100000000 at most" in text) == ("INVALID_ARGUMENT", True)
    code, text = refusal(stubs, request_for("classify", inputs=[b"\xff no example"]))
    assert code == "INVALID_ARGUMENT"
    small_server.prediction.Predict(request(encoded("PNG", 10, 10)), timeout=10)
    assert "would have 110 pixels" in refusal(small_server, request(encoded("PNG", 10, 11)))[1]
    # An example without an image, and one of numbers: these are the model's to refuse.
    code, text = refusal(
        stubs, request_for("classify", inputs=[example_of(x=1).SerializeToString()])
    )
    assert (code, "image/encoded" in text) == ("INVALID_ARGUMENT", True)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_the_limit_itself_is_taken(small_server, kind):
    small_server.prediction.Predict(
        request_for(image_bytes=[encoded(kind, 10, 10)] * 3), timeout=10
    )
    code, text = refusal(small_server, request_for(image_bytes=[encoded(kind, 10, 11)]))
    assert (code, text.split(" pixels")[0]) == ("INVALID_ARGUMENT", "image 0 would have 110")


def test_an_animation_counts_as_what_it_is_decoded_to(small_server):
    small_server.prediction.Predict(request_for(image_bytes=[encoded("GIF", 5, 5, 4)]), timeout=10)
    code, text = refusal(small_server, request_for(image_bytes=[encoded("GIF", 5, 5, 5)]))
    assert (code, text.split(" pixels")[0]) == ("INVALID_ARGUMENT", "image 0 would have 125")


def test_other_inputs_of_the_model_are_left_alone(small_server):
    bomb = BOMBS["png"]
    response = small_server.prediction.Predict(request_for("ninth_byte", x=[bomb]), timeout=10)
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [bomb[8:9]]
    pixels = np.zeros((3, 8, 8, 3), np.uint8)
    small_server.prediction.Predict(request_for("images", images=pixels), timeout=10)


@pytest.mark.parametrize("limit", [0, -1, 1.5, None])
def test_limits_that_make_no_sense(limit):
    with pytest.raises(ConfigError, match="max_image_pixels must be a whole number"):
        ManagerOptions(max_image_pixels=limit)
