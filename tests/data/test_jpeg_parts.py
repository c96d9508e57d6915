"""Parts of JPEGs against the same parts of what is decoded whole."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from image_files import encoded, exif_block, segment
from PIL import Image

from keras_cls.data.decoding import decode_image, decode_jpeg_part, is_jpeg, jpeg_header


@tf.function(
    input_signature=[
        tf.TensorSpec([], tf.string),
        tf.TensorSpec([2], tf.float32),
        tf.TensorSpec([2], tf.float32),
        tf.TensorSpec([], tf.float32),
    ]
)
def part(data, begin, end, coarsest):
    return decode_jpeg_part(data, jpeg_header(data), begin, end, coarsest)


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def whole_image(data):
    return decode_image(data, 3)


def jpeg(height: int, width: int, orientation: int, **options) -> bytes:
    """Something like a photo: smooth, coloured, without a pattern that repeats."""
    noise = np.random.default_rng(height * width).normal(
        128, 60, (height // 8 + 2, width // 8 + 2, 3)
    )
    image = Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8))
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    data = encoded(image.convert(options.pop("mode", "RGB")), "JPEG", quality=90, **options)
    return data[:2] + segment(0xE1, b"Exif\0\0" + exif_block(orientation)) + data[2:]


JPEGS = st.builds(
    jpeg,
    st.integers(1, 120),
    st.integers(1, 120),
    st.integers(1, 8),
    subsampling=st.integers(0, 2),
    progressive=st.booleans(),
    mode=st.sampled_from(["RGB", "L"]),
)
SPANS = st.lists(st.floats(-0.1, 1.1), min_size=2, max_size=2).map(sorted)


@given(JPEGS, SPANS, SPANS)
@settings(max_examples=150, deadline=None)
@example(jpeg(3, 5, 1, subsampling=2), [0.0, 1.0], [0.0, 0.0])
@example(jpeg(30, 40, 6, subsampling=2), [0.0, 0.01], [0.99, 1.0])
def test_the_pixels_of_a_part_are_those_of_the_whole(data: bytes, rows, columns) -> None:
    whole = whole_image(data).numpy()
    size = np.array(whole.shape[:2], np.float32)
    begin, end = (np.float32(corner) * size for corner in zip(rows, columns, strict=True))
    found = part(data, begin, end, 1.0)
    assert found.reduction == 1
    corner, pixels = found.corner.numpy().astype(int), found.pixels.numpy()
    # What was asked for, as far as it lies in the image, is there and the same.
    first = np.clip(np.floor(begin), 0, size - 1).astype(int)
    last = np.clip(np.ceil(end), first + 1, size).astype(int)
    assert (corner <= first).all() and (corner + pixels.shape[:2] >= last).all()
    asked = [slice(a, b) for a, b in zip(first, last, strict=True)]
    there = [slice(a - c, b - c) for a, b, c in zip(first, last, corner, strict=True)]
    np.testing.assert_array_equal(pixels[*there], whole[*asked])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(96, 160), (101, 163)])
def test_a_reduced_part_lies_where_it_says(orientation: int, size: tuple[int, int]) -> None:
    data = jpeg(*size, orientation, subsampling=0)
    whole = whole_image(data).numpy().astype(float)
    begin, end = np.float32([20, 30]), np.float32([70, 90])
    for coarsest, reduction in ((1.9, 1), (2.0, 2), (3.9, 2), (4.0, 4), (100.0, 8)):
        found = part(data, begin, end, coarsest)
        assert found.reduction == reduction
        top, left = found.corner.numpy()
        for row in range(2, found.pixels.shape[0] - 2):
            y, x = top + row * reduction, left + 3 * reduction
            if y < 0 or x < 0 or y != int(y) or x != int(x):
                continue
            y, x = int(y), int(x)
            mean = whole[y : y + reduction, x : x + reduction].mean(axis=(0, 1))
            np.testing.assert_allclose(found.pixels[row, 3], mean, atol=6)


def test_what_is_a_jpeg() -> None:
    pixels = np.zeros((3, 3, 3), np.uint8)
    assert is_jpeg(encoded(pixels, "JPEG"))
    for other in (encoded(pixels, "PNG"), b"", b"\xff\xd8"):
        assert not is_jpeg(other)
