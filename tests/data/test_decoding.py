import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from image_files import (
    PNG_KINDS,
    encoded,
    exif_block,
    jpeg_with,
    oriented_jpeg,
    photo,
    png,
    segment,
)
from PIL import Image

from keras_cls.data.decoding import (
    decode_image,
    decode_small_alike,
    exif_orientation,
    with_channels,
)
from keras_cls.images import encode_for_graph, graph_reads, orientation, read_image

# As in an exported graph: traced once, for whatever bytes come.
SCALAR = tf.TensorSpec([], tf.string)
DECODERS = {
    channels: tf.function(lambda data, c=channels: decode_image(data, c), input_signature=[SCALAR])
    for channels in (3, 4)
}
BATCH = tf.TensorSpec([None], tf.string)
TOGETHER = {
    channels: tf.function(lambda b, c=channels: decode_small_alike(b, c), input_signature=[BATCH])
    for channels in (3, 4)
}
GRAPH_ORIENTATION = tf.function(exif_orientation, input_signature=[SCALAR])


def assert_same_pixels(data: bytes) -> None:
    """TensorFlow and Pillow agree bit for bit on a file that the graph is said to read."""
    assert encode_for_graph(data) == data
    for channels, decode in DECODERS.items():
        expected = read_image(data, alpha=channels == 4)
        assert np.array_equal(decode(data).numpy(), expected)


class TestSamePixels:
    @given(
        st.integers(1, 40), st.integers(1, 40), st.integers(1, 100), st.booleans(),
        st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]), st.sampled_from([0, 1, 3]), st.booleans(),
    )  # fmt: skip
    @settings(max_examples=80, deadline=None)
    def test_jpeg(self, height, width, quality, progressive, subsampling, restart, grey):
        noise = np.random.default_rng(height * width).integers(-40, 41, (height, width, 3))
        pixels = (photo(height, width) + noise).clip(0, 255).astype(np.uint8)
        assert_same_pixels(
            encoded(
                pixels[..., 0] if grey else pixels, "JPEG", quality=quality,
                progressive=progressive, subsampling=subsampling, restart_marker_blocks=restart,
            )
        )  # fmt: skip

    def test_jpeg_stored_as_rgb(self):
        assert_same_pixels(encoded(photo(), "JPEG", keep_rgb=True, quality=80))

    @pytest.mark.parametrize("value", range(1, 9))
    def test_oriented_jpeg(self, value):
        assert_same_pixels(oriented_jpeg(value))
        assert_same_pixels(oriented_jpeg(value, order=">", pixels=photo(1, 9)))

    @pytest.mark.parametrize(("colours", "depth"), PNG_KINDS)
    @pytest.mark.parametrize("seed", range(3))
    def test_png(self, colours, depth, seed):
        assert_same_pixels(png(colours, depth, seed=seed))

    @pytest.mark.parametrize(
        ("colours", "depth"),
        [*(("grey", d) for d in (1, 2, 4, 8)), *(("palette", d) for d in (1, 2, 4, 8)), ("rgb", 8)],
    )
    @pytest.mark.parametrize("seed", range(3))
    def test_png_with_a_transparency_chunk(self, colours, depth, seed):
        assert_same_pixels(png(colours, depth, transparent=True, seed=seed))

    def test_animated_png_shows_its_first_frame(self):
        frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "lime")]
        assert_same_pixels(encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]))

    def test_gif(self):
        palette = Image.fromarray(photo()).quantize(16)
        assert_same_pixels(encoded(palette, "GIF", interlace=0))
        assert_same_pixels(encoded(palette, "GIF", interlace=1))
        frames = [Image.fromarray(np.roll(photo(), n)).quantize(16) for n in range(3)]
        assert_same_pixels(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))

    @pytest.mark.parametrize("width", range(1, 6))
    def test_bmp(self, width):
        assert_same_pixels(encoded(photo(3, width), "BMP"))

    def test_bmp_from_top_to_bottom(self):
        data = bytearray(encoded(photo(6, 5), "BMP"))
        data[22:26] = (-6).to_bytes(4, "little", signed=True)
        assert_same_pixels(bytes(data))

    @pytest.mark.data
    def test_the_odd_images_that_go_undecoded(self, data_dir):
        compared = 0
        for path in sorted((data_dir / "odd_images").iterdir()):
            data = path.read_bytes()
            try:
                expected = read_image(data)
                as_it_is = encode_for_graph(data) == data
            except ValueError:
                continue
            if as_it_is:
                try:
                    pixels = DECODERS[3](data).numpy()
                except tf.errors.InvalidArgumentError:
                    continue  # a damaged file that Pillow is more lenient with
                assert np.array_equal(pixels, expected), path.name
                compared += 1
        assert compared >= 40


