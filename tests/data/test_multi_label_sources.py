"""Images of any number of classes: manifests, arrays, what is refused, and holding some out."""

import csv
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_cls.data.sources import LabelledImages, open_source, split
from keras_cls.errors import DataError

FILES = ("1.jpg", "2.jpg", "3.jpg")


def write_manifest(folder: Path, content: str, name: str = "labels.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        (folder / file).touch()
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


def grey(count: int = 4) -> np.ndarray:
    return np.linspace(0, 255, count * 6).reshape(count, 2, 3).astype("uint8")


class TestManifests:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("a.csv", "file,label\n1.jpg,cat|dog\n2.jpg,\n3.jpg, dog \n"),
            ("a.csv", "file;label\n1.jpg; dog | cat | dog\n2.jpg; \n3.jpg;dog\n"),
            ("a.tsv", "file\tlabel\n1.jpg\tcat|dog\n2.jpg\t\n3.jpg\tdog"),
            (
                "a.jsonl",
                '{"file": "1.jpg", "label": ["cat", "dog"]}\n{"file": "2.jpg", "label": []}\n'
                '{"file": "3.jpg", "label": "dog"}',
            ),
        ],
    )
    def test_several_classes_or_none(self, tmp_path, name, content):
        images = open_source(write_manifest(tmp_path, content, name)).train
        assert images.multi_label
        assert images.labels == ("cat", "dog")
        assert images.targets.tolist() == [[1, 1], [0, 0], [0, 1]]
        assert images.targets.dtype == np.float32
        assert images.counts.tolist() == [1, 2] and images.counts.dtype == np.int64
        assert [path.name for path in images.paths] == list(FILES)

    def test_one_class_everywhere_stays_single_label_unless_asked_for(self, tmp_path):
        path = write_manifest(tmp_path, "file,label\n1.jpg,a\n2.jpg,b\n")
        single = open_source(path).train
        assert not single.multi_label
        assert (single.targets.tolist(), single.counts.tolist()) == ([0, 1], [1, 1])
        several = open_source(path, multi_label=True).train
        assert several.targets.tolist() == [[1, 0], [0, 1]]
        lists = '{"file": "1.jpg", "label": ["a"]}\n{"file": "2.jpg", "label": ["b"]}'
        assert not open_source(write_manifest(tmp_path, lists, "a.jsonl")).train.multi_label

    def test_an_empty_cell_alone_may_have_been_forgotten(self, tmp_path):
        path = write_manifest(tmp_path, "file,label\n1.jpg,a\n2.jpg,\n3.jpg,b\n")
        with pytest.raises(
            DataError, match=r"row 3: the column 'label' is empty.*multi_label=True"
        ):
            open_source(path)
        assert open_source(path, multi_label=True).train.targets.tolist() == [
            [1, 0],
            [0, 0],
            [0, 1],
        ]

    def test_a_list_without_entries_is_none_of_the_classes(self, tmp_path):
        rows = '{"file": "1.jpg", "label": ["a"]}\n{"file": "2.jpg", "label": []}'
        images = open_source(write_manifest(tmp_path, rows, "a.jsonl")).train
        assert (images.labels, images.targets.tolist()) == (("a",), [[1], [0]])

    def test_asked_for_several_rows_of_a_file_add_up(self, tmp_path):
        rows = "file,label\n1.jpg,b\n2.jpg,b\n./1.jpg,a\n"
        with pytest.raises(DataError, match=r"rows 2 and 4 give './1.jpg' two labels.*with '\|'"):
            open_source(write_manifest(tmp_path, rows))
        path = write_manifest(tmp_path, rows + "3.jpg,\n")
        assert open_source(path, multi_label=True).train.targets.tolist() == [
            [1, 1],
            [0, 1],
            [0, 0],
        ]

    def test_splits_share_the_classes(self, tmp_path):
        rows = "file,label,split\n1.jpg,a|b,train\n2.jpg,,train\n3.jpg,b,val\n"
        sources = open_source(write_manifest(tmp_path, rows))
        assert sources.train.targets.tolist() == [[1, 1], [0, 0]]
        assert sources.validation.targets.tolist() == [[0, 1]]
        assert sources.validation.multi_label

    def test_classes_in_the_order_of_a_classifier(self, tmp_path):
        path = write_manifest(tmp_path, "file,label\n1.jpg,a|b\n2.jpg,\n3.jpg,b\n")
        known = ["x", "b", "a"]
        images = open_source(path, known, every_class=False, multi_label=True).train
        assert images.targets.tolist() == [[0, 1, 1], [0, 0, 0], [0, 1, 0]]
        with pytest.raises(DataError, match="no images of 'x'"):
            open_source(path, known)
        with pytest.raises(DataError, match="1 class not among the labels: 'a'"):
            open_source(path, ["b", "c"], every_class=False)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("file,label\n1.jpg,a|b\n2.jpg,a||b\n", "row 3: the class name is empty"),
            ("file,label\n1.jpg,a|\n", "row 2: the class name is empty"),
            ("file,label,split\n1.jpg,a|b,train\n2.jpg,c,val\n", "'c' is among the validation"),
            ("file,label\n1.jpg,a|a\n2.jpg,a\n", "only one class, 'a'"),
        ],
    )
    def test_refusals(self, tmp_path, content, message):
        with pytest.raises(DataError, match=message):
            open_source(write_manifest(tmp_path, content))

    @pytest.mark.parametrize(
        ("label", "message"),
        [
            (["a", "b|c"], r"holds 'b\|c': '\|' separates classes"),
            (["a", ""], "the class name is empty"),
            (["a", 1.5], "holds a float"),
            ({"a": 1}, "holds a dict"),
        ],
    )
    def test_lists_that_are_refused(self, tmp_path, label, message):
        rows = json.dumps({"file": "1.jpg", "label": label})
        with pytest.raises(DataError, match=f"row 1.*{message}"):
            open_source(write_manifest(tmp_path, rows, "a.jsonl"))

    def test_none_of_the_images_has_a_class(self, tmp_path):
        path = write_manifest(tmp_path, "file,label\n1.jpg,\n2.jpg,\n")
        with pytest.raises(DataError, match="no image has a class"):
            open_source(path, multi_label=True)

    @pytest.mark.parametrize(("cell", "found"), [("a|b", "the classes 'a', 'b'"), ("b|b|a", "'b'")])
    def test_several_where_each_image_has_one(self, tmp_path, cell, found):
        path = write_manifest(tmp_path, f"file,label\n1.jpg,a\n2.jpg,{cell}\n")
        with pytest.raises(DataError, match=f"row 3: '2.jpg' has .*{found}.*exactly one"):
            open_source(path, ["a", "b"], every_class=False, multi_label=False)

    names = st.text(
        st.characters(exclude_categories=["C", "Z"], exclude_characters="|"), min_size=1
    )

    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.sets(names, max_size=4), min_size=3, max_size=3), st.booleans())
    def test_round_trip(self, tmp_path_factory, names_of, as_json):
        folder = tmp_path_factory.mktemp("manifest")
        path = write_manifest(folder, "", "a.jsonl" if as_json else "a.csv")
        with path.open("w", encoding="utf-8", newline="") as stream:
            if as_json:
                for file, names in zip(FILES, names_of, strict=True):
                    stream.write(json.dumps({"file": file, "label": sorted(names)}) + "\n")
            else:
                rows = [(f, "|".join(sorted(n))) for f, n in zip(FILES, names_of, strict=True)]
                csv.writer(stream).writerows([("file", "label"), *rows])
        images = open_source(path, every_class=False, multi_label=True).train
        for row, names in zip(images.targets, names_of, strict=True):
            found = {images.labels[index] for index in np.flatnonzero(row)}
            assert found == {unicodedata.normalize("NFC", name) for name in names}


