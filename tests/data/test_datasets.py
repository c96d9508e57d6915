import numpy as np
import pytest
import tensorflow as tf
from image_files import encoded, oriented_jpeg, photo

from keras_cls.data.datasets import open_dataset
from keras_cls.errors import ConfigError, DataError

PIXELS = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)


def dataset_of(images, targets=(0, 1)) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((images, np.asarray(targets)))


def pixels_in(dataset: tf.data.Dataset) -> list[np.ndarray]:
    return [image.numpy() for image, _ in open_dataset(dataset).dataset]


class TestAccepted:
    @pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "float16", "float32", "float64"])
    def test_numbers(self, dtype):
        opened = open_dataset(dataset_of(PIXELS.astype(dtype)))
        images, targets = zip(*opened.dataset.as_numpy_iterator(), strict=True)
        assert np.array_equal(images, PIXELS) and images[0].dtype == np.uint8
        assert targets == (0, 1) and targets[0].dtype == np.int64
        assert (opened.labels, opened.counts.tolist(), len(opened)) == (("0", "1"), [1, 1], 2)
        assert opened.name(1) == "image 1 of tf.data.Dataset"

    def test_other_scales(self):
        assert np.array_equal(pixels_in(dataset_of(PIXELS.astype(np.uint16) << 8)), PIXELS)
        black_and_white = pixels_in(dataset_of(PIXELS > 30))
        assert np.array_equal(black_and_white, np.where(PIXELS > 30, 255, 0))
        assert pixels_in(dataset_of(np.float32([[[1.6]], [[254.7]]])))[1].item() == 255

    @pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1), (3, 4, 3), (3, 4, 4)])
    def test_shapes(self, shape):
        images = pixels_in(dataset_of(np.full((2, *shape), 7, np.uint8)))
        assert images[0].shape == (*shape, 1)[:3]

    def test_images_of_different_sizes(self):
        def generate():
            yield from ((np.zeros((n, n + 1, 3), np.uint8), n - 1) for n in (1, 2))

        spec = (tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((), tf.int32))
        dataset = tf.data.Dataset.from_generator(generate, output_signature=spec)
        assert [image.shape for image in pixels_in(dataset)] == [(1, 2, 3), (2, 3, 3)]

    def test_batches(self):
        opened = open_dataset(dataset_of(np.concatenate([PIXELS] * 3), [0, 1, 0, 1, 0, 1]).batch(4))
        assert opened.counts.tolist() == [3, 3]
        assert opened.dataset.element_spec[0].shape == (3, 4, 3)

    def test_encoded_images(self):
        data = [oriented_jpeg(6), encoded(photo(), "PNG")]
        opened = open_dataset(dataset_of(data))
        assert opened.dataset.element_spec[0].dtype == tf.string
        assert [image.numpy() for image, _ in opened.dataset] == data

    def test_labels_name_the_classes(self):
        assert open_dataset(dataset_of(PIXELS), ["cat", "dog"]).labels == ("cat", "dog")
        some = open_dataset(dataset_of(PIXELS, [2, 2]), ["a", "b", "c"], every_class=False)
        assert (some.labels, some.counts.tolist()) == (("a", "b", "c"), [0, 0, 2])
        assert open_dataset(dataset_of(PIXELS, [0, 0]), ["a", "b"], every_class=False)


ROWS = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0]])


