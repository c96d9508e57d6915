"""Random variations of training images, as stateless TensorFlow operations.

The same seed gives the same variation, whatever the order or the number of threads: a resumed run
sees what the undisturbed one would have seen.
"""

from dataclasses import dataclass

import tensorflow as tf

from keras_cls.preprocessing import Preprocessing, place, placement


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image beside the preprocessing.

    Attributes:
        random_crop: cut out a random part, its area this share of the image (low, high), its
            aspect ratio within 3/4..4/3, and scale it to the input size (Inception's augmentation,
            arXiv:1409.4842); None keeps the preprocessing's own resize and central crop.
        shift: move the image by up to this many pixels each way, black coming in at the border
            (the CIFAR augmentation of arXiv:1512.03385 for 4).
        flip: mirror left to right with probability one half.
    """

    random_crop: tuple[float, float] | None = None
    shift: int = 0
    flip: bool = False


def augment(
    image: tf.Tensor, rule: Preprocessing, augmentation: Augmentation, seed: tf.Tensor
) -> tf.Tensor:
    """A random variation of one image.

    Args:
        image: uint8 ``[h, w, rule.image_channels]``, decoded.
        rule: the network's preprocessing.
        augmentation: what to vary.
        seed: int64 ``[2]``.

    Returns:
        float32 ``[H, W, rule.image_channels]`` on the 0..255 scale, not normalized yet.
    """
    seeds = tf.unstack(tf.random.split(seed, 3))
    if augmentation.random_crop is not None:
        scale, offset = _random_crop(image, rule, augmentation.random_crop, seeds[0])
    else:
        scale, offset = placement(image, rule)
    if augmentation.shift:
        limit = augmentation.shift
        moved = tf.random.stateless_uniform([2], seeds[1], -limit, limit + 1, tf.int32)
        offset += tf.cast(moved, tf.float32)
    out = place(image, rule, scale, offset)
    if augmentation.flip:
        mirrored = tf.random.stateless_uniform([], seeds[2]) < 0.5
        out = tf.cond(mirrored, lambda: tf.reverse(out, [1]), lambda: out)
    return out


def _random_crop(
    image: tf.Tensor, rule: Preprocessing, area: tuple[float, float], seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scale and offset of a random part; a part that would stick out is cut to the image."""
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    share, aspect, y, x = tf.unstack(tf.random.stateless_uniform([4], seed))
    share = area[0] + share * (area[1] - area[0])
    ratio = tf.exp((2 * aspect - 1) * tf.math.log(4 / 3))  # width to height
    side = tf.sqrt(share * size[0] * size[1] * tf.stack([1 / ratio, ratio]))
    side = tf.clip_by_value(side, 1.0, size)
    corner = (size - side) * tf.stack([y, x])
    scale = tf.constant(rule.size, tf.float32) / side
    return scale, corner * scale
