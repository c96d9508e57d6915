"""Mixing the images of a batch with one another: mixup and cutmix, stateless."""

from dataclasses import dataclass

import tensorflow as tf


@dataclass(frozen=True)
class Mixing:
    """How batches are mixed; with both, each batch gets one or the other at random.

    Attributes:
        mixup: the parameter of the Beta distribution that weights two images
            (arXiv:1710.09412), 0 for none.
        cutmix: likewise of the area that is pasted from the other image (arXiv:1905.04899).
    """

    mixup: float = 0.0
    cutmix: float = 0.0


def mix(
    images: tf.Tensor, targets: tf.Tensor, mixing: Mixing, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Each image mixed with the next one of the batch, and its target in the same proportion.

    Args:
        images: float32 ``[B, H, W, C]``.
        targets: float32 ``[B, K]``, rows that sum to one.
        mixing: how.
        seed: int64 ``[2]``.
    """
    if not mixing.mixup and not mixing.cutmix:
        return images, targets
    seeds = tf.unstack(tf.random.split(seed, 4))
    others, other_targets = tf.roll(images, 1, 0), tf.roll(targets, 1, 0)

    def mixed_up() -> tuple[tf.Tensor, tf.Tensor]:
        kept = _beta(mixing.mixup, seeds[0])
        return kept * images + (1 - kept) * others, kept

    def pasted() -> tuple[tf.Tensor, tf.Tensor]:
        inside = _rectangle(
            images.shape[1], images.shape[2], 1 - _beta(mixing.cutmix, seeds[1]), seeds[2]
        )
        # Of a rectangle cut off by the border, only what is left counts.
        kept = 1 - tf.reduce_mean(tf.cast(inside, tf.float32))
        return tf.where(inside[None, :, :, None], others, images), kept

    if not mixing.cutmix:
        mixed, kept = mixed_up()
    elif not mixing.mixup:
        mixed, kept = pasted()
    else:
        first = tf.random.stateless_uniform([], seeds[3]) < 0.5
        mixed, kept = tf.cond(first, mixed_up, pasted)
    return mixed, kept * targets + (1 - kept) * other_targets


def _beta(parameter: float, seed: tf.Tensor) -> tf.Tensor:
    """A draw of Beta(parameter, parameter), from two of the Gamma distribution."""
    one, other = tf.unstack(tf.random.stateless_gamma([2], seed, alpha=parameter))
    # Of tiny parameters both draws may vanish; the distribution's mass then lies at the ends.
    return tf.where(one + other > 0, tf.math.divide_no_nan(one, one + other), 1.0)


def _rectangle(height: int, width: int, area: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """bool [H, W]: a rectangle of the image's shape with that share of its area, placed at will."""
    y, x = tf.unstack(tf.random.stateless_uniform([2], seed))
    rows, columns = tf.range(height, dtype=tf.float32), tf.range(width, dtype=tf.float32)

    def span(cells: tf.Tensor, count: int, centre: tf.Tensor) -> tf.Tensor:
        half = tf.sqrt(area) * count / 2
        return (cells + 0.5 >= centre * count - half) & (cells + 0.5 < centre * count + half)

    return span(rows, height, y)[:, None] & span(columns, width, x)
