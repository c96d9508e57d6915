import io
import json
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
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

from keras_cls.errors import ImageError
from keras_cls.images import (
    MAX_PIXELS,
    describe,
    encode_for_graph,
    encode_png,
    orientation,
    read_image,
    to_uint8,
)

WHITE = (255, 255, 255)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


class TestModes:
    def test_grey_modes_become_rgb(self):
        grey = photo()[..., 0]
        assert np.array_equal(read_image(Image.fromarray(grey)), np.stack([grey] * 3, axis=-1))
        black_and_white = Image.fromarray(grey).convert("1")
        assert set(np.unique(read_image(black_and_white))) == {0, 255}

    def test_rgb_is_taken_as_it_is(self):
        assert np.array_equal(read_image(encoded(photo(), "PNG")), photo())
        assert np.array_equal(read_image(encoded(photo(), "TIFF")), photo())

    @pytest.mark.parametrize("mode", ["LA", "RGBA", "La", "RGBa", "PA"])
    def test_transparent_pixels_are_shown_on_white(self, mode):
        image = Image.new({"La": "LA", "RGBa": "RGBA"}.get(mode, mode), (2, 1))
        grey = 100 if mode != "PA" else image.palette.getcolor((100, 100, 100))
        image.putpixel((0, 0), (grey, 255) if mode in ("LA", "La", "PA") else (grey,) * 3 + (255,))
        pixels = read_image(image if image.mode == mode else image.convert(mode))
        assert [tuple(pixel) for pixel in pixels[0]] == [(100, 100, 100), WHITE]

    def test_half_transparent_pixels_are_mixed_with_white(self):
        pixels = read_image(np.array([[[0, 100, 255, 51]]], np.uint8))
        assert pixels.tolist() == [[[204, 224, 255]]]

    def test_alpha_is_kept_on_request(self):
        rgba = np.dstack([photo(), photo()[..., 0]])
        for source in (rgba, encoded(rgba, "PNG"), Image.fromarray(rgba)):
            assert np.array_equal(read_image(source, alpha=True), rgba)
        opaque = read_image(photo(), alpha=True)
        assert np.array_equal(opaque, np.dstack([photo(), np.full((20, 30), 255)]))

    @pytest.mark.parametrize(
        ("colours", "depth", "transparent"),
        [
            *((*kind, False) for kind in PNG_KINDS),
            *((*kind, True) for kind in PNG_KINDS if kind[0] in ("grey", "palette", "rgb")),
        ],
    )
    def test_every_kind_of_png_is_read_by_its_specification(self, colours, depth, transparent):
        data = png(colours, depth, transparent=transparent)
        pixels = read_image(data, alpha=True)
        assert np.array_equal(pixels[..., :3], specified_pixels(data))
        assert (pixels[..., 3].min() < 255) == (
            transparent or "alpha" in colours or colours == "rgba"
        )
        if transparent and colours != "palette":
            key = specified_samples(data)[0, 0]
            same = (specified_samples(data) == key).all(axis=-1)
            assert np.array_equal(pixels[..., 3] == 0, same)

    @pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
    def test_sixteen_bits_keep_the_high_byte_and_do_not_clip_to_white(self, format):
        values = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
        pixels = read_image(encoded(values, format))
        assert np.array_equal(pixels, np.stack([values >> 8] * 3, axis=-1))
        assert np.array_equal(read_image(values), pixels)
        assert np.array_equal(read_image(Image.fromarray(values)), pixels)

    @pytest.mark.parametrize("mode", ["I", "F"])
    def test_32_bit_and_float_pixels_are_refused(self, mode):
        data = encoded(Image.new(mode, (3, 2), 7), "TIFF")
        with pytest.raises(ImageError, match=r"scan\.tif: .*convert the image to 8 or 16 bits"):
            read_image(data, name="scan.tif")

    def test_cmyk_and_ycbcr(self):
        cmyk = Image.fromarray(photo()).convert("CMYK")
        assert np.array_equal(read_image(encoded(cmyk, "TIFF")), photo())
        assert near(read_image(encoded(cmyk, "JPEG", quality=95)), photo(), 12)
        assert near(read_image(Image.fromarray(photo()).convert("YCbCr")), photo(), 3)

    def test_lab(self):
        # CIE L*a*b* of mid grey, sRGB red and sRGB blue (D50), as a TIFF stores them: a, b signed.
        lab = np.array([[[137, 0, 0], [138, 81, 70], [75, 68, -112]]]).astype(np.uint8)
        image = Image.frombytes("LAB", (3, 1), lab.tobytes())
        pixels = read_image(encoded(image, "TIFF"))
        assert near(pixels, [[[128, 128, 128], [255, 0, 0], [0, 0, 255]]], 25)

    def test_the_first_frame_of_an_animation_counts(self):
        frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "lime")]
        for format in ("GIF", "PNG", "WEBP", "TIFF"):
            data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
            assert near(read_image(data), np.full((3, 4, 3), (255, 0, 0)), 2), format


