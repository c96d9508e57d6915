import json

import numpy as np
import preprocessing_reference as reference
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from keras_cls.errors import ConfigError
from keras_cls.preprocessing import (
    Preprocessing,
    normalize,
    resample_small,
    resize_and_crop,
    transform,
)

GOLDEN = json.loads(reference.GOLDEN.read_text(encoding="utf-8"))


def image_of(case: dict) -> np.ndarray:
    return np.array(case["image"]["pixels"], np.uint8).reshape(case["image"]["shape"])


class TestGoldenVectors:
    def test_the_file_is_what_the_reference_gives(self):
        expected = reference.golden()
        assert len(GOLDEN["cases"]) == len(expected["cases"])
        for found, wanted in zip(GOLDEN["cases"], expected["cases"], strict=True):
            found_values, wanted_values = found["expected"]["values"], wanted["expected"]["values"]
            # The last digit may round differently on another machine.
            np.testing.assert_allclose(found_values, wanted_values, rtol=0, atol=2e-6)
            assert found | {"expected": 0} == wanted | {"expected": 0}
        assert reference.GOLDEN.stat().st_size < 300_000

    @pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
    def test_the_package_meets_it(self, case):
        rule = Preprocessing.from_dict(case["rule"])
        assert list(rule.frame) == case["frame"]
        out = transform(tf.constant(image_of(case)), rule).numpy()
        expected = np.array(case["expected"]["values"]).reshape(case["expected"]["shape"])
        assert out.shape == rule.input_shape == expected.shape
        grey_levels = abs(out - expected) * 255 * np.array(rule.std)
        assert grey_levels.max() <= GOLDEN["bound"]

    def test_every_choice_is_there(self):
        rules = [case["rule"] for case in GOLDEN["cases"]]
        assert {rule["resize"] for rule in rules} == {"shorter", "squash", "pad"}
        assert {rule["interpolation"] for rule in rules} == set(reference.KERNELS)
        assert {rule["color_mode"] for rule in rules} == set(reference.CHANNELS)


sides = st.integers(1, 70)


@st.composite
def rules(draw, interpolations=("bilinear", "bicubic", "lanczos")):
    return Preprocessing(
        size=(draw(st.integers(1, 24)), draw(st.integers(1, 24))),
        resize=draw(st.sampled_from(["shorter", "squash", "pad"])),
        crop=draw(st.sampled_from([1.0, 0.875, 0.5, 0.4]) | st.floats(0.3, 1)),
        interpolation=draw(st.sampled_from(interpolations)),
    )


