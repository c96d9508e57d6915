"""The loss and the figures beside it, against NumPy in float64."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_cls.training.figures import Figures, batch_figures, cross_entropy


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.1]), st.booleans())
def test_cross_entropy(seed: int, smoothing: float, weighted: bool) -> None:
    random = np.random.default_rng(seed)
    logits, targets = random.normal(size=(4, 7)), random.dirichlet(np.ones(7), 4)
    weights = random.uniform(0.1, 3, 7) if weighted else None
    smoothed = (1 - smoothing) * targets + smoothing / 7
    expected = -(smoothed * log_softmax(logits)).sum(axis=1)
    if weighted:
        expected *= targets @ weights
    found = cross_entropy(
        tf.constant(targets, tf.float32),
        tf.constant(logits, tf.float32),
        smoothing=smoothing,
        class_weights=weights,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.1]), st.booleans())
def test_cross_entropy_of_several_labels(seed: int, smoothing: float, weighted: bool) -> None:
    random = np.random.default_rng(seed)
    logits, targets = random.normal(size=(4, 3)), random.integers(0, 2, (4, 3)).astype("f8")
    weights = random.uniform(0.1, 3, 3).astype("f4") if weighted else None
    yes, no = -np.log1p(np.exp(-logits)), -np.log1p(np.exp(logits))
    smoothed = (1 - smoothing) * targets + smoothing / 2
    scale = 1 if weights is None else weights
    expected = -(scale * smoothed * yes + (1 - smoothed) * no).mean(axis=1)
    found = cross_entropy(
        tf.constant(targets, tf.float32),
        tf.constant(logits, tf.float32),
        multi_label=True,
        smoothing=smoothing,
        class_weights=weights,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_logits_in_half_precision_give_a_loss_in_full() -> None:
    logits = tf.cast([[100.0, 0.0]], tf.bfloat16)
    assert cross_entropy(tf.constant([[0.0, 1.0]]), logits).dtype == tf.float32


def test_what_is_right_and_what_is_among_the_five() -> None:
    logits = tf.constant([[9.0, 8, 7, 6, 5, 4], [9, 8, 7, 6, 5, 4], [4, 5, 6, 7, 8, 9]])
    targets = tf.one_hot([0, 4, 0], 6)
    figures = Figures(6)
    figures.add(batch_figures(tf.constant(6.0), targets, logits, False))
    figures.add(batch_figures(tf.constant(3.0), targets[:1], logits[:1], False))
    assert figures.images == 4
    assert figures.means() == pytest.approx({"loss": 9 / 4, "accuracy": 2 / 4, "top5": 3 / 4})
    assert set(Figures(5, sums=figures.sums).means("val_")) == {"val_loss", "val_accuracy"}
    assert Figures(6).means() == {}


def test_of_several_labels_answers_are_counted() -> None:
    logits, targets = tf.constant([[1.0, -1, 1, -1]]), tf.constant([[1.0, 0, 0, 1]])
    figures = Figures(4, multi_label=True)
    figures.add(batch_figures(tf.constant(1.0), targets, logits, True))
    assert figures.means() == {"loss": 1.0, "accuracy": 0.5}
