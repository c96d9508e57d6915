"""The keras-cls command as a user meets it: output, exit codes, and never a traceback."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import pytest
from classifiers import LABELS, colour_folder, encoded, photo, small_classifier

from keras_cls.cli import main

COMMANDS = ["models", "train", "evaluate", "predict", "export", "compress", "serve"]
COMMANDS += ["classify", "demo"]
COMMAND = [sys.executable, "-m", "keras_cls"]


def keras_cls(*arguments, **options):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=240, **options
    )


def refused(*arguments, code=1, **options):
    """Run a command that must fail; its one message."""
    done = keras_cls(*arguments, **options)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


class Done(NamedTuple):
    """How a command ended."""

    returncode: int | str | None
    stdout: str
    stderr: str


def keras_cls_here(capfd, *arguments):
    """A command within this process, which has imported TensorFlow already."""
    capfd.readouterr()
    try:
        returned = main([str(argument) for argument in arguments])
    except SystemExit as end:
        returned = end.code
    return Done(returned, *capfd.readouterr())


def refused_here(capfd, *arguments, code=1):
    """A command within this process that must fail; its one message."""
    done = keras_cls_here(capfd, *arguments)
    assert done.returncode == code, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return small_classifier().save(tmp_path_factory.mktemp("saved") / "colours")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return colour_folder(tmp_path_factory.mktemp("photos"))


def test_help_names_every_command_and_loads_no_tensorflow():
    done = keras_cls("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        assert re.search(rf"^ +{name} ", done.stdout, re.MULTILINE), name
        detail = keras_cls(name, "--help")
        assert detail.returncode == 0
        assert f"keras-cls {name}" in detail.stdout


def test_the_version_is_told():
    import keras_cls as package

    assert keras_cls("--version").stdout.strip() == f"keras-cls {package.__version__}"


def test_models_lists_the_registry_by_pattern(capfd):
    done = keras_cls("models", "resnet5*")
    assert done.returncode == 0
    assert "25,557,032" in done.stdout
    assert "lenet5" not in done.stdout
    assert done.stderr == ""
    assert "no network matches 'yolo*'" in refused_here(capfd, "models", "yolo*")


def test_models_sorts_and_tells_about_one(capfd):
    table = keras_cls_here(capfd, "models", "resnet*", "--sort", "parameters").stdout
    by_size = table.splitlines()[1:]
    counts = [int(line.split()[3].replace(",", "")) for line in by_size]
    assert counts == sorted(counts)
    card = keras_cls_here(capfd, "models", "resnet50").stdout
    for fact in ("Deep Residual Learning", "25,557,032", "4,089,184,256", "conv5_x"):
        assert fact in card


def test_models_draws_one(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = keras_cls_here(capfd, "models", "--plot", "lenet5")
    assert done.stdout.strip() == "lenet5.svg", done.stderr
    assert (tmp_path / "lenet5.svg").read_text().startswith("<?xml")
    assert "lenet5" in refused_here(capfd, "models", "--plot", "lenet6")


def test_help_names_every_recipe():
    from keras_cls.training.recipes import recipe_names

    detail = " ".join(keras_cls("train", "--help").stdout.split())
    for name in recipe_names():
        assert name in detail


def test_train_evaluate_predict_export_on_a_folder(tmp_path, photos, capfd):
    run = tmp_path / "run"
    train = ["train", "lenet5", "--data", photos, "--epochs", 2, "--run-dir", run]
    done = keras_cls(*train)
    assert done.returncode == 0, done.stderr
    assert str(run / "report.html") in done.stdout
    assert "epoch 2/2" in done.stderr

    again = keras_cls_here(capfd, *train)
    assert again.returncode == 0
    assert "finished" in again.stderr

    result = tmp_path / "result.json"
    done = keras_cls_here(capfd, "evaluate", run, "--data", photos, "--json", result)
    assert done.returncode == 0, done.stderr
    assert "18 images of 3 classes" in done.stdout
    assert json.loads(result.read_text())["count"] == 18

    done = keras_cls_here(capfd, "predict", run, photos / "red", "-k", 1, "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 6
    assert lines[0]["file"] == str(photos / "red" / "00.jpg")
    assert lines[0]["predictions"][0]["label"] in LABELS

    done = keras_cls_here(capfd, "export", run, "--to", tmp_path / "models" / "colours")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "models" / "colours" / "1")


def test_predict_names_what_it_cannot_read_and_goes_on(tmp_path, saved, capfd):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(encoded(photo()))
    bad.write_text("not an image")
    done = keras_cls_here(capfd, "predict", saved, bad, good, tmp_path / "missing.png")
    assert done.returncode == 1
    assert "bad.png: not an image" in done.stderr
    assert "missing.png: no such file" in done.stderr
    assert "good.png" in done.stdout
    assert len(done.stderr.splitlines()) == 2


def test_a_served_model_answers_classify_and_stops_on_sigterm(tmp_path, saved):
    keras_cls("export", saved, "--to", tmp_path / "colours")
    server = subprocess.Popen(
        [*COMMAND, "serve", f"--model_base_path={tmp_path / 'colours'}", "--port=0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        port = re.search(r":(\d+)$", server.stdout.readline().strip()).group(1)
        path = tmp_path / "photo.webp"
        path.write_bytes(encoded(photo(), "WEBP"))
        address = f"127.0.0.1:{port}"
        done = keras_cls("classify", path, "--model", "colours", "--address", address)
        assert done.returncode == 0, done.stderr
        assert any(label in done.stdout for label in LABELS)
        wrong = refused("classify", path, "--model", "colors", "--address", address)
        assert "NOT_FOUND" in wrong
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0
    gone = refused("classify", path, "--model", "colours", "--address", address)
    assert "is the server running" in gone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "lenet55", "--data", "digits"], "lenet5"),
        (["train", "lenet5", "--data", "nowhere"], "nowhere"),
        (["train", "lenet5", "--data", "digits", "--recipe", "best"], "recipe must be one of"),
        (["evaluate", "nowhere", "--data", "digits"], "nowhere: no such folder"),
        (["predict", "nowhere", "cat.jpg"], "nowhere: no such folder"),
        (["export", "nowhere", "--to", "models/m"], "nowhere: no such folder"),
        (["serve", "--model_base_path", "nowhere"], "nowhere"),
        (["classify", "cat.jpg", "--model", "m"], "cat.jpg: no such file"),
        (["train", "runs/none", "--data", "digits"], "runs/none: no such folder"),
        (
            ["compare", "a", "b", "--to", "cat.jpg"],
            "a file that ends in .html",
        ),
        (["evaluate", "x", "--data", "digits", "--json", "cat.jpg"], "ends in .json"),
    ],
)
def test_a_users_mistake_is_one_line(tmp_path, monkeypatch, capfd, arguments, message):
    monkeypatch.chdir(tmp_path)
    error = refused_here(capfd, *arguments)
    assert message in error
    assert error.startswith("keras-cls: ")
    assert not list(tmp_path.glob("runs/*")), "no folder of a run that never began"


@pytest.mark.slow
def test_an_export_goes_into_a_folder_of_its_own(tmp_path, photos, saved, capfd):
    assert "other things, such as" in refused_here(capfd, "export", saved, "--to", photos)
    assert main(["export", str(saved), "--to", str(tmp_path / "m")]) == 0
    error = refused_here(capfd, "export", saved, "--to", tmp_path / "m" / "1")
    assert f"this is a version; give the model's folder, {tmp_path / 'm'}" in error
    assert main(["export", str(saved), "--to", str(tmp_path / "m")]) == 0
    assert {entry.name for entry in (tmp_path / "m").iterdir()} == {"1", "2"}
    assert "publish it first" in refused_here(capfd, "serve", "--model_base_path", saved)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["train", "lenet5"],
        ["train", "lenet5", "--data", "digits", "--epochs", "0"],
        ["train", "lenet5", "--data", "digits", "--input-shape", "64"],
        ["export", "x", "--to", "y", "--format", "tflite"],
        ["predict", "x", "y.jpg", "-k", "none"],
        ["train", "lenet5", "--data", "digits", "--run-dir", ""],
        ["predict", "x", ""],
    ],
)
def test_a_mistake_in_the_command_line_exits_with_2(capfd, arguments):
    assert "usage:" in refused_here(capfd, *arguments, code=2)


def test_another_backend_is_refused(saved):
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    assert "KERAS_BACKEND" in refused("evaluate", saved, "--data", "digits", env=environment)


def interruptible() -> None:
    """In the child: a shell's background jobs, such as these tests may be, ignore interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interrupted_training_exits_with_130_and_can_go_on(tmp_path):
    train = ["train", "lenet5", "--data", "digits", "--epochs", "40", "--run-dir", tmp_path / "run"]
    process = subprocess.Popen(
        [*COMMAND, *map(str, train)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=interruptible,
    )
    history = tmp_path / "run" / "history.csv"
    while not history.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "goes on" in errors


@pytest.mark.slow
def test_an_interrupted_training_without_a_folder_tells_which_it_was(tmp_path):
    train = ["train", "lenet5", "--data", "digits", "--epochs", "40"]
    process = subprocess.Popen(
        [*COMMAND, *train],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=interruptible,
    )
    while not list(tmp_path.glob("runs/*/history.csv")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    [folder] = (tmp_path / "runs").iterdir()
    assert f"--run-dir runs/{folder.name}" in errors


@pytest.mark.parametrize("command", ["train", "export", "evaluate"])
def test_the_file_system_s_objections_are_one_line(tmp_path, saved, capfd, command):
    file = tmp_path / "file"
    file.write_text("")
    arguments = {
        "train": ["lenet5", "--data", "digits", "--run-dir", file / "run"],
        "export": [saved, "--to", file / "model"],
        "evaluate": [saved, "--data", "digits", "--json", file / "result.json"],
    }
    error = refused_here(capfd, command, *arguments[command])
    assert str(file) in error
    assert len(error.splitlines()) == 1


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m keras_cls models | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
