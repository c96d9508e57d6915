from itertools import pairwise

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import photo

from keras_cls.data.augmentation import Augmentation, augment, augment_batch
from keras_cls.data.draws import Seen
from keras_cls.preprocessing import Preprocessing, resize_and_crop

RULE = Preprocessing(size=(8, 10), crop=0.8)


def variations(
    image: np.ndarray, augmentation: Augmentation, rule=RULE, count=40
) -> list[np.ndarray]:
    vary = tf.function(lambda place: augment(tf.constant(image), rule, augmentation, 7, place))
    return [vary(tf.constant(place, tf.int64)).numpy() for place in range(count)]


@pytest.mark.parametrize("resize", ["shorter", "squash", "pad"])
def test_nothing_to_vary_is_the_preprocessing_alone(resize):
    rule = Preprocessing(size=(8, 10), crop=0.8, resize=resize)
    plain = resize_and_crop(tf.constant(photo()), rule).numpy()
    for out in variations(photo(), Augmentation(), rule, count=3):
        assert np.array_equal(out, plain)


def test_flip_mirrors_about_half_of_the_images():
    plain = resize_and_crop(tf.constant(photo()), RULE).numpy()
    outcomes = variations(photo(), Augmentation(flip=True), count=100)
    mirrored = [np.array_equal(out, plain[:, ::-1]) for out in outcomes]
    assert all(m or np.array_equal(out, plain) for m, out in zip(mirrored, outcomes, strict=True))
    assert 30 < sum(mirrored) < 70


def test_shift_moves_whole_pixels_and_lets_black_in():
    rule = Preprocessing(size=6, crop=1.0, resize="squash")
    image = np.arange(1, 6 * 6 * 3 + 1, dtype=np.uint8).reshape(6, 6, 3)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    places = {padded[y : y + 6, x : x + 6].tobytes(): (y, x) for y in range(5) for x in range(5)}
    outcomes = variations(image, Augmentation(shift=2), rule, count=200)
    found = {places[np.rint(out).astype(np.uint8).tobytes()] for out in outcomes}
    assert len(found) == len(places)  # every one of the 25 moves, each way and none


