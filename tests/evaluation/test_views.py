"""Views against slices of the resized image, taken with numpy."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_cls.errors import ConfigError
from keras_cls.evaluation.views import (
    CROPS_144,
    DENSE,
    ONE_CROP,
    TEN_CROPS,
    TEN_CROPS_OF_IMAGE,
    CropProtocol,
    checked_scales,
    crop_views,
    prepared_views,
    protocol_for,
    whole_views,
)
from keras_cls.preprocessing import Preprocessing, resize_and_crop, transform

sides = st.integers(9, 60)
seeds = st.integers(0, 2**32 - 1)
CLOSE = 2e-3  # of 255: the same pixels, computed in other corners of the operation


def noise(height, width, seed=0, channels=3):
    shape = (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def views(image, rule, protocol, scales=()):
    return crop_views(tf.constant(image), rule, protocol, scales).numpy()


def resized(image, height, width):
    """The whole image in another size, by the same kernel."""
    whole = Preprocessing(size=(height, width), resize="squash", crop=1.0)
    return resize_and_crop(tf.constant(image), whole).numpy()


def covering(height, width, frame):
    """The size of an image that just covers a square frame, as the preprocessing's rule says."""
    if height < width:
        return frame, width * frame // height
    return height * frame // width, frame


@given(sides, sides, seeds, st.sampled_from(["shorter", "squash", "pad"]))
@settings(max_examples=25, deadline=None)
def test_one_crop_is_the_preprocessing_bit_for_bit(height, width, seed, resize):
    rule = Preprocessing(size=(16, 20), resize=resize, crop=0.8)
    image = noise(height, width, seed)
    (stack,) = prepared_views(tf.constant(image), rule, ONE_CROP)
    assert np.array_equal(stack[0], transform(tf.constant(image), rule))