class TestSeveralClasses:
    @pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float32"])
    def test_rows_of_zeros_and_ones(self, dtype):
        images = np.full((3, 4, 5, 3), 9, np.uint8)
        dataset = tf.data.Dataset.from_tensor_slices((images, ROWS.astype(dtype)))
        for each in (dataset, dataset.batch(2)):
            opened = open_dataset(each, ["a", "b", "c"], multi_label=True)
            assert opened.multi_label and len(opened) == 3
            assert (opened.labels, opened.counts.tolist()) == (("a", "b", "c"), [1, 1, 1])
            loaded = [opened.load(*item) for item in opened.in_order()]
            assert np.array_equal([target.numpy() for _, target in loaded], ROWS)
            assert loaded[0][1].dtype == tf.float32 and loaded[0][0].shape == (4, 5, 3)

    def test_encoded_images(self):
        images = [encoded(photo(), "PNG")] * 3
        opened = open_dataset(tf.data.Dataset.from_tensor_slices((images, ROWS)), multi_label=True)
        assert opened.labels == ("0", "1", "2")

    @pytest.mark.parametrize(
        ("rows", "labels", "message"),
        [
            (ROWS * 2, None, r"target 0 has 2 in column 0: multi-label targets are of zeros and"),
            (ROWS / 2, None, r"target 0 has 0\.5 in column 0"),
            (ROWS, ["a", "b"], "rows of 3 columns, but 2 labels"),
            (ROWS[:, :1], None, "2 or more"),
            (ROWS[:, 0], None, r"\[K\] of zeros and ones"),
            (ROWS * [1, 0, 1], None, "class '1' has no image"),
        ],
    )
    def test_refused(self, rows, labels, message):
        images = np.full((3, 4, 5, 3), 9, np.uint8)
        dataset = tf.data.Dataset.from_tensor_slices((images, rows))
        with pytest.raises(DataError, match=message):
            open_dataset(dataset, labels, multi_label=True)

    def test_rows_need_the_argument(self):
        dataset = tf.data.Dataset.from_tensor_slices((PIXELS, np.eye(2)))
        with pytest.raises(DataError, match="several classes, pass multi_label=True"):
            open_dataset(dataset)

    def test_not_every_class_need_be_there_to_evaluate(self):
        dataset = tf.data.Dataset.from_tensor_slices((PIXELS, ROWS[1:]))
        opened = open_dataset(dataset, ["a", "b", "c"], every_class=False, multi_label=True)
        assert opened.counts.tolist() == [0, 1, 0]


class TestRefused:
    @pytest.mark.parametrize(
        ("dataset", "message"),
        [
            (tf.data.Dataset.range(3), r"elements must be \(image, target\)"),
            (tf.data.Dataset.from_tensor_slices({"image": PIXELS}), r"must be \(image, target\)"),
            (dataset_of(PIXELS, np.eye(2, dtype=np.float32)), "one-hot"),
            (dataset_of(PIXELS, np.eye(2, dtype=np.int64)), "one-hot"),
            (dataset_of(PIXELS, ["a", "b"]), "integer class numbers"),
            (dataset_of(PIXELS, [0.0, 1.0]), "integer class numbers"),
            (dataset_of(PIXELS[..., 0, 0]), "an image must be"),
            (dataset_of(PIXELS[..., :2]), "an image must be"),
            (dataset_of(PIXELS).repeat(), r"endless; leave out repeat\(\)"),
            (dataset_of(PIXELS).take(0), "it is empty"),
            (dataset_of(PIXELS / 255), "looks like the 0..1 scale"),
            (dataset_of(PIXELS - 128.0), r"image 0: the values lie in -128..-93"),
            (dataset_of(np.float32([[[9]], [[np.nan]]])), r"image 1: the values lie in nan"),
            (dataset_of(PIXELS.astype(np.int32) * 9), r"image 0: .*0..315"),
            (
                dataset_of([encoded(photo(), "PNG"), b"oops"]),
                "image 1: cannot be decoded: .*not a JPEG",
            ),
            (dataset_of([encoded(photo(), "PNG")[:-50]] * 2), "image 0: cannot be decoded"),
            (dataset_of(PIXELS, [0, 2]), "class '1' has no image"),
            (dataset_of(PIXELS, [0, 0]), "one class only"),
            (dataset_of(PIXELS, [0, -1]), r"target -1 is not in 0\.\.0"),
            (dataset_of(PIXELS, [-1, -1]), "target -1 is not a class number"),
        ],
    )
    def test_with_a_reason(self, dataset, message):
        with pytest.raises(DataError, match=rf"(?s)^tf\.data\.Dataset: .*{message}"):
            open_dataset(dataset)

    def test_labels_that_do_not_fit(self):
        with pytest.raises(DataError, match=r"target 1 is not in 0\.\.0"):
            open_dataset(dataset_of(PIXELS), ["cat"])
        with pytest.raises(DataError, match="class 'bird' has no image"):
            open_dataset(dataset_of(PIXELS), ["cat", "dog", "bird"])
        with pytest.raises(ConfigError, match="twice"):
            open_dataset(dataset_of(PIXELS), ["cat", "cat"])
