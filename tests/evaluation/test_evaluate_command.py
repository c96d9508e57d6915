"""``keras-cls evaluate`` as a user meets it."""

import json

import pytest
from classifiers import colour_folder, small_classifier

from keras_cls.cli import main


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return small_classifier(crop=0.8).save(tmp_path_factory.mktemp("saved") / "colours")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return colour_folder(tmp_path_factory.mktemp("photos"))


def run(*arguments):
    return main(["evaluate", *map(str, arguments)])


def test_crops_scales_and_a_folder(saved, photos, tmp_path, capfd):
    assert run(saved, "--data", photos, "--crops", 10, "--scales", "24,32", "--restrict",
               "--to", tmp_path / "out", "--json", tmp_path / "r.json") == 0  # fmt: skip
    shown = capfd.readouterr().out
    assert "18 images of 3 classes" in shown
    assert "10 crops at 24, 32 pixels among 3 classes" in shown
    assert f"report: {tmp_path / 'out' / 'evaluation.html'}" in shown
    assert json.loads((tmp_path / "r.json").read_text())["count"] == 18
    assert run(saved, "--data", photos, "--to", tmp_path / "out") == 1
    assert "something else: protocol changed" in capfd.readouterr().err


def test_several_classifiers_together_or_each_by_itself(saved, photos, tmp_path, capfd):
    other = small_classifier(seed=3).save(tmp_path / "other")
    assert run(saved, other, "--data", photos) == 0
    assert "1 crop of 2 networks" in capfd.readouterr().out
    assert run(saved, other, "--data", photos, "--separate", "--to", tmp_path / "out",
               "--json", tmp_path / "r.json") == 0  # fmt: skip
    shown = capfd.readouterr().out
    assert str(saved) in shown and str(other) in shown
    assert shown.count("report: ") == 2
    assert len(json.loads((tmp_path / "r.json").read_text())) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--crops", "7"], "must be 1, 10, 144 or dense, not '7'"),
        (["--scales", "big"], "must look like 256,384,512, not 'big'"),
        (["--batch-size", "0"], "must be a whole number of 1 or more"),
    ],
)
def test_a_mistake_in_the_command_line_says_what_is_possible(
    saved, photos, capfd, arguments, message
):
    with pytest.raises(SystemExit) as end:
        run(saved, "--data", photos, *arguments)
    assert end.value.code == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scales", "24,24"], "scales must be distinct"),
        (["--scales", "8"], "8 is smaller than the network's input, 20"),
        (["--to", __file__], "is not an evaluation's folder"),
    ],
)
def test_a_mistake_in_the_input_is_one_line(saved, photos, capfd, arguments, message):
    assert run(saved, "--data", photos, *arguments) == 1
    error = capfd.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