class TestChannels:
    def test_with_channels(self):
        grey = tf.constant([[[7], [9]]], tf.uint8)
        assert with_channels(grey, 3).numpy().tolist() == [[[7] * 3, [9] * 3]]
        assert with_channels(grey, 4).numpy().tolist() == [[[7] * 3 + [255], [9] * 3 + [255]]]

    @given(st.integers(0, 2**32 - 1))
    def test_white_behind_transparency_is_the_rule_of_images(self, seed):
        rgba = np.random.default_rng(seed).integers(0, 256, (4, 5, 4), np.uint8)
        assert np.array_equal(with_channels(tf.constant(rgba), 3), read_image(rgba))


def pillows_orientation(data: bytes) -> int:
    image = Image.open(io.BytesIO(data))
    assert graph_reads(image)
    return orientation(image)


def exif_segment(block: bytes) -> bytes:
    return segment(0xE1, b"Exif\0\0" + block)


@st.composite
def directories(draw) -> bytes:
    """An EXIF block: a directory with many tags, some of them senseless, perhaps cut short."""
    order = draw(st.sampled_from(["little", "big"]))

    def number(value: int, width: int) -> bytes:
        return value.to_bytes(width, order)

    near = st.sampled_from([0x0100, 0x010F, 0x0111, 0x0112, 0x0112, 0x0113, 0x1201, 0x8769])
    entries = draw(
        st.lists(
            st.tuples(
                near | st.integers(0, 0xFFFF),
                st.sampled_from([3, 3, 3, *range(14)]),
                st.sampled_from([1, 1, 1, 0, 2, 0xFFFFFFFF]),
                st.integers(0, 9),
            ),
            max_size=20,
        )
    )
    offset = draw(st.integers(8, 80) | st.sampled_from([0, 4, 7, 300, 0x7FFFFFFF, 0xFFFFFFFF]))
    count = draw(st.sampled_from([len(entries)] * 5 + [0, len(entries) + 1, 0xFFFF]))
    magic = b"II*\0" if order == "little" else b"MM\0*"
    magic = draw(st.sampled_from([magic] * 8 + [b"IIII", b"MM*\0", b"\0\0\0\0", b"II+\0"]))
    body = number(count, 2)
    for tag, kind, length, value in entries:
        wide = draw(st.booleans()) and kind != 3
        inline = number(value, 4) if wide else number(value, 2) + b"\0\0"
        body += number(tag, 2) + number(kind, 2) + number(length, 4) + inline
    head = magic + number(offset, 4)
    block = (
        head + draw(st.binary(min_size=offset - 8, max_size=offset - 8))
        if 8 <= offset <= 80
        else head
    )
    block += body + draw(st.sampled_from([b"", bytes(4), b"\x12\x01"]))
    return block[: draw(st.integers(0, len(block)))] if draw(st.booleans()) else block


FIRST = segment(0xFE, b"")  # a file that begins with junk is no JPEG to anybody
OTHER_SEGMENTS = st.sampled_from(
    [
        segment(0xE0, b"JFIF\0\x01\x02\0\0\x01\0\x01\0\0"),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>"),
        segment(0xE1, b"Exif"),
        segment(0xE2, b"ICC_PROFILE\0\x01\x01" + bytes(300)),
        segment(0xED, b"Photoshop 3.0\0" + b"\xff\xe1\0\x22Exif\0\0" + exif_block(3)),
        segment(0xFE, b"a comment: Exif\0\0" + exif_block(5)),
        segment(0xE5, b""),
        b"\xff\xff\xff" + segment(0xFE, b"behind fill bytes"),
        b"\xff\0",  # what libjpeg and Pillow skip
        b"junk",
        b"\xff\0\xe1Exif\0\0",
        segment(0xE7, bytes(65533)),
    ]
)