def specified_samples(data: bytes) -> np.ndarray:
    """The raw samples of one of ``png``'s files, uint16 [h, w, c], read without any library."""
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    at = data.index(b"IDAT")
    rows = zlib.decompress(data[at + 4 : at + 4 + struct.unpack(">I", data[at - 4 : at])[0]])
    stride = 1 + (width * channels * depth + 7) // 8
    lines = np.frombuffer(rows, np.uint8).reshape(height, stride)[:, 1:]
    bits = np.unpackbits(lines, axis=1)[:, : width * channels * depth]
    values = bits.reshape(height, width, channels, depth).astype(np.uint16)
    return (values << np.arange(depth - 1, -1, -1, dtype=np.uint16)).sum(-1).astype(np.uint16)


def specified_pixels(data: bytes) -> np.ndarray:
    """The colours, alpha left out, that the PNG specification gives those samples."""
    depth, kind = data[24:26]
    samples = specified_samples(data)
    if kind == 3:
        at = data.index(b"PLTE") + 4
        palette = np.frombuffer(data[at : at + 3 * 2**depth], np.uint8).reshape(-1, 3)
        return palette[samples[..., 0]]
    colours = samples[..., :-1] if kind in (4, 6) else samples
    eight = colours >> 8 if depth == 16 else colours * np.uint16(255 // (2**depth - 1))
    return np.broadcast_to(eight, (*samples.shape[:2], 3))


def near(pixels: np.ndarray, expected: object, bound: int) -> bool:
    expected = np.asarray(expected, dtype=int)
    return pixels.shape == expected.shape and bool((abs(pixels - expected) <= bound).all())


# What an upright picture looks like in the file, from EXIF's definition of the tag: where its
# row 0 and its column 0 lie.
STORED = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: p.swapaxes(0, 1)[::-1],
    7: lambda p: p.swapaxes(0, 1)[::-1, ::-1],
    8: lambda p: p.swapaxes(0, 1)[:, ::-1],
}


class TestOrientation:
    @pytest.mark.parametrize("value", range(1, 9))
    @pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
    def test_all_eight_show_one_picture(self, value, format):
        exif = Image.Exif()
        exif[0x0112] = value
        stored = np.ascontiguousarray(STORED[value](photo()))
        options = {"lossless": True} if format == "WEBP" else {}
        pixels = read_image(encoded(stored, format, exif=exif, **options))
        assert near(pixels, photo(), 20 if format == "JPEG" else 0)

    @pytest.mark.parametrize("value", range(1, 9))
    def test_a_pil_image_is_turned_once_loaded_or_not(self, value):
        stored = np.ascontiguousarray(STORED[value](photo()))
        for data in (oriented_jpeg(value, stored), encoded(stored, "TIFF", exif=exif_of(value))):
            loaded = opened(data)
            loaded.load()
            assert near(read_image(opened(data)), photo(), 20)
            assert near(read_image(loaded), photo(), 20)

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_both_byte_orders(self, order):
        assert orientation(opened(oriented_jpeg(6, order=order))) == 6

    @pytest.mark.parametrize(
        "block",
        [
            b"",
            b"II*\0",
            b"XX*\0\x08\0\0\0",
            exif_block(0),
            exif_block(9),
            exif_block(6, kind=4),
            exif_block(6, tag=0x0113),
            exif_block(6)[:-10],
            exif_block(6)[:4] + b"\xff\xff\xff\xff" + exif_block(6)[8:],
        ],
    )
    def test_a_senseless_block_leaves_the_image_as_it_is(self, block):
        data = jpeg_with(segment(0xE1, b"Exif\0\0" + block))
        assert orientation(opened(data)) == 1
        assert read_image(data).shape == (20, 30, 3)

    @given(st.binary(max_size=64))
    def test_any_block_gives_one_to_eight(self, block):
        data = jpeg_with(segment(0xE1, b"Exif\0\0" + block))
        assert 1 <= orientation(opened(data)) <= 8
        assert read_image(data).shape in ((20, 30, 3), (30, 20, 3))

    @given(st.integers(1, 8), st.sampled_from("<>"), st.integers(8, 60))
    def test_agrees_with_pillow_on_sound_blocks(self, value, order, directory):
        block = exif_block(value, order=order, directory=directory)
        image = opened(jpeg_with(segment(0xE1, b"Exif\0\0" + block)))
        assert orientation(image) == image.getexif()[0x0112] == value


