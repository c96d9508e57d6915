import re
import stat
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from pages import Page

from keras_cls.errors import ImageError
from keras_cls.evaluation.metrics import Evaluation
from keras_cls.training.report import Mistake, write_report

NAN = float("nan")


def evaluation_of(labels: list[str], count: int = 200, unreadable=()) -> Evaluation:
    generator = np.random.default_rng(0)
    targets = generator.integers(0, len(labels), count)
    odds = generator.random((count, len(labels))) + np.eye(len(labels))[targets] / 2
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    return Evaluation.from_probabilities(probabilities, targets, labels, unreadable)


def write(path: Path, **changes) -> Page:
    arguments = {
        "title": "lenet5 on digits",
        "settings": {"epochs": 3, "weights": None, "learning_rate": 0.001},
        "history": [
            {"epoch": i, "loss": 3.0 / i, "accuracy": i / 4, "val_loss": 4.0 / i}
            | {"val_accuracy": [0.2, 0.7, 0.6][i - 1], "learning_rate": 0.1, "seconds": 40.0}
            for i in (1, 2, 3)
        ],
        "evaluation": evaluation_of(list("abcdefg")),
        "mistakes": [
            Mistake(np.full((8, 8, 3), 9, np.uint8), "image 3 of digits", "a", "b", 0.913)
        ],
    }
    assert write_report(path, **(arguments | changes)) == path
    return Page(path.read_text(encoding="utf-8"))


def test_everything_is_there(tmp_path):
    page = write(tmp_path / "report.html", notes=["Mind the gap."])
    for words in (
        "lenet5 on digits", "Top-1 accuracy", "Top-5 accuracy", "Mind the gap.", "Best epoch",
        "of 3 in 2 min 0 s", "Every epoch in numbers", "Most often confused", "image 3 of digits",
        "91.3%", "learning_rate", "0.001", "keras-cls 0.1.0",
    ):  # fmt: skip
        assert words in page.words
    assert page.tags.count("svg") == 3
    assert ("class", "pixelated") in page.attributes


def test_the_page_asks_for_nothing_outside_and_runs_nothing(tmp_path):
    page = write(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "script" not in page.tags and "link" not in page.tags
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("data:", "#"))
        assert not name.startswith("on")
    assert not re.search(r"@import|url\((?!#)", text)
    assert not set(re.findall(r"https?://[^\"]+", text)) - {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_the_curves_take_the_colours_of_the_page(tmp_path):
    write(tmp_path / "report.html")
    curves = re.findall("<svg.*?</svg>", (tmp_path / "report.html").read_text(), flags=re.DOTALL)
    assert all("var(--training)" in curve for curve in curves)
    assert not re.search("#0[1-4]0", "".join(curves))


def test_names_are_harmless(tmp_path):
    evil = '<script>alert("1")</script>'
    page = write(
        tmp_path / "report.html",
        title=evil,
        notes=[evil],
        settings={evil: evil},
        history=[{"epoch": 1, "loss": 1.0, evil: 2.0}],
        evaluation=evaluation_of([evil, "$x^$", "b"], unreadable=[ImageError(evil, evil)]),
        mistakes=[Mistake(np.zeros((4, 4, 3), np.uint8), evil, evil, evil, 1.0)],
    )
    assert "script" not in page.tags
    assert page.words.count(evil) >= 9
    assert ">99.9%" in page.words


@pytest.mark.parametrize(
    ("history", "curves"),
    [
        ([], 0),
        ([{"epoch": 1, "loss": 1.0}], 1),
        ([{"epoch": 1, "loss": 1.0, "accuracy": 0.5, "learning_rate": 0.0}], 3),
        ([{"loss": 1.0}, {"loss": NAN}, {"loss": float("inf"), "val_loss": 2.0}], 1),
        ([{"epoch": 1, "loss": NAN, "accuracy": NAN}], 0),
        ([{"epoch": i, "loss": 1.0 / i, "val_loss": NAN} for i in range(1, 400)], 1),
        ([{"epoch": 1, "val_accuracy": 0.5}], 1),
        # The best epoch's accuracy, but no loss to put its mark on.
        ([{"epoch": 1, "val_loss": NAN, "val_accuracy": 1.0}, {"epoch": 2, "val_loss": 1.0}], 2),
    ],
)
def test_histories(tmp_path, history, curves):
    assert write(tmp_path / "report.html", history=history).tags.count("svg") == curves


@pytest.mark.parametrize("classes", [1, 2, 13, 30, 31, 1000])
def test_any_number_of_classes(tmp_path, classes):
    labels = [f"class {i} {'of a very long name ' * (i % 3)}" for i in range(classes)]
    page = write(tmp_path / "report.html", evaluation=evaluation_of(labels), mistakes=[])
    assert "Worst mistakes" not in page.words
    assert page.tags.count("img") == (classes > 30)
    assert (tmp_path / "report.html").stat().st_size < 1_000_000


def test_no_confusion(tmp_path):
    evaluation = Evaluation.from_probabilities(np.eye(2), np.arange(2), ["a", "b"])
    page = write(tmp_path / "report.html", evaluation=evaluation)
    assert "every image was classified correctly" in page.words


@pytest.mark.parametrize(
    "shape", [(1, 1, 3), (28, 28, 3), (95, 40, 3), (1000, 30, 3), (30, 1500, 3)]
)
def test_pictures_of_any_size(tmp_path, shape):
    mistake = Mistake(np.zeros(shape, np.uint8), "\udce9.jpg", "a", "b", 0.5)
    page = write(tmp_path / "report.html", mistakes=[mistake])
    assert page.tags.count("img") == 1
    assert (tmp_path / "report.html").stat().st_size < 200_000


def test_the_file_appears_whole_and_readable(tmp_path):
    path = tmp_path / "new" / "report.html"
    write(path, title="first")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write(path, history=[{"epoch": 1, "loss": object()}])
    assert path.read_bytes() == before
    write(path, title="second")
    assert b"second" in path.read_bytes()
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_matplotlib_is_left_as_it_was(tmp_path):
    before = dict(matplotlib.rcParams)
    write(tmp_path / "report.html")
    assert dict(matplotlib.rcParams) == before
