import csv
import json
import os
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_cls.data.sources import LabelledImages, open_source, split
from keras_cls.errors import ConfigError, DataError


def make_tree(root: Path, *files: str) -> Path:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def relative_names(images: LabelledImages, root: Path) -> list[str]:
    assert images.paths is not None
    return [path.relative_to(root).as_posix() for path in images.paths]


def write_manifest(folder: Path, content: str | bytes, name: str = "labels.csv") -> Path:
    make_tree(folder, "1.jpg", "2.jpg", "3.jpg")
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


class TestFolders:
    def test_classes_are_sorted_and_images_found_at_any_depth(self, tmp_path):
        make_tree(tmp_path, "b/x.PNG", "a/deep/er/2.jpeg", "a/1.webp", "a/notes.txt", "C/0.heic")
        images = open_source(tmp_path).train
        assert images.labels == ("C", "a", "b")
        expected = ["C/0.heic", "a/1.webp", "a/deep/er/2.jpeg", "b/x.PNG"]
        assert relative_names(images, tmp_path) == expected
        assert images.targets.tolist() == [0, 1, 1, 2]
        assert images.targets.dtype == np.int64
        assert images.name(1) == str(tmp_path / "a/1.webp")
        assert images.origin == f"{tmp_path}/"

    def test_hidden_files_and_system_leftovers_are_ignored(self, tmp_path):
        make_tree(
            tmp_path, "a/1.jpg", "b/1.jpg", "a/._1.jpg", "a/.cache/9.jpg", "a/__MACOSX/9.jpg",
            ".git/9.jpg", "__MACOSX/9.jpg", "a/Thumbs.db", "cover.jpg",
        )  # fmt: skip
        (tmp_path / "lost+found").mkdir()
        assert relative_names(open_source(tmp_path).train, tmp_path) == ["a/1.jpg", "b/1.jpg"]

    def test_links_are_followed_but_loops_end_and_classes_do_not_mix(self, tmp_path):
        root = make_tree(tmp_path / "photos", "a/1.jpg", "b/1.jpg")
        make_tree(tmp_path / "elsewhere", "2.jpg")
        (root / "a/more").symlink_to(tmp_path / "elsewhere")
        (root / "a/self").symlink_to(root / "a")
        (root / "a/up").symlink_to(root)
        (root / "a/itself").symlink_to(root / "a/itself")
        (root / "a/gone.jpg").symlink_to(root / "nowhere.jpg")
        images = open_source(root).train
        assert relative_names(images, root) == ["a/1.jpg", "a/gone.jpg", "a/more/2.jpg", "b/1.jpg"]

    @pytest.mark.parametrize(
        ("validation", "training"), [("val", "train"), ("Validation", "Train"), ("test", "train")]
    )
    def test_train_and_validation_folders(self, tmp_path, validation, training):
        make_tree(tmp_path, f"{training}/a/1.jpg", f"{training}/b/1.jpg", f"{validation}/b/2.jpg")
        sources = open_source(str(tmp_path))
        assert sources.train.labels == sources.validation.labels == ("a", "b")
        assert sources.validation.targets.tolist() == [1]

    def test_an_unlabelled_test_folder_is_left_alone_beside_a_validation_folder(self, tmp_path):
        make_tree(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/2.jpg", "test/3.jpg")
        assert relative_names(open_source(tmp_path).validation, tmp_path) == ["val/a/2.jpg"]

    def test_an_unlabelled_test_folder_alone_is_refused_with_the_way_out(self, tmp_path):
        make_tree(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "test/3.jpg")
        with pytest.raises(DataError, match=r"directly in the folder.*pass '.*train'"):
            open_source(tmp_path)

    def test_vehicles_named_train_and_test_are_classes(self, tmp_path):
        make_tree(tmp_path, "bus/1.jpg", "train/1.jpg", "test/1.jpg")
        assert open_source(tmp_path).train.labels == ("bus", "test", "train")

    def test_a_validation_class_must_be_trained(self, tmp_path):
        make_tree(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/c/2.jpg")
        with pytest.raises(DataError, match=r"val/.*'c'.*'a', 'b'"):
            open_source(tmp_path)

    def test_given_labels_fix_the_order(self, tmp_path):
        make_tree(tmp_path, "a/1.jpg", "b/1.jpg")
        images = open_source(tmp_path, labels=["b", "a"]).train
        assert (images.labels, images.targets.tolist()) == (("b", "a"), [1, 0])
        with pytest.raises(DataError, match="not among the labels: 'b'"):
            open_source(tmp_path, labels=["a", "c"])
        with pytest.raises(DataError, match="no images of 'c'"):
            open_source(tmp_path, labels=["a", "b", "c"])

    def test_images_to_evaluate_on_need_not_show_every_class(self, tmp_path):
        make_tree(tmp_path, "b/1.jpg")
        (tmp_path / "empty").mkdir()
        images = open_source(tmp_path, labels=["a", "b", "c"], every_class=False).train
        assert (images.labels, images.targets.tolist()) == (("a", "b", "c"), [1])

    def test_names_are_compared_in_composed_form(self, tmp_path):
        make_tree(tmp_path, "cafe\u0301/1.jpg", "tea/1.jpg")
        assert open_source(tmp_path).train.labels == ("caf\u00e9", "tea")

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ([], "the folder is empty"),
            (["readme.txt"], "neither class folders nor images"),
            (["1.jpg", "2.jpg"], r"images lie directly in the folder.*cat/1\.jpg"),
            (["a/1.jpg"], r"only one class, 'a'.*pass '.*/a'"),
            (["train/a/1.jpg", "train/b/1.jpg"], r"only one class, 'train'.*pass '.*/train'"),
            (["a/1.jpg", "b/1.jpg", "c/notes.txt"], "1 class without images: 'c'"),
            (["a/x.txt", "b/y.txt"], "no images in 'a', 'b'"),
            (["a\nb/1.jpg", "c/1.jpg"], r"'a\\nb' is not valid text"),
        ],
    )
    def test_refusals(self, tmp_path, files, message):
        make_tree(tmp_path, *files)
        with pytest.raises(DataError, match=message) as error:
            open_source(tmp_path)
        assert str(tmp_path) in str(error.value)

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
    def test_a_class_name_that_is_no_text(self, tmp_path):
        make_tree(tmp_path, "a/1.jpg")
        (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
        with pytest.raises(DataError, match="not valid text") as error:
            open_source(tmp_path)
        str(error.value).encode()

    def test_a_run_in_the_midst_of_the_classes_is_sent_elsewhere(self, tmp_path):
        make_tree(tmp_path, "a/1.jpg", "b/1.jpg")
        (tmp_path / "runs/1").mkdir(parents=True)
        (tmp_path / "runs/1/.lock").touch()
        with pytest.raises(DataError, match=r"without images: 'runs'\. Choose a run_dir outside"):
            open_source(tmp_path)

    def test_many_names_are_shortened(self, tmp_path):
        make_tree(tmp_path, "a/1.jpg")
        for i in range(50):
            (tmp_path / f"empty{i:02d}").mkdir()
        with pytest.raises(DataError, match=r"50 classes without images: .*'empty07' and 42 more"):
            open_source(tmp_path)


class TestUnknownData:
    def test_missing(self, tmp_path):
        with pytest.raises(DataError, match=r"gone: no such file or folder\. data is"):
            open_source(tmp_path / "gone")

    @pytest.mark.parametrize("name", ["a.jpg", "a.zip", "a.tfrecord"])
    def test_a_file_where_a_folder_is_expected(self, tmp_path, name):
        make_tree(tmp_path, name)
        with pytest.raises(DataError, match="a folder or a manifest is needed"):
            open_source(tmp_path / name)

    @pytest.mark.parametrize("data", [None, 3, {"a": 1}, np.zeros((2, 8, 8)), ("a",), "a\0b"])
    def test_other_values(self, data):
        with pytest.raises(DataError, match="data is a folder of class folders"):
            open_source(data)

    @pytest.mark.parametrize("labels", ["ab", [1, 2], ["a", "a"], []])
    def test_labels_that_are_none(self, labels):
        with pytest.raises(ConfigError, match="label"):
            open_source("digits", labels=labels)


class TestManifests:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("a.csv", "file,label\n1.jpg,cat\n2.jpg,dog\n"),
            ("a.csv", "\ufeffFileName;CLASS\r\n1.jpg;cat\r\n\r\n2.jpg; dog \r\n"),
            ("a.tsv", "extra\tpath\tcategory\n0\t1.jpg\tcat\n0\t2.jpg\tdog"),
            ("a.jsonl", '{"image": "1.jpg", "name": "cat"}\n\n{"Image": "2.jpg", "name": "dog"}'),
        ],
    )
    def test_formats(self, tmp_path, name, content):
        images = open_source(write_manifest(tmp_path, content, name)).train
        assert images.labels == ("cat", "dog")
        assert images.targets.tolist() == [0, 1]
        assert relative_names(images, tmp_path) == ["1.jpg", "2.jpg"]
        assert images.origin == str(tmp_path / name)

    def test_splits(self, tmp_path):
        rows = "file,label,split\n1.jpg,a,train\n2.jpg,b,TRAIN\n3.jpg,b,Valid\n1x.jpg,a,test\n"
        make_tree(tmp_path, "1x.jpg")
        sources = open_source(write_manifest(tmp_path, rows))
        assert relative_names(sources.train, tmp_path) == ["1.jpg", "2.jpg"]
        assert relative_names(sources.validation, tmp_path) == ["3.jpg"]
        assert sources.validation.labels == ("a", "b")
        assert sources.validation.targets.tolist() == [1]

    def test_test_rows_validate_where_there_is_nothing_else(self, tmp_path):
        rows = "file,label,split\n1.jpg,a,train\n2.jpg,b,train\n3.jpg,b,test\n"
        sources = open_source(write_manifest(tmp_path, rows))
        assert relative_names(sources.validation, tmp_path) == ["3.jpg"]

    def test_rows_to_evaluate_on_need_no_training_rows(self, tmp_path):
        path = write_manifest(tmp_path, "file,label,split\n3.jpg,b,test\n")
        sources = open_source(path, labels=["a", "b"], every_class=False)
        assert (len(sources.train), sources.validation.targets.tolist()) == (0, [1])

    def test_a_repeated_row_counts_once(self, tmp_path):
        rows = "file,label\n1.jpg,a\n./1.jpg,a\n2.jpg,b\n"
        assert len(open_source(write_manifest(tmp_path, rows)).train) == 2

    def test_absolute_paths_and_quoted_commas(self, tmp_path):
        make_tree(tmp_path, "else where/a, b.jpg")
        rows = f'file,label\n"{tmp_path}/else where/a, b.jpg",a\n1.jpg,b\n'
        images = open_source(write_manifest(tmp_path / "in", rows)).train
        assert images.paths[0] == tmp_path / "else where/a, b.jpg"

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "the manifest is empty"),
            ("file,label\n", "no rows"),
            ("1.jpg,cat\n2.jpg,dog\n", r"row 1: no column for the file.*found are '1.jpg', 'cat'"),
            ("file,kind\n1.jpg,a\n", r"no column for the label.*label or class or name"),
            ("file,label,class\n1.jpg,a,b\n", "'label', 'class' all name the label"),
            ("file,label\n1.jpg,a\n2.jpg, \n", "row 3: the column 'label' is empty"),
            ("file,label\n1.jpg,a\n2.jpg\n", "row 3: the column 'label' is empty"),
            ("file,label\n1.jpg,a\n,b\n", "row 3: the column 'file' is empty"),
            ("file,label\n1.jpg,a,b\n", "row 2 has 3 fields, but the header has 2"),
            ("file,label\n1.jpg,a\n1.jpg,b\n", "rows 2 and 3 give '1.jpg' two labels, 'a' and 'b'"),
            ("file,label,split\n1.jpg,a,train\n1.jpg,a,val\n", "rows 2 and 3 put '1.jpg' in two"),
            ("file,label,split\n1.jpg,a,dev\n", "row 2: the split is 'dev'"),
            ("file,label,split\n1.jpg,a,val\n", "no row's split is train"),
            (
                "file,label,split\n1.jpg,a,train\n2.jpg,b,train\n3.jpg,c,val\n",
                "'c' is among the validation rows",
            ),
            ("file,label\n1.jpg,a\n2.jpg,a\n", "only one class, 'a'"),
            (
                "file,label\n" + "".join(f"no{i}.jpg,a\n" for i in range(9)) + "1.jpg,b\n",
                "9 files not found: row 2 'no0.jpg', .*row 4 'no2.jpg' and 6 more",
            ),
            (f"file,label\n{'x' * 5000}.jpg,a\n", "1 file not found"),
            ('file,label\n1.jpg,"a\n', "row 2 cannot be parsed"),
            (b"file,label\n1.jpg,caf\xe9\n", r"row 2 is not UTF-8 \(byte 0xe9\)"),
            (b"file,label\n1.jpg,a\0\n", "row 2 holds a NUL byte"),
            ("file,label\n1.jpg,a\n".encode("utf-16"), "encoded in UTF-16"),
        ],
    )
    def test_refusals(self, tmp_path, content, message):
        path = write_manifest(tmp_path, content)
        with pytest.raises(DataError, match=message) as error:
            open_source(path)
        assert str(path) in str(error.value)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "row 1 is not valid JSON"),
            ("[" * 100_000, "row 1 is not valid JSON"),
            ('\n["1.jpg"]', "row 2 is not a JSON object"),
            ('{"file": "1.jpg", "label": 1.5}', "row 1: the column 'label' holds a float"),
            ('{"file": "1.jpg", "label": null}', "row 1: the column 'label' is empty"),
            ('{"file": "1.jpg"}', "row 1: no column for the label"),
        ],
    )
    def test_json_refusals(self, tmp_path, content, message):
        with pytest.raises(DataError, match=message):
            open_source(write_manifest(tmp_path, content, "labels.jsonl"))

    names = st.text(
        st.characters(exclude_categories=["C", "Z"], exclude_characters="|"),
        min_size=1,
        max_size=8,
    )

    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.dictionaries(names.filter(lambda n: not set(n) & set("/.")), names, min_size=2),
        st.sampled_from(["csv", "tsv", "jsonl"]),
    )
    def test_round_trip(self, tmp_path_factory, label_of, suffix):
        folder = tmp_path_factory.mktemp("manifest")
        images = LabelledImages(
            labels=tuple(label_of.values()),
            targets=np.arange(len(label_of)),
            paths=tuple(folder / name for name in label_of),
            pixels=None,
            origin="x",
        )
        make_tree(folder, *label_of)
        path = folder / f"labels.{suffix}"
        with path.open("w", encoding="utf-8", newline="") as file:
            if suffix == "jsonl":
                for name, label in label_of.items():
                    file.write(json.dumps({"file": name, "label": label}) + "\n")
            else:
                writer = csv.writer(file, delimiter="\t" if suffix == "tsv" else ",")
                writer.writerows([("file", "label"), *label_of.items()])
        read = open_source(path, every_class=False).train
        assert read.paths == images.paths
        assert read.labels == tuple(sorted(read.labels))
        assert [read.labels[t] for t in read.targets] == [
            unicodedata.normalize("NFC", label) for label in label_of.values()
        ]


