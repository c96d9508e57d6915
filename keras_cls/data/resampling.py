"""The placement rule of :func:`keras_cls.preprocessing.place`, to the bit, in a third of the time.

``ScaleAndTranslate`` resizes the rows with a loop over long vectors, and the columns with one over
the channels of a pixel, which takes most of its time. Here it only ever resizes rows: of the image
whose pixels of a row are taken for one pixel of many channels, then of the same on its side.
"""

import tensorflow as tf

from keras_cls.preprocessing import KERNELS, Preprocessing

# How far the kernels reach to each side, in pixels of the coarser of the two grids.
_REACH = {"bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0, "box": 0.5}
_NEVER_NEGATIVE = ("bilinear", "box")


def resampled(
    images: tf.Tensor,
    rule: Preprocessing,
    size: tuple[int, int],
    scale: tf.Tensor,
    offset: tf.Tensor,
) -> tf.Tensor:
    """Images resized by ``scale``, cut out at ``offset`` and clipped; black lies around an image.

    Args:
        images: uint8 or float32 ``[n, h, w, c]`` on the 0..255 scale.
        rule: whose interpolation is taken.
        size: height and width of what is cut out.
        scale: float32 ``[2]``, rows first.
        offset: float32 ``[2]``, in pixels of the resized image.

    Returns:
        float32 ``[n, *size, c]`` on the 0..255 scale.
    """
    upright = _rows(images, rule, size[0], scale[0], offset[0])
    on_its_side = tf.transpose(upright, [0, 2, 1, 3])
    out = tf.transpose(_rows(on_its_side, rule, size[1], scale[1], offset[1]), [0, 2, 1, 3])
    out = tf.minimum(out, 255.0)
    if rule.interpolation not in _NEVER_NEGATIVE:
        out = tf.maximum(out, 0.0)
    return tf.ensure_shape(out, (None, *size, images.shape[-1]))


def reach(rule: Preprocessing, scale: tf.Tensor) -> tf.Tensor:
    """How many pixels beyond a part of the image have a say in it, float32 of ``scale``'s shape."""
    return _REACH[rule.interpolation] / tf.minimum(scale, 1.0)


def _rows(
    images: tf.Tensor, rule: Preprocessing, size: int, scale: tf.Tensor, offset: tf.Tensor
) -> tf.Tensor:
    """[n, h, w, c] -> [n, size, w, c]."""
    shape = tf.shape(images)
    count, height, width, channels = (shape[axis] for axis in range(4))
    out = tf.raw_ops.ScaleAndTranslate(
        images=tf.reshape(images, [count, height, 1, width * channels]),
        size=tf.constant([size, 1], tf.int32),
        scale=tf.stack([scale, 1.0]),
        translation=tf.stack([-offset, 0.0]),
        kernel_type=KERNELS[rule.interpolation],
        antialias=True,
    )
    return tf.reshape(out, [count, size, width, images.shape[-1]])