def exif_of(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


class TestArrays:
    @pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4), (1, 1)])
    def test_shapes(self, shape):
        array = np.full(shape, 255, np.uint8)
        assert read_image(array).shape == (*shape[:2], 3)
        assert read_image(array, alpha=True).shape == (*shape[:2], 4)

    @pytest.mark.parametrize("shape", [(), (4,), (4, 5, 2), (4, 5, 5), (1, 4, 5, 3), (0, 5, 3)])
    def test_shapes_that_are_no_image(self, shape):
        with pytest.raises(ImageError, match=r"expected shape \[H, W\]"):
            read_image(np.zeros(shape, np.uint8))

    @pytest.mark.parametrize(
        "dtype", ["uint8", "int8", "int16", "int32", "int64", "uint32", "float16", "float64"]
    )
    def test_numbers_are_on_the_scale_of_eight_bits_whatever_the_dtype(self, dtype):
        assert to_uint8(np.array([0, 1, 100], dtype), "it").tolist() == [0, 1, 100]

    def test_bool_and_uint16_have_scales_of_their_own(self):
        assert to_uint8(np.array([False, True]), "it").tolist() == [0, 255]
        assert to_uint8(np.array([0, 0x0100, 0xFFFF], np.uint16), "it").tolist() == [0, 1, 255]

    def test_floats_are_rounded(self):
        assert to_uint8(np.array([0.4, 1.6, 254.7]), "it").tolist() == [0, 2, 255]

    def test_bfloat16(self):
        bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
        assert to_uint8(np.array([0, 128, 255], bfloat16), "it").tolist() == [0, 128, 255]
        with pytest.raises(ImageError, match=r"0\.\.1 scale"):
            to_uint8(np.array([0, 0.5], bfloat16), "it")

    def test_black_is_black_on_either_scale(self):
        assert to_uint8(np.zeros(3, np.float32), "it").tolist() == [0, 0, 0]

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ([0.0, 1.0], "0..1 scale; .*multiply by 255"),
            ([-1.0, 1.0], r"lie in -1..1, .*Undo the normalization"),
            ([0, 256], r"lie in 0..256"),
            ([0.0, float("nan")], "nan"),
            ([0.0, float("inf")], "inf"),
            ([1j], "the dtype must be .*complex128"),
            (["a"], "the dtype must be"),
            ([None], "the dtype must be .*object"),
        ],
    )
    def test_values_that_are_refused(self, values, message):
        with pytest.raises(ImageError, match=f"^my array: .*{message}"):
            to_uint8(np.array(values), "my array")


