import tracemalloc
from dataclasses import dataclass

import keras
import numpy as np
import pytest
import tensorflow as tf
from classifiers import LABELS, colour_folder, encoded, photo, small_classifier
from hypothesis import given
from hypothesis import strategies as st

from keras_cls.classifier import Classifier
from keras_cls.data.opening import open_evaluation_data
from keras_cls.errors import DataError, ImageError
from keras_cls.evaluation import evaluate
from keras_cls.evaluation.gradcam import grad_cam, overlay
from keras_cls.evaluation.metrics import Evaluation
from keras_cls.evaluation.multi_label import MultiLabelEvaluation
from keras_cls.preprocessing import Preprocessing
from keras_cls.training import examining
from keras_cls.training.examining import EXPLAINED, Keeper, examine


def opened(data, classifier, tmp_path):
    return open_evaluation_data(data, classifier.labels, cache=tmp_path / "cache")


def test_it_finds_what_evaluate_finds(tmp_path):
    classifier = small_classifier()
    folder = colour_folder(tmp_path / "photos", per_class=20)
    error = ImageError("cut.jpg", "cut short")
    evaluation, examples = examine(classifier, opened(folder, classifier, tmp_path), [error])
    expected = evaluate(classifier, folder, quiet=True)
    np.testing.assert_array_equal(evaluation.confusion, expected.confusion)
    assert evaluation.loss == pytest.approx(expected.loss)
    assert evaluation.unreadable == (error,)
    shown, known = examples.mistakes, expected.mistakes
    assert [each.name for each in shown] == [each.name for each in known]
    assert [each.confidence for each in shown] == pytest.approx([e.confidence for e in known])
    for one, other in zip(shown, known, strict=True):
        assert (one.truth, one.predicted) == (other.truth, other.predicted)
        np.testing.assert_array_equal(one.image, other.image)
    wrong = 60 - int(evaluation.confusion.trace())
    assert len(shown) == min(wrong, examining.MISTAKES_SHOWN)
    assert 0 < len(examples.rights) <= examining.RIGHTS_SHOWN
    assert all(each.truth == each.predicted for each in examples.rights)
    shares = [sum(each.truth == label for each in examples.rights) for label in LABELS]
    assert max(shares) <= examining.RIGHTS_SHOWN / 3


def test_heat_maps_are_those_of_the_answer(tmp_path):
    classifier = small_classifier()
    folder = colour_folder(tmp_path / "photos", per_class=20)
    _, examples = examine(classifier, opened(folder, classifier, tmp_path))
    for kind in (examples.mistakes, examples.rights):
        assert [each.overlay is not None for each in kind] == [
            place < EXPLAINED for place in range(len(kind))
        ]
        for each in kind[:2]:
            assert each.explained == each.predicted
            heat = grad_cam(classifier, each.image, LABELS.index(each.explained))
            expected = overlay(each.image, heat).astype(int)
            assert abs(expected - each.overlay).max() <= 1


def test_a_network_without_a_map_and_rgba(tmp_path):
    folder = colour_folder(tmp_path / "photos")
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    flat = Classifier(model, LABELS, Preprocessing(size=8, mean=0.5, std=0.5))
    _, examples = examine(flat, opened(folder, flat, tmp_path))
    assert all(each.overlay is None for each in (*examples.mistakes, *examples.rights))
    clear = small_classifier(channels=4)
    _, examples = examine(clear, opened(folder, clear, tmp_path))
    assert examples.mistakes[0].image.shape == examples.mistakes[0].overlay.shape == (24, 20, 3)


def test_only_the_examples_pixels_are_kept(tmp_path):
    classifier = small_classifier(size=(96, 96))
    images = np.stack([photo(LABELS[i % 3], seed=i) for i in range(2000)])
    few, many = (
        opened((images[:count], np.arange(count) % 3), classifier, tmp_path)
        for count in (200, 2000)
    )
    peaks = []
    for stream in (few, few, many):  # the first pass makes the graphs
        tracemalloc.start()
        examine(classifier, stream)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    everything = 1800 * 96 * 96 * 3  # the pixels that are more, as uint8
    assert peaks[2] - peaks[1] < everything / 3, "batches on their way take some"


