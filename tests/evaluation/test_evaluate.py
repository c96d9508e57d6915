"""evaluate(): every kind of data, classes by name, views, ensembles, unreadable files named."""

import csv
import json

import numpy as np
import pytest
import tensorflow as tf
from classifiers import LABELS, colour_folder, encoded, photo, small_classifier

from keras_cls.errors import ConfigError, DataError
from keras_cls.evaluation import Scorer, evaluate
from keras_cls.evaluation.views import CROPS_144, TEN_CROPS, TEN_CROPS_OF_IMAGE, prepared_views
from keras_cls.preprocessing import Preprocessing

SEVEN = ["a", "b", "blue", "c", "d", "green", "red"]


@pytest.fixture(scope="module")
def classifier():
    return small_classifier(crop=0.8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return colour_folder(tmp_path_factory.mktemp("photos"), kind="png")


def files_and_targets(folder, labels=LABELS):
    files = sorted(folder.rglob("*.png"))
    return files, np.array([labels.index(file.parent.name) for file in files])


def expected(classifier, images, targets):
    return float(np.mean(classifier.probabilities(images).argmax(axis=1) == targets))


def predictions(folder):
    with (folder / "predictions.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


class Constant:
    """The least that can be evaluated: the same answer to everything."""

    labels = LABELS
    preprocessing = Preprocessing(size=8)

    def __init__(self, answer=(0.2, 0.7, 0.1)):
        self.answer, self.shapes = answer, []

    def forward(self, batch):
        self.shapes.append(tuple(batch.shape))
        return np.tile(np.float32(self.answer), (len(batch), 1))


def test_a_folder_of_class_folders(classifier, photos):
    files, targets = files_and_targets(photos)
    result = evaluate(classifier, photos)
    assert result.count == 18
    assert result.top1 == expected(classifier, files, targets)


def test_one_crop_gives_the_probabilities_of_predict_bit_for_bit(classifier, photos, tmp_path):
    files, targets = files_and_targets(photos)
    evaluate(classifier, photos, folder=tmp_path / "results")
    rows = classifier.probabilities(files)
    records = np.fromfile(tmp_path / "results" / "records.bin", "<i4").reshape(18, 13)
    assert np.array_equal(records[:, 0], targets)
    assert np.array_equal(records[:, 8].view("<f4"), rows.max(axis=1))
    truth = rows[np.arange(18), targets]
    assert np.array_equal(records[:, 2].view("<f4"), truth)


def test_arrays_datasets_and_a_saved_classifier_agree(classifier, tmp_path):
    images = np.stack([photo(LABELS[i % 3], seed=i) for i in range(9)])
    targets = np.arange(9) % 3
    dataset = tf.data.Dataset.from_tensor_slices((images, targets))
    folder = classifier.save(tmp_path / "saved")
    results = [
        evaluate(classifier, (images, targets)),
        evaluate(classifier, dataset),
        evaluate(classifier, dataset.batch(4)),
        evaluate(folder, (images, targets), batch_size=2),
    ]
    assert {result.top1 for result in results} == {expected(classifier, images, targets)}
    np.testing.assert_allclose([r.loss for r in results], results[0].loss, rtol=1e-5)
    first, second = results[0].mistakes, results[1].mistakes
    assert [m.confidence for m in first] == pytest.approx([m.confidence for m in second])
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.image, other.image)
        assert one.image.shape == (24, 20, 3)


@pytest.mark.parametrize(
    "protocol", [TEN_CROPS, TEN_CROPS_OF_IMAGE, pytest.param(CROPS_144, marks=pytest.mark.slow)]
)
def test_probabilities_of_all_views_are_averaged(classifier, photos, tmp_path, protocol):
    files, targets = files_and_targets(photos)
    crops = {10: TEN_CROPS, 144: CROPS_144}
    crops = next((n for n, found in crops.items() if found is protocol), protocol)
    result = evaluate(classifier, photos, crops=crops, batch_size=25, folder=tmp_path / "results")
    rows = []
    for file in files:
        image = tf.io.decode_png(file.read_bytes(), channels=3)
        (views,) = prepared_views(image, classifier.preprocessing, protocol)
        rows.append(classifier.forward(views).mean(axis=0))
    rows = np.array(rows)
    assert result.top1 == np.mean(rows.argmax(axis=1) == targets)
    found = [float(row["score_1"]) for row in predictions(tmp_path / "results")]
    np.testing.assert_allclose(found, rows.max(axis=1), rtol=1e-4)
    assert result.protocol == protocol.name


def test_dense_and_multi_scale(classifier, photos):
    for options in ({"crops": "dense"}, {"crops": "dense", "scales": (24, 33)}, {"scales": (24,)}):
        result = evaluate(classifier, photos, **options)
        assert result.count == 18
    # At the input's own size, with nothing to cut off, dense is the one crop and its mirror image.
    images = np.stack([photo(LABELS[i % 3], height=24, width=24, seed=i) for i in range(6)])
    square = small_classifier(size=(24, 24), crop=1.0)
    dense = evaluate(square, (images, np.arange(6) % 3), crops="dense", scales=[24])
    both = [square.probabilities(images), square.probabilities(images[:, :, ::-1])]
    truth = np.mean(both, axis=0)[np.arange(6), np.arange(6) % 3]
    assert dense.loss == pytest.approx(-np.log(truth).mean(), rel=1e-4)


def test_an_ensemble_averages_probabilities_each_with_its_own_preprocessing(photos):
    files, targets = files_and_targets(photos)
    one, two = small_classifier(seed=1), small_classifier(size=(16, 18), seed=2, mean=(0.5,))
    together = evaluate([one, two], photos)
    rows = (one.probabilities(files) + two.probabilities(files)) / 2
    assert together.top1 == np.mean(rows.argmax(axis=1) == targets)
    truth = rows[np.arange(len(files)), targets]
    assert together.loss == pytest.approx(-np.log(truth).mean(), rel=1e-5)
    assert together.protocol == "1 crop of 2 networks"

    each = evaluate([one, two], photos, ensemble=False)
    assert [r.top1 for r in each] == [expected(c, files, targets) for c in (one, two)]


def test_members_with_their_labels_in_another_order_are_put_right(photos):
    one = small_classifier(seed=1)
    turned = Constant((0.7, 0.2, 0.1))
    turned.labels = ["red", "blue", "green"]
    result = evaluate([turned, Constant((0.2, 0.1, 0.7))], photos)  # both are sure of red
    assert result.labels == ("red", "blue", "green")
    assert result.confusion.sum(axis=0).tolist() == [18, 0, 0]
    other = small_classifier(labels=["blue", "green", "yellow"])
    with pytest.raises(ConfigError, match=r"classifier 2 .*it lacks 'red'; it adds 'yellow'"):
        evaluate([one, other], photos)


def test_anything_that_gives_probabilities_is_judged(photos):
    scorer = Constant()
    assert isinstance(scorer, Scorer)
    result = evaluate(scorer, photos, crops=10, batch_size=20)
    assert result.top1 == pytest.approx(1 / 3)
    assert result.calibration.error == pytest.approx(0.7 - 1 / 3)
    assert set(scorer.shapes[:-1]) == {(20, 8, 8, 3)}
    with pytest.raises(ConfigError, match=r"crops='dense' needs a keras_cls\.Classifier"):
        evaluate(scorer, photos, crops="dense")
    with pytest.raises(ConfigError, match="found int"):
        evaluate(3, photos)
    with pytest.raises(ConfigError, match="empty list"):
        evaluate([], photos)


def test_answers_may_be_restricted_to_the_classes_of_the_data(photos, tmp_path):
    files, targets = files_and_targets(photos)
    wide = small_classifier(labels=SEVEN)
    rows = wide.probabilities(files)
    among = [SEVEN.index(label) for label in LABELS]
    free = evaluate(wide, photos)
    assert free.labels == tuple(SEVEN)
    assert free.top1 == np.mean(rows.argmax(axis=1) == np.array(among)[targets])
    assert free.top5 is not None
    result = evaluate(wide, photos, restrict=True)
    assert result.labels == tuple(LABELS)
    kept = rows[:, among] / rows[:, among].sum(axis=1, keepdims=True)
    assert result.top1 == np.mean(kept.argmax(axis=1) == targets)
    assert result.loss == pytest.approx(-np.log(kept[np.arange(18), targets]).mean(), rel=1e-5)
    assert result.top5 is None


def test_some_classes_may_be_missing_but_none_may_be_unknown(classifier, tmp_path):
    folder = colour_folder(tmp_path / "photos")
    for file in (folder / "green").iterdir():
        file.unlink()
    (folder / "green").rmdir()
    assert evaluate(classifier, folder).support.tolist() == [6, 0, 6]
    (folder / "red").rename(folder / "purple")
    with pytest.raises(DataError, match="purple"):
        evaluate(classifier, folder)


def test_unreadable_files_are_left_out_and_named_or_stop_it(classifier, tmp_path):
    folder = colour_folder(tmp_path / "photos")
    (folder / "red" / "cut.jpg").write_bytes(encoded(photo(), "JPEG")[:400])
    result = evaluate(classifier, folder, folder=tmp_path / "results")
    assert result.count == 18
    assert [error.name for error in result.unreadable] == [str(folder / "red" / "cut.jpg")]
    assert "cut.jpg" in (tmp_path / "results" / "evaluation.html").read_text()
    with pytest.raises(DataError, match=r"cut\.jpg"):
        evaluate(classifier, folder, strict=True)


def test_a_missing_classifier_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        evaluate(tmp_path / "nowhere", "digits")


def test_the_files_of_the_results(classifier, photos, tmp_path):
    files, targets = files_and_targets(photos)
    result = evaluate([classifier, Constant()], photos, folder=tmp_path, ensemble=False)[0]
    folder = tmp_path / "1-small"
    assert sorted(path.name for path in tmp_path.glob("?-*")) == ["1-small", "2-Constant"]
    read = json.loads((folder / "evaluation.json").read_text())
    assert read.items() >= result.to_dict().items()
    assert read["settings"]["views of an image"] == 1
    rows = predictions(folder)
    assert [row["file"] for row in rows] == [str(file) for file in files]
    assert [row["label"] for row in rows] == [LABELS[target] for target in targets]
    best = classifier.predict(files, k=3)
    for row, answer in zip(rows, best, strict=True):
        assert [row[f"best_{n}"] for n in (1, 2, 3)] == [one.label for one in answer]
        scores = [float(row[f"score_{n}"]) for n in (1, 2, 3)]
        assert scores == pytest.approx([one.score for one in answer], rel=1e-5)
    with (folder / "per_class.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [row["label"] for row in table] == LABELS
    assert [float(row["recall"]) for row in table] == pytest.approx(result.recall.tolist())
    assert (folder / "evaluation.html").read_text().startswith("<!doctype html>")


def test_a_dataset_starts_anew_each_time(classifier, tmp_path):
    images = np.stack([photo(LABELS[i % 3], seed=i) for i in range(9)])
    dataset = tf.data.Dataset.from_tensor_slices((images, np.arange(9) % 3))
    first = evaluate(classifier, dataset, folder=tmp_path)
    again = evaluate(classifier, dataset, folder=tmp_path)
    assert again.count == first.count == 9
    assert len(predictions(tmp_path)) == 9


@pytest.mark.parametrize("size", [0, True, 2.5, "8"])
def test_senseless_batch_sizes_are_refused(classifier, size):
    with pytest.raises(ConfigError, match="batch_size"):
        evaluate(classifier, "digits", batch_size=size)