SOUND = [
    encoded(photo(), format, **options)
    for format, options in [
        ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("BMP", {}),
        ("WEBP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("PPM", {}),
        ("JPEG2000", {}), ("TGA", {}), ("ICO", {"sizes": [(16, 16)]}), ("AVIF", {}),
    ]
]  # fmt: skip


class TestBadFiles:
    def test_a_missing_file_and_a_folder_are_named(self, tmp_path):
        with pytest.raises(ImageError, match=r"nothing\.jpg: no such file"):
            read_image(tmp_path / "nothing.jpg")
        with pytest.raises(ImageError, match=r"is a directory") as caught:
            read_image(str(tmp_path))
        assert caught.value.name == str(tmp_path)
        with pytest.raises(ImageError, match="null byte"):
            read_image("a\0b")

    @pytest.mark.parametrize("source", [None, 3, ["a.jpg"], {"image": 1}])
    def test_other_types_are_refused(self, source):
        for verb in (read_image, encode_for_graph, encode_png):
            with pytest.raises(ImageError, match="an image is a path, encoded bytes"):
                verb(source)

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "empty"),
            (b"<!DOCTYPE html><html>403", "HTML page"),
            (b"dear user, ...", "holds text"),
            (b"\x7fELF\x02\x01\x01\x00", "7f 45 4c 46"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "holds text"),
        ],
    )
    def test_what_is_no_image_is_called_by_its_name(self, data, reason):
        with pytest.raises(ImageError, match=f"^upload.jpg: .*{reason}"):
            read_image(data, name="upload.jpg")

    @given(st.sampled_from(SOUND), st.data())
    @settings(max_examples=300, deadline=None)
    def test_damaged_files_give_an_image_or_an_error_that_names_them(self, sound, data):
        damaged = bytearray(sound[: data.draw(st.integers(0, len(sound)))])
        spots = st.integers(0, max(len(damaged) - 1, 0))
        for at, value in data.draw(st.lists(st.tuples(spots, st.integers(0, 255)), max_size=8)):
            if damaged:
                damaged[at] = value
        self.reads_or_names(bytes(damaged))

    @given(st.sampled_from([data[:n] for data in SOUND for n in (4, 12, 40)]), st.binary())
    @example(b"", b"\xff\xd8\xff")
    @example(b"", b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR")
    @settings(max_examples=200, deadline=None)
    def test_random_bytes_give_an_image_or_an_error_that_names_them(self, head, tail):
        self.reads_or_names(head + tail)
        self.reads_or_names(tail)

    def reads_or_names(self, data: bytes) -> None:
        for verb in (read_image, encode_for_graph):
            try:
                verb(data, name="it.jpg")
            except ImageError as error:
                assert str(error).startswith("it.jpg: ") and len(str(error)) > len("it.jpg: ")

    def test_a_bomb_is_refused_by_its_header(self):
        bomb = bytearray(png("grey", 1))
        bomb[16:24] = struct.pack(">II", 50_000, 50_000)
        bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
        with pytest.raises(ImageError, match="too large: more than 178,956,970 pixels"):
            read_image(bytes(bomb))

    def test_the_limit_holds_where_pillows_own_is_switched_off(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        bomb = b"P6 20000 12000 255\n"
        with pytest.raises(ImageError, match="too large: 20000 x 12000 is more than"):
            read_image(bomb)
        with pytest.raises(ImageError, match="too large"):
            read_image(np.broadcast_to(np.uint8(0), (MAX_PIXELS + 1, 1)))


class TestEncoding:
    def test_plain_files_go_as_they_are(self, tmp_path):
        grey = photo()[..., 0]
        bitmap = encoded(photo(), "BMP")
        for data in (
            encoded(photo(), "JPEG"), encoded(grey, "JPEG"), oriented_jpeg(6), bitmap,
            encoded(photo(), "JPEG", progressive=True), encoded(photo(), "PNG"),
            encoded(np.dstack([photo(), grey]), "PNG"), encoded(photo(), "GIF"),
        ):  # fmt: skip
            assert encode_for_graph(data) is data
            path = tmp_path / "file"
            path.write_bytes(data)
            assert encode_for_graph(path) == encode_for_graph(str(path)) == data

    @pytest.mark.parametrize(
        "data",
        [
            encoded(Image.fromarray(photo()).convert("CMYK"), "JPEG"),
            encoded(photo(), "WEBP"),
            encoded(photo(), "TIFF"),
            encoded(photo(), "JPEG2000"),
            encoded(photo(), "AVIF"),
            encoded(photo(), "PNG", exif=exif_of(6)),
            encoded(Image.fromarray(photo()).convert("P"), "BMP"),
            encoded(Image.fromarray(photo()[..., 0]), "GIF", transparency=0),
            png("rgb", 16, transparent=True),
        ],
    )
    def test_the_rest_goes_as_an_upright_png_of_the_same_pixels(self, data):
        out = encode_for_graph(data)
        assert opened(out).format == "PNG"
        assert np.array_equal(read_image(out), read_image(data))
        assert np.array_equal(read_image(out, alpha=True), read_image(data, alpha=True))

    def test_arrays_and_pil_images_go_as_png(self):
        rgba = np.dstack([photo(), photo()[..., 1]])
        for source in (
            photo(),
            rgba,
            photo()[..., 0],
            Image.fromarray(rgba),
            opened(oriented_jpeg(6)),
        ):
            out = opened(encode_for_graph(source))
            assert (out.format, orientation(out)) == ("PNG", 1)
            assert np.array_equal(read_image(out, alpha=True), read_image(source, alpha=True))
        assert opened(encode_png(rgba)).mode == "RGBA"
        assert opened(encode_png(photo())).mode == "RGB"

    def test_a_bitmap_of_os2_is_not_taken_for_one_of_windows(self):
        # A 12-byte header puts pixels where Windows has depth and compression: 24 and 0 here.
        row = bytes([1, 2, 24, 0, 0, 0, 0, 0, 0])
        rows = row + bytes(3)
        data = b"BM" + struct.pack("<LLL", 26 + len(rows), 0, 26)
        data += struct.pack("<LHHHH", 12, 3, 1, 1, 24) + rows
        assert opened(data).size == (3, 1)
        assert opened(encode_for_graph(data)).format == "PNG"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a.jpg", "a.jpg"),
        (b"abc", "encoded image of 3 bytes"),
        (Image.new("L", (1, 1)), "PIL image of mode L"),
        (np.zeros((2, 3)), "array of shape (2, 3)"),
        (None, "NoneType object"),
    ],
)
def test_describe(source, name):
    assert describe(source) == name


