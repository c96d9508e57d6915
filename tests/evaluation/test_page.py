"""The page of an evaluation: everything is there, nothing is asked for or run."""

import re

import numpy as np
import pytest
from pages import Page

from keras_cls.errors import ImageError
from keras_cls.evaluation.metrics import Evaluation, Mistake, records_of
from keras_cls.evaluation.page import write_page


def evaluation_of(labels, count=200, **more):
    generator = np.random.default_rng(0)
    targets = generator.integers(0, len(labels), count)
    odds = generator.random((count, len(labels))) + np.eye(len(labels))[targets] / 2
    records = records_of(odds / odds.sum(axis=1, keepdims=True), targets, labels)
    return Evaluation.from_records(records, labels, **more)


def page_of(path, evaluation, **settings):
    write_page(path, evaluation, title="resnet20 on photos", settings=settings)
    return Page(path.read_text(encoding="utf-8"))


def test_everything_is_there(tmp_path):
    mistake = Mistake(np.full((8, 8, 3), 9, np.uint8), "image 3 of arrays", "a", "b", 0.913)
    found = evaluation_of(
        list("abcdefg"),
        unreadable=[ImageError("cut.jpg", "the file is empty")],
        protocol="10 crops of 2 networks",
        images_per_second=1234.5,
        mistakes=[mistake],
    )
    page = page_of(tmp_path / "evaluation.html", found, classifiers=["one", "two"], restricted=True)
    for words in (
        "resnet20 on photos", "10 crops of 2 networks", "Top-1 accuracy", f"{found.top1:.2%}",
        f"{found.top1_interval.low:.1%} to {found.top1_interval.high:.1%}", "Top-5 accuracy",
        "Calibration error", f"{found.calibration.error:.2%}", "1,234 a second", "Most often",
        "image 3 of arrays", "91.3%", "cut.jpg", "the file is empty", "one, two", "keras-cls",
    ):  # fmt: skip
        assert words in page.words, words
    assert page.tags.count("svg") == 1
    assert ("class", "pixelated") in page.attributes


def test_the_page_asks_for_nothing_outside_and_runs_nothing(tmp_path):
    page = page_of(tmp_path / "evaluation.html", evaluation_of(list("abc")))
    text = (tmp_path / "evaluation.html").read_text()
    assert "script" not in page.tags and "link" not in page.tags
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("data:", "#"))
        assert not name.startswith("on")
    assert not re.search(r"@import|url\((?!#)", text)
    assert not re.search("#0[1-4]0", text)  # the diagram takes the page's colours


def test_names_are_harmless(tmp_path):
    evil = '<script>alert("1")</script>'
    found = evaluation_of([evil, "$x^$", "b"], unreadable=[ImageError(evil, evil)])
    page = page_of(tmp_path / "evaluation.html", found, data=evil)
    assert "script" not in page.tags
    assert evil in page.words


@pytest.mark.parametrize("count", [2, 12, 30, 31, 1000])
def test_any_number_of_classes(tmp_path, count):
    labels = [f"class {n}" for n in range(count)]
    page = page_of(tmp_path / "evaluation.html", evaluation_of(labels, count=300))
    assert (page.words.count("A row for each true class") == 1) == (count <= 30)
    assert ("Weakest classes" in page.words) == (count > 30)
    assert "class 1" in page.words


def test_a_perfect_result_has_no_mistakes(tmp_path):
    perfect = Evaluation.from_probabilities(np.eye(2), np.arange(2), ["a", "b"])
    page = page_of(tmp_path / "evaluation.html", perfect)
    assert "None: every image was classified correctly." in page.words
    assert "Worst mistakes" not in page.words
