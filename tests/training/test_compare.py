import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from classifiers import small_classifier
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import Page
from rich.console import Console

from keras_cls.errors import ConfigError, UserError
from keras_cls.training.compare import COLUMNS, Size, cells, compare, read_runs, table_of

CLASSES = ["cat", "dog", "owl"]


def row(epoch, accuracy=0.5, loss=1.0, **more):
    found = {
        "epoch": epoch,
        "loss": 1.5,
        "accuracy": 0.4,
        "val_loss": loss,
        "val_accuracy": accuracy,
    }
    return found | {"learning_rate": 0.1, "seconds": 60.0, "images_per_second": 100.0} | more


def write_run(
    folder: Path,
    accuracies=(0.5, 0.8, 0.7),
    epochs=None,
    classes=None,
    recipe="plain",
    timed=True,
    **resolved,
) -> Path:
    """A run folder as training leaves it; unfinished where ``epochs`` is more than the rows."""
    folder.mkdir(parents=True)
    request = {"model": "lenet5", "epochs": epochs or len(accuracies), "batch_size": None}
    told = {
        "request": request | {"recipe": "auto", "seed": 0},
        "resolved": {"recipe": {"name": recipe, "learning_rate": 0.1}, "batch_size": 32} | resolved,
    }
    history = [row(i, accuracy, 2 - accuracy) for i, accuracy in enumerate(accuracies, 1)]
    if not timed:
        history = [{k: v for k, v in r.items() if "second" not in k} for r in history]
    finished = epochs is None
    best = int(np.argmax(accuracies)) + 1 if len(accuracies) else None
    state = {"history": history, "best_epoch": best, "finished": finished}
    (folder / "settings.json").write_text(json.dumps(told))
    (folder / "state.json").write_text(json.dumps(state))
    if classes is not None:
        per_class = [
            {"label": label, "recall": recall, "precision": 0.5, "support": 10}
            for label, recall in classes.items()
        ]
        (folder / "evaluation.json").write_text(json.dumps({"per_class": per_class}))
    return folder


def page_of(folders, to: Path) -> Page:
    assert compare(folders, to) == to
    return Page(to.read_text(encoding="utf-8"))