def grey(count: int = 4, dtype: str = "uint8") -> np.ndarray:
    return np.linspace(0, 255, count * 6).reshape(count, 2, 3).astype(dtype)


class TestArrays:
    def test_bytes_are_taken_as_they_are(self):
        images = open_source((grey(), [0, 1, 1, 0])).train
        assert images.labels == ("0", "1")
        assert images.pixels.dtype == np.uint8 and images.targets.dtype == np.int64
        assert np.array_equal(images.pixels, grey())
        assert images.name(3) == "image 3 of arrays"

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            (np.float32([0.4, 254.6]), [0, 255]),
            (np.float64([3.0, 7.5]), [3, 8]),
            (np.array([True, False]), [255, 0]),
            (np.uint16([0xFFFF, 0x01FF]), [255, 1]),
            (np.int64([0, 200]), [0, 200]),
        ],
    )
    def test_other_dtypes(self, values, expected):
        pixels = open_source((values.reshape(2, 1, 1), [0, 1])).train.pixels
        assert (pixels.dtype, pixels.ravel().tolist()) == (np.uint8, expected)

    def test_integer_classes_keep_their_numbers_beyond_nine(self):
        images = open_source((grey(12), np.arange(12, dtype=np.uint8)[:, None])).train
        assert images.labels == tuple(map(str, range(12)))
        assert images.targets.tolist() == list(range(12))

    def test_names(self):
        images = open_source((grey(), ["dog", "cat", "dog", "cat"])).train
        assert (images.labels, images.targets.tolist()) == (("cat", "dog"), [1, 0, 1, 0])
        images = open_source((grey(2), ["b", "a"]), labels=["b", "a"]).train
        assert images.targets.tolist() == [0, 1]

    def test_images_to_evaluate_on_need_not_show_every_class(self):
        images = open_source((grey(2), [2, 2]), labels=["a", "b", "c"], every_class=False).train
        assert (images.labels, images.targets.tolist()) == (("a", "b", "c"), [2, 2])

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            (np.zeros((2, 4)), r"images of shape \[2, 4\] and dtype float64: the shape must be"),
            (np.zeros((2, 3, 8, 8)), "np.moveaxis"),
            (np.zeros((2, 8, 8, 2)), "with C of 1, 3 or 4"),
            (np.zeros((0, 8, 8)), "there are no images"),
            (np.zeros((2, 0, 8)), "no pixels"),
            (np.zeros((2, 8, 8), "complex64"), "complex64: the dtype must be"),
            (np.full((2, 8, 8), 0.5), "largest value is 0.5, which looks like the 0..1 scale"),
            (grey(2, "float32") - 1, r"lie in -1..254"),
            (grey(2, "float32") + 1, r"lie in 1..256"),
            ([np.zeros((2, 2)), np.zeros((3, 3))], "different sizes"),
            (["a.jpg", "b.jpg"], r"shape \[2\]"),
        ],
    )
    def test_images_that_are_refused(self, images, message):
        with pytest.raises(DataError, match=message):
            open_source((images, [0, 1]))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_the_image_that_is_not_finite_is_named(self, value):
        images = grey(4, "float32")
        images[2, 1, 1] = value
        with pytest.raises(DataError, match="image 2 holds NaN"):
            open_source((images, [0, 1, 0, 1]))

    @pytest.mark.parametrize(
        ("targets", "labels", "message"),
        [
            ([0, 1, 0], None, "4 images, but 3 targets"),
            (np.zeros((4, 1)), None, r"astype\(int\)"),
            (np.zeros((4, 1, 1), int), None, r"shape \[4, 1, 1\]"),
            (7, None, r"shape \[\]"),
            ([0.0, 1.0, 0.0, 1.0], None, r"astype\(int\)"),
            ([True, False, True, False], None, "dtype bool"),
            ([0, 1, -1, 1], None, "target 2 is -1, but class indices must not be negative"),
            ([0, 1, 2, 1], ["a", "b"], r"target 2 is 2, but class indices must lie in 0..1"),
            ([0, 1, 3, 1], None, "class 2 has no images, though class 3 has"),
            ([1, 2, 3, 4], None, "class 0 has no images"),
            ([0, 1, 10**15, 1], None, "class 2 has no images"),
            ([0, 1, 0, 1], ["a", "b", "c"], "1 class without images: 'c'"),
            ([0, 0, 0, 0], None, "only one class, '0'"),
            (["a", "a", "a", "a"], None, "only one class, 'a'"),
            (["a", "b", "", "b"], None, "target 2: the class name is empty"),
            (["a", "b", "c", "b"], ["a", "b"], "target 2 is 'c', which is not among the labels"),
            (np.array(["a", 1, "b", "c"], dtype=object), None, "dtype object"),
        ],
    )
    def test_targets_that_are_refused(self, targets, labels, message):
        with pytest.raises(DataError, match=message):
            open_source((grey(), targets), labels)


