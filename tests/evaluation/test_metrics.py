import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import binomtest
from sklearn.metrics import (
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from keras_cls.errors import ConfigError, DataError, ImageError
from keras_cls.evaluation.metrics import (
    RECORD,
    Calibration,
    Evaluation,
    records_of,
    wilson_interval,
    worst_mistakes,
)


def random_results(count: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, classes, count)
    logits = generator.normal(size=(count, classes)) * 2
    logits[np.arange(count), targets] += 2
    odds = np.exp(logits)
    return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32), targets


def names(classes: int) -> list[str]:
    return [f"class {i}" for i in range(classes)]


@pytest.mark.parametrize(("count", "classes"), [(1, 6), (50, 6), (400, 10), (300, 120), (60, 3)])
def test_agrees_with_scikit_learn(count, classes):
    probabilities, targets = random_results(count, classes, seed=count)
    evaluation = Evaluation.from_probabilities(probabilities, targets, names(classes))
    every = np.arange(classes)
    predictions = probabilities.argmax(axis=1)
    assert evaluation.top1 == pytest.approx((predictions == targets).mean())
    if classes > 5:
        expected = top_k_accuracy_score(targets, probabilities, k=5, labels=every)
        assert evaluation.top5 == pytest.approx(expected)
    assert np.array_equal(
        evaluation.confusion, confusion_matrix(targets, predictions, labels=every)
    )
    assert evaluation.loss == pytest.approx(
        log_loss(targets, probabilities, labels=every), rel=1e-5
    )
    columns = precision_recall_fscore_support(targets, predictions, labels=every, zero_division=0)
    ours = (evaluation.precision, evaluation.recall, evaluation.f1, evaluation.support)
    for expected, column in zip(columns, ours, strict=True):
        np.testing.assert_allclose(column, expected)


@given(
    hnp.arrays(
        np.int64, st.tuples(st.integers(1, 12), st.integers(6, 9)), elements=st.integers(1, 3)
    ),
    st.data(),
)
@settings(max_examples=60)
def test_ties_go_to_the_lower_index(weights, data):
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    count, classes = weights.shape
    targets = np.array(
        data.draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count))
    )
    evaluation = Evaluation.from_probabilities(probabilities, targets, names(classes))
    order = np.argsort(-probabilities, axis=1, kind="stable")
    assert evaluation.top1 == pytest.approx((order[:, 0] == targets).mean())
    assert evaluation.top5 == pytest.approx((order[:, :5] == targets[:, None]).any(axis=1).mean())
    assert evaluation.top1 == pytest.approx(evaluation.confusion.trace() / count)
    assert evaluation.confusion.sum() == evaluation.count == count


def test_top5_says_nothing_of_five_classes():
    probabilities, targets = random_results(20, 5, seed=0)
    assert Evaluation.from_probabilities(probabilities, targets, names(5)).top5 is None


def test_a_certain_mistake_has_a_finite_loss():
    evaluation = Evaluation.from_probabilities(np.float32([[1, 0]]), np.array([1]), ["a", "b"])
    assert evaluation.loss == pytest.approx(15.94, abs=0.01)


def small_evaluation() -> Evaluation:
    predictions = [0, 1, 1, 1, 2, 0, 1]
    targets = np.array([0, 0, 0, 1, 1, 1, 2])
    unreadable = [ImageError("é.jpg", "is empty")]
    return Evaluation.from_probabilities(np.eye(3)[predictions], targets, "abc", unreadable)


def test_most_confused_are_sorted_by_count_and_then_by_class():
    expected = [("a", "b", 2), ("b", "a", 1), ("b", "c", 1), ("c", "b", 1)]
    assert small_evaluation().most_confused(10) == expected
    assert small_evaluation().most_confused(1) == expected[:1]


def test_json_holds_everything():
    evaluation = small_evaluation()
    read = json.loads(evaluation.to_json())
    assert read == evaluation.to_dict()
    assert read["confusion"] == [[1, 2, 0], [1, 1, 1], [0, 1, 0]]
    assert read["per_class"][2] == {
        "label": "c", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1,
    }  # fmt: skip
    assert read["top5"] is None
    assert read["unreadable"] == [{"name": "é.jpg", "reason": "is empty"}]


def test_summary():
    text = small_evaluation().summary()
    assert text.startswith("7 images of 3 classes: top-1 28.6%, loss ")
    assert "a as b (2)" in text
    assert "unreadable: 1 file, the first: é.jpg: is empty" in text


