from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from folders import make_folders

from keras_cls.data.datasets import LabelledDataset
from keras_cls.data.opening import describe_data, open_evaluation_data, open_training_data
from keras_cls.data.packing import pack
from keras_cls.data.pipeline import evaluation_pixels
from keras_cls.errors import ConfigError, DataError
from keras_cls.preprocessing import Preprocessing

TEN = list(range(10, 110, 10))


@pytest.fixture
def photos(tmp_path):
    return make_folders(tmp_path / "photos", {"cat": TEN, "dog": TEN})


@pytest.fixture
def divided(tmp_path):
    make_folders(tmp_path / "divided/train", {"cat": TEN, "dog": TEN})
    make_folders(tmp_path / "divided/val", {"cat": [1, 2], "dog": [3]})
    return tmp_path / "divided"


@pytest.fixture
def opened(tmp_path):
    def open_with(data, validation=None, **options):
        options = {"cache": tmp_path / "cache", "seed": 0, **options}
        return open_training_data(data, validation, **options)

    return open_with


def a_dataset(targets=(0, 1)) -> tf.data.Dataset:
    images = np.full((len(targets), 4, 4, 3), 100, np.uint8)
    return tf.data.Dataset.from_tensor_slices((images, list(targets)))


class TestTrainingData:
    def test_a_fifth_of_each_class_is_held_out(self, photos, opened):
        data = opened(photos)
        assert data.labels == ("cat", "dog")
        assert Counter(data.train.images.targets.tolist()) == {0: 8, 1: 8}
        assert Counter(data.validation.images.targets.tolist()) == {0: 2, 1: 2}
        assert not set(data.train.files) & set(data.validation.files)
        assert opened(photos).validation.files == data.validation.files
        assert opened(photos, seed=1).validation.files != data.validation.files

    def test_a_share_is_held_out(self, photos, opened):
        assert len(opened(photos, 0.5).validation) == 10
        for senseless in (0, 0.0, 1, 1.5, -0.2, float("nan")):
            with pytest.raises(ConfigError, match="validation fraction"):
                opened(photos, senseless)
        with pytest.raises(DataError, match="bool"):
            opened(photos, True)

    def test_the_datas_own_validation_part_is_taken(self, divided, opened):
        data = opened(divided)
        assert len(data.train) == 20
        assert [Path(file).name for file in data.validation.files] == [
            "001.png",
            "002.png",
            "003.png",
        ]

    def test_a_share_given_goes_before_the_datas_own_part(self, divided, opened):
        data = opened(divided, 0.5)
        assert (len(data.train), len(data.validation)) == (10, 10)
        assert all("/train/" in str(file) for file in data.validation.files)

    def test_validation_data_go_before_the_datas_own_part(self, divided, photos, opened):
        data = opened(divided, photos / "..//photos")
        assert (len(data.train), len(data.validation)) == (20, 20)

    def test_validation_data_must_have_the_training_classes(self, photos, tmp_path, opened):
        other = make_folders(tmp_path / "other", {"bird": [1], "cat": [2]})
        with pytest.raises(DataError, match="1 class not among the labels: 'bird'"):
            opened(photos, other)
        fewer = make_folders(tmp_path / "fewer", {"dog": [1]})
        assert opened(photos, fewer).validation.images.targets.tolist() == [1]

    def test_unreadable_images_of_both_parts_are_named(self, divided, opened):
        (divided / "train/cat/010.png").write_bytes(b"nothing")
        (divided / "val/cat/001.png").write_bytes(b"nothing")
        names = [Path(error.name).parts[-3:] for error in opened(divided).unreadable]
        assert names == [("train", "cat", "010.png"), ("val", "cat", "001.png")]
        with pytest.raises(DataError, match="1 image cannot be read"):
            opened(divided, strict=True)

    def test_the_progress_of_the_scan_is_told(self, photos, opened):
        seen = []
        opened(photos, progress=lambda done, count: seen.append((done, count)))
        assert seen == [(n, 16) for n in range(1, 17)] + [(n, 4) for n in range(1, 5)]

    def test_arrays_with_names_for_their_classes(self, opened):
        images = np.zeros((10, 4, 4), np.uint8)
        data = opened((images, [0, 1] * 5), labels=["cat", "dog"])
        assert data.labels == ("cat", "dog")
        assert (len(data.train), len(data.validation)) == (8, 2)

    def test_datasets_bring_their_own_validation(self, photos, opened):
        data = opened(a_dataset(), a_dataset([1]), labels=["cat", "dog"])
        assert isinstance(data.train, LabelledDataset)
        assert data.validation.counts.tolist() == [0, 1]
        assert opened(photos, a_dataset([0, 0, 1])).validation.labels == ("cat", "dog")
        for validation in (None, 0.2):
            with pytest.raises(DataError, match=r"validation=dataset\.take\(n\)"):
                opened(a_dataset(), validation)

    def test_packed_images_are_read_as_the_folder_they_were(self, divided, opened, tmp_path):
        pack(divided, tmp_path / "packed", shards=2)
        rule = Preprocessing(size=(6, 8))
        seen = {}
        for data in (divided, tmp_path / "packed"):
            found = opened(data)
            assert found.labels == ("cat", "dog") and found.unreadable == ()
            seen[data] = [
                sorted(
                    (pixels.numpy().tobytes(), int(target))
                    for images, targets in evaluation_pixels(stream, rule, 4)
                    for pixels, target in zip(images, targets, strict=True)
                )
                for stream in (found.train, found.validation)
            ]
        assert seen[divided] == seen[tmp_path / "packed"]

    def test_packed_images_that_validate_others(self, photos, divided, opened, tmp_path):
        pack(divided, tmp_path / "packed")
        data = opened(photos, tmp_path / "packed")
        assert (len(data.train), data.validation.counts.tolist()) == (20, [2, 1])
        assert opened(tmp_path / "packed", photos).validation.counts.tolist() == [10, 10]
        data = opened(tmp_path / "packed", 0.5)
        assert (len(data.train), len(data.validation)) == (10, 10)

    def test_packed_images_of_one_class_each_or_of_several(self, photos, opened, tmp_path):
        pack(photos, tmp_path / "packed")
        data = opened(tmp_path / "packed", multi_label=True)
        assert data.train.multi_label and data.validation.multi_label
        rows = [data.train.load(*item)[1].numpy().tolist() for item in data.train.in_order()]
        assert Counter(map(tuple, rows)) == {(1.0, 0.0): 8, (0.0, 1.0): 8}
        several = (np.zeros((4, 4, 4), np.uint8), [[1, 1], [0, 1], [1, 0], [0, 0]])
        pack(several, tmp_path / "several")
        assert opened(tmp_path / "several").train.multi_label
        with pytest.raises(DataError, match=r"may have several classes.*multi_label=True"):
            opened(tmp_path / "several", multi_label=False)

    def test_labels_without_packed_images(self, photos, opened, tmp_path):
        pack(photos, tmp_path / "packed")
        with pytest.raises(DataError, match=r"no images of 'emu' to train on"):
            opened(tmp_path / "packed", labels=["cat", "dog", "emu"])

    def test_datasets_of_rows_need_multi_label(self, opened):
        rows = tf.data.Dataset.from_tensor_slices(
            (np.zeros((2, 4, 4, 3), np.uint8), np.array([[1, 1], [0, 1]]))
        )
        with pytest.raises(DataError, match="multi_label=True"):
            opened(rows, rows)
        data = opened(rows, rows, multi_label=True)
        assert data.train.multi_label and data.validation.counts.tolist() == [1, 2]