@pytest.mark.parametrize("scaled", [False, True])
def test_shift_may_let_the_mirror_image_in(scaled: bool) -> None:
    rule = Preprocessing(size=6, crop=1.0, resize="squash")
    image = np.arange(1, 6 * 6 * 3 + 1, dtype=np.uint8).reshape(6, 6, 3)
    shown = image.repeat(2, 0).repeat(2, 1) if scaled else image
    plain = resize_and_crop(tf.constant(shown), rule).numpy()
    padded = np.pad(plain, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    places = {padded[y : y + 6, x : x + 6].tobytes(): (y, x) for y in range(5) for x in range(5)}
    moves = Augmentation(shift=2, reflect=True)
    outcomes = variations(shown, moves, rule, count=200)
    assert {places[out.tobytes()] for out in outcomes} == set(places.values())
    black = variations(shown, Augmentation(shift=2), rule, count=200)
    for out, other in zip(outcomes, black, strict=True):  # the same moves
        np.testing.assert_array_equal(out[2:4, 2:4], other[2:4, 2:4])
    together = augment_batch(tf.constant(np.stack([shown] * 50)), rule, moves, 7, 3)
    np.testing.assert_array_equal(together, outcomes[3:53])


def test_alternating_flips_come_in_turn_half_of_them_first() -> None:
    plain = resize_and_crop(tf.constant(photo()), RULE).numpy()
    images = tf.constant(np.stack([photo()] * 400))
    flip = Augmentation(alternating_flip=True)

    def mirrored(seed: int, epoch: int, order: np.ndarray) -> np.ndarray:
        seen = Seen(tf.constant(order), tf.constant(epoch, tf.int64))
        out = augment_batch(images, RULE, flip, seed, 400 * epoch, seen).numpy()
        found = (out == plain[:, ::-1]).all((1, 2, 3))
        assert np.array_equal(found, ~(out == plain).all((1, 2, 3)))
        alone = augment(images[0], RULE, flip, seed, 3, Seen(seen.images[7:8], seen.epoch))
        np.testing.assert_array_equal(alone, out[7])
        return found[np.argsort(order)]

    random = np.random.default_rng(0)
    epochs = [mirrored(7, epoch, random.permutation(400)) for epoch in range(4)]
    assert 160 < epochs[0].sum() < 240
    for one, following in pairwise(epochs):
        np.testing.assert_array_equal(one, ~following)
    assert 140 < (epochs[0] == mirrored(8, 0, np.arange(400))).sum() < 260


def test_alternating_flips_of_images_without_an_index_are_random() -> None:
    alternating, random = (
        variations(photo(), flip, count=20)
        for flip in (Augmentation(alternating_flip=True), Augmentation(flip=True))
    )
    for one, other in zip(alternating, random, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_same_seed_gives_the_same_variation():
    both = Augmentation(random_crop=(0.1, 1.0), shift=2, flip=True)
    first, second = variations(photo(), both), variations(photo(), both)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert len({out.tobytes() for out in first}) == len(first)
    tf.random.set_seed(99)
    assert np.array_equal(variations(photo(), both, count=1)[0], first[0])


def test_the_choices_are_drawn_apart():
    # A crop without the flip and with it: the seed moves it to the same place.
    crop = Augmentation(random_crop=(0.3, 0.9))
    with_flip = Augmentation(random_crop=(0.3, 0.9), flip=True)
    for plain, other in zip(variations(photo(), crop), variations(photo(), with_flip), strict=True):
        assert np.array_equal(other, plain) or np.array_equal(other, plain[:, ::-1])


@given(
    st.integers(1, 60), st.integers(1, 60), st.integers(1, 30), st.integers(1, 30),
    st.floats(0.01, 1), st.integers(0, 2**62),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_random_crops_stay_inside_the_image(height, width, rows, columns, least, seed):
    white = tf.fill([height, width, 3], tf.constant(255, tf.uint8))
    rule = Preprocessing(size=(rows, columns))
    crop = Augmentation(random_crop=(least, 1.0))
    out = augment(white, rule, crop, 1, seed).numpy()
    assert out.min() > 254.9


def test_random_crops_have_the_area_and_the_shape_asked_for():
    # A picture whose pixels are their own coordinates shows where a crop's corners lie.
    y, x = np.mgrid[0:200, 0:200].astype(np.uint8)
    places = np.stack([y, x, x], axis=-1)
    rule = Preprocessing(size=50, crop=1.0)
    areas, aspects = [], []
    for out in variations(places, Augmentation(random_crop=(0.2, 0.5)), rule, count=150):
        height, width = (np.array(out[-1, -1, :2]) - out[0, 0, :2]) * 50 / 49
        areas.append(height * width / 200**2)
        aspects.append(width / height)
    assert 0.19 < min(areas) < 0.23 and 0.47 < max(areas) < 0.51
    assert 0.74 < min(aspects) < 0.8 and 1.26 < max(aspects) < 1.35


def test_rgba_keeps_its_four_channels():
    rule = Preprocessing(size=8, color_mode="rgba", mean=0.5, std=0.5)
    image = np.dstack([photo(), photo()[..., 0]])
    out = variations(image, Augmentation(random_crop=(0.5, 1.0), flip=True), rule, count=1)[0]
    assert out.shape == (8, 8, 4) and 0 <= out.min() < out.max() <= 255


def test_scale_jitter_draws_the_shorter_side() -> None:
    # Coordinates as pixels again: how far a step in the output goes in the image.
    y, x = np.mgrid[0:100, 0:200].astype(np.float32)
    places = np.stack([y, x, x], axis=-1).astype(np.uint8)
    rule = Preprocessing(size=50, crop=1.0)
    sides = []
    for out in variations(places, Augmentation(scale_jitter=(1.2, 2.0)), rule, count=100):
        step = (out[40, 25, 0] - out[10, 25, 0]) / 30
        np.testing.assert_allclose(out[25, 40, 1] - out[25, 10, 1], 30 * step, atol=1.5)
        sides.append(100 / step / 50)
    assert 1.17 < min(sides) < 1.3 and 1.9 < max(sides) < 2.05


def test_scale_jitter_covers_a_long_input() -> None:
    white = np.full((40, 50, 3), 255, np.uint8)
    rule = Preprocessing(size=(20, 60))
    for out in variations(white, Augmentation(scale_jitter=(1.0, 1.5)), rule, count=20):
        assert out.min() > 254.9


def test_pca_color_moves_all_pixels_along_the_components() -> None:
    grey = np.full((6, 6, 3), 128, np.uint8)
    rule = Preprocessing(size=6, crop=1.0)
    moves = np.array([
        out[0, 0] - 128
        for out in variations(grey, Augmentation(pca_color=0.1), rule, count=400)
        if np.ptp(out, axis=(0, 1)).max() < 1e-3
    ])  # fmt: skip
    assert len(moves) == 400
    # The covariance of the moves is that of 0.1 * eigenvalue along each eigenvector (PCA of RGB).
    directions = np.linalg.svd(moves - moves.mean(0), full_matrices=False)
    deviations = directions[1] / np.sqrt(len(moves)) / 255
    np.testing.assert_allclose(deviations, [0.02175, 0.00188, 0.00045], rtol=0.15)
    assert abs(directions[2][0] @ [0.5675, 0.5808, 0.5836]) > 0.999


def test_jitter_keeps_grey_grey_and_stays_on_the_scale() -> None:
    rule = Preprocessing(size=6, crop=1.0)
    grey = np.full((6, 6, 3), 100, np.uint8)
    values = [out[0, 0] for out in variations(grey, Augmentation(jitter=0.4), rule, count=200)]
    assert np.ptp(values, axis=1).max() < 0.1  # the luma's weights sum to 0.9999
    assert 59 < np.min(values) < 65 and 135 < np.max(values) < 141
    for out in variations(photo(), Augmentation(jitter=0.9), rule, count=30):
        assert out.min() >= 0 and out.max() <= 255


def test_erasing_fills_one_rectangle_with_noise_as_often_as_asked() -> None:
    rule = Preprocessing(size=(40, 50), crop=1.0, resize="squash")
    flat = np.full((40, 50, 3), 77, np.uint8)
    shares = []
    for out in variations(flat, Augmentation(erase=0.5), rule, count=200):
        erased = (np.abs(out - 77) > 1e-3).any(axis=-1)
        rows, columns = np.flatnonzero(erased.any(axis=1)), np.flatnonzero(erased.any(axis=0))
        if len(rows):
            box = erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert box.mean() > 0.98  # noise may be 77 by chance
            shares.append(erased.mean())
    assert 70 < len(shares) < 130
    assert 0.01 < min(shares) < 0.06 and 0.28 < max(shares) < 0.36
