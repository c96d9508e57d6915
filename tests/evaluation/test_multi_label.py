"""The figures of multi-label answers, against scikit-learn and by hand."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pages import Page
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    hamming_loss,
    log_loss,
    precision_recall_fscore_support,
)

from keras_cls.errors import ConfigError, DataError, ImageError
from keras_cls.evaluation import average_precision
from keras_cls.evaluation.metrics import Mistake
from keras_cls.evaluation.multi_label import (
    MultiLabelEvaluation,
    confidence_in_wrong,
    mistake,
    record_type,
    records_of,
)
from keras_cls.evaluation.multi_label_page import write_multi_label_page


def random_results(count, classes, seed):
    """Probabilities that know something, and the truth; every class is there somewhere."""
    generator = np.random.default_rng(seed)
    targets = generator.random((count, classes)) < generator.uniform(0.1, 0.6, classes)
    targets[generator.integers(0, count, classes), np.arange(classes)] = True
    logits = generator.normal(size=(count, classes)) + 2 * targets - 1
    return (1 / (1 + np.exp(-logits))).astype(np.float32), targets.astype(np.float32)


def names(classes):
    return [f"class {number}" for number in range(classes)]


@pytest.mark.parametrize(("count", "classes"), [(1, 1), (40, 2), (300, 7), (200, 90)])
def test_agrees_with_scikit_learn(count, classes):
    probabilities, targets = random_results(count, classes, seed=count)
    found = MultiLabelEvaluation.from_probabilities(probabilities, targets, names(classes))
    said = probabilities >= 0.5
    ranked = [
        average_precision_score(truth, scores)
        for truth, scores in zip(targets.T, probabilities.T, strict=True)
    ]
    np.testing.assert_allclose(found.average_precision, ranked, rtol=1e-12)
    assert found.mean_average_precision == pytest.approx(np.mean(ranked))
    for average, ours in (
        (None, (found.precision, found.recall, found.f1, found.counts)),
        ("micro", (found.micro_precision, found.micro_recall, found.micro_f1)),
        ("macro", (found.macro_precision, found.macro_recall, found.macro_f1)),
    ):
        # For one column scikit-learn would judge both classes, absence and presence.
        columns = (targets, said) if classes > 1 else (targets[:, 0], said[:, 0])
        expected = precision_recall_fscore_support(
            *columns,
            average=average if classes > 1 else "binary",
            zero_division=0,
        )
        for theirs, own in zip(expected[: len(ours) if classes > 1 else 3], ours, strict=False):
            np.testing.assert_allclose(own, theirs)
    assert found.exact_match == pytest.approx(accuracy_score(targets, said))
    assert found.hamming_loss == pytest.approx(hamming_loss(targets, said))
    expected = log_loss(targets.ravel(), probabilities.ravel(), labels=[0, 1])
    assert found.loss == pytest.approx(expected, rel=1e-5)
    assert found.images == count
    assert np.array_equal(found.counts, targets.sum(axis=0))


@given(
    hnp.arrays(np.bool_, st.tuples(st.integers(1, 30), st.integers(1, 4))),
    st.data(),
)
@settings(max_examples=100)
def test_average_precision_with_ties_is_scikit_learns(targets, data):
    # Few values, so that many images are ranked alike.
    scores = data.draw(hnp.arrays(np.float32, targets.shape, elements=st.sampled_from([-1, 0, 2])))
    found = average_precision(scores, targets)
    for ours, truth, column in zip(found, targets.T, scores.T, strict=True):
        if truth.any():
            assert ours == pytest.approx(average_precision_score(truth, column))
        else:
            assert np.isnan(ours)


def test_by_hand():
    # Ranked by score: right, wrong, right.
    found = average_precision(np.array([[0.9], [0.5], [0.1]]), np.array([[1], [0], [1]]))
    assert found.tolist() == pytest.approx([(1 / 1 + 2 / 3) / 2])


def test_classes_that_no_image_shows_count_nowhere():
    probabilities = np.array([[0.9, 0.8], [0.2, 0.6]])
    found = MultiLabelEvaluation.from_probabilities(
        probabilities, np.array([[1, 0], [0, 0]]), ["a", "b"]
    )
    assert found.average_precision[0] == 1 and np.isnan(found.average_precision[1])
    assert found.mean_average_precision == found.macro_f1 == 1
    assert found.micro_precision == pytest.approx(1 / 3)
    assert found.to_dict()["per_class"][1]["average_precision"] is None
    nothing = MultiLabelEvaluation.from_probabilities(probabilities, np.zeros((2, 2)), ["a", "b"])
    assert np.isnan(nothing.mean_average_precision)
    assert nothing.to_dict()["mean_average_precision"] is None
    assert "mAP –" in nothing.summary()
    json.loads(nothing.to_json())


def test_as_text_and_as_json():
    probabilities, targets = random_results(60, 4, seed=0)
    unreadable = [ImageError("cut.jpg", "the file is empty")]
    found = MultiLabelEvaluation.from_probabilities(
        probabilities, targets, ["ä", "b", "c", "d"], unreadable
    )
    words = found.summary()
    assert words.startswith("60 images, any number of 4 classes each: mAP ")
    assert f"mAP {found.mean_average_precision:.1%}, F1 {found.micro_f1:.1%} (micro)" in words
    assert found.weakest(1)[0][0] in words and "cut.jpg" in words
    read = json.loads(found.to_json())
    assert read["multi_label"] is True
    assert read["images"] == 60 and read["exact_match"] == found.exact_match
    assert [row["label"] for row in read["per_class"]] == ["ä", "b", "c", "d"]
    assert read["unreadable"] == [{"name": "cut.jpg", "reason": "the file is empty"}]
    low, high = read["exact_match_interval"]
    assert 0 <= low <= found.exact_match <= high <= 1


def test_probabilities_mean_what_they_say_or_do_not():
    generator = np.random.default_rng(0)
    probabilities = generator.random((4000, 3))
    honest = generator.random((4000, 3)) < probabilities
    found = MultiLabelEvaluation.from_probabilities(probabilities, honest, ["a", "b", "c"])
    assert found.calibration.error < 0.02
    assert found.calibration.counts.sum() == 12_000
    never = np.zeros_like(honest)
    found = MultiLabelEvaluation.from_probabilities(probabilities, never, ["a", "b", "c"])
    assert found.calibration.error == pytest.approx(0.5, abs=0.02)


def test_the_surest_wrong_answer_in_words():
    records = records_of(
        np.float32([[0.9, 0.2, 0.6], [0.95, 0.1, 0.3], [0.1, 0.2, 0.3]]),
        np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1]]),
        ["a", "b", "c"],
    )
    assert confidence_in_wrong(records).tolist() == pytest.approx([0.8, 0, 0.7])
    image = np.zeros((2, 2, 3), np.uint8)
    found = [mistake(records[i], ["a", "b", "c"], image, "1.jpg") for i in (0, 2)]
    assert [(m.truth, m.predicted) for m in found] == [("a, b", "not b"), ("c", "not c")]
    assert found[0].confidence == pytest.approx(0.8)
    (wrong_yes,) = records_of(np.array([[0.7, 0.1]]), np.zeros((1, 2)), ["a", "b"])
    found = mistake(wrong_yes, ["a", "b"], image, "2.jpg")
    assert (found.truth, found.predicted) == ("none of the classes", "a")


def test_a_threshold_of_one_half_is_a_yes():
    found = MultiLabelEvaluation.from_probabilities(
        np.array([[0.5, 0.499]]), np.array([[1, 0]]), ["a", "b"]
    )
    assert found.exact_match == 1


@pytest.mark.parametrize(
    ("probabilities", "targets", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 2)), r"targets have shape \[2, 2\].*2 images and 3 labels"),
        (np.ones((3, 3)), np.ones((2, 3)), r"probabilities have shape \[3, 3\]"),
        (np.ones((2, 3)), np.full((2, 3), 0.5), "zeros and ones"),
        (np.ones((2, 3), int), np.ones((2, 3)), "they must be floats"),
        (np.array([[1, 0, np.nan]]), np.ones((1, 3)), "image 0 hold NaN"),
        (np.array([[1, 0.0, 0], [2, -1, 0]]), np.ones((2, 3)), "image 1 lie in -1..2.*sigmoid"),
    ],
)
def test_what_does_not_fit_is_refused(probabilities, targets, message):
    with pytest.raises(ConfigError, match=message):
        MultiLabelEvaluation.from_probabilities(probabilities, targets, ["a", "b", "c"])


def test_no_image_at_all():
    with pytest.raises(DataError, match="the data is empty"):
        MultiLabelEvaluation.from_probabilities(np.zeros((0, 2)), np.zeros((0, 2)), ["a", "b"])


def test_batches_give_the_records_of_the_whole():
    probabilities, targets = random_results(20, 3, seed=1)
    whole = records_of(probabilities, targets, names(3))
    parts = [records_of(probabilities[i : i + 7], targets[i : i + 7], names(3), i)
             for i in range(0, 20, 7)]  # fmt: skip
    assert whole.tobytes() == np.concatenate(parts).tobytes()
    assert record_type(3).itemsize == 15


# ------------------------------------------------------------------------------------- the page


def page_of(path, evaluation):
    write_multi_label_page(path, evaluation, title="resnet20 on photos", settings={"data": "a"})
    return Page(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("classes", [1, 5, 31, 300])
def test_the_page_shows_any_number_of_classes(tmp_path, classes):
    probabilities, targets = random_results(80, classes, seed=2)
    found = MultiLabelEvaluation.from_probabilities(probabilities, targets, names(classes))
    page = page_of(tmp_path / "evaluation.html", found)
    for words in (
        "resnet20 on photos", "mAP", f"{found.mean_average_precision:.1%}", "Average precision",
        "F1 (micro)", "F1 (macro)", "Every class right", "Calibration", "class 0",
    ):  # fmt: skip
        assert words in page.words, words
    assert ("Weakest classes" in page.words) == (classes > 30)
    assert page.tags.count("svg") == 1
    assert "script" not in page.tags and "link" not in page.tags


def test_the_page_shows_mistakes_and_survives_strange_names(tmp_path):
    evil = '<script>alert("1")</script>'
    probabilities, targets = random_results(30, 2, seed=2)
    targets[:, 1] = 0
    records = records_of(probabilities, targets, [evil, "b"])
    found = MultiLabelEvaluation.from_records(
        records,
        [evil, "b"],
        [ImageError(evil, "the file is empty")],
        protocol="10 crops",
        images_per_second=1234.5,
        mistakes=[Mistake(np.full((8, 8, 3), 9, np.uint8), "3.jpg", f"b, {evil}", "not b", 0.913)],
    )
    page = page_of(tmp_path / "evaluation.html", found)
    assert "script" not in page.tags
    for words in (evil, "3.jpg", "not b", "91.3%", "10 crops", "1,234 a second"):
        assert words in page.words, words
