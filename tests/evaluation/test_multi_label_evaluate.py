"""evaluate() of multi-label classifiers: views, ensembles, files, and going on after a kill."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from classifiers import COLOURS, LABELS, colour_folder, encoded, photo, small_classifier
from sklearn.metrics import average_precision_score

from keras_cls.errors import ConfigError, DataError
from keras_cls.evaluation import Evaluation, MultiLabelEvaluation, evaluate
from keras_cls.preprocessing import Preprocessing

ROWS = np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 1, 1], [0, 1, 0], [1, 0, 1]])
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
keras_cls.evaluate(sys.argv[1], sys.argv[2], batch_size=2, folder=sys.argv[3])
"""


@pytest.fixture(scope="module")
def classifier():
    return small_classifier(multi_label=True, crop=0.8)


def stripes(row, seed=0):
    """A photo with a stripe in the colour of each class that it shows."""
    picture = photo("blue", 30, 30, seed) // 8
    for place, (label, shown) in enumerate(zip(LABELS, row, strict=True)):
        if shown:
            picture[10 * place : 10 * place + 10] = COLOURS[label]
    return picture


def write_photos(folder, count):
    """Files and a manifest of all combinations of the classes, over and over."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["file,label"]
    for number in range(count):
        row = ROWS[number % len(ROWS)]
        (folder / f"{number:02d}.png").write_bytes(encoded(stripes(row, number)))
        shown = "|".join(label for label, yes in zip(LABELS, row, strict=True) if yes)
        lines.append(f"{number:02d}.png,{shown}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder / "labels.csv"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"), 18)


def files_and_targets(manifest):
    files = sorted(manifest.parent.glob("*.png"))
    return files, ROWS[np.arange(len(files)) % len(ROWS)]


def test_a_manifest_is_judged_by_the_probabilities_of_predict(classifier, photos, tmp_path):
    files, targets = files_and_targets(photos)
    rows = classifier.probabilities(files)
    found = evaluate(classifier, photos, folder=tmp_path)
    assert isinstance(found, MultiLabelEvaluation)
    assert found.images == 18 and found.labels == tuple(LABELS)
    assert found.counts.tolist() == targets.sum(axis=0).tolist()
    ranked = [average_precision_score(*pair) for pair in zip(targets.T, rows.T, strict=True)]
    np.testing.assert_allclose(found.average_precision, ranked)
    records = np.fromfile(tmp_path / "records.bin", [("truth", "?", (3,)), ("scores", "<f4", (3,))])
    assert np.array_equal(records["scores"], rows)  # bit for bit
    assert np.array_equal(records["truth"], targets)


def test_the_files_of_the_results(classifier, photos, tmp_path):
    files, targets = files_and_targets(photos)
    rows = classifier.probabilities(files)
    found = evaluate(classifier, photos, folder=tmp_path)
    read = json.loads((tmp_path / "evaluation.json").read_text())
    assert read.items() >= found.to_dict().items()
    with (tmp_path / "predictions.csv").open(encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    assert [line["file"] for line in table] == list(map(str, files))
    for line, truth, scores, answers in zip(
        table, targets, rows, classifier.predict(files), strict=True
    ):
        assert line["labels"] == "|".join(np.array(LABELS)[truth > 0])
        assert line["predicted"] == "|".join(np.array(LABELS)[scores >= 0.5])
        assert [line[f"best_{n}"] for n in (1, 2, 3)] == [answer.label for answer in answers]
    with (tmp_path / "per_class.csv").open(encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    assert [float(line["average_precision"]) for line in table] == pytest.approx(
        found.average_precision.tolist(), rel=1e-5
    )
    page = (tmp_path / "evaluation.html").read_text()
    assert page.startswith("<!doctype html>") and "Average precision" in page
    assert len(found.mistakes) == ((rows >= 0.5) != targets).any(axis=1).sum()
    confidences = [one.confidence for one in found.mistakes]
    assert confidences == sorted(confidences, reverse=True) and confidences[0] > 0.5


@pytest.mark.slow
def test_arrays_and_manifests_agree(classifier, photos):
    images = np.stack([stripes(ROWS[i % 6], i) for i in range(18)])
    of_arrays = evaluate(classifier, (images, ROWS[np.arange(18) % 6]))
    assert of_arrays.to_dict()["per_class"] == evaluate(classifier, photos).to_dict()["per_class"]


@pytest.mark.slow
def test_crops_and_ensembles_average_sigmoids(classifier, photos):
    files, targets = files_and_targets(photos)
    other = small_classifier(multi_label=True, seed=1, crop=0.8)
    rows = [each.probabilities(files) for each in (classifier, other)]
    found = evaluate([classifier, other], photos)
    mean = np.mean(rows, axis=0)
    ranked = [average_precision_score(*pair) for pair in zip(targets.T, mean.T, strict=True)]
    np.testing.assert_allclose(found.average_precision, ranked, rtol=1e-5)
    assert found.protocol == "1 crop of 2 networks"
    separate = evaluate([classifier, other], photos, ensemble=False)
    assert [each.loss for each in separate] == pytest.approx(
        [evaluate(classifier, photos).loss, evaluate(other, photos).loss]
    )
    assert evaluate(classifier, photos, crops=10).protocol == "10 crops"
    dense = evaluate(classifier, photos, crops="dense", scales=(24,))
    assert 0 < dense.mean_average_precision <= 1
    # Sigmoids of three classes do not sum to 1, as a softmax would.
    assert abs(rows[0].sum(axis=1) - 1).max() > 0.05


class Constant:
    """Another runtime's multi-label model."""

    labels = LABELS
    preprocessing = Preprocessing(size=8)
    multi_label = True

    def forward(self, batch):
        return np.tile(np.float32([0.9, 0.6, 0.2]), (len(batch), 1))


