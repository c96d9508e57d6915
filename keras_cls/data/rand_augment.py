"""RandAugment (Cubuk et al. 2020, arXiv:1909.13719): a few random operations of one strength.

The fourteen operations are the paper's, each as Pillow computes it, in TensorFlow operations;
their ranges are those of AutoAugment (arXiv:1805.09501, table 6), translation counting in shares of
the side. What comes in from beyond the border is grey.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import tensorflow as tf

_GREY = 128.0
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_STRONGEST = 10.0  # the magnitude at which the ranges below end

# (image float32 [H, W, 3] on 0..255, strength) -> the same shape and scale.
Operation: TypeAlias = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@dataclass(frozen=True)
class RandAugment:
    """How much of it.

    Attributes:
        operations: how many, one after another; the paper's N.
        magnitude: how strong, 0 to 10; the paper's M on the scale of AutoAugment.
        deviation: of a normal draw that is added to the magnitude, 0 for none.
    """

    operations: int = 2
    magnitude: float = 9.0
    deviation: float = 0.5


def rand_augment(image: tf.Tensor, spec: RandAugment, seed: tf.Tensor) -> tf.Tensor:
    """Some operations in a row, each drawn from all.

    Args:
        image: float32 ``[H, W, 3]`` on the 0..255 scale, of a known size.
        spec: how many and how strong.
        seed: int64 ``[2]``.

    Returns:
        float32 ``[H, W, 3]`` on the 0..255 scale.
    """
    for each in tf.unstack(tf.random.split(seed, spec.operations)):
        which, strength, sign = tf.unstack(tf.random.split(each, 3))
        drawn = spec.magnitude + spec.deviation * tf.random.stateless_normal([], strength)
        level = tf.clip_by_value(drawn / _STRONGEST, 0.0, 1.0)
        level *= tf.where(tf.random.stateless_uniform([], sign) < 0.5, -1.0, 1.0)
        index = tf.random.stateless_uniform([], which, 0, len(OPERATIONS), tf.int32)
        branches = [
            lambda operation=operation, image=image, level=level: operation(image, level)
            for operation in OPERATIONS.values()
        ]
        image = tf.switch_case(index, branches)
    return image


def identity(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """The image."""
    return image


def auto_contrast(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Each channel stretched to 0..255; one of a single value stays."""
    low = tf.reduce_min(image, axis=(0, 1))
    high = tf.reduce_max(image, axis=(0, 1))
    stretched = (image - low) * tf.math.divide_no_nan(255.0, high - low)
    return tf.where(high > low, tf.minimum(stretched, 255.0), image)


def equalize(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Each channel's histogram made flat, as ``PIL.ImageOps.equalize`` does it."""
    levels = tf.cast(tf.round(image), tf.int32)
    return tf.stack([_equalized(levels[..., channel]) for channel in range(3)], axis=-1)


def _equalized(channel: tf.Tensor) -> tf.Tensor:
    counts = tf.math.bincount(tf.reshape(channel, [-1]), minlength=256, maxlength=256)
    last = tf.reduce_max(tf.where(counts > 0, tf.range(256), 0))
    step = (tf.reduce_sum(counts) - counts[last]) // 255
    below = tf.cumsum(counts, exclusive=True)
    table = tf.clip_by_value((below + step // 2) // tf.maximum(step, 1), 0, 255)
    table = tf.where(step > 0, table, tf.range(256))
    return tf.cast(tf.gather(table, channel), tf.float32)


def rotate(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """About the centre, up to 30 degrees."""
    angle = level * math.radians(30)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    return _moved(image, [[cosine, -sine], [sine, cosine]])


def shear_x(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Up to 0.3 of the height."""
    return _moved(image, [[1.0, 0.3 * level], [0.0, 1.0]])


def shear_y(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Up to 0.3 of the width."""
    return _moved(image, [[1.0, 0.0], [0.3 * level, 1.0]])


def translate_x(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Up to 0.45 of the width."""
    return _moved(image, [[1.0, 0.0], [0.0, 1.0]], x=0.45 * level * image.shape[1])


def translate_y(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Up to 0.45 of the height."""
    return _moved(image, [[1.0, 0.0], [0.0, 1.0]], y=0.45 * level * image.shape[0])


def _moved(
    image: tf.Tensor, matrix: list[list], x: tf.Tensor | float = 0.0, y: tf.Tensor | float = 0.0
) -> tf.Tensor:
    """The pixel at p, from the centre, is taken from ``matrix @ p + (x, y)``; x comes first."""
    (a, b), (c, d) = matrix
    height, width, _ = image.shape
    across, down = (width - 1) / 2, (height - 1) / 2
    transform = [a, b, across - a * across - b * down + x, c, d, down - c * across - d * down + y]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack([*transform, 0.0, 0.0])[None],
        output_shape=[height, width],
        fill_value=_GREY,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )[0]


def posterize(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Only the upper bits, 8 down to 4."""
    dropped = 2.0 ** tf.round(4 * tf.abs(level))
    return tf.floor(tf.round(image) / dropped) * dropped


def solarize(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Values from a threshold on turned round, 256 down to 0."""
    return tf.where(tf.round(image) < 256 * (1 - tf.abs(level)), image, 255 - image)


def color(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Less or more saturated: between and beyond the grey image and this one."""
    return _blend(_grey(image), image, level)


def contrast(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Nearer to or farther from its mean grey."""
    return _blend(tf.round(tf.reduce_mean(_grey(image))), image, level)


def brightness(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Darker or brighter."""
    return _blend(tf.zeros_like(image), image, level)


def sharpness(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Smoother or sharper; the border stays."""
    kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32) / 13
    filters = tf.tile(kernel[..., None, None], [1, 1, 3, 1])
    inner = tf.nn.depthwise_conv2d(image[None], filters, [1, 1, 1, 1], "VALID")
    border = tf.pad(
        tf.zeros_like(inner, tf.bool), [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=True
    )
    smooth = tf.where(border, image[None], tf.pad(inner, [[0, 0], [1, 1], [1, 1], [0, 0]]))[0]
    return _blend(smooth, image, level)


def _grey(image: tf.Tensor) -> tf.Tensor:
    """[H, W, 1], whole levels, as Pillow converts to "L"."""
    return tf.round(tf.reduce_sum(image * tf.constant(_LUMA), axis=-1, keepdims=True))


def _blend(other: tf.Tensor, image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """The image at factor 1, the other one at 0; the factor is 0.1 to 1.9."""
    return tf.clip_by_value(other + (1 + 0.9 * level) * (image - other), 0.0, 255.0)


OPERATIONS: dict[str, Operation] = {
    operation.__name__: operation
    for operation in (
        identity,
        auto_contrast,
        equalize,
        rotate,
        solarize,
        color,
        posterize,
        contrast,
        brightness,
        sharpness,
        shear_x,
        shear_y,
        translate_x,
        translate_y,
    )
}
