import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_cls.data.balance import class_weights, describe_imbalance, positive_weights

counts = st.lists(st.integers(0, 10**6), min_size=1, max_size=20).filter(any).map(np.array)


@given(counts)
def test_all_classes_weigh_the_same_and_an_image_weighs_1_on_the_mean(counts):
    weights = class_weights(counts)
    assert weights.dtype == np.float32
    together = (weights * counts)[counts > 0]
    assert together == pytest.approx(counts.sum() / len(together), rel=1e-5)
    assert float((weights * counts).sum()) == pytest.approx(counts.sum(), rel=1e-5)
    assert (weights[counts == 0] == 0).all()


def test_positive_weights_balance_presence_and_absence_within_bounds():
    found = positive_weights(np.array([50, 20, 100, 1, 0]), 100)
    assert found.dtype == np.float32
    assert found.tolist() == pytest.approx([1, 4, 0.01, 99, 1])
    assert positive_weights(np.array([1]), 10**6).tolist() == [100]


def test_a_warning_from_ten_times_on():
    assert describe_imbalance(["a", "b"], np.array([90, 10])) is None
    assert describe_imbalance(["a", "b"], np.array([0, 0])) is None
    warning = describe_imbalance(["a", "b", "c"], np.array([4, 12_345, 0]))
    assert "'b' has 12,345 images, 'a' has 4 images" in warning
    assert 'imbalance="weights"' in warning and 'imbalance="resample"' in warning
    assert "'a' has 1 image." in describe_imbalance(["a", "b"], np.array([1, 10]))
