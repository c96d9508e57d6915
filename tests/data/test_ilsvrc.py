"""The ILSVRC layout: tiny trees of the true structure, meta.mat written by SciPy."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from folders import flat
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from keras_cls.data import ilsvrc
from keras_cls.data.opening import open_evaluation_data
from keras_cls.data.sources import open_source
from keras_cls.errors import DataError
from keras_cls.labels import class_names, imagenet_classes

# In the development kit's order, which is not the ids': kit fox, English setter, tench, goldfish.
WNIDS = ("n02119789", "n02100735", "n01440764", "n01443537")
TRUTH = (3, 1, 4, 4, 2, 3)
EXPECTED = [WNIDS[number - 1] for number in TRUTH]

SYNSET = np.dtype(
    [
        (field, object)
        for field in (
            "ILSVRC2012_ID",
            "WNID",
            "words",
            "gloss",
            "num_children",
            "children",
            "wordnet_height",
            "num_train_images",
        )
    ]
)


def write_meta(file: Path, wnids: Sequence[str] = WNIDS) -> Path:
    """meta.mat as the development kit's: [n, 1] structures, the leaves first, then ancestors."""
    leaves = [
        (i, wnid, "a word, another", "what it is", 0, np.zeros((0, 0)), 0, 1300)
        for i, wnid in enumerate(wnids, 1)
    ]
    root = (len(wnids) + 1, "n00001740", "entity", "all", 2, np.array([1.0, 2.0]), 19, 0)
    synsets = np.empty((len(wnids) + 1, 1), SYNSET)
    for place, row in enumerate([*leaves, root]):
        synsets[place, 0] = row
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, {"synsets": synsets}, do_compression=True)
    return file


def write_images(folder: Path, count: int = len(TRUTH)) -> Path:
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        flat(number).save(folder / f"ILSVRC2012_val_{number:08d}.JPEG", "JPEG")
    return folder


def write_devkit(folder: Path, truth: Sequence[object] = TRUTH) -> Path:
    write_meta(folder / "meta.mat")
    lines = "".join(f"{number}\n" for number in truth)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(lines)
    return folder


def write_training(folder: Path) -> Path:
    for wnid in WNIDS:
        (folder / wnid).mkdir(parents=True)
        for number in range(2):
            flat(number).save(folder / wnid / f"{wnid}_{number}.JPEG", "JPEG")
    return folder


def write_solution(file: Path, wnids: Sequence[str] = tuple(EXPECTED)) -> Path:
    rows = [f"ILSVRC2012_val_{i:08d},{wnid} 1 2 30 40 " for i, wnid in enumerate(wnids, 1)]
    # In no order, as Kaggle's; an image with two boxes has its class twice.
    rows = [rows[-1] + f"{wnids[-1]} 5 6 7 8 ", *rows[:-1]]
    file.write_text("\n".join(["ImageId,PredictionString", *rows]) + "\n")
    return file


def classes_found(images) -> list[str]:
    return [images.labels[target] for target in images.targets]


@pytest.fixture
def root(tmp_path) -> Path:
    """A copy as the archives of image-net.org give it, with train/."""
    folder = tmp_path / "imagenet"
    write_training(folder / "train")
    write_images(folder / "val")
    write_devkit(folder / "ILSVRC2012_devkit_t12" / "data")
    return folder


@pytest.mark.parametrize("place", ["", "devkit", "devkit/data", "ILSVRC2012_devkit_t12/data"])
@pytest.mark.parametrize("given", ["root", "val"])
def test_validation_images_take_their_classes_from_the_devkit(tmp_path, place, given):
    root = tmp_path / "imagenet"
    images = write_images(root / "val")
    write_devkit(root / place)
    found = open_source(root if given == "root" else images, every_class=False).train
    assert classes_found(found) == EXPECTED
    assert [path.name for path in found.paths] == [
        f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 7)
    ]
    assert found.labels == tuple(sorted(WNIDS))


def test_training_has_both_parts(root):
    sources = open_source(root)
    assert sources.train.labels == sources.validation.labels == tuple(sorted(WNIDS))
    assert len(sources.train) == 8
    assert classes_found(sources.validation) == EXPECTED


def test_to_evaluate_on_training_images_are_not_looked_at(root):
    shutil.rmtree(root / "train" / WNIDS[0])
    sources = open_source(root, every_class=False)
    assert sources.validation is None
    assert classes_found(sources.train) == EXPECTED


def test_targets_are_a_classifiers(root, tmp_path):
    names = class_names("imagenet")
    stream = open_evaluation_data(root, names, cache=tmp_path / "cache")
    wnids = [imagenet_classes()[target].wnid for target in stream.images.targets]
    assert wnids == EXPECTED
    assert stream.images.targets[0] == 0  # tench


def test_validation_sorted_into_folders_needs_no_train(tmp_path):
    write_training(tmp_path / "imagenet" / "val")
    (tmp_path / "imagenet" / "devkit").mkdir()
    found = open_source(tmp_path / "imagenet", every_class=False).train
    assert found.labels == tuple(sorted(WNIDS))


@pytest.mark.parametrize("given", [".", "ILSVRC", "ILSVRC/Data/CLS-LOC", "ILSVRC/Data/CLS-LOC/val"])
def test_kaggles_layout(tmp_path, given):
    write_training(tmp_path / "ILSVRC/Data/CLS-LOC/train")
    write_images(tmp_path / "ILSVRC/Data/CLS-LOC/val")
    write_images(tmp_path / "ILSVRC/Data/CLS-LOC/test", 2)
    write_solution(tmp_path / "LOC_val_solution.csv")
    assert classes_found(open_source(tmp_path / given, every_class=False).train) == EXPECTED
    if not given.endswith("val"):
        assert len(open_source(tmp_path / given).train) == 8


