import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_cls.preprocessing import KERNELS, Preprocessing, resample

SIDES = st.integers(1, 40)
SCALES = st.floats(0.1, 8)
OFFSETS = st.floats(-20, 40)


@given(SIDES, SIDES, SIDES, SIDES, SCALES, SCALES, OFFSETS, OFFSETS, st.sampled_from([*KERNELS]))
@settings(max_examples=150, deadline=None)
def test_it_is_the_preprocessings_placement_to_the_bit(
    height, width, rows, columns, down, across, top, left, interpolation
) -> None:
    rule = Preprocessing(size=(rows, columns), interpolation=interpolation)
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    scale, offset = tf.constant([down, across], tf.float32), tf.constant([top, left], tf.float32)
    expected = tf.raw_ops.ScaleAndTranslate(
        images=image[None],
        size=[rows, columns],
        scale=scale,
        translation=-offset,
        kernel_type=KERNELS[interpolation],
        antialias=True,
    )[0]
    expected = tf.clip_by_value(expected, 0.0, 255.0)
    found = resample(tf.constant(image)[None], rule, rule.size, scale, offset)[0]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_several_images_are_as_each_alone(channels: int) -> None:
    rule = Preprocessing(size=(9, 7))
    images = np.random.default_rng(0).integers(0, 256, (5, 20, 30, channels), np.uint8)
    scale, offset = tf.constant([0.6, 0.4]), tf.constant([1.5, 2.0])
    together = resample(tf.constant(images), rule, rule.size, scale, offset)
    for one, image in zip(together, images, strict=True):
        alone = resample(tf.constant(image)[None], rule, rule.size, scale, offset)[0]
        np.testing.assert_array_equal(one, alone)