def test_heic_without_the_optional_library_says_what_to_install():
    program = (
        "import sys; sys.modules['pi_heif'] = None\n"
        "from keras_cls.errors import ImageError\n"
        "from keras_cls.images import read_image\n"
        "try: read_image(b'\\0\\0\\0\\x18ftypheic' + bytes(40), name='IMG_1.HEIC')\n"
        "except ImageError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    wanted = "IMG_1.HEIC: HEIC/HEIF needs an optional library: pip install 'keras-cls[heif]'"
    assert done.stdout.strip() == wanted


def test_reading_images_needs_neither_tensorflow_nor_keras():
    program = "import sys, keras_cls.images\nassert not {'tensorflow', 'keras'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


# Sizes that the manifest, made without pi_heif, lacks. The last one is cut behind its pixels.
HEIF_SIZES = {
    "pillow_hopper.heif": (128, 128),
    "heif_zPug_3.heic": (64, 64),
    "heif_RGB_8__128x128.heif": (128, 128),
    "heif_truncated.heic": (16, 16),
}


@pytest.mark.data
class TestOddImages:
    def test_each_reads_at_its_size_or_is_named(self, data_dir):
        pytest.importorskip("pi_heif")
        folder = data_dir / "odd_images"
        manifest = json.loads((folder / "manifest.json").read_text())["images"]
        assert len(manifest) == 88
        wrong = []
        for entry in manifest:
            path = folder / entry["file"]
            wanted = HEIF_SIZES.get(entry["file"])
            if entry["pillow"] == "ok":
                wanted = tuple(entry["size"])
                if orientation_of(path) >= 5:
                    wanted = wanted[::-1]
            try:
                height, width, channels = read_image(path).shape
                found = (width, height)
                assert channels == 3
            except ImageError as error:
                assert str(error).startswith(f"{path}: ")
                found = None
            if found != wanted:
                wrong.append((entry["file"], wanted, found))
        assert wrong == []

    def test_the_eight_orientations_of_one_photo(self, data_dir):
        pictures = [
            read_image(data_dir / f"odd_images/exif_orientation_{value}.jpg").astype(int)
            for value in range(1, 9)
        ]
        for picture in pictures:
            assert picture.shape == pictures[0].shape
            assert abs(picture - pictures[0]).mean() < 4

    def test_sixteen_bit_grey_does_not_clip_to_white(self, data_dir):
        path = data_dir / "odd_images/gray16.png"
        assert np.array_equal(read_image(path)[..., 0], np.asarray(Image.open(path)) >> 8)


def orientation_of(path: os.PathLike[str]) -> int:
    with Image.open(path) as image:
        return orientation(image)