def test_two_runs_on_one_page(tmp_path):
    one = write_run(tmp_path / "one", classes={"cat": 0.9, "dog": 0.2, "owl": 0.5})
    two = write_run(
        tmp_path / "two", (0.6, 0.9), recipe="photos", classes={"cat": 0.9, "dog": 0.8, "owl": 0.4}
    )
    page = page_of([one, two], tmp_path / "new" / "comparison.html")
    for words in ("2 runs compared", "80.00%", "90.00%", "3 min 0 s", "photos", "recipe.name"):
        assert words in page.words
    assert "Settings that differ" in page.words and "seed" not in page.words
    # Those on which they differ most come first.
    places = [page.words.index(name) for name in ("dog", "owl", "cat")]
    assert places == sorted(places)
    assert page.tags.count("svg") == 4
    assert "script" not in page.tags and "link" not in page.tags
    text = (tmp_path / "new" / "comparison.html").read_text()
    assert not set(re.findall(r"https?://[^\"]+", text)) - {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert not re.search("#a[1-8]a[1-8]a[1-8]", text), "all curves take the page's colours"


def test_the_table_of_figures(tmp_path):
    folders = [write_run(tmp_path / "one"), write_run(tmp_path / "two", (0.6, 0.9, 0.2, 0.1))]
    small_classifier().save(folders[1] / "checkpoints" / "best-0002")
    found = cells(read_runs(folders))
    text = {name: [cell.text for cell in row] for name, row in found.items()}
    assert text["network"] == ["lenet5", "lenet5"]
    assert text["recipe"] == ["plain", "plain"]
    assert text["epochs"] == ["3", "4"]
    assert text["batch"] == ["32", "32"]
    assert text["best epoch"] == ["2", "2"]
    assert text["top-1"] == ["80.00%", "90.00%"]
    assert text["loss"] == ["1.2000", "1.1000"]
    assert text["time"] == ["3 min 0 s", "4 min 0 s"]
    assert text["images/s"] == ["100", "100"]
    weights = 3 * 3 * 3 * 8 + 8 + 16, 11 * 9 * 8 * 3 + 3
    assert text["parameters"] == ["–", f"{sum(weights):,}"]
    assert text["M mult-adds"] == ["–", f"{(11 * 9 * 27 * 8 + 11 * 9 * 8 * 3) / 1e6:.1f}"]
    assert "precision" not in text and "top-5" not in text and "mAP" not in text
    best = {name: [cell.best for cell in row] for name, row in found.items()}
    assert best["top-1"] == best["loss"] == [False, True]
    assert best["time"] == [False, False], "fewer epochs are no merit"
    assert best["images/s"] == [False, False], "nobody wins where all are equal"


def test_the_best_is_that_of_the_best_epoch(tmp_path):
    run = read_runs([write_run(tmp_path / "run", (0.3, 0.9, 0.6), precision="bfloat16")])[0]
    assert run.best["val_accuracy"] == 0.9
    assert run.precision == "bfloat16" and run.seconds == 180 and run.finished


def test_the_terminals_table(tmp_path):
    folders = [write_run(tmp_path / "[red]one"), write_run(tmp_path / "two", epochs=9)]
    console = Console(record=True, width=90, quiet=False, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    compare(folders, tmp_path / "page.html", console=console)
    text = console.export_text()
    assert "[red]one" in text and "top-1" in text
    assert "not finished: 3 of 9 epochs" in text


def test_runs_that_are_not_finished_are_marked(tmp_path):
    folders = [write_run(tmp_path / "done"), write_run(tmp_path / "going", epochs=10)]
    page = page_of(folders, tmp_path / "page.html")
    assert "not finished: 3 of 10 epochs" in page.words
    assert "Fewer than two" in page.words


def test_old_and_odd_runs(tmp_path):
    old = write_run(tmp_path / "old", timed=False)
    page = page_of([old, write_run(tmp_path / "odd", (0.5,))], tmp_path / "page.html")
    assert page.tags.count("svg") == 4
    page = page_of([old], tmp_path / "page.html")
    assert "One run: old" in page.words and page.tags.count("svg") == 2
    assert "images/s" not in page.words
    many = write_run(tmp_path / "many", classes={"a": 0.5})
    other = write_run(tmp_path / "other", classes={"b": 0.5})
    assert "other classes" in page_of([many, other], tmp_path / "page.html").words


def test_many_runs_with_long_names(tmp_path):
    folders = [write_run(tmp_path / f"{'long-' * 12}{i}", (0.5 + i / 1000,) * 2) for i in range(12)]
    page = page_of(folders, tmp_path / "page.html")
    assert "12 runs compared" in page.words


def test_runs_of_one_name_are_told_apart(tmp_path):
    folders = [write_run(tmp_path / "monday" / "pets"), write_run(tmp_path / "friday" / "pets")]
    assert [run.name for run in read_runs(folders)] == ["monday/pets", "friday/pets"]


def test_multi_label_runs_are_compared_by_average_precision(tmp_path):
    folders = []
    for name, value in (("one", 0.6), ("two", 0.7)):
        folder = write_run(tmp_path / name)
        state = json.loads((folder / "state.json").read_text())
        for number, each in enumerate(state["history"]):
            each["val_map"] = value + number / 100
        (folder / "state.json").write_text(json.dumps(state))
        per_class = [{"label": "a", "average_precision": value, "recall": 0.1}]
        (folder / "evaluation.json").write_text(json.dumps({"per_class": per_class}))
        folders.append(folder)
    page = page_of(folders, tmp_path / "page.html")
    assert "mAP" in page.words and "average precision of each class" in page.words
    assert "71.00%" in page.words


def test_names_are_harmless(tmp_path):
    evil = "<script>alert(1)<"
    folder = write_run(tmp_path / evil, recipe=evil, classes={evil: 0.5, "$x^$": 0.1})
    other = write_run(tmp_path / "other", classes={evil: 0.1, "$x^$": 0.1})
    page = page_of([folder, other], tmp_path / "page.html")
    assert "script" not in page.tags and page.words.count(evil) >= 4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f), "no such folder"),
        (lambda f: (f / "settings.json").unlink(), r"not a run folder: it has no settings\.json"),
        (lambda f: (f / "settings.json").write_text("{"), r"settings\.json: not valid JSON"),
        (lambda f: (f / "settings.json").write_text('{"request": {}}'), "'resolved' must be"),
        (lambda f: (f / "state.json").write_text("{"), r"state\.json: not valid JSON"),
        (lambda f: (f / "state.json").write_text("{}"), "finished is None"),
        (
            lambda f: (f / "state.json").write_text(
                '{"history": 5, "best_epoch": 1, "finished": true}'
            ),
            "'history' must be a list",
        ),
        (
            lambda f: (f / "state.json").write_text(
                '{"history": [{"epoch": 1, "loss": "x"}], "best_epoch": 1, "finished": true}'
            ),
            "row 1 of the history",
        ),
        (
            lambda f: (f / "state.json").write_text(
                '{"history": [{"epoch": 2}], "best_epoch": 2, "finished": true}'
            ),
            "'epoch': 1; found",
        ),
        (
            lambda f: (f / "state.json").write_text(
                '{"history": [], "best_epoch": null, "finished": false}'
            ),
            "no whole epoch",
        ),
        (lambda f: (f / "state.json").unlink(), "no whole epoch"),
        (lambda f: (f / "evaluation.json").write_text('{"per_class": [5]}'), "'per_class' must be"),
        (lambda f: (f / "evaluation.json").write_text("{}"), "'per_class' must be"),
    ],
)
def test_what_is_no_run_is_named(tmp_path, damage, message):
    good, bad = write_run(tmp_path / "good"), write_run(tmp_path / "bad")
    damage(bad)
    with pytest.raises(ConfigError, match=message) as caught:
        compare([good, bad], tmp_path / "page.html")
    assert str(bad) in str(caught.value)
    assert not (tmp_path / "page.html").exists()


