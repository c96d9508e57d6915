import itertools
import re
import stat
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from pages import Page

from keras_cls.errors import ImageError
from keras_cls.evaluation import html
from keras_cls.evaluation.metrics import Evaluation
from keras_cls.evaluation.multi_label import MultiLabelEvaluation
from keras_cls.training.examining import Example, Examples
from keras_cls.training.report import write_report

NAN = float("nan")


def evaluation_of(labels: list[str], count: int = 200, unreadable=()) -> Evaluation:
    generator = np.random.default_rng(0)
    targets = generator.integers(0, len(labels), count)
    odds = generator.random((count, len(labels))) + np.eye(len(labels))[targets] / 2
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    return Evaluation.from_probabilities(probabilities, targets, labels, unreadable)


def example(image=None, truth="a", predicted="b", name="image 3 of digits", **more) -> Example:
    image = np.full((8, 8, 3), 9, np.uint8) if image is None else image
    return Example(image, name, truth, predicted, **{"confidence": 0.913} | more)


TIMES = {
    "images_per_second": 100.0,
    "data_seconds": 4.0,
    "validation_seconds": 8.0,
    "saving_seconds": 1.0,
}


def history_of(epochs: int = 3, **more) -> list[dict[str, float]]:
    return [
        {"epoch": i, "loss": 3.0 / i, "accuracy": i / 4, "val_loss": 4.0 / i}
        | {"val_accuracy": [0.2, 0.7, 0.6][(i - 1) % 3], "learning_rate": 0.1, "seconds": 40.0}
        | more
        for i in range(1, epochs + 1)
    ]


def write(path: Path, **changes) -> Page:
    arguments = {
        "title": "lenet5 on digits",
        "settings": {"epochs": 3, "weights": None, "learning_rate": 0.001},
        "history": history_of(),
        "best_epoch": 2,
        "evaluation": evaluation_of(list("abcdefg")),
        "examples": Examples((example(),)),
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
    assert page.tags.count("svg") == 4  # three curves and the calibration
    assert ("class", "pixelated") in page.attributes


def test_the_best_epoch_is_the_one_that_was_kept(tmp_path):
    page = write(tmp_path / "report.html", best_epoch=1)  # though another looks better
    text = (tmp_path / "report.html").read_text()
    assert text.index('class="best"') < text.index('<th scope="row">1</th>')
    assert text.index('class="best"') > text.index("Every epoch in numbers")
    assert "20.0% at the best" in page.words and "4 at the best" in page.words
    page = write(tmp_path / "report.html", best_epoch=None)
    assert "at the best" not in page.words and "Best epoch" not in page.words


def test_where_the_time_went(tmp_path):
    page = write(tmp_path / "report.html", history=history_of(**TIMES))
    # Of 41 seconds an epoch: 40 - 4 - 8 computing, 4 waiting, 8 validation, 1 saving.
    for words in ("12.5% of the time went into waiting", "68.3%", "9.8%", "19.5%", "2.4%"):
        assert words in page.words
    assert "Faster storage" in page.words and "in 2 min 3 s" in page.words
    assert "Training images a second" in page.words
    assert page.tags.count("svg") == 6
    many = write(tmp_path / "report.html", history=history_of(300, **TIMES | {"data_seconds": 0.1}))
    assert many.tags.count("svg") == 6 and "Faster storage" not in many.words
    assert "Time" not in write(tmp_path / "report.html").words.split()


def test_mistakes_and_rights_beside_their_heat(tmp_path):
    heat = np.full((8, 8, 3), 200, np.uint8)
    examples = Examples(
        (example(overlay=heat, explained="b"), example()),
        (example(predicted="a", overlay=heat, explained="a"), example(predicted="a")),
    )
    page = write(tmp_path / "report.html", examples=examples)
    assert page.tags.count("img") == 6
    assert "Worst mistakes" in page.words and "Surest right answers" in page.words
    assert page.words.count("taken for") == 2
    alternatives = [value for name, value in page.attributes if name == "alt"]
    assert "The same under the heat map of b" in alternatives and all(alternatives)


def test_warnings_and_groups_of_settings(tmp_path):
    settings = {
        "request": {"model": "lenet5", "epochs": 3},
        "resolved": {
            "precision": "bfloat16",
            "recipe": {"name": "photos", "augmentation": {"flip": True, "crop": [0.25, 1.0]}},
            "data": {"classes": [f"class {i}" for i in range(1000)]},
            "devices": {},
        },
    }
    page = write(tmp_path / "report.html", settings=settings, warnings=["Very uneven classes."])
    for words in (
        "Warning: Very uneven classes.", "As asked for", "As resolved", "Recipe", "Data",
        "augmentation.flip", "0.25, 1", "bfloat16", "class 19, … (1,000 in all)",
    ):  # fmt: skip
        assert words in page.words
    assert "class 20" not in page.words


def test_any_number_of_classes_an_image(tmp_path):
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 2, (100, 40))
    targets[:, 3] = 0
    evaluation = MultiLabelEvaluation.from_probabilities(
        generator.random((100, 40)), targets, [f"thing {i}" for i in range(40)]
    )
    history = history_of()
    for row in history:
        row["val_map"] = 0.123
    examples = Examples((example(truth="thing 1, thing 2", predicted="not thing 2"),))
    page = write(
        tmp_path / "report.html", evaluation=evaluation, history=history, examples=examples
    )
    for words in ("Mean average precision", "12.3% at the best", "Average precision", "All right",
                  "not thing 2", "Weakest classes", "All 40 classes", "Right answers"):  # fmt: skip
        assert words in page.words
    assert "Confusion" not in page.words and "Top-1" not in page.words
    assert page.tags.count("svg") == 5 and "nan" not in page.words


