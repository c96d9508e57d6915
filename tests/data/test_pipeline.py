from collections import Counter
from itertools import islice

import numpy as np
import pytest
import tensorflow as tf
from folders import make_folders
from image_files import encoded

from keras_cls.data.augmentation import Augmentation
from keras_cls.data.datasets import open_dataset
from keras_cls.data.pipeline import (
    evaluation_batches,
    input_pixels,
    steps_per_epoch,
    training_batches,
)
from keras_cls.data.scanning import scan
from keras_cls.data.sources import open_source
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


@pytest.fixture(params=[files, arrays, grey_arrays, pixel_dataset, encoded_dataset])
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
        assert images.shape == (batch_size, 4, 4, 3) and images.dtype == tf.float32
        assert targets.numpy().tolist() == [TARGETS[VALUES.index(v)] for v in drawn[-1]]
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

    def test_going_on_at_an_epoch_gives_its_batches(self, source):
        assert epochs(source, 2, first_epoch=2) == epochs(source, 4)[2:]

    def test_seeds_do_not_walk_through_the_same_epochs(self, source):
        assert epochs(source, 1, seed=4) != epochs(source, 1, first_epoch=1, seed=3)


def test_augmentation_goes_on_where_it_stopped(tmp_path):
    source = files(tmp_path)
    augmentation = Augmentation(random_crop=(0.2, 1.0), shift=2, flip=True)
    steps = steps_per_epoch(source, 4)

    def pixels(first_epoch: int, skip: int) -> list[bytes]:
        batches = training_batches(
            source, RULE, augmentation, batch_size=4, seed=1, first_epoch=first_epoch
        )
        return [images.numpy().tobytes() for images, _ in islice(batches, skip, skip + steps)]

    whole = pixels(0, 2 * steps)
    assert pixels(2, 0) == whole
    assert pixels(0, 0) != whole


def test_an_image_is_varied_anew_in_every_epoch(tmp_path):
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    pixels[:, :, 4:] = 200
    source = scan(open_source((pixels, [0, 1])).train, tmp_path)
    batches = training_batches(source, RULE, Augmentation(shift=3), batch_size=2, seed=0)
    seen = {image.tobytes() for images, _ in islice(batches, 12) for image in images.numpy()}
    assert len(seen) > 12


class TestEvaluationBatches:
    @pytest.mark.parametrize("batch_size", [1, 4, 11, 30])
    def test_every_image_once_in_order(self, source, batch_size):
        batches = list(evaluation_batches(source, RULE, batch_size))
        assert [value for images, _ in batches for value in brightness(images)] == VALUES
        assert [target for _, targets in batches for target in targets.numpy()] == TARGETS
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