@pytest.mark.parametrize(
    ("probabilities", "targets", "error", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0, int), DataError, "the data is empty"),
        (np.eye(2), np.zeros((2, 1), int), ConfigError, r"shape \[2, 1\]"),
        (np.eye(2), np.zeros(2), ConfigError, "float64: they must be integers"),
        (np.eye(3), np.zeros(3, int), ConfigError, r"shape must be \[3, 2\]"),
        (np.eye(2), np.zeros(3, int), ConfigError, r"shape must be \[3, 2\]"),
        (np.eye(2), np.array([0, 2]), ConfigError, r"target 1 is 2, but must lie in 0\.\.1"),
        (np.eye(2), np.array([0, -1]), ConfigError, "target 1 is -1"),
        (np.eye(2, dtype=int), np.array([0, 1]), ConfigError, "must be floats"),
        (np.array([[0.5, 0.5], [np.nan, 1]]), np.array([0, 1]), ConfigError, "image 1 hold NaN"),
        (np.array([[0.5, 0.5], [3.0, -2.0]]), np.array([0, 1]), ConfigError, "softmax"),
        (np.array([[0.5, 0.5], [0.9, 0.9]]), np.array([0, 1]), ConfigError, "image 1.*sum to 1.8"),
    ],
)
def test_refusals(probabilities, targets, error, message):
    with pytest.raises(error, match=message):
        Evaluation.from_probabilities(probabilities, targets, ["a", "b"])


def test_nothing_but_unreadable_images():
    unreadable = [ImageError("1.jpg", "is empty")] * 3
    with pytest.raises(DataError, match=r"all 3 are unreadable, the first: 1\.jpg: is empty"):
        Evaluation.from_probabilities(np.zeros((0, 2)), np.zeros(0, int), ["a", "b"], unreadable)


@given(st.integers(1, 400), st.data())
@settings(max_examples=60)
def test_wilson_s_interval(count, data):
    successes = data.draw(st.integers(0, count))
    found = wilson_interval(successes, count)
    expected = binomtest(successes, count).proportion_ci(0.95, "wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= found.low <= successes / count <= found.high <= 1


def test_wilson_s_interval_by_hand():
    # (0.95 + z^2/200 +- z sqrt(0.95 * 0.05 / 100 + z^2/40000)) / (1 + z^2/100) with z = 1.96
    found = wilson_interval(95, 100)
    assert (found.low, found.high) == pytest.approx((0.8883, 0.9785), abs=1e-4)


@given(hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(0, 1, width=32)), st.data())
@settings(max_examples=60)
def test_the_calibration_error_against_a_plain_loop(confidence, data):
    count = len(confidence)
    correct = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    found = Calibration.of(confidence, correct)
    error = 0.0
    for bin in range(15):
        inside = [
            i
            for i, c in enumerate(confidence.tolist())
            if (np.linspace(0, 1, 16)[bin] < c or (bin == 0 and c == 0))
            and c <= np.linspace(0, 1, 16)[bin + 1]
        ]
        assert found.counts[bin] == len(inside)
        if inside:
            gap = np.mean(correct[inside]) - np.mean(confidence[inside].astype(np.float64))
            error += len(inside) / count * abs(gap)
    assert found.error == pytest.approx(error, abs=1e-9)


def test_records_in_parts_are_records_of_all():
    probabilities, targets = random_results(100, 12, seed=1)
    whole = records_of(probabilities, targets, names(12))
    parts = [records_of(probabilities[i : i + 7], targets[i : i + 7], names(12), i)
             for i in range(0, 100, 7)]  # fmt: skip
    assert np.array_equal(np.concatenate(parts), whole)
    assert whole.dtype == RECORD
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    assert np.array_equal(whole["best"], order)


def test_records_of_few_classes_are_filled_up():
    (record,) = records_of(np.float32([[0.25, 0.75]]), np.array([0]), ["a", "b"])
    assert record["best"].tolist() == [1, 0, -1, -1, -1]
    assert record["scores"].tolist() == [0.75, 0.25, 0, 0, 0]
    assert (record["rank"], record["truth_score"]) == (1, 0.25)


def test_the_worst_mistakes_are_the_most_confident_ones():
    probabilities, targets = random_results(200, 6, seed=2)
    found = worst_mistakes(records_of(probabilities, targets, names(6)), 5)
    wrong = [i for i in range(200) if probabilities[i].argmax() != targets[i]]
    expected = sorted(wrong, key=lambda i: -probabilities[i].max())[:5]
    assert found.tolist() == expected


def test_a_bad_row_is_counted_from_the_beginning():
    with pytest.raises(ConfigError, match="image 41"):
        records_of(np.array([[0.5, 0.5], [3.0, -2.0]]), np.array([0, 1]), ["a", "b"], first=40)