class TestFoldersAndDigits:
    def test_a_column_for_each_class_where_it_is_asked_for(self, tmp_path):
        for file in ("train/a/1.jpg", "train/b/1.jpg", "val/b/2.jpg"):
            path = tmp_path / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        sources = open_source(tmp_path, multi_label=True)
        assert sources.train.targets.tolist() == [[1, 0], [0, 1]]
        assert sources.validation.targets.tolist() == [[0, 1]]
        assert not open_source(tmp_path, multi_label=False).train.multi_label
        digits = open_source("digits", multi_label=True).train
        assert digits.targets.shape == (1797, 10)
        assert np.array_equal(digits.counts, open_source("digits").train.counts)


class TestArrays:
    ROWS = ((1, 0, 1), (0, 0, 0), (0, 1, 0), (1, 1, 1))

    @pytest.mark.parametrize("dtype", [bool, "uint8", "int64", "float32", "float64"])
    def test_rows_of_zeros_and_ones(self, dtype):
        images = open_source((grey(), np.array(self.ROWS, dtype))).train
        assert images.multi_label and images.labels == ("0", "1", "2")
        assert images.targets.dtype == np.float32
        assert images.targets.tolist() == [list(map(float, row)) for row in self.ROWS]
        named = open_source((grey(), self.ROWS), ["c", "a", "b"]).train
        assert named.labels == ("c", "a", "b")

    def test_one_hot_rows_are_single_label_unless_asked_for(self):
        images = open_source((grey(), np.eye(4)[::-1])).train
        assert (images.targets.tolist(), images.targets.dtype) == ([3, 2, 1, 0], np.int64)
        several = open_source((grey(), np.eye(4)), multi_label=True).train
        assert np.array_equal(several.targets, np.eye(4))
        from_classes = open_source((grey(), [0, 1, 1, 0]), multi_label=True).train
        assert from_classes.targets.tolist() == [[1, 0], [0, 1], [0, 1], [1, 0]]

    def test_a_single_class_that_is_there_or_not(self):
        images = open_source((grey(), [[1], [0], [0], [1]]), ["dog"], multi_label=True).train
        assert (images.labels, images.targets.ravel().tolist()) == (("dog",), [1, 0, 0, 1])

    @pytest.mark.parametrize(
        ("targets", "labels", "multi_label", "message"),
        [
            ([[1, 0], [0, 1], [1, 1]], None, None, "4 images, but 3 targets"),
            ([[1, 0], [0, 2], [1, 1], [0, 0]], None, None, "row 1 holds 2: rows of targets"),
            ([[1, 0], [0, 0.5], [1, 1], [0, 0]], None, None, "row 1 holds 0.5"),
            ([[1, 0], [np.nan, 1], [1, 1], [0, 0]], None, None, "row 1 holds nan"),
            ([["a", "b"]] * 4, None, None, "dtype <U1: rows of targets must be zeros and ones"),
            ([["a"], ["a", "b"], [], ["b"]], None, None, "targets is no array.*a row of zeros"),
            (ROWS, ["a", "b"], None, "there are 2 labels"),
            ([[1, 0], [0, 0], [1, 0], [0, 0]], None, None, "1 class without images: '1'"),
            (ROWS, None, False, "image 0 has 2 classes.*exactly one"),
            ([[1, 0], [0, 1], [0, 0], [0, 1]], None, False, "image 2 has 0 classes"),
            ([[1], [1], [1], [1]], ["dog"], True, "only one class, 'dog'"),
            (np.zeros((4, 2, 2)), None, None, r"shape \[4, 2, 2\]"),
        ],
    )
    def test_refusals(self, targets, labels, multi_label, message):
        with pytest.raises(DataError, match=message):
            open_source((grey(), targets), labels, multi_label=multi_label)