def test_digits():
    images = open_source("digits").train
    assert images.pixels.shape == (1797, 8, 8)
    assert (images.pixels.dtype, images.pixels.min(), images.pixels.max()) == (np.uint8, 0, 255)
    assert images.labels == tuple("0123456789")
    assert images.name(17) == "image 17 of digits"


class TestLabelledImages:
    def test_a_subset_keeps_names(self):
        images = open_source("digits").train.subset([5, 9, 7]).subset([2, 0])
        assert [images.name(i) for i in range(2)] == ["image 7 of digits", "image 5 of digits"]
        assert len(images) == 2

    def test_alignment_is_by_name(self):
        images = open_source((grey(), ["b", "a", "c", "a"])).train
        aligned = images.aligned_to(["c", "x", "b", "a"])
        assert aligned.targets.tolist() == [2, 3, 0, 3]
        with pytest.raises(DataError, match=r"1 class not among the labels: 'c'.*are 'a', 'b'"):
            images.aligned_to(["a", "b"])

    def test_exactly_one_of_paths_and_pixels(self):
        with pytest.raises(DataError, match="either paths or pixels"):
            LabelledImages(("a",), np.zeros(1, np.int64), None, None, "x")
        with pytest.raises(DataError, match="2 images, but 1 targets"):
            LabelledImages(("a",), np.zeros(1, np.int64), None, grey(2), "x")


