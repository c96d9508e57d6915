from collections import Counter
from itertools import islice

import numpy as np
import pytest
import tensorflow as tf
from folders import make_folders
from image_files import encoded

from keras_cls.data.augmentation import Augmentation
from keras_cls.data.datasets import LabelledDataset, open_dataset
from keras_cls.data.mixing import Mixing
from keras_cls.data.pipeline import (
    WHOLE,
    Part,
    evaluation_batches,
    input_pixels,
    steps_per_epoch,
    training_batches,
)
from keras_cls.data.scanning import scan
from keras_cls.data.sources import LabelledImages, open_source
from keras_cls.errors import ConfigError
from keras_cls.preprocessing import Preprocessing

# One brightness for each image, and a rule that lets it through: a batch tells which images it has.
VALUES = [5 * n for n in range(1, 12)]
TARGETS = [0] * 6 + [1] * 5
RULE = Preprocessing(size=4, crop=1.0, resize="squash", mean=0, std=1)
PLAIN = Augmentation()


def files(tmp_path):
    root = make_folders(tmp_path / "photos", {"a": VALUES[:6], "b": VALUES[6:]})
    return scan(open_source(root).train, tmp_path / "cache")


def arrays(tmp_path):
    pixels = np.array(VALUES, np.uint8)[:, None, None, None] * np.ones((1, 6, 8, 3), np.uint8)
    return scan(open_source((pixels, TARGETS)).train, tmp_path / "cache")


def grey_arrays(tmp_path):
    pixels = np.array(VALUES, np.uint8)[:, None, None] * np.ones((1, 6, 8), np.uint8)
    return scan(open_source((pixels, TARGETS)).train, tmp_path / "cache")


def pixel_dataset(tmp_path):
    pixels = np.array(VALUES, np.float32)[:, None, None, None] * np.ones((1, 6, 8, 3), np.float32)
    return open_dataset(tf.data.Dataset.from_tensor_slices((pixels, TARGETS)))


def encoded_dataset(tmp_path):
    data = [encoded(np.full((6, 8, 3), value, np.uint8), "PNG") for value in VALUES]
    return open_dataset(tf.data.Dataset.from_tensor_slices((data, TARGETS)))


@pytest.fixture(
    params=[
        files,
        arrays,
        pixel_dataset,
        *(pytest.param(each, marks=pytest.mark.slow) for each in (grey_arrays, encoded_dataset)),
    ]
)
def source(request, tmp_path):
    return request.param(tmp_path)


def brightness(images: tf.Tensor) -> list[int]:
    return np.rint(255 * images.numpy()[:, 0, 0, 0]).astype(int).tolist()


def epochs(source, count: int, batch_size: int = 4, **options) -> list[list[list[int]]]:
    """For each epoch its batches, each as the brightness of its images."""
    steps = steps_per_epoch(source, batch_size)
    options = {"seed": 3, **options}
    batches = training_batches(source, RULE, PLAIN, batch_size=batch_size, **options)
    drawn = []
    for images, targets in islice(batches, count * steps):
        drawn.append(brightness(images))
        rows = batch_size // options.get("part", WHOLE).count
        assert images.shape == (rows, 4, 4, 3) and images.dtype == tf.float32
        classes = [TARGETS[VALUES.index(value)] for value in drawn[-1]]
        assert np.array_equal(targets, np.eye(2)[classes]) and targets.dtype == tf.float32
    return [drawn[n * steps : (n + 1) * steps] for n in range(count)]


