"""Random variations of training images, as stateless TensorFlow operations.

The same seed gives the same variation, whatever the order or the number of threads: a resumed run
sees what the undisturbed one would have seen.
"""

from dataclasses import dataclass

import tensorflow as tf

from keras_cls.data.rand_augment import RandAugment, rand_augment
from keras_cls.preprocessing import Preprocessing, place, placement

# The principal components of ImageNet's colours, as fb.resnet.torch measured and published them:
# eigenvalues on the 0..1 scale, and eigenvectors as columns, rows being R, G, B.
_COLOR_EIGENVALUES = (0.2175, 0.0188, 0.0045)
_COLOR_EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)
_ERASED_AREA = (0.02, 1 / 3)
_ERASED_ASPECT = (0.3, 1 / 0.3)


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image beside the preprocessing, in this order.

    Attributes:
        random_crop: cut out a random part, its area this share of the image (low, high), its
            aspect ratio (width to height) within ``aspect``, and scale it to the input size
            (Inception's augmentation, arXiv:1409.4842). Excludes ``scale_jitter``. Where both are
            None, the preprocessing's own resize and central crop stay.
        aspect: lowest and highest aspect ratio of ``random_crop``.
        scale_jitter: resize the image so that its shorter side is this many times the input's
            shorter side (low, high), drawn uniformly, and cut out a random part of the input size
            (arXiv:1409.1556, section 3.1; the paper's 256..512 for 224 is (256 / 224, 512 / 224)).
        shift: move the image by up to this many pixels each way, black coming in at the border
            (the CIFAR augmentation of arXiv:1512.03385 for 4).
        flip: mirror left to right with probability one half.
        rand_augment: RandAugment's operations (arXiv:1909.13719); None for none.
        jitter: change brightness, contrast and saturation, in this order, by factors drawn
            uniformly from 1 - jitter .. 1 + jitter.
        pca_color: add the principal components of ImageNet's colours, each times its eigenvalue
            and a number drawn with this standard deviation (AlexNet, section 4.1, for 0.1).
        erase: with this probability fill a random rectangle, 2 % to 33 % of the image, with noise
            (random erasing, arXiv:1708.04896).
    """

    random_crop: tuple[float, float] | None = None
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    scale_jitter: tuple[float, float] | None = None
    shift: int = 0
    flip: bool = False
    rand_augment: RandAugment | None = None
    jitter: float = 0.0
    pca_color: float = 0.0
    erase: float = 0.0


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
    seeds = tf.unstack(tf.random.split(seed, 7))
    if augmentation.random_crop is not None:
        scale, offset = _random_crop(
            image, rule, augmentation.random_crop, augmentation.aspect, seeds[0]
        )
    elif augmentation.scale_jitter is not None:
        scale, offset = _jittered_scale(image, rule, augmentation.scale_jitter, seeds[0])
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
    color, alpha = out[..., :3], out[..., 3:]
    if augmentation.rand_augment is not None:
        color = rand_augment(color, augmentation.rand_augment, seeds[3])
    if augmentation.jitter:
        color = _color_jitter(color, augmentation.jitter, seeds[4])
    if augmentation.pca_color:
        color = _pca_color(color, augmentation.pca_color, seeds[5])
    out = tf.concat([color, alpha], axis=-1)
    if augmentation.erase:
        out = _erase(out, augmentation.erase, seeds[6])
    return tf.ensure_shape(out, (*rule.size, rule.image_channels))


def _random_crop(
    image: tf.Tensor,
    rule: Preprocessing,
    area: tuple[float, float],
    aspect: tuple[float, float],
    seed: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scale and offset of a random part; a part that would stick out is cut to the image."""
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    share, shape, y, x = tf.unstack(tf.random.stateless_uniform([4], seed))
    side = tf.clip_by_value(_sides(size, area, aspect, share, shape), 1.0, size)
    corner = (size - side) * tf.stack([y, x])
    scale = tf.constant(rule.size, tf.float32) / side
    return scale, corner * scale


def _sides(
    size: tf.Tensor,
    area: tuple[float, float],
    aspect: tuple[float, float],
    share: tf.Tensor,
    shape: tf.Tensor,
) -> tf.Tensor:
    """Height and width of a rectangle; its area is uniform, its aspect ratio is so in its log."""
    low, high = tf.math.log(aspect[0]), tf.math.log(aspect[1])
    ratio = tf.exp(low + shape * (high - low))
    covered = (area[0] + share * (area[1] - area[0])) * size[0] * size[1]
    return tf.sqrt(covered * tf.stack([1 / ratio, ratio]))


def _jittered_scale(
    image: tf.Tensor, rule: Preprocessing, shorter: tuple[float, float], seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    drawn, y, x = tf.unstack(tf.random.stateless_uniform([3], seed))
    side = (shorter[0] + drawn * (shorter[1] - shorter[0])) * min(rule.size)
    target = tf.constant(rule.size, tf.float32)
    # Never smaller than the input: a long input is covered too.
    scale = tf.maximum(side / tf.reduce_min(size), tf.reduce_max(target / size))
    offset = tf.floor((size * scale - target) * tf.stack([y, x]))
    return tf.stack([scale, scale]), offset


def _color_jitter(image: tf.Tensor, amount: float, seed: tf.Tensor) -> tf.Tensor:
    brightness, contrast, saturation = tf.unstack(
        tf.random.stateless_uniform([3], seed, 1 - amount, 1 + amount)
    )
    image = tf.clip_by_value(image * brightness, 0.0, 255.0)
    mean = tf.reduce_mean(tf.image.rgb_to_grayscale(image))
    image = tf.clip_by_value(mean + (image - mean) * contrast, 0.0, 255.0)
    grey = tf.image.rgb_to_grayscale(image)
    return tf.clip_by_value(grey + (image - grey) * saturation, 0.0, 255.0)


def _pca_color(image: tf.Tensor, deviation: float, seed: tf.Tensor) -> tf.Tensor:
    drawn = deviation * tf.random.stateless_normal([3], seed)
    moved = tf.linalg.matvec(
        tf.constant(_COLOR_EIGENVECTORS), drawn * tf.constant(_COLOR_EIGENVALUES)
    )
    return tf.clip_by_value(image + 255 * moved, 0.0, 255.0)


def _erase(image: tf.Tensor, probability: float, seed: tf.Tensor) -> tf.Tensor:
    seeds = tf.unstack(tf.random.split(seed, 2))
    chance, share, shape, y, x = tf.unstack(tf.random.stateless_uniform([5], seeds[0]))
    height, width, _ = image.shape
    size = tf.constant([height, width], tf.float32)
    side = tf.round(_sides(size, _ERASED_AREA, _ERASED_ASPECT, share, shape))
    side = tf.clip_by_value(side, 1.0, size)
    top, left = tf.unstack(tf.floor((size - side + 1) * tf.stack([y, x])))
    rows, columns = tf.range(height, dtype=tf.float32), tf.range(width, dtype=tf.float32)
    inside = ((rows >= top) & (rows < top + side[0]))[:, None] & (
        (columns >= left) & (columns < left + side[1])
    )
    noise = tf.random.stateless_uniform(image.shape, seeds[1], 0.0, 255.0)
    return tf.where((inside & (chance < probability))[..., None], noise, image)