def test_whatever_gives_a_probability_for_each_class(photos):
    found = evaluate(Constant(), photos)
    assert found.recall.tolist() == [1, 1, 0]
    assert found.hamming_loss == 0.5


def test_only_the_classes_of_the_data_are_judged_on_request(photos):
    wide = small_classifier(labels=["a", *LABELS, "z"], multi_label=True)
    free, among = evaluate(wide, photos), evaluate(wide, photos, restrict=True)
    assert free.counts.tolist() == [0, 9, 9, 9, 0]
    assert among.labels == tuple(LABELS)
    np.testing.assert_array_equal(among.average_precision, free.average_precision[1:4])
    assert among.protocol == "1 crop among 3 classes"


def test_classifiers_of_two_kinds_are_not_averaged(classifier, photos):
    with pytest.raises(ConfigError, match=r"classifier 2 \(small\) is not multi-label"):
        evaluate([classifier, small_classifier()], photos)
    with pytest.raises(ConfigError, match=r"classifier 2 \(small\) is multi-label"):
        evaluate([small_classifier(), classifier], photos)


def test_a_single_label_classifier_refuses_images_of_several(photos):
    with pytest.raises(DataError, match=r"labels\.csv: row 2: '00\.png' has the classes"):
        evaluate(small_classifier(), photos)


def test_a_folder_of_class_folders_shows_one_class_each(classifier, tmp_path):
    folder = colour_folder(tmp_path / "photos")
    found = evaluate(classifier, folder)
    assert isinstance(found, MultiLabelEvaluation)
    assert found.counts.tolist() == [6, 6, 6]
    assert isinstance(evaluate(small_classifier(), folder), Evaluation)


def test_a_dataset_is_judged_in_one_pass(classifier, photos):
    images = np.stack([stripes(ROWS[i % 6], i) for i in range(18)])
    rows = ROWS[np.arange(18) % 6].astype(np.float32)
    dataset = tf.data.Dataset.from_tensor_slices((images, rows))
    found, expected = evaluate(classifier, dataset), evaluate(classifier, photos)
    assert found.to_dict()["per_class"] == expected.to_dict()["per_class"]
    assert [m.confidence for m in found.mistakes] == [m.confidence for m in expected.mistakes]
    for one, other in zip(found.mistakes, expected.mistakes, strict=True):
        assert np.array_equal(one.image, other.image)


def test_unreadable_files_are_left_out_and_named(classifier, tmp_path):
    manifest = write_photos(tmp_path / "photos", 6)
    (manifest.parent / "03.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    found = evaluate(classifier, manifest)
    assert found.images == 5 and found.unreadable[0].name.endswith("03.png")


def stable(folder):
    """The results without what depends on the clock."""
    found = {name: (folder / name).read_bytes() for name in RESULTS}
    read = json.loads((folder / "evaluation.json").read_text())
    return {**found, **{key: read[key] for key in read if key != "images_per_second"}}


@pytest.mark.slow
def test_killed_midway_it_goes_on_and_ends_the_same(classifier, photos, tmp_path):
    saved = classifier.save(tmp_path / "saved")
    command = [sys.executable, "-c", SLOW_EVALUATION, str(saved), str(photos), str(tmp_path / "a")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ)
    records = tmp_path / "a" / "records.bin"
    while process.poll() is None and not (records.exists() and records.stat().st_size >= 4 * 15):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    done = records.stat().st_size // 15
    assert 4 <= done < 18
    with records.open("r+b") as stream:
        stream.truncate(done * 15 - 7)

    evaluate(saved, photos, batch_size=2, folder=tmp_path / "a")
    evaluate(saved, photos, batch_size=2, folder=tmp_path / "b")
    assert stable(tmp_path / "a") == stable(tmp_path / "b")
    single = small_classifier(crop=0.8)  # the same weights, asked for something else
    with pytest.raises(ConfigError, match="classifier and data changed"):
        evaluate(single, colour_folder(tmp_path / "photos"), folder=tmp_path / "a")