def test_the_arguments_are_checked(tmp_path):
    with pytest.raises(ConfigError, match="at least one"):
        compare([], tmp_path / "page.html")
    run = write_run(tmp_path / "run")
    with pytest.raises(ConfigError, match="named twice"):
        compare([run, tmp_path / "." / "run"], tmp_path / "page.html")
    assert compare(str(run), tmp_path / "page.html").exists()


def test_a_history_without_a_state(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "state.json").unlink()
    (folder / "history.csv").write_text("epoch,loss,val_top5\n1,2.5,\n2,1.5,0.75\n")
    run = read_runs([folder])[0]
    assert run.history == [{"epoch": 1, "loss": 2.5}, {"epoch": 2, "loss": 1.5, "val_top5": 0.75}]
    assert not run.finished and run.best["val_top5"] == 0.75
    for text in ("epoch,loss\n1,x\n", "epoch,loss\n2,1\n", "loss\n1\n", "epoch\n1,2,3\n"):
        (folder / "history.csv").write_text(text)
        with pytest.raises(ConfigError, match=r"history\.csv: damaged"):
            read_runs([folder])


FIELDS = [
    *("best_epoch", "epoch", "epochs", "finished", "history", "label", "model", "name"),
    *("per_class", "recipe", "request", "resolved", "seconds", "val_loss"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(FIELDS),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(part=st.sampled_from(["settings.json", "state.json", "evaluation.json"]), content=JSON)
def test_no_content_of_the_files_is_a_traceback(tmp_path_factory, part, content):
    folder = write_run(tmp_path_factory.mktemp("runs") / "run", classes={"cat": 0.5})
    known = json.loads((folder / part).read_text())
    if isinstance(content, dict):
        content = known | content
    (folder / part).write_text(json.dumps(content))
    try:
        table_of(read_runs([folder]))
    except UserError as error:
        assert part in str(error) or "no whole epoch" in str(error)


WRITER = """
import sys, time
from pathlib import Path
from keras_cls.files import write_json
folder = Path(sys.argv[1])
write_json(folder / "settings.json", {"request": {"epochs": 100}, "resolved": {}})
history = []
for epoch in range(1, 101):
    history.append({"epoch": epoch, "val_accuracy": epoch / 500, "val_loss": 1.0})
    state = {"history": history, "best_epoch": epoch, "finished": False}
    write_json(folder / "state.json", state)
    time.sleep(0.01)
"""


def test_a_run_that_another_process_writes(tmp_path):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "run"])
    try:
        while not (tmp_path / "run" / "state.json").exists():
            assert writer.poll() is None
            time.sleep(0.02)
        lengths = []
        while writer.poll() is None:
            run = read_runs([tmp_path / "run"])[0]
            lengths.append(len(run.history))
            assert run.best_epoch == lengths[-1] and not run.finished
    finally:
        writer.kill()
        writer.wait()
    assert writer.returncode == 0
    assert lengths == sorted(lengths) and len(set(lengths)) > 3


def test_every_column_has_a_name_of_its_own():
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)
    assert Size(10, 0.1, None).multiply_adds is None
