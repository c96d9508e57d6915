import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from folders import flat
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import encoded

from keras_cls.data.foreign_records import holds_records, record_files
from keras_cls.data.opening import open_evaluation_data, open_training_data
from keras_cls.data.records import RecordShards
from keras_cls.errors import DataError


def feature(value: object) -> tf.train.Feature:
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if isinstance(value, float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
    numbers = value if isinstance(value, list) else [value]
    return tf.train.Feature(int64_list=tf.train.Int64List(value=numbers))


def example(brightness: int, label: object, **more: object) -> bytes:
    """As TF-slim writes them; ``text`` and ``synset`` name the class."""
    features = {
        "image/encoded": encoded(flat(brightness), "PNG"),
        "image/class/label": label,
        **{f"image/class/{name}": value for name, value in more.items()},
    }
    return serialized(features)


def serialized(features: dict[str, object]) -> bytes:
    found = {name: feature(value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=found)).SerializeToString()


def write(file: Path, examples: list[bytes]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for each in examples:
            writer.write(each)
    return file


@pytest.fixture
def slim(tmp_path):
    """ImageNet as TF-slim writes it: classes from 1 on, WordNet ids."""
    folder = tmp_path / "imagenet"
    wnids = {1: b"n01440764", 2: b"n01443537"}
    for i in range(2):
        examples = [
            example(10 * i + n, 1 + n % 2, synset=wnids[1 + n % 2], text=b"fish") for n in range(6)
        ]
        write(folder / f"train-{i:05d}-of-00002", examples)
    examples = [example(100 + n, 1 + n, synset=wnids[1 + n]) for n in range(2)]
    write(folder / "validation-00000-of-00001", examples)
    return folder


@pytest.fixture
def opened(tmp_path):
    def open_with(data, validation=None, **options):
        return open_training_data(data, validation, cache=tmp_path / "cache", seed=0, **options)

    return open_with


def targets_in(stream: RecordShards) -> list[int]:
    return [int(stream.load(*item)[1]) for item in stream.in_order()]


class TestImageNet:
    def test_parts_and_names_are_found(self, slim, opened, tmp_path):
        data = opened(slim)
        assert data.labels == ("n01440764", "n01443537")
        assert (len(data.train), len(data.validation)) == (12, 2)
        assert data.train.counts.tolist() == [6, 6] and targets_in(data.validation) == [0, 1]
        assert targets_in(data.train) == [0, 1] * 6
        assert data.train.name(7) == f"record 1 of {slim}/train-00001-of-00002"
        found = open_evaluation_data(slim, ["goldfish", "tench"], cache=tmp_path / "cache")
        assert targets_in(found) == [1, 0]

    def test_any_order_from_any_place(self, slim, opened):
        train = opened(slim).train
        drawn = list(train.shuffled(0, 12, 0).take(30).as_numpy_iterator())
        assert sorted(index for index, _ in drawn[:12]) == list(range(12))
        assert list(train.shuffled(0, 12, 17).take(13).as_numpy_iterator()) == drawn[17:]

    def test_nothing_is_written_beside_and_all_is_remembered(self, slim, opened, tmp_path):
        before = sorted(slim.rglob("*"))
        told = []
        first = opened(slim, progress=lambda *numbers: told.append(numbers))
        assert sorted(slim.rglob("*")) == before
        assert told[-1] == (14, 14)
        told.clear()
        second = opened(slim, progress=lambda *numbers: told.append(numbers))
        assert not told and second.train.fingerprint() == first.train.fingerprint()
        for file in (tmp_path / "cache").iterdir():
            file.write_bytes(b"damaged")
        assert opened(slim).train.fingerprint() == first.train.fingerprint()
        write(slim / "train-00000-of-00002", [example(1, 1, synset=b"n01440764")])
        assert len(opened(slim).train) == 7

    def test_a_share_is_held_out(self, slim, opened):
        data = opened(slim, 0.5)
        assert (data.train.counts.tolist(), data.validation.counts.tolist()) == ([3, 3], [3, 3])

    def test_parts_in_folders_of_their_own(self, slim, opened, tmp_path):
        for name in ("train", "validation"):
            (tmp_path / "sorted" / name).mkdir(parents=True)
            for file in slim.glob(f"{name}-*"):
                shutil.move(file, tmp_path / "sorted" / name / file.name)
        data = opened(tmp_path / "sorted")
        assert (len(data.train), len(data.validation)) == (12, 2)

    def test_validation_alone_is_enough_to_evaluate(self, slim, tmp_path):
        for file in slim.glob("train-*"):
            file.unlink()
        found = open_evaluation_data(slim, ["tench", "goldfish"], cache=tmp_path / "cache")
        assert targets_in(found) == [0, 1]


class TestClasses:
    def test_numbers_are_names_where_there_are_none(self, tmp_path, opened):
        write(tmp_path / "d/a.tfrecord", [example(n, 3 + n % 2) for n in range(8)])
        data = opened(tmp_path / "d")
        assert data.labels == ("3", "4") and data.train.counts.tolist() == [3, 3]
        found = open_evaluation_data(tmp_path / "d", ["4", "3", "x"], cache=tmp_path / "cache")
        assert found.counts.tolist() == [4, 4, 0]

    @pytest.mark.parametrize("first", [0, 1])
    def test_labels_name_them_from_0_or_from_1_on(self, tmp_path, opened, first):
        file = write(tmp_path / "a.tfrecords", [example(n, first + n % 2) for n in range(8)])
        data = opened(file, labels=["cat", "dog"])
        assert data.labels == ("cat", "dog")
        assert sorted(targets_in(data.train) + targets_in(data.validation)) == [0] * 4 + [1] * 4

    def test_numbers_that_do_not_fit_the_labels(self, tmp_path, opened):
        file = write(tmp_path / "a.tfrecord", [example(n, n) for n in range(3)])
        with pytest.raises(DataError, match=r"class numbers 0\.\.2, but 2 labels"):
            opened(file, labels=["cat", "dog"])
        file = write(tmp_path / "b.tfrecord", [example(n, 1 + n % 2) for n in range(4)])
        with pytest.raises(DataError, match=r"1\.\.2 of 3: whether they count from 0 or from 1"):
            open_evaluation_data(file, ["a", "b", "c"], cache=tmp_path / "cache")

    def test_a_labels_file_names_them(self, tmp_path, opened):
        write(
            tmp_path / "d/flowers_train_00000-of-00001.tfrecord",
            [example(n, n % 2) for n in range(6)],
        )
        write(tmp_path / "d/flowers_validation_00000-of-00001.tfrecord", [example(9, 1)])
        (tmp_path / "d/labels.txt").write_text("0:daisy\n1:rose\n")
        data = opened(tmp_path / "d")
        assert data.labels == ("daisy", "rose") and data.validation.counts.tolist() == [0, 1]
        (tmp_path / "d/labels.txt").write_text("0:daisy\n")
        with pytest.raises(DataError, match="class 1 has no name"):
            opened(tmp_path / "d")

    def test_texts_name_them_where_each_class_has_one(self, tmp_path, opened):
        texts = [b"cat", b"dog"]
        write(tmp_path / "d/x.tfrec", [example(n, n % 2, text=texts[n % 2]) for n in range(6)])
        assert opened(tmp_path / "d").labels == ("cat", "dog")
        write(tmp_path / "d/x.tfrec", [example(n, n % 2, text=b"pet") for n in range(6)])
        assert opened(tmp_path / "d").labels == ("0", "1")

    def test_images_of_several_classes(self, tmp_path, opened):
        file = write(tmp_path / "a.tfrecord", [example(n, [0, 1][: n % 3]) for n in range(12)])
        data = opened(file)
        assert data.train.multi_label and len(data.train) + len(data.validation) == 12
        assert (data.train.counts + data.validation.counts).tolist() == [8, 4]
        with pytest.raises(DataError, match="no or with several classes"):
            opened(file, multi_label=False)

    def test_a_class_without_images_and_a_single_one(self, tmp_path, opened):
        file = write(tmp_path / "a.tfrecord", [example(n, 0) for n in range(3)])
        with pytest.raises(DataError, match="only one class"):
            opened(file)


class TestRefused:
    def test_damaged_records_are_named(self, slim, opened):
        file = slim / "train-00001-of-00002"
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        with pytest.raises(DataError, match=rf"{file}: record \d \(at byte \d+\) is damaged"):
            opened(slim)
        file.write_bytes(content[: len(content) // 4])
        with pytest.raises(DataError, match=rf"{file}: record 1 .*is damaged"):
            opened(slim)

    def test_missing_files(self, slim, opened):
        (slim / "train-00000-of-00002").unlink()
        with pytest.raises(DataError, match=r"train-\*-of-00002: 1 of 2 .* is number 0"):
            opened(slim)

    def test_compressed_files(self, slim, opened):
        file = slim / "train-00001-of-00002"
        file.write_bytes(gzip.compress(file.read_bytes()))
        with pytest.raises(DataError, match=rf"{file}: compressed.*gunzip"):
            opened(slim)

    @pytest.mark.parametrize(
        ("features", "message"),
        [
            ({"picture": b"x", "y": 1}, "they have 'picture', 'y'"),
            ({"image/encoded": 3, "image/class/label": 1}, "should be one encoded image"),
            ({"image/encoded": b"x", "image/class/label": b"cat"}, "class numbers from 0 on"),
            ({"image/encoded": b"x", "image/class/label": -1}, r"class numbers .*found \[-1\]"),
        ],
    )
    def test_other_features(self, tmp_path, opened, features, message):
        file = write(tmp_path / "a.tfrecord", [serialized(features)])
        with pytest.raises(DataError, match=message):
            opened(file)

    def test_what_is_no_example(self, tmp_path, opened):
        with pytest.raises(DataError, match=r"record 0 of .*not a tf\.train\.Example"):
            opened(write(tmp_path / "a.tfrecord", [b"\xff\xff oops"]))
        (tmp_path / "text.tfrecord").write_text("hello, this is no file of records at all")
        with pytest.raises(DataError, match=r"record 0 .*is damaged"):
            opened(tmp_path / "text.tfrecord")
        (tmp_path / "empty.tfrecord").touch()
        with pytest.raises(DataError, match="the TFRecord files are empty"):
            opened(tmp_path / "empty.tfrecord")

    def test_broken_images_are_named_and_left_out(self, tmp_path, opened):
        broken = {
            "image/encoded": b"nothing",
            "image/class/label": 1,
            "image/filename": b"dog/7.jpg",
        }
        examples = [example(n, n % 2) for n in range(6)]
        file = write(tmp_path / "a.tfrecord", [*examples[:2], serialized(broken), *examples[2:]])
        data = opened(file)
        assert len(data.train) + len(data.validation) == 6
        (error,) = data.unreadable
        assert error.name == f"dog/7.jpg (record 2 of {file})"
        shown = [
            stream.load(*item)[0]
            for stream in (data.train, data.validation)
            for item in stream.in_order()
        ]
        assert sorted(int(tf.io.decode_png(image)[0, 0, 0]) for image in shown) == list(range(6))
        with pytest.raises(DataError, match=r"1 image cannot be read:\n *dog/7\.jpg"):
            opened(file, strict=True)


class TestFiles:
    @pytest.mark.parametrize(
        ("name", "part"),
        [
            ("train-00000-of-01024", "train"),
            ("validation-00127-of-00128", "validation"),
            ("flowers_train_00000-of-00005.tfrecord", "train"),
            ("flowers_validation_00000-of-00005.tfrecord", "validation"),
            ("mnist-train.tfrecord-00000-of-00001", "train"),
            ("mnist-test.tfrecord-00000-of-00001", "test"),
            ("val.tfrecords", "validation"),
            ("photos.tfrec", "train"),
            ("restraining.tfrecord", "train"),
            ("notes-00000-of-00001", None),
            ("train-00000-of-00001.jpg", None),
            (".train-00000-of-00001", None),
            ("train.csv", None),
        ],
    )
    def test_by_name(self, tmp_path, name, part):
        (tmp_path / name).touch()
        assert holds_records(tmp_path) == (part is not None)
        if "of-00001" in name or "-of-" not in name:
            part = "validation" if part == "test" else part
            assert set(record_files(tmp_path)) == ({part} if part else set())
        else:
            with pytest.raises(DataError, match="are missing"):
                record_files(tmp_path)

    def test_a_folder_of_class_folders_is_none(self, tmp_path):
        (tmp_path / "train/cat").mkdir(parents=True)
        (tmp_path / "train/cat/1.jpg").touch()
        assert not holds_records(tmp_path) and not holds_records(tmp_path / "nothing")
        assert not holds_records(tmp_path / "no\0name")

    @settings(deadline=None)
    @given(st.lists(st.integers(0, 9), max_size=12))
    def test_every_missing_number_is_seen(self, tmp_path_factory, numbers):
        folder = tmp_path_factory.mktemp("files")
        for number in numbers:
            (folder / f"train-{number:05d}-of-00010").touch()
        missing = sorted(set(range(10)) - set(numbers))
        if missing and numbers:
            with pytest.raises(DataError, match=f"{len(missing)} of 10 .*number {missing[0]}:"):
                record_files(folder)
        else:
            assert len(record_files(folder).get("train", ())) == len(set(numbers))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3), min_size=1, max_size=5))
def test_class_numbers_become_rows(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("rows")
    write(folder / "a.tfrecord", [example(n, labels) for n, labels in enumerate(rows)])
    labels = ["0", "1", "2"]
    stream = open_evaluation_data(folder, labels, multi_label=True, cache=folder / "cache")
    expected = np.array([[float(k in row) for k in range(3)] for row in rows])
    assert np.array_equal(stream.targets, expected)
    assert np.array_equal([stream.load(*i)[1].numpy() for i in stream.in_order()], expected)