@given(sides, sides, seeds)
@settings(max_examples=25, deadline=None)
def test_ten_crops_are_the_centre_the_corners_and_their_mirror_images(height, width, seed):
    rule = Preprocessing(size=14, crop=0.875)
    image = noise(height, width, seed)
    found = views(image, rule, TEN_CROPS)
    assert found.shape == (10, 14, 14, 3)
    assert np.array_equal(found[0], resize_and_crop(tf.constant(image), rule))
    assert np.array_equal(found[5:], found[:5, :, ::-1])
    # The central square of AlexNet: 16 x 16 of the image whose shorter side is 16.
    rows, columns = covering(height, width, 16)
    whole = resized(image, rows, columns)
    square = whole[(rows - 16) // 2 :, (columns - 16) // 2 :][:16, :16]
    for view, (y, x) in zip(found[1:5], [(0, 0), (0, 2), (2, 0), (2, 2)], strict=True):
        np.testing.assert_allclose(view, square[y : y + 14, x : x + 14], atol=CLOSE)


@given(sides, sides, seeds)
@settings(max_examples=15, deadline=None)
def test_the_corners_may_be_the_image_s(height, width, seed):
    rule = Preprocessing(size=14, crop=0.875)
    image = noise(height, width, seed)
    found = views(image, rule, TEN_CROPS_OF_IMAGE)
    whole = resized(image, *covering(height, width, 16))
    corners = [whole[:14, :14], whole[:14, -14:], whole[-14:, :14], whole[-14:, -14:]]
    np.testing.assert_allclose(found[1:5], corners, atol=CLOSE)
    assert np.array_equal(found[0], resize_and_crop(tf.constant(image), rule))


@given(sides, sides, seeds)
@settings(max_examples=8, deadline=None)
def test_144_crops_are_all_there(height, width, seed):
    rule = Preprocessing(size=28)
    image = noise(height, width, seed)
    found = views(image, rule, CROPS_144)
    assert found.shape == (144, 28, 28, 3)
    assert np.array_equal(found[72:], found[:72, :, ::-1])
    expected = []
    for side in (32, 36, 40, 44):  # 256, 288, 320, 352 for an input of 28 pixels instead of 224
        rows, columns = covering(height, width, side)
        whole = resized(image, rows, columns)
        for third in (0, 1, 2):
            y, x = (rows - side) * third // 2, (columns - side) * third // 2
            square, end = whole[y : y + side, x : x + side], side - 28
            # The centre's place is counted from the image's ends: the odd pixel may fall before.
            cy = ((rows - side) * third + end) // 2
            cx = ((columns - side) * third + end) // 2
            expected.append(whole[cy : cy + 28, cx : cx + 28])
            for dy, dx in [(0, 0), (0, end), (end, 0), (end, end)]:
                # Likewise of a corner in the middle of the longer side.
                expected.append(square[dy : dy + 28, dx : dx + 28])
            expected.append(None)
    for view, crop in zip(found[:72], expected, strict=True):
        if crop is not None:
            np.testing.assert_allclose(view, crop, atol=CLOSE)


def test_the_whole_square_is_one_of_the_144():
    # Smooth, so that resizing in one step or in two gives nearly the same.
    y, x = np.mgrid[0:64, 0:96]
    image = np.stack([y * 2, x * 2, y + x], -1).astype(np.uint8)
    found = views(image, Preprocessing(size=28), CROPS_144)
    for scale in range(4):
        for third, left in enumerate((0, 16, 32)):
            square = resized(image[:, left : left + 64], 28, 28)
            view = found[scale * 18 + third * 6 + 5]
            assert np.abs(view - square)[2:-2, 2:-2].max() < 4


def test_144_different_views():
    found = views(noise(75, 160), Preprocessing(size=28), CROPS_144)
    assert len({view.tobytes() for view in found}) == 144


def test_published_sizes_grow_with_the_input():
    image = noise(400, 500)
    found = views(image, Preprocessing(size=299), CropProtocol("", "", sides=(256,)))
    assert np.array_equal(
        found[0], resize_and_crop(tf.constant(image), Preprocessing(size=299, crop=299 / 342))
    )


@given(st.integers(32, 50), st.integers(32, 50), seeds)
@settings(max_examples=15, deadline=None)
def test_without_a_frame_to_crop_the_corners_are_those_of_the_padded_image(height, width, seed):
    rule = Preprocessing(size=32, crop=1.0, resize="squash")
    image = noise(height, width, seed)
    found = views(image, rule, TEN_CROPS)
    padded = np.pad(resized(image, 32, 32), ((4, 4), (4, 4), (0, 0)))
    corners = [padded[y : y + 32, x : x + 32] for y, x in [(0, 0), (0, 8), (8, 0), (8, 8)]]
    assert np.array_equal(found[0], resize_and_crop(tf.constant(image), rule))
    np.testing.assert_allclose(found[1:5], corners, atol=CLOSE)


@given(sides, sides, seeds)
@settings(max_examples=15, deadline=None)
def test_scales_are_shorter_sides(height, width, seed):
    rule = Preprocessing(size=12)
    image = noise(height, width, seed)
    found = views(image, rule, ONE_CROP, (12, 15, 24))
    for view, side in zip(found, (12, 15, 24), strict=True):
        rows, columns = covering(height, width, side)
        y, x = (rows - 12) // 2, (columns - 12) // 2
        crop = resized(image, rows, columns)[y : y + 12, x : x + 12]
        np.testing.assert_allclose(view, crop, atol=CLOSE)
    with pytest.raises(ConfigError, match="11 is smaller than the network's input, 12"):
        views(image, rule, ONE_CROP, (11,))


@given(sides, sides, st.integers(16, 70), seeds)
@settings(max_examples=25, deadline=None)
def test_whole_views_are_the_whole_image_but_for_the_ends_of_its_longer_side(
    height, width, side, seed
):
    image = noise(height, width, seed)
    found = whole_views(tf.constant(image), Preprocessing(size=8), DENSE, side).numpy()
    rows, columns = covering(height, width, side)
    assert min(found.shape[1:3]) == side
    longer = max(found.shape[1:3])
    assert longer == side or longer % 32 == 0
    assert max(rows, columns) - longer < max(32, max(rows, columns) - side + 1)
    assert np.array_equal(found[1], found[0, :, ::-1])
    y, x = (rows - found.shape[1]) // 2, (columns - found.shape[2]) // 2
    crop = resized(image, rows, columns)[y : y + found.shape[1], x : x + found.shape[2]]
    np.testing.assert_allclose(found[0], crop, atol=CLOSE)


def test_grey_and_transparent_images_have_views():
    image = noise(40, 50, channels=4)
    rule = Preprocessing(size=16, color_mode="rgba", mean=(0.5,), std=(0.5,))
    assert prepared_views(tf.constant(image), rule, TEN_CROPS)[0].shape == (10, 16, 16, 4)
    rule = Preprocessing(size=16, color_mode="grayscale", mean=(0.5,), std=(0.5,))
    assert prepared_views(tf.constant(image[..., :3]), rule, TEN_CROPS)[0].shape == (10, 16, 16, 1)


def test_counts():
    assert [p.count() for p in (ONE_CROP, TEN_CROPS, TEN_CROPS_OF_IMAGE, CROPS_144)] == [
        1, 10, 10, 144,
    ]  # fmt: skip
    assert TEN_CROPS.count((256, 288)) == 20
    assert protocol_for("dense") is DENSE
    assert protocol_for(TEN_CROPS_OF_IMAGE) is TEN_CROPS_OF_IMAGE


@pytest.mark.parametrize("crops", [7, "10", True, None, 1.5, [10]])
def test_other_crops_are_refused(crops):
    with pytest.raises(ConfigError, match="crops must be 1, 10, 144 or 'dense'; found"):
        protocol_for(crops)


@pytest.mark.parametrize("scales", [(), (0,), (256, 256), "256", (2.5,), (True,), 256])
def test_senseless_scales_are_refused(scales):
    if scales == 256:
        assert checked_scales(scales) == (256,)
        return
    with pytest.raises(ConfigError, match="scales must be distinct"):
        checked_scales(scales)
