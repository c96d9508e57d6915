import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from keras_cls.data.draws import Draws, Purpose


@given(
    st.integers(0, 2**31),
    st.integers(0, 2**48),
    st.integers(1, 40),
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.sampled_from(Purpose),
)
@settings(max_examples=60, deadline=None)
def test_a_place_gives_the_same_numbers_alone_and_among_others(
    seed, first, count, shape, purpose
) -> None:
    together = Draws(seed, tf.constant(first, tf.int64), count)
    numbers, seeds = together.uniform(purpose, *shape), together.seeds(purpose)
    assert numbers.shape == (count, *shape) and seeds.shape == (count, 2)
    for row in {0, count // 2, count - 1}:
        alone = Draws(seed, tf.constant(first + row, tf.int64), 1)
        np.testing.assert_array_equal(alone.uniform(purpose, *shape)[0], numbers[row])
        np.testing.assert_array_equal(alone.seeds(purpose)[0], seeds[row])


@pytest.mark.parametrize("purpose", Purpose)
def test_the_numbers_are_uniform_and_have_nothing_to_do_with_each_other(purpose: Purpose) -> None:
    numbers = Draws(3, tf.constant(0, tf.int64), 5000).uniform(purpose, 6).numpy()
    assert numbers.min() >= 0 and numbers.max() < 1
    assert all(kstest(column, "uniform").pvalue > 1e-4 for column in numbers.T)
    assert np.abs(np.corrcoef(numbers.T) - np.eye(6)).max() < 0.06
    neighbours = np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]
    assert abs(neighbours) < 0.06


def test_purposes_and_seeds_are_apart() -> None:
    place = tf.constant(0, tf.int64)
    rows = [Draws(seed, place, 1).uniform(each, 8)[0] for seed in (0, 1) for each in Purpose]
    assert len({row.numpy().tobytes() for row in rows}) == 2 * len(Purpose)
