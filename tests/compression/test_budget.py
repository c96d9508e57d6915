"""What keeps to a budget, and which is best."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_cls.compression.budget import Budget, Measured, on_the_front
from keras_cls.errors import ConfigError

FLOAT = Measured(0.90, 4000, 3600, 4.0)
HALF = Measured(0.90, 2000, 1800, 3.0)
BYTES = Measured(0.895, 1000, 800, 1.0)
SPARSE = Measured(0.885, 1000, 300, 1.05)
BROKEN = Measured(0.10, 900, 200, 0.9)
ALL = [FLOAT, HALF, BYTES, SPARSE, BROKEN]

measured = st.builds(
    Measured,
    st.floats(0, 1),
    st.integers(1, 10**9),
    st.integers(1, 10**9),
    st.floats(0.01, 1000),
)


@pytest.mark.parametrize(
    ("budget", "best"),
    [
        (Budget(0.01), BYTES),
        (Budget(0.02), SPARSE),  # as fast within a tenth, and smaller
        (Budget(0.001), HALF),
        (Budget(0.001, max_latency=3.5), HALF),
        (Budget(None), BROKEN),
        (Budget(0.02, max_compressed_size=500), SPARSE),
        (Budget(0.01, max_size=500), BYTES),  # misses: accuracy comes first, then the size
        (Budget(0.0, max_latency=2), HALF),
    ],
)
def test_the_best_within_a_budget(budget: Budget, best: Measured) -> None:
    assert ALL[budget.choose(ALL, 0.90)] is best


def test_of_those_that_miss_it_alike_the_smallest_packed_is_chosen() -> None:
    found = [Measured(0.9, 1000, 900), Measured(0.9, 1001, 500), Measured(0.9, 1200, 300)]
    assert Budget(0.01, max_size=800).choose(found, 0.9) == 1


def test_a_narrow_miss_is_no_miss_of_nothing() -> None:
    found = Measured(0.9, 1004, 500, 1.0)
    said = Budget(0.01, max_size=1000).describe_miss(found, 0.91004)
    assert said == (
        "accuracy falls by 1.0040 points (allowed 1.0000), size is 0.4% above the limit"
    )


def test_a_miss_is_told_in_figures() -> None:
    budget = Budget(0.01, max_size=500, max_latency=1.0)
    assert budget.describe_miss(SPARSE, 0.90) == (
        "accuracy falls by 1.50 points (allowed 1.00), size is 100% above the limit, "
        "latency is 5% above the limit"
    )
    assert Budget(0.01).describe_miss(BYTES, 0.90) == ""
    assert Budget(0.005).describe_miss(BYTES, 0.90) == "", "to the last image is not beyond"


@given(st.lists(measured, min_size=1, max_size=8), measured)
def test_what_keeps_to_the_budget_is_chosen_where_anything_does(
    found: list[Measured], limits: Measured
) -> None:
    budget = Budget(0.05, limits.size, limits.compressed_size, limits.latency)
    chosen = found[budget.choose(found, limits.accuracy)]
    some = any(not budget.missed_by(each, limits.accuracy) for each in found)
    assert some == (not budget.missed_by(chosen, limits.accuracy))
    assert some == (budget.describe_miss(chosen, limits.accuracy) == "")


@given(st.lists(measured, min_size=1, max_size=8))
def test_nothing_on_the_front_is_beaten(found: list[Measured]) -> None:
    front = on_the_front(found)
    assert any(front)
    for one, kept in zip(found, front, strict=True):
        beaten = any(
            other.accuracy > one.accuracy
            and other.size < one.size
            and other.compressed_size < one.compressed_size
            and other.latency < one.latency
            for other in found
        )
        assert not (kept and beaten)


def test_the_front_of_some() -> None:
    assert on_the_front(ALL) == [False, True, True, True, True]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_accuracy_drop", -0.1),
        ("max_accuracy_drop", 1.5),
        ("max_accuracy_drop", "a point"),
        ("max_size", 0),
        ("max_compressed_size", True),
        ("max_latency", float("nan")),
    ],
)
def test_a_limit_that_makes_no_sense_is_named(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{field}: expected"):
        Budget(**{field: value})