def test_the_map_does_for_meta_mat(root):
    data = root / "ILSVRC2012_devkit_t12/data"
    (data / "meta.mat").unlink()
    lines = [f"{wnid} {number} some_name\n" for number, wnid in enumerate(WNIDS, 1)]
    (data / "map_clsloc.txt").write_text("".join(lines))
    assert classes_found(open_source(root, every_class=False).train) == EXPECTED
    assert ilsvrc.devkit_classes(data) == WNIDS


def test_the_devkits_order(root):
    assert ilsvrc.devkit_classes(root / "ILSVRC2012_devkit_t12") == WNIDS
    with pytest.raises(DataError, match=r"train/: holds neither meta\.mat nor map_clsloc\.txt"):
        ilsvrc.devkit_classes(root / "train")


def remove(file: str):
    return lambda data: (data / file).unlink()


def write(file: str, content: bytes):
    return lambda data: (data / file).write_bytes(content)


TRUTH_FILE = "ILSVRC2012_validation_ground_truth.txt"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove(TRUTH_FILE), r"val/: holds ILSVRC's.*labels were not found: extract ILSVRC2012_d"),
        (remove("meta.mat"), r"ground_truth\.txt: numbers the classes.*neither meta\.mat nor"),
        (write(TRUTH_FILE, b"1\n2\n"), r"has labels for 2 images, but none for 'ILSVRC2012_val_"),
        (write(TRUTH_FILE, b"1\n" * 9), "holds 6 images, but .* has labels for 9: extract"),
        (write(TRUTH_FILE, b"1\n2\nx\n"), r"line 3: expected the number of a class, found 'x'"),
        (
            write(TRUTH_FILE, b"1\n7\n" * 3),
            r"line 2 has the class 7, but .*meta\.mat has .* 1 to 4",
        ),
        (write(TRUTH_FILE, b"\xff\n" * 6), "not UTF-8 text"),
        (write("meta.mat", b""), r"meta\.mat: not the development kit's, or damaged"),
        (write("meta.mat", b"MATLAB 5.0 MAT-file" * 20), r"meta\.mat: .*damaged.*extract"),
        (
            lambda data: savemat(data / "meta.mat", {"other": 1}),
            r"meta\.mat: .*damaged: .*no variable 'syn",
        ),
        (lambda data: savemat(data / "meta.mat", {"synsets": 1.0}), r"meta\.mat: .*damaged"),
        (lambda data: write_meta(data / "meta.mat", ["cat"] * 4), "expected a WordNet id .* 'cat'"),
    ],
)
def test_damage_is_named(root, damage, message):
    damage(root / "ILSVRC2012_devkit_t12" / "data")
    for every_class in (False, True):
        with pytest.raises(DataError, match=message):
            open_source(root, every_class=every_class)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n1,2\n", "expected the columns ImageId and PredictionString, found 'file'"),
        ("ImageId,PredictionString\nILSVRC2012_val_00000001,cat 1 2\n", "row 2: .* and 'cat'"),
        ("ImageId,PredictionString\nILSVRC2012_val_00000001\n", "row 2: expected an image and"),
        ("ImageId,PredictionString\n", "has labels for 0 images, but none for"),
    ],
)
def test_damage_to_kaggles_file_is_named(tmp_path, text, message):
    write_images(tmp_path / "val")
    (tmp_path / "LOC_val_solution.csv").write_text(text)
    with pytest.raises(DataError, match=rf"LOC_val_solution\.csv.*{message}"):
        open_source(tmp_path, every_class=False)


def test_two_files_of_one_image_are_refused(root):
    flat(0).save(root / "val" / "ILSVRC2012_val_00000001.png")
    with pytest.raises(DataError, match="are the same image: remove one"):
        open_source(root, every_class=False)


@pytest.fixture(scope="module")
def meta(tmp_path_factory) -> bytes:
    return write_meta(tmp_path_factory.mktemp("meta") / "meta.mat").read_bytes()


@settings(max_examples=400, deadline=None)
@given(cut=st.integers(0, 400), place=st.integers(0, 2000), byte=st.integers(0, 255))
def test_a_damaged_meta_mat_gives_a_data_error_or_classes(tmp_path_factory, meta, cut, place, byte):
    damaged = bytearray(meta[: len(meta) - cut])
    damaged[place % len(damaged)] = byte
    file = tmp_path_factory.mktemp("damaged") / "meta.mat"
    file.write_bytes(damaged)
    try:
        found = ilsvrc.devkit_classes(file.parent)
    except DataError as error:
        assert "meta.mat" in str(error)
    else:
        assert all(wnid.startswith("n") for wnid in found)


@pytest.mark.data
def test_all_1000_classes_in_the_devkits_order(tmp_path, data_dir):
    content = json.loads((data_dir / "wordnet" / "imagenet1k_wordnet.json").read_text())
    by_number = sorted(content["classes"], key=lambda row: row["ilsvrc2012_devkit_id"])
    wnids = [row["wnid"] for row in by_number]
    write_meta(tmp_path / "meta.mat", wnids)
    assert ilsvrc.devkit_classes(tmp_path) == tuple(wnids)
    assert tuple(wnids[:4]) != tuple(sorted(wnids)[:4])
    assert wnids[:2] == list(WNIDS[:2])


@pytest.mark.data
def test_imagenettes_folders_fit_imagenets_classes(tmp_path, data_dir):
    stream = open_evaluation_data(
        data_dir / "imagenette224" / "val", class_names("imagenet"), cache=tmp_path
    )
    assert len(stream) == 400
    found = {imagenet_classes()[target].wnid for target in stream.images.targets}
    assert found == {path.parent.name for path in stream.images.paths}
    assert len(found) == 10