@given(sides, sides, rules(), st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_agrees_with_the_reference_on_any_sizes(height, width, rule, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    out = resize_and_crop(tf.constant(image), rule).numpy()
    expected = reference.resize_and_crop(image, rule.to_dict())
    assert abs(out - expected).max() <= reference.BOUND


@given(st.integers(1, 70), st.integers(1, 70), rules(), st.sampled_from([3, 4]))
@settings(max_examples=60, deadline=None)
def test_small_images_together_are_as_each_alone(height, width, rule, channels):
    rule = rule.adapted_to((*rule.size, channels))
    shape = (3, height, width, channels)
    images = tf.constant(np.random.default_rng(height).integers(0, 256, shape, np.uint8))
    together = resample_small(images, rule)
    alone = [resize_and_crop(image, rule) for image in images]
    np.testing.assert_allclose(together, alone, atol=1e-3)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_a_box_over_whole_factors_is_the_mean(down, across, height, width):
    # Elsewhere a box kernel jumps within float32's rounding: no bound would hold.
    image = np.random.default_rng(down).integers(
        0, 256, (height * down, width * across, 3), np.uint8
    )
    rule = Preprocessing(size=(height, width), resize="squash", crop=1.0, interpolation="box")
    mean = image.reshape(height, down, width, across, 3).mean(axis=(1, 3))
    assert abs(resize_and_crop(tf.constant(image), rule).numpy() - mean).max() < 1e-3
    assert abs(reference.resize_and_crop(image, rule.to_dict()) - mean).max() < 1e-9


@given(sides, sides, st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_bilinear_is_pillows_within_one_grey_level(height, width, rows, columns):
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    rule = Preprocessing(size=(rows, columns), resize="squash", crop=1.0)
    out = resize_and_crop(tf.constant(image), rule).numpy()
    pillow = Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR)
    # Pillow rounds to whole grey levels after the columns and again after the rows.
    assert abs(out - np.asarray(pillow)).max() <= 1.01


def test_padding_is_black_and_its_larger_half_at_the_bottom_and_the_right():
    white = tf.fill([2, 5, 3], tf.constant(255, tf.uint8))
    out = resize_and_crop(white, Preprocessing(size=(5, 5), resize="pad", crop=1.0)).numpy()
    assert out[:, 0, 0].tolist() == [0, 255, 255, 0, 0]
    tall = resize_and_crop(
        tf.transpose(white, [1, 0, 2]), Preprocessing(size=5, resize="pad", crop=1.0)
    )
    assert tall[0, :, 0].numpy().tolist() == [0, 255, 255, 0, 0]


def test_the_larger_half_is_cut_from_the_bottom_and_the_right():
    ramp = np.repeat(np.arange(7, dtype=np.uint8)[:, None, None], 3, axis=2)
    rule = Preprocessing(size=(4, 1), resize="squash", crop=4 / 7)
    assert rule.frame == (7, 2)
    assert resize_and_crop(tf.constant(ramp), rule)[:, 0, 0].numpy().tolist() == [1, 2, 3, 4]


def test_black_and_white_scaled():
    rule = Preprocessing(size=1, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    images = tf.constant([[0, 0, 0], [255, 255, 255]], tf.uint8)
    assert np.allclose(normalize(images, rule), [[-1, -1, 0], [1, 3, 1]], atol=1e-6)
    luma = Preprocessing(size=1, color_mode="grayscale", mean=(0,), std=(1,))
    primaries = tf.constant(np.eye(3) * 255, tf.uint8)
    assert np.allclose(normalize(primaries, luma)[:, 0], [0.299, 0.587, 0.114], atol=1e-6)


class TestFields:
    def test_shorthands(self):
        rule = Preprocessing(size=32, mean=0.5, std=0.25)
        assert (rule.size, rule.mean, rule.std) == ((32, 32), (0.5,), (0.25,))
        assert rule.input_shape == (32, 32, 3)
        assert Preprocessing(size=[3, 4.0]).size == (3, 4)

    @pytest.mark.parametrize(
        ("mode", "channels", "image_channels"), [("rgb", 3, 3), ("grayscale", 1, 3), ("rgba", 4, 4)]
    )
    def test_channels(self, mode, channels, image_channels):
        rule = Preprocessing(color_mode=mode, mean=0, std=1)
        assert (rule.channels, rule.image_channels) == (channels, image_channels)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            *(
                ("size", value)
                for value in [0, -3, True, 2.5, (1, 2, 3), (8, 0), "8", None, (8, "8")]
            ),
            *(("size", value) for value in [10**400, float("inf"), float("nan"), [[8, 8]]]),
            *(("resize", value) for value in ["Shorter", "", None, 3, ["pad"]]),
            *(("interpolation", value) for value in ["nearest", None, {}]),
            *(("color_mode", value) for value in ["RGB", "bgr", 3]),
            *(("crop", value) for value in [0, -1, 1.01, float("nan"), "0.9", None, True]),
            *(("mean", value) for value in [(1, 2), (), "abc", (0, 0, "0"), float("nan"), 10**400]),
            *(("std", value) for value in [0, -1, (1, 1, 0), (1, 1), float("inf"), None]),
        ],
    )
    def test_senseless_values_are_refused_by_name(self, field, value):
        with pytest.raises(ConfigError, match=rf"^Preprocessing\.{field} must be"):
            Preprocessing(**{field: value})

    def test_mean_and_std_fit_the_colour_mode(self):
        with pytest.raises(ConfigError, match=r"Preprocessing\.mean must be 1 numbers"):
            Preprocessing(color_mode="grayscale", std=1)
        with pytest.raises(ConfigError, match=r"Preprocessing\.std must be 1 or 4 numbers"):
            Preprocessing(color_mode="rgba", mean=0.5)

    @given(rules())
    def test_to_dict_and_back_through_json(self, rule):
        assert Preprocessing.from_dict(json.loads(json.dumps(rule.to_dict()))) == rule

    @pytest.mark.parametrize(
        "values",
        [
            None, [], "rgb", {}, Preprocessing().to_dict() | {"colour": 1},
            {k: v for k, v in Preprocessing().to_dict().items() if k != "crop"},
            Preprocessing().to_dict() | {"size": None}, Preprocessing().to_dict() | {"mean": [[0]]},
        ],
    )  # fmt: skip
    def test_other_dicts_are_refused(self, values):
        with pytest.raises(ConfigError, match=r"(?i)preprocessing"):
            Preprocessing.from_dict(values)


class TestAdaptedTo:
    def test_another_size_leaves_the_rest(self):
        rule = Preprocessing(crop=0.9, resize="pad").adapted_to((64, 32, 3))
        assert rule == Preprocessing(size=(64, 32), crop=0.9, resize="pad")

    def test_other_channels_take_the_averages(self):
        grey = Preprocessing(mean=(0.1, 0.2, 0.6), std=(0.1, 0.2, 0.3)).adapted_to((8, 8, 1))
        assert grey.color_mode == "grayscale"
        assert grey.mean == pytest.approx((0.3,)) and grey.std == pytest.approx((0.2,))
        rgba = Preprocessing(mean=(0.1, 0.2, 0.6), std=0.5).adapted_to([8, 8, 4])
        assert (rgba.color_mode, rgba.std) == ("rgba", (0.5,))
        assert grey.adapted_to((8, 8, 3)).mean == grey.mean

    @pytest.mark.parametrize("shape", [(8, 8, 2), (8, 8, 0), (8, 8, None), (0, 8, 3), (None, 8, 3)])
    def test_shapes_that_no_image_has(self, shape):
        with pytest.raises(ConfigError):
            Preprocessing().adapted_to(shape)