def images_of(targets: list[int]) -> LabelledImages:
    """Distinguishable images whose class names are not in the order of the targets."""
    return LabelledImages(
        labels=("delta", "alpha", "gamma", "beta"),
        targets=np.array(targets, dtype=np.int64),
        paths=tuple(Path(f"photos/{i:03d}.jpg") for i in range(len(targets))),
        pixels=None,
        origin="photos/",
    )


class TestSplit:
    targets = st.lists(st.integers(0, 3), min_size=2, max_size=60).filter(
        lambda targets: max(map(targets.count, targets)) > 1
    )
    fractions = st.floats(0.01, 0.99)
    seeds = st.integers(0, 2**32)

    @given(targets, fractions, seeds)
    @settings(max_examples=60)
    def test_a_stratified_partition(self, targets, fraction, seed):
        images = images_of(targets)
        train, validation = split(images, fraction, seed)
        assert sorted(train.paths + validation.paths) == list(images.paths)
        for target in set(targets):
            total = targets.count(target)
            held_out = int((validation.targets == target).sum())
            assert abs(held_out - fraction * total) <= 1
            assert held_out < total
            assert held_out >= (total > 1)

    @given(targets, fractions, seeds, st.randoms(use_true_random=False))
    @settings(max_examples=40)
    def test_the_order_and_place_of_the_files_and_of_the_labels_do_not_matter(
        self, targets, fraction, seed, random
    ):
        images = images_of(targets)
        expected = {path.name for path in split(images, fraction, seed)[1].paths}
        order = list(range(len(targets)))
        random.shuffle(order)
        other = images.subset(order).aligned_to(sorted(images.labels))
        moved = LabelledImages(
            other.labels,
            other.targets,
            tuple(Path("/mnt/data") / path for path in other.paths),
            None,
            "/mnt/data/photos/",
        )
        assert {path.name for path in split(moved, fraction, seed)[1].paths} == expected

    def test_the_seed_matters(self):
        images = open_source("digits").train
        first, second = (split(images, 0.2, seed)[1].positions for seed in (0, 1))
        assert set(first) != set(second)

    def test_the_same_digits_every_time(self):
        validation = split(open_source("digits").train, 0.2, 0)[1]
        assert validation.positions[:5].tolist() == [1, 19, 23, 24, 25]
        assert len(validation) == 359

    @pytest.mark.parametrize("fraction", [0, 1, -0.5, 2, float("nan")])
    def test_fractions_that_are_none(self, fraction):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            split(open_source("digits").train, fraction, 0)

    def test_other_refusals(self):
        with pytest.raises(ConfigError, match="seed is -1"):
            split(open_source("digits").train, 0.5, -1)
        with pytest.raises(DataError, match="no class has two images"):
            split(images_of([0, 1, 2]), 0.5, 0)