class TestTrainingBatches:
    @pytest.mark.parametrize("batch_size", [1, 4, 11, 30])
    def test_an_epoch_shows_every_image_and_fills_up_with_its_own(self, source, batch_size):
        for epoch in epochs(source, 2, batch_size):
            counts = Counter(value for batch in epoch for value in batch)
            assert set(counts) == set(VALUES)
            shown = len(epoch) * batch_size
            assert set(counts.values()) <= {shown // 11, -(-shown // 11)}
            first = [value for batch in epoch for value in batch][:11]
            assert sorted(first) == VALUES  # each once before any is repeated

    def test_the_seed_decides_and_each_epoch_differs(self, source):
        first = epochs(source, 3)
        tf.random.set_seed(12345)  # the caller's own seed does not matter
        assert epochs(source, 3) == first
        assert first[0] != first[1] != first[2] != first[0]
        assert epochs(source, 3, seed=4) != first
        flat = [value for batch in first[0] for value in batch][:11]
        assert flat != VALUES

    def test_it_goes_on_anywhere(self, source):
        whole = [batch for epoch in epochs(source, 3) for batch in epoch]
        for first in (2, 3, 5):  # within an epoch, and where one begins
            (gone_on,) = epochs(source, 1, first_step=first)
            assert gone_on == whole[first : first + 3]

    def test_workers_rows_are_those_of_one(self, source):
        whole = [batch for epoch in epochs(source, 2) for batch in epoch]
        for count in (2,):
            parts = [
                [b for e in epochs(source, 2, part=Part(index, count)) for b in e]
                for index in range(count)
            ]
            together = [[v for row in rows for v in row] for rows in zip(*parts, strict=True)]
            assert together == whole

    def test_balanced_classes_come_equally_often(self, source):
        shown = [v for e in epochs(source, 6, balanced=True) for batch in e for v in batch]
        share = np.mean([TARGETS[VALUES.index(value)] for value in shown])
        exact = not isinstance(source, LabelledDataset)
        assert abs(share - 0.5) <= (0.001 if exact else 0.15)
        assert set(shown) == set(VALUES)

    def test_seeds_do_not_walk_through_the_same_epochs(self, source):
        assert epochs(source, 1, seed=4) != epochs(source, 1, first_step=3, seed=3)


def test_augmentation_goes_on_where_it_stopped(tmp_path):
    source = files(tmp_path)
    augmentation = Augmentation(random_crop=(0.2, 1.0), shift=2, flip=True)
    steps = steps_per_epoch(source, 4)

    def pixels(first_step: int, skip: int) -> list[bytes]:
        batches = training_batches(
            source, RULE, augmentation, batch_size=4, seed=1, first_step=first_step
        )
        return [images.numpy().tobytes() for images, _ in islice(batches, skip, skip + steps)]

    whole = pixels(0, 2 * steps)
    assert pixels(2 * steps, 0) == whole
    assert pixels(0, 0) != whole


def test_an_image_is_varied_anew_in_every_epoch(tmp_path):
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    pixels[:, :, 4:] = 200
    source = scan(open_source((pixels, [0, 1])).train, tmp_path)
    batches = training_batches(source, RULE, Augmentation(shift=3), batch_size=2, seed=0)
    seen = {image.tobytes() for images, _ in islice(batches, 12) for image in images.numpy()}
    assert len(seen) > 12


class TestMixing:
    def batches(self, source, count: int, first_step: int = 0, **options) -> list:
        batches = training_batches(
            source,
            RULE,
            PLAIN,
            batch_size=4,
            seed=2,
            first_step=first_step,
            mixing=Mixing(mixup=0.5, cutmix=0.5),
            **options,
        )
        return [(i.numpy(), s.numpy()) for i, s in islice(batches, count)]

    def test_it_goes_on_where_it_stopped(self, tmp_path):
        source = arrays(tmp_path)
        whole, gone_on = self.batches(source, 8), self.batches(source, 3, first_step=5)
        for (images, shares), (more, of_them) in zip(whole[5:], gone_on, strict=True):
            np.testing.assert_array_equal(images, more)
            np.testing.assert_array_equal(shares, of_them)
        assert any(0.01 < share < 0.99 for _, shares in whole for share in shares.ravel())

    def test_workers_mix_among_their_rows_and_each_in_its_own_way(self, tmp_path):
        pixels = np.array(VALUES, np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
        source = scan(open_source((pixels, [*range(11)])).train, tmp_path)
        plain = training_batches(source, RULE, PLAIN, batch_size=4, seed=2)
        parts = [self.batches(source, 6, part=Part(index, 2)) for index in range(2)]
        kept = []
        for step, (_, shares) in enumerate(islice(plain, 6)):
            for index in range(2):
                mine = shares.numpy()[2 * index : 2 * index + 2]
                mixed = parts[index][step][1]
                np.testing.assert_allclose(mixed.sum(axis=0), mine.sum(axis=0), atol=1e-6)
                kept.append(round(float(mixed.max()), 4))
        assert len(set(kept)) > 8


def test_targets_of_several_classes_are_shares_as_they_are(tmp_path):
    pixels = np.array(VALUES, np.uint8)[:, None, None] * np.ones((1, 6, 8), np.uint8)
    targets = np.random.default_rng(0).integers(0, 2, (11, 3)).astype(np.float32)
    images = LabelledImages(("a", "b", "c"), targets, None, pixels, "arrays")
    source = scan(images, tmp_path)
    assert source.multi_label and source.counts.tolist() == targets.sum(axis=0).tolist()
    for balanced in (False, True):
        batches = training_batches(source, RULE, PLAIN, batch_size=4, seed=0, balanced=balanced)
        for images, shares in islice(batches, 4):
            rows = [targets[VALUES.index(value)] for value in brightness(images)]
            assert np.array_equal(shares, rows) and shares.dtype == tf.float32
    (_, shares), *_ = evaluation_batches(source, RULE, 11)
    assert np.array_equal(shares, targets)


@pytest.mark.parametrize(("index", "count"), [(-1, 2), (2, 2), (0, 0)])
def test_a_part_that_is_none_is_refused(index, count):
    with pytest.raises(ConfigError, match=f"{index} of {count}"):
        Part(index, count)


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="batch_size 4 cannot be divided among 3 workers"):
        training_batches(arrays(tmp_path), RULE, PLAIN, batch_size=4, seed=0, part=Part(0, 3))


class TestEvaluationBatches:
    def test_workers_share_the_images(self, source):
        parts = [
            [
                v
                for images, _ in evaluation_batches(source, RULE, 2, Part(i, 3))
                for v in brightness(images)
            ]
            for i in range(3)
        ]
        assert parts == [VALUES[0::3], VALUES[1::3], VALUES[2::3]]

    @pytest.mark.parametrize("batch_size", [1, 4, 11, 30])
    def test_every_image_once_in_order(self, source, batch_size):
        batches = list(evaluation_batches(source, RULE, batch_size))
        assert [value for images, _ in batches for value in brightness(images)] == VALUES
        assert [row.argmax() for _, shares in batches for row in shares.numpy()] == TARGETS
        assert len(batches) == steps_per_epoch(source, batch_size)


class TestInputPixels:
    def test_order_and_repetition_are_the_callers(self, source):
        pixels = input_pixels(source, RULE, np.array([7, 0, 10, 0]))
        assert pixels.dtype == np.uint8 and pixels.shape == (4, 4, 4, 3)
        assert pixels[:, 2, 2, 1].tolist() == [VALUES[7], VALUES[0], VALUES[10], VALUES[0]]

    def test_none(self, source):
        assert input_pixels(source, RULE, np.array([], int)).shape == (0, 4, 4, 3)


class TestColourModes:
    def test_grayscale_models_read_rgb(self, source):
        rule = Preprocessing(
            size=4, crop=1.0, resize="squash", color_mode="grayscale", mean=0, std=1
        )
        images, _ = next(iter(evaluation_batches(source, rule, 11)))
        assert images.shape == (11, 4, 4, 1) and brightness(images) == VALUES
        assert input_pixels(source, rule, np.array([1])).shape == (1, 4, 4, 3)

    def test_rgba_models_see_opaque_images(self, source):
        rule = Preprocessing(size=4, crop=1.0, resize="squash", color_mode="rgba", mean=0, std=1)
        images, _ = next(iter(evaluation_batches(source, rule, 11)))
        assert images.shape == (11, 4, 4, 4) and brightness(images) == VALUES
        assert np.allclose(images[..., 3], 1)
        assert input_pixels(source, rule, np.array([1])).shape == (1, 4, 4, 4)

    def test_alpha_reaches_rgba_models_and_is_white_to_others(self, tmp_path):
        pixels = np.array([[[[0, 0, 0, 0]]], [[[10, 20, 30, 255]]]], np.uint8)
        source = scan(open_source((pixels, [0, 1])).train, tmp_path)
        rule = Preprocessing(size=1, crop=1.0, mean=0, std=1)
        rgba = Preprocessing(size=1, crop=1.0, mean=0, std=1, color_mode="rgba")
        both = np.array([0, 1])
        assert input_pixels(source, rule, both).reshape(2, 3).tolist() == [[255] * 3, [10, 20, 30]]
        assert np.array_equal(input_pixels(source, rgba, both), pixels)


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 11), (10, 2), (11, 1), (12, 1)])
def test_steps_per_epoch(tmp_path, batch_size, steps):
    assert steps_per_epoch(arrays(tmp_path), batch_size) == steps
