"""evaluate(): every kind of data, classes by name, unreadable files named."""

import numpy as np
import pytest
import tensorflow as tf
from classifiers import LABELS, colour_folder, encoded, photo, small_classifier

from keras_cls.errors import ConfigError, DataError
from keras_cls.evaluation import evaluate


@pytest.fixture(scope="module")
def classifier():
    return small_classifier()


def expected(classifier, images, targets):
    return float(np.mean(classifier.probabilities(images).argmax(axis=1) == targets))


def test_a_folder_of_class_folders(classifier, tmp_path):
    folder = colour_folder(tmp_path / "photos", kind="png")
    files = sorted(folder.rglob("*.png"))
    targets = [LABELS.index(file.parent.name) for file in files]
    result = evaluate(classifier, folder)
    assert result.count == 18
    assert result.top1 == expected(classifier, files, targets)


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
    result = evaluate(classifier, folder)
    assert result.count == 18
    assert [error.name for error in result.unreadable] == [str(folder / "red" / "cut.jpg")]
    with pytest.raises(DataError, match=r"cut\.jpg"):
        evaluate(classifier, folder, strict=True)


def test_a_missing_classifier_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        evaluate(tmp_path / "nowhere", "digits")