class TestExifOrientation:
    @given(
        directories(), st.lists(OTHER_SEGMENTS, max_size=4), st.lists(OTHER_SEGMENTS, max_size=2)
    )
    @settings(max_examples=400, deadline=None)
    @example(exif_block(6), [segment(0xE7, bytes(65533))] * 3, [])
    @example(exif_block(6), [b"\xff\0", b"junk", b"\xff\0\xff"], [])
    def test_the_graph_finds_what_pillow_finds(self, block, before, after):
        data = jpeg_with(FIRST, *before, exif_segment(block), *after)
        assert int(GRAPH_ORIENTATION(data)) == pillows_orientation(data)

    @given(st.integers(1, 8), st.sampled_from("<>"), st.lists(OTHER_SEGMENTS, max_size=3))
    @settings(max_examples=60, deadline=None)
    def test_a_sound_block_is_found_behind_other_segments(self, value, order, before):
        data = jpeg_with(FIRST, *before, exif_segment(exif_block(value, order=order)))
        assert int(GRAPH_ORIENTATION(data)) == value

    @given(st.binary(max_size=200), st.booleans())
    @settings(max_examples=200, deadline=None)
    def test_any_bytes_give_one_to_eight(self, tail, exif):
        data = b"\xff\xd8" + (b"\xff\xe1\0\x40Exif\0\0" if exif else b"") + tail
        assert 1 <= int(GRAPH_ORIENTATION(data)) <= 8

    def test_a_repeated_tag_counts_at_its_first_sound_value(self):
        first, second = exif_block(9), exif_block(3)
        twice = first[:8] + b"\x02\0" + first[10:22] + second[10:]
        data = jpeg_with(exif_segment(twice))
        assert int(GRAPH_ORIENTATION(data)) == pillows_orientation(data) == 3

    def test_bytes_behind_the_segment_do_not_count(self):
        whole = exif_block(6)
        data = jpeg_with(exif_segment(whole[:10]) + segment(0xFE, whole[10:]))
        assert int(GRAPH_ORIENTATION(data)) == pillows_orientation(data) == 1

    def test_exif_in_the_image_data_is_no_header(self):
        data = encoded(photo(), "JPEG", comment=b"Exif\0\0") + exif_segment(exif_block(6))
        assert int(GRAPH_ORIENTATION(data)) == pillows_orientation(data) == 1

    def test_a_long_header_of_tiny_segments_ends(self):
        data = b"\xff\xd8" + segment(0xE5, b"") * 2000 + exif_segment(exif_block(6))
        assert int(GRAPH_ORIENTATION(data)) == 6


class TestRefused:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"x",
            b"GIF",
            b"RIFF\0\0\0\0WEBPVP8 ",
            encoded(photo(), "WEBP"),
            encoded(photo(), "TIFF"),
        ],
    )
    def test_other_formats_are_named_as_such(self, data):
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="not a JPEG, PNG, GIF or BMP image"
        ):
            DECODERS[3](data)

    @given(
        st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b""]),
        st.binary(max_size=80),
    )
    @settings(max_examples=100, deadline=None)
    def test_garbage_raises_invalid_argument(self, head, tail):
        with pytest.raises(tf.errors.InvalidArgumentError):
            DECODERS[3](head + tail)

    @given(
        st.sampled_from([encoded(photo(), format) for format in ("JPEG", "PNG", "GIF", "BMP")]),
        st.floats(0, 0.9),
    )
    @settings(max_examples=60, deadline=None)
    def test_files_cut_short_raise_invalid_argument(self, data, share):
        with pytest.raises(tf.errors.InvalidArgumentError):
            DECODERS[3](data[: int(share * len(data))])


class TestSmallAlike:
    @given(
        st.lists(st.sampled_from(["JPEG", "PNG"]), min_size=1, max_size=4),
        st.integers(1, 70),
        st.integers(1, 70),
        st.booleans(),
        st.sampled_from([3, 4]),
    )
    @settings(max_examples=40, deadline=None)
    def test_as_one_by_one_to_the_bit(self, formats, height, width, grey, channels):
        pixels = photo(height, width)
        image = Image.fromarray(pixels).convert("L" if grey else "RGB")
        files = [encoded(image, format) for format in formats]
        alike, found = TOGETHER[channels](files)
        assert alike
        np.testing.assert_array_equal(found, [DECODERS[channels](file) for file in files])

    @pytest.mark.parametrize(
        "others",
        [
            [encoded(photo(), "GIF")],
            [encoded(photo(), "BMP")],
            [oriented_jpeg(6)],
            [png("rgba", 8)],
            [png("palette", 8, transparent=True)],
            [encoded(photo(20, 31), "PNG")],
            [encoded(photo(20, 31), "JPEG")],
            [b"", b"text"],
        ],
    )
    @pytest.mark.parametrize("first", [True, False])
    def test_others_are_told(self, others, first):
        plain = [encoded(photo(20, 30), "JPEG")]
        assert not TOGETHER[3](others + plain if first else plain + others)[0]

    def test_large_ones_are_told(self):
        assert not TOGETHER[3]([encoded(photo(71, 70), "PNG")])[0]
        assert not TOGETHER[3]([encoded(photo(), "JPEG") + b"\0" * (1 << 16)])[0]

    @pytest.mark.parametrize("size", [(40_000, 40_000), (20, 0xFFFFFFFF), (0xFFFFFFFF, 20), (0, 5)])
    def test_sizes_beyond_reason_are_told(self, size):
        header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">2I", *size) + b"\x08\x02\0\0\0"
        assert not TOGETHER[3]([header])[0]

    @given(st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]), st.binary(max_size=80))
    @settings(max_examples=60, deadline=None)
    def test_garbage_is_told_or_refused(self, head, tail):
        try:
            alike, _ = TOGETHER[3]([head + tail])
        except tf.errors.InvalidArgumentError:
            return
        assert not alike
