from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_cls.data.ordering import balanced, shuffled


def drawn(dataset, count: int) -> list[int]:
    return [int(index) for (index,) in islice(dataset.as_numpy_iterator(), count)]


@given(st.integers(1, 12), st.integers(0, 9), st.integers(0, 60), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_it_goes_on_anywhere(size: int, more: int, first: int, seed: int) -> None:
    per_epoch = size + more
    whole = drawn(shuffled(size, seed, per_epoch, 0), first + 30)
    assert drawn(shuffled(size, seed, per_epoch, first), 30) == whole[first:]
    for epoch in range(len(whole) // per_epoch):
        shown = whole[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(shown[:size]) == list(range(size))


ONE_OF = st.lists(st.integers(0, 4), min_size=2, max_size=30).map(np.array)
SEVERAL_OF = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=2, max_size=20).map(
    lambda rows: np.array(rows, np.float32)
)


@given(ONE_OF | SEVERAL_OF, st.integers(0, 10), st.integers(0, 100), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_balanced_epochs_show_every_class_equally_often(targets, more, first, seed) -> None:
    per_epoch = len(targets) + more
    whole = drawn(balanced(targets, seed, per_epoch, 0), first + per_epoch)
    assert drawn(balanced(targets, seed, per_epoch, first), per_epoch) == whole[first:]
    if targets.ndim == 1:
        counts = Counter(targets[whole[:per_epoch]].tolist())
        assert set(counts) <= set(targets.tolist())
        each = per_epoch / len(set(targets.tolist()))
        assert all(int(each) <= counts[name] <= int(each) + 1 for name in set(targets.tolist()))


def test_the_images_of_a_class_take_turns_in_another_order_each_epoch() -> None:
    targets = np.array([0] * 20 + [1] * 5)
    indices = np.array(drawn(balanced(targets, 1, 40, 0), 120)).reshape(3, 40)
    for epoch in indices:
        counts = Counter(epoch.tolist())
        assert all(counts[index] == 1 for index in range(20))
        assert all(counts[index] == 4 for index in range(20, 25))
    assert len({epoch.tobytes() for epoch in indices}) == 3


def test_images_of_several_classes_come_for_each_and_those_of_none_as_a_class() -> None:
    targets = np.array([[1, 0], [1, 0], [1, 0], [1, 1], [0, 0]], np.float32)
    counts = Counter(drawn(balanced(targets, 2, 30, 0), 3000))
    assert counts[4] == 1000  # all that have none
    assert counts[3] == pytest.approx(1000 + 250, abs=60)  # the second class, and its share of one
    assert sum(counts[index] for index in range(3)) == 3000 - counts[3] - counts[4]
