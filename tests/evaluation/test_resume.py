"""An evaluation that is killed goes on where it stopped, and ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from classifiers import LABELS, colour_folder, photo, small_classifier

from keras_cls.errors import ConfigError
from keras_cls.evaluation import evaluate

RESULTS = ["predictions.csv", "per_class.csv", "records.bin"]

# Each batch takes a while, so that there is a middle to be killed in.
SLOW_EVALUATION = """
import sys, time
import keras_cls
from keras_cls.classifier import Classifier

forward = Classifier.forward
def slowly(self, batch):
    time.sleep(0.15)
    return forward(self, batch)
Classifier.forward = slowly
keras_cls.evaluate(sys.argv[1], sys.argv[2], crops=10, batch_size=20, folder=sys.argv[3])
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return small_classifier(crop=0.8).save(tmp_path_factory.mktemp("saved") / "colours")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return colour_folder(tmp_path_factory.mktemp("photos"), per_class=13, kind="png")


def judge(saved, photos, folder, **options):
    return evaluate(saved, photos, folder=folder, **{"crops": 10, "batch_size": 20, **options})


def stable(folder):
    """The results without what depends on the clock."""
    found = {name: (folder / name).read_bytes() for name in RESULTS}
    read = json.loads((folder / "evaluation.json").read_text())
    return {**found, **{key: read[key] for key in read if key != "images_per_second"}}


def test_killed_midway_it_goes_on_and_ends_the_same(saved, photos, tmp_path):
    command = [sys.executable, "-c", SLOW_EVALUATION, str(saved), str(photos), str(tmp_path / "a")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ)
    records = tmp_path / "a" / "records.bin"
    while process.poll() is None and not (records.exists() and records.stat().st_size >= 5 * 52):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    done = records.stat().st_size // 52
    assert 5 <= done < 39
    assert not (tmp_path / "a" / "evaluation.json").exists()
    # As if the kill had come amid a batch and amid a record.
    with records.open("r+b") as stream:
        stream.truncate(done * 52 - 60)

    seen = []
    went_on = judge(saved, photos, tmp_path / "a", progress=lambda done, total: seen.append(done))
    undisturbed = judge(saved, photos, tmp_path / "b")
    assert stable(tmp_path / "a") == stable(tmp_path / "b")
    assert went_on.to_dict() | {"images_per_second": 0} == undisturbed.to_dict() | {
        "images_per_second": 0
    }
    for one, other in zip(went_on.mistakes, undisturbed.mistakes, strict=True):
        assert np.array_equal(one.image, other.image)


def test_a_finished_one_is_not_judged_again(saved, photos, tmp_path, monkeypatch):
    first = judge(saved, photos, tmp_path)
    before = stable(tmp_path)

    def never(self, batch):
        raise AssertionError("judged again")

    monkeypatch.setattr("keras_cls.classifier.Classifier.forward", never)
    again = judge(saved, photos, tmp_path)
    assert again.images_per_second == first.images_per_second
    assert stable(tmp_path) == before


def test_what_changed_is_refused_by_name(saved, photos, tmp_path):
    folder = tmp_path / "results"
    judge(saved, photos, folder)
    before = stable(folder)
    with pytest.raises(ConfigError, match=r"results: .*something else: protocol changed"):
        judge(saved, photos, folder, crops=1)
    with pytest.raises(ConfigError, match="protocol changed"):
        judge(saved, photos, folder, scales=(40,))
    with pytest.raises(ConfigError, match="classifier changed"):
        judge(small_classifier(seed=7, crop=0.8), photos, folder)
    with pytest.raises(ConfigError, match="classifier changed"):
        judge(small_classifier(crop=0.9), photos, folder)
    changed = colour_folder(tmp_path / "photos", per_class=13, kind="png")
    with pytest.raises(ConfigError, match="data changed"):
        judge(saved, changed, folder)
    assert stable(folder) == before
    judge(saved, changed, tmp_path / "other")
    file = changed / "red" / "00.png"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(ConfigError, match="data changed"):
        judge(saved, changed, tmp_path / "other")


def test_arrays_are_known_by_their_pixels(saved, tmp_path):
    images = np.stack([photo(LABELS[i % 3], seed=i) for i in range(9)])
    targets = np.arange(9) % 3
    judge(saved, (images, targets), tmp_path)
    judge(saved, (images.copy(), targets), tmp_path)
    with pytest.raises(ConfigError, match="data changed"):
        judge(saved, (255 - images, targets), tmp_path)


def test_a_folder_of_something_else_is_left_alone(saved, photos, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not an evaluation's folder"):
        judge(saved, photos, tmp_path)
    with pytest.raises(ConfigError, match="not an evaluation's folder"):
        judge(saved, photos, tmp_path / "thesis.txt")
    with pytest.raises(ConfigError, match="folder must be a path, found 3"):
        judge(saved, photos, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "state.json").write_text('{"history": []}')  # as a training run's
    with pytest.raises(ConfigError, match="not of an evaluation"):
        judge(saved, photos, tmp_path)


def test_a_damaged_state_is_named(saved, photos, tmp_path):
    judge(saved, photos, tmp_path)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(ConfigError, match=r"state\.json: not valid JSON"):
        judge(saved, photos, tmp_path)
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"state\.json: damaged"):
        judge(saved, photos, tmp_path)