def test_everything_has_words_and_a_place(tmp_path):
    """What a screen reader needs: alternatives, named columns, and links that lead somewhere."""
    page = write(tmp_path / "report.html", history=history_of(**TIMES))
    assert page.tags.count("img") == sum(name == "alt" for name, _ in page.attributes)
    text = (tmp_path / "report.html").read_text()
    for drawing in re.finditer("<svg", text):
        before = text[: drawing.start()].rstrip()
        assert re.search(r'role="img" aria-label="[^"]{20,}">$', before)
    assert all("scope=" in cell for cell in re.findall("<th[ >][^>]*", text))
    ids = {value for name, value in page.attributes if name == "id"}
    links = {value[1:] for name, value in page.attributes if name == "href" and value}
    assert {"training", "time", "confusion", "classes", "calibration", "settings"} <= links <= ids
    headings = [int(tag[1]) for tag in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(headings))


def luminance(color: str) -> float:
    digits = color.removeprefix("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    channels = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast(theme):
    """WCAG 2.1, level AA: 4.5 for text, 3 for what is drawn."""
    css = (Path(html.__file__).parent / "page.css").read_text()
    block = re.findall(r":root \{(.*?)\}", css, flags=re.DOTALL)[theme == "dark"]
    colors = dict(re.findall(r"--([\w-]+): ([^;]+);", block))
    for ground in ("paper", "panel"):
        for text in ("ink", "muted", "wrong", "right"):
            assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)
        for line in ("training", "validation", *(f"series-{n}" for n in range(1, 9))):
            assert contrast(colors[line], colors[ground]) >= 3, (line, ground)
    for cell in ("hit", "miss"):
        deepest = float(colors["deepest"])
        panel = np.array([int(colors["panel"][i : i + 2], 16) for i in (1, 3, 5)])
        full = deepest * np.array(colors[cell].split(), float) + (1 - deepest) * panel
        shown = "#" + "".join(f"{round(value):02x}" for value in full)
        assert contrast(colors["ink"], shown) >= 4.5, cell


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
    evil, dark = '<script>alert("1")</script>', np.zeros((4, 4, 3), np.uint8)
    page = write(
        tmp_path / "report.html",
        title=evil,
        notes=[evil],
        settings={evil: evil},
        history=[{"epoch": 1, "loss": 1.0, evil: 2.0}],
        evaluation=evaluation_of([evil, "$x^$", "b"], unreadable=[ImageError(evil, evil)]),
        examples=Examples(
            (example(truth=evil, predicted=evil + "2", name=evil, confidence=1.0),),
            (example(truth=evil, predicted=evil, name=evil, overlay=dark, explained=evil),),
        ),
        warnings=[evil],
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
        ([{"epoch": 2, "val_loss": NAN, "val_accuracy": 1.0}, {"epoch": 3, "val_loss": 1.0}], 2),
    ],
)
def test_histories(tmp_path, history, curves):
    assert write(tmp_path / "report.html", history=history).tags.count("svg") == curves + 1


@pytest.mark.parametrize("classes", [1, 2, 13, 30, 31, 1000])
def test_any_number_of_classes(tmp_path, classes):
    labels = [f"class {i} {'of a very long name ' * (i % 3)}" for i in range(classes)]
    page = write(tmp_path / "report.html", evaluation=evaluation_of(labels), examples=Examples())
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
    picture = np.zeros(shape, np.uint8)
    examples = Examples((example(picture, name="\udce9.jpg", overlay=picture),))
    page = write(tmp_path / "report.html", examples=examples)
    assert page.tags.count("img") == 2
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