class TestEvaluationData:
    def test_the_validation_part_counts(self, divided, photos, tmp_path):
        labels = ("cat", "dog")
        assert len(open_evaluation_data(divided, labels, cache=tmp_path / "cache")) == 3
        assert len(open_evaluation_data(photos, labels, cache=tmp_path / "cache")) == 20

    def test_targets_follow_the_given_labels(self, divided, tmp_path):
        found = open_evaluation_data(divided, ["dog", "bird", "cat"], cache=tmp_path / "cache")
        assert found.images.targets.tolist() == [2, 2, 0]
        found = open_evaluation_data(a_dataset([2]), ["dog", "bird", "cat"], cache=tmp_path)
        assert found.counts.tolist() == [0, 0, 1]

    def test_unknown_classes_are_refused(self, photos, tmp_path):
        with pytest.raises(DataError, match="'dog'"):
            open_evaluation_data(photos, ["cat", "bird"], cache=tmp_path / "cache")


class TestDescribeData:
    @pytest.mark.parametrize("data", [None, "photos/", 0.2, 3])
    def test_plain_values_are_their_own_description(self, data):
        assert describe_data(data) == data

    def test_paths_and_datasets(self):
        assert describe_data(Path("a/b")) == "a/b"
        assert "TensorSpec" in describe_data(a_dataset())

    def test_arrays_have_a_digest_of_their_content(self):
        pixels = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
        digest = describe_data((pixels, [0, 1]))
        assert digest == describe_data((pixels.copy(), np.array([0, 1])))
        assert digest == describe_data([np.asfortranarray(pixels), [0, 1]])
        others = [(pixels + 1, [0, 1]), (pixels, [1, 0]), (pixels.reshape(2, 2, 8), [0, 1])]
        others += [(pixels, ["a", "b"]), (pixels, np.array(["a", "c"], dtype=object))]
        assert len({digest, *(describe_data(other) for other in others)}) == 6