def images_of(rows: np.ndarray) -> LabelledImages:
    """Distinguishable images whose class names are not in the order of the columns."""
    return LabelledImages(
        labels=("delta", "alpha", "gamma", "beta", "epsilon")[: rows.shape[1]],
        targets=np.asarray(rows, np.float32),
        paths=tuple(Path(f"photos/{i:03d}.jpg") for i in range(len(rows))),
        pixels=None,
        origin="photos/",
    )


class TestLabelledImages:
    def test_a_subset_keeps_its_rows(self):
        images = images_of(np.array(TestArrays.ROWS)).subset([3, 1])
        assert images.targets.tolist() == [[1, 1, 1], [0, 0, 0]]
        assert images.name(0) == "photos/003.jpg" and len(images) == 2

    def test_columns_must_be_as_many_as_labels(self):
        with pytest.raises(DataError, match="targets of 3 columns, but 2 labels"):
            LabelledImages(("a", "b"), np.zeros((1, 3), np.float32), None, grey(1), "x")


class TestSplit:
    @given(
        st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=6, max_size=60),
        st.floats(0.05, 0.95),
        st.integers(0, 2**32),
        st.randoms(use_true_random=False),
    )
    @settings(max_examples=60)
    def test_a_partition_that_depends_on_names_alone(self, rows, fraction, seed, random):
        images = images_of(np.array(rows))
        if not (images.counts > 1).any():
            return
        train, validation = split(images, fraction, seed)
        assert sorted(train.paths + validation.paths) == list(images.paths)
        # Every class can be learnt.
        assert ((train.counts > 0) == (images.counts > 0)).all()
        order = list(range(len(rows)))
        random.shuffle(order)
        other = images.subset(order).aligned_to(sorted(images.labels))
        assert set(split(other, fraction, seed)[1].paths) == set(validation.paths)

    @pytest.mark.parametrize("seed", range(5))
    def test_every_class_keeps_its_share_on_both_sides(self, seed):
        generator = np.random.default_rng(seed)
        rows = generator.random((800, 5)) < np.array([0.5, 0.3, 0.1, 0.03, 0.005])
        rows[:3, 4] = True
        images = images_of(rows)
        _, validation = split(images, 0.2, seed)
        assert (validation.counts >= 1).all()
        common = images.counts > 50
        share = validation.counts[common] / images.counts[common]
        assert np.abs(share - 0.2).max() < 0.03
        assert abs(len(validation) / len(images) - 0.2) < 0.03

    def test_a_class_that_others_would_take_away_is_left_for_training(self):
        # Holding out 0 for the first class and 1 for the second would hold out all of the third.
        rows = [[1, 0, 1], [0, 1, 1], [1, 0, 0], [0, 1, 0]]
        for seed in range(20):
            train, validation = split(images_of(np.array(rows)), 0.5, seed)
            assert (train.counts >= 1).all()
            assert (validation.counts[:2] == 1).all()

    def test_a_class_of_one_image_keeps_it(self):
        rows = np.array([[1, 0, 1]] + [[1, 1, 0]] * 9)
        for seed in range(5):
            assert split(images_of(rows), 0.5, seed)[0].counts[2] == 1

    def test_one_class_each_is_divided_as_single_label_images_are(self):
        digits = open_source("digits").train
        single = split(digits, 0.2, 3)[1]
        several = split(digits.as_multi_label(), 0.2, 3)[1]
        assert np.array_equal(single.positions, several.positions)

    def test_images_of_none_of_the_classes_are_divided_too(self):
        rows = np.array([[1, 0], [0, 1]] * 10 + [[0, 0]] * 20)
        validation = split(images_of(rows), 0.25, 0)[1]
        assert (validation.targets.sum(axis=1) == 0).sum() == 5
        assert validation.counts.tolist() == [2, 2]  # a quarter of 10, rounded to even

    def test_nothing_to_hold_out(self):
        with pytest.raises(DataError, match="no class has two images"):
            split(images_of(np.eye(4)), 0.5, 0)