def test_a_dataset_that_comes_in_another_order_is_seen_once(tmp_path):
    classifier = small_classifier()
    images = np.stack([photo(LABELS[i % 3], seed=i) for i in range(60)])
    passes = []

    def rows():
        passes.append(1)
        for i in np.random.default_rng(len(passes)).permutation(60):
            yield images[i], i % 3

    dataset = tf.data.Dataset.from_generator(
        rows,
        output_signature=(
            tf.TensorSpec((40, 50, 3), tf.uint8),
            tf.TensorSpec((), tf.int64),
        ),
    )
    stream = opened(dataset, classifier, tmp_path)
    before = len(passes)
    evaluation, examples = examine(classifier, stream)
    assert len(passes) == before + 1
    assert evaluation.count == 60
    for each in examples.mistakes:
        found = classifier.probabilities_of_pixels(each.image[None])[0]
        assert found.max() == pytest.approx(each.confidence, abs=2e-3)
        assert LABELS[found.argmax()] == each.predicted


def multi_label_classifier():
    """Whether there is red, whether there is green: the channels' means."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(2, 1, name="map")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    kernel = np.zeros((1, 1, 3, 2), np.float32)
    kernel[0, 0, 0, 0] = kernel[0, 0, 1, 1] = 1
    model.set_weights([kernel, np.zeros(2), 8 * np.eye(2), np.full(2, -4.0)])
    rule = Preprocessing(size=8, crop=1.0, mean=0.0, std=1.0)
    return Classifier(model, ["red", "green"], rule, multi_label=True)


def test_any_number_of_classes_an_image(tmp_path):
    colours = [(255, 0, 0), (0, 255, 0), (255, 255, 0), (0, 0, 0), (230, 0, 0), (250, 210, 0)]
    images = np.repeat(np.repeat(np.array(colours, np.uint8)[:, None, None], 8, 1), 8, 2)
    #             right   right   right   right   wrong   wrong
    targets = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [0, 1], [1, 0]])
    classifier = multi_label_classifier()
    stream = open_evaluation_data(
        (images, targets), classifier.labels, cache=tmp_path, multi_label=True
    )
    evaluation, examples = examine(classifier, stream)
    assert isinstance(evaluation, MultiLabelEvaluation)
    assert evaluation.exact_match == pytest.approx(4 / 6)
    assert [(e.name, e.truth, e.predicted, e.explained) for e in examples.mistakes] == [
        (stream.name(4), "green", "not green", "green"),
        (stream.name(5), "red", "green", "green"),
    ]
    # An image that shows nothing tells nothing.
    assert [(e.name, e.truth) for e in examples.rights] == [
        (stream.name(0), "red"),
        (stream.name(1), "green"),
        (stream.name(2), "red, green"),
    ]
    assert all(each.overlay is not None for each in examples.rights)


def test_a_file_that_went_missing_is_named(tmp_path):
    classifier = small_classifier()
    stream = opened(colour_folder(tmp_path / "photos"), classifier, tmp_path)
    (tmp_path / "photos" / "red" / "03.jpg").unlink()
    with pytest.raises(DataError, match=r"cannot be any more.*03\.jpg"):
        examine(classifier, stream)
    (tmp_path / "photos" / "red" / "03.jpg").write_bytes(encoded(photo(), "JPEG")[:300])
    with pytest.raises(DataError, match="cannot be any more"):
        examine(classifier, stream)


@dataclass(frozen=True)
class Ranked:
    confidence: float
    about: int
    number: int


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), max_size=40),
    st.integers(1, 6),
    st.integers(1, 6),
)
def test_the_keeper_takes_what_sorting_all_would(drawn, limit, per_class):
    candidates = [Ranked(c / 10, about, i) for i, (c, about) in enumerate(drawn)]
    keeper = Keeper(limit, per_class)
    for each in candidates:
        if keeper.wants(each.confidence, each.about):
            keeper.add(each)
    expected: list[Ranked] = []
    for each in sorted(candidates, key=lambda each: (-each.confidence, each.number)):
        same = sum(other.about == each.about for other in expected)
        if len(expected) < limit and same < per_class:
            expected.append(each)
    assert keeper.best_first() == expected


def test_single_label_evaluations_are_plain(tmp_path):
    classifier = small_classifier()
    stream = opened(colour_folder(tmp_path / "photos"), classifier, tmp_path)
    assert isinstance(examine(classifier, stream)[0], Evaluation)
