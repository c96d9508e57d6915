import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import beta, kstest

from keras_cls.data.mixing import Mixing, mix

IMAGES = np.random.default_rng(0).uniform(0, 1, (6, 16, 20, 3)).astype(np.float32)
TARGETS = np.eye(6, dtype=np.float32)


def mixed(mixing: Mixing, number: int) -> tuple[np.ndarray, np.ndarray]:
    images, targets = mix(
        tf.constant(IMAGES), tf.constant(TARGETS), mixing, tf.constant([1, number], tf.int64)
    )
    return images.numpy(), targets.numpy()


def share_kept(targets: np.ndarray) -> float:
    kept = np.diag(targets)
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(kept, kept[0], atol=1e-6)
    np.testing.assert_allclose(targets[np.arange(6), np.arange(6) - 1], 1 - kept, atol=1e-6)
    return float(kept[0])


def test_nothing_to_mix() -> None:
    images, targets = mixed(Mixing(), 0)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(targets, TARGETS)


def test_mixup_is_a_weighted_mean_of_neighbours() -> None:
    for number in range(10):
        images, targets = mixed(Mixing(mixup=0.4), number)
        kept = share_kept(targets)
        expected = kept * IMAGES + (1 - kept) * np.roll(IMAGES, 1, axis=0)
        np.testing.assert_allclose(images, expected, atol=1e-6)


@pytest.mark.parametrize("parameter", [0.2, 1.0, 8.0])
def test_mixups_weights_have_betas_distribution(parameter: float) -> None:
    one = tf.zeros((1, 1, 1, 1)), tf.constant([[1.0]])
    two = tf.concat([one[0], one[0]], 0), tf.eye(2)
    run = tf.function(lambda seed: mix(*two, Mixing(mixup=parameter), seed)[1][0, 0])
    draws = [float(run(tf.constant([9, n], tf.int64))) for n in range(400)]
    assert kstest(draws, beta(parameter, parameter).cdf).pvalue > 1e-3


def test_cutmix_pastes_a_rectangle_and_counts_its_pixels() -> None:
    shares = []
    for number in range(40):
        images, targets = mixed(Mixing(cutmix=1.0), number)
        other = np.roll(IMAGES, 1, axis=0)
        pasted = (images == other).all(axis=-1)
        assert (pasted | (images == IMAGES).all(axis=-1)).all()
        rows, columns = pasted[0].any(axis=1), pasted[0].any(axis=0)
        np.testing.assert_array_equal(
            pasted, np.broadcast_to(np.outer(rows, columns), pasted.shape)
        )
        assert share_kept(targets) == pytest.approx(1 - pasted[0].mean(), abs=1e-6)
        shares.append(pasted[0].mean())
    assert min(shares) < 0.1 and max(shares) > 0.4


def test_both_take_turns_at_random() -> None:
    both = Mixing(mixup=1.0, cutmix=1.0)
    other = np.roll(IMAGES, 1, axis=0)
    pasted = 0
    for number in range(40):
        images, _ = mixed(both, number)
        pasted += bool(((images == other) | (images == IMAGES)).all())
    assert 10 < pasted < 30


def test_the_same_seed_mixes_the_same() -> None:
    both = Mixing(mixup=1.0, cutmix=1.0)
    for a, b in zip(mixed(both, 3), mixed(both, 3), strict=True):
        np.testing.assert_array_equal(a, b)
