"""The rule of keras_cls/preprocessing.py up to the pixels, with Pillow and NumPy: steps 1 to 4.

Pillow resizes each channel in floating point, with the kernels that the rule names and without
rounding in between, so that the golden vectors of tests/golden are met. The pixels are rounded
once, to the uint8 that is sent; the steps that are left (grey, mean and std) are in the model's
graph.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from keras_cls.errors import ConfigError
from keras_cls.images import ImageSource, read_image
from keras_cls.preprocessing import Preprocessing

# Not "box": it jumps where a pixel's centre meets its edge, which each library decides otherwise,
# and pixels would differ by any number of grey levels.
_KERNELS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def rule_for(
    input_shape: tuple[int, int, int], preprocessing: Preprocessing | None
) -> Preprocessing:
    """The rule for a model that takes images of this height, width and channels; -1 is any.

    Args:
        input_shape: what the model's signature says.
        preprocessing: the rule, where the caller knows it; else the plain one of that size.

    Raises:
        ConfigError: the rule makes images that the model does not take, or that nobody but the
            server can make, or the size is not known.
    """
    *size, channels = input_shape
    if preprocessing is None:
        if min(size) < 1 or channels not in (3, 4):
            raise ConfigError(
                f"the model's images are of shape {list(input_shape)}; preprocessing= must say "
                "how they are made"
            )
        return Preprocessing().adapted_to(input_shape)
    if preprocessing.interpolation not in _KERNELS:
        raise ConfigError(
            f'decode="client" cannot make the images that interpolation '
            f'{preprocessing.interpolation!r} makes on the server; decode="server" can'
        )
    made = (*preprocessing.size, preprocessing.image_channels)
    if any(wanted not in (-1, found) for wanted, found in zip(input_shape, made, strict=True)):
        raise ConfigError(
            f"preprocessing makes images of shape {list(made)}, but the model takes "
            f"{list(input_shape)}"
        )
    return preprocessing


@dataclass(frozen=True, slots=True)
class Decoder:
    """Any image to what a model's ``images`` signature takes."""

    rule: Preprocessing

    def __call__(self, source: ImageSource, name: str) -> np.ndarray:
        """An image, upright and of the network's size: uint8 ``[H, W, rule.image_channels]``.

        Raises:
            ImageError: it cannot be read; the message begins with ``name``.
        """
        image = read_image(source, alpha=self.rule.image_channels == 4, name=name)
        return np.rint(resize_and_crop(image, self.rule)).astype(np.uint8)


def resize_and_crop(image: np.ndarray, rule: Preprocessing) -> np.ndarray:
    """Steps 1 to 4: uint8 ``[h, w, c]`` -> float32 ``[H, W, c]`` on the 0..255 scale.

    Only the pixels that are kept are computed; beyond the image they are black.
    """
    height, width, channels = image.shape
    rows, columns = _resized(height, width, rule)
    top, bottom, upper, lower = _visible(height, rows, rule.size[0])
    left, right, nearer, farther = _visible(width, columns, rule.size[1])
    out = np.zeros((*rule.size, channels), np.float32)
    for channel in range(channels):
        plane = Image.fromarray(image[..., channel].astype(np.float32)).resize(
            (right - left, bottom - top),
            _KERNELS[rule.interpolation],
            box=(nearer, upper, farther, lower),
        )
        out[top:bottom, left:right, channel] = np.asarray(plane)
    return out.clip(0, 255)


def _resized(height: int, width: int, rule: Preprocessing) -> tuple[int, int]:
    """Step 2's size, in whole numbers throughout."""
    rows, columns = rule.frame
    if rule.resize == "squash":
        return rows, columns
    is_wide = width * rows >= height * columns
    if is_wide == (rule.resize == "shorter"):
        return rows, max(width * rows // height, 1)
    return max(height * columns // width, 1), columns


def _visible(source: int, resized: int, wanted: int) -> tuple[int, int, float, float]:
    """Of one side: from and to in the output, and which part of the source is shown there."""
    cut = int((resized - wanted) / 2)  # towards zero
    first, last = max(-cut, 0), min(resized - cut, wanted)
    scale = source / resized
    return first, last, (first + cut) * scale, min((last + cut) * scale, source)
