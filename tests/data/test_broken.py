"""Images that are lost or damaged between the scan and the training."""

from itertools import islice

import numpy as np
import pytest
import tensorflow as tf
from folders import make_folders
from image_files import encoded, photo

from keras_cls.data.augmentation import Augmentation
from keras_cls.data.broken import BrokenImages
from keras_cls.data.mixing import Mixing
from keras_cls.data.pipeline import Part, evaluation_batches, steps_per_epoch, training_batches
from keras_cls.data.scanning import ScannedImages, scan
from keras_cls.data.sources import open_source
from keras_cls.preprocessing import Preprocessing

VALUES = list(range(10, 110, 10))
RULE = Preprocessing(size=4, crop=1.0, resize="squash", mean=0, std=1)


@pytest.fixture
def source(tmp_path) -> ScannedImages:
    root = make_folders(tmp_path / "photos", {"a": VALUES[:5], "b": VALUES[5:]})
    return scan(open_source(root).train, tmp_path / "cache").unheld()


def shown(source, steps: int, broken: BrokenImages | None, **options) -> np.ndarray:
    """The brightness of each image: [steps, rows]; a target that is another's is an error."""
    options = {"batch_size": 4, "seed": 1, **options}
    batches = training_batches(source, RULE, Augmentation(), broken=broken, **options)
    found = []
    for images, shares in islice(batches, steps):
        values = np.rint(255 * images.numpy()[:, 0, 0, 0]).astype(int)
        classes = np.where(values == 0, -1, values > 50)
        assert np.array_equal(shares, np.eye(2)[classes] * (classes >= 0)[:, None])
        found.append(values)
    return np.stack(found)


def damage(source: ScannedImages, *indices: int) -> None:
    for number, index in enumerate(indices):
        if number % 2:
            source.files[index].write_bytes(source.files[index].read_bytes()[:50])
        else:
            source.files[index].unlink()


def test_without_any_the_tally_is_empty(source) -> None:
    broken = BrokenImages()
    np.testing.assert_array_equal(shown(source, 9, broken), shown(source, 9, None))
    assert broken.times() == {} and broken.describe(source) is None


@pytest.mark.parametrize("lost", [[2, 3, 9], pytest.param(list(range(9)), marks=pytest.mark.slow)])
def test_others_of_the_batch_take_their_places(source, lost: list[int]) -> None:
    whole = shown(source, 9, None)
    damage(source, *lost)
    broken = BrokenImages()
    found = shown(source, 9, broken)
    gone = np.isin(whole, [VALUES[index] for index in lost])
    # The others stay where they were, and the rows beside them show nothing else.
    np.testing.assert_array_equal(found[~gone], whole[~gone])
    for row, before, away in zip(found, whole, gone, strict=True):
        allowed = set(before[~away].tolist()) or {0}
        assert set(row.tolist()) == allowed
    assert set(broken.times()) == set(lost)
    said = broken.describe(source)
    assert all(source.name(index) in said for index in lost)
    np.testing.assert_array_equal(shown(source, 5, BrokenImages(), first_step=4), found[4:])


def test_how_often_is_counted(source) -> None:
    damage(source, 3)
    broken = BrokenImages()
    steps = steps_per_epoch(source, 5)
    batches = training_batches(
        source, RULE, Augmentation(), batch_size=5, seed=0, broken=broken
    ).take(4 * steps)
    assert len(list(batches)) == 4 * steps
    times = broken.times()
    # Once an epoch; of the fifth, batches may have been prepared ahead.
    assert times in ({3: 4}, {3: 5})
    assert broken.describe(source).endswith(f"\n  {source.name(3)} ({times[3]} times)")


def test_where_nothing_can_be_read_there_is_nothing_to_learn(source) -> None:
    damage(source, *range(10))
    broken = BrokenImages()
    assert not shown(source, 5, broken).any()
    assert set(broken.times()) == set(range(10))
    assert "and" not in broken.describe(source).splitlines()[-1]


def test_only_the_first_are_named() -> None:
    class Stream:
        def name(self, index: int) -> str:
            return f"{index}.jpg"

    broken = BrokenImages()
    broken.note(tf.constant([*range(15), -1, -1], tf.int64))
    lines = broken.describe(Stream()).splitlines()
    assert "17 times" in lines[0]
    assert lines[1] == "  0.jpg (1 times)" and lines[-1] == "  ... and 5 more"


@pytest.mark.slow
def test_each_worker_fills_up_its_own_rows(source) -> None:
    whole = shown(source, 6, None)
    damage(source, 4)
    for index in range(2):
        found = shown(source, 6, BrokenImages(), part=Part(index, 2))
        mine = whole[:, 2 * index : 2 * index + 2]
        np.testing.assert_array_equal(found[mine != 50], mine[mine != 50])
        assert 50 not in found


def test_they_are_mixed_like_others(source) -> None:
    damage(source, 1, 2)
    batches = training_batches(
        source,
        RULE,
        Augmentation(flip=True),
        batch_size=5,
        seed=1,
        mixing=Mixing(mixup=0.4),
        broken=BrokenImages(),
    )
    for _, shares in islice(batches, 4):
        np.testing.assert_allclose(shares.numpy().sum(axis=1), 1, atol=1e-6)


def test_large_jpegs(tmp_path) -> None:
    files = {name: encoded(photo(300, 400), "JPEG") for name in ("a/1", "a/2", "b/1", "b/2")}
    for name, data in files.items():
        path = tmp_path / "photos" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    source = scan(open_source(tmp_path / "photos").train, tmp_path / "cache")
    for file, length in zip(source.files, (0, 10, 4000), strict=False):
        file.write_bytes(file.read_bytes()[:length])
    broken = BrokenImages()
    augmentation = Augmentation(random_crop=(0.5, 1.0))
    batches = training_batches(source, RULE, augmentation, batch_size=4, seed=0, broken=broken)
    images, shares = next(iter(batches))
    assert set(broken.times()) == {0, 1, 2}
    assert images.numpy().std() > 0 and np.array_equal(shares, [[0, 1]] * 4)


def test_without_a_tally_it_is_an_error(source) -> None:
    damage(source, 3)
    with pytest.raises(tf.errors.NotFoundError, match=r"040\.png"):
        shown(source, 9, None)


def test_in_an_evaluation_they_are_left_out(source) -> None:
    damage(source, 3, 8)
    broken = BrokenImages()
    batches = list(evaluation_batches(source, RULE, 4, broken=broken))
    shown = np.concatenate([255 * images.numpy()[:, 0, 0, 0] for images, _ in batches])
    assert np.rint(shown).astype(int).tolist() == [v for v in VALUES if v not in (40, 90)]
    assert broken.times() == {3: 1, 8: 1}
