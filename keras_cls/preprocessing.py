"""The one rule that turns a decoded image into a network's input.

Training, prediction and every exported graph go through :func:`transform`; ports to other
runtimes are held to the golden vectors in tests/golden/preprocessing.json.

The rule, for an upright RGB(A) image of h x w pixels and a network input of H x W:

1. The *frame* is ``round(H / crop) x round(W / crop)``, halves to the even neighbour.
2. The image is resized, with an antialiasing kernel and pixel centres at half integers (as Pillow
   does, without rounding to whole grey levels in between):

   * ``"shorter"``: aspect kept, so that it just covers the frame; the other side is rounded down
     (torchvision's rule for the ImageNet protocol);
   * ``"squash"``: to the frame, aspect not kept;
   * ``"pad"``: aspect kept, so that it just fits into the frame, the rest is black.

3. The central H x W are cut out, with black around an image that is smaller; of an odd remainder
   the larger half lies at the bottom and the right.
4. Values are clipped to 0..255 (cubic and Lanczos kernels overshoot).
5. Grey is 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601).
6. ``(value / 255 - mean) / std`` for each channel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from keras_cls.errors import ConfigError

if TYPE_CHECKING:
    import tensorflow as tf

Resize = Literal["shorter", "squash", "pad"]
Interpolation = Literal["bilinear", "bicubic", "lanczos", "box"]
ColorMode = Literal["rgb", "grayscale", "rgba"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_CHANNELS: dict[ColorMode, int] = {"grayscale": 1, "rgb": 3, "rgba": 4}
KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic", "lanczos": "lanczos3", "box": "box"}
# How far the kernels reach to each side, in pixels of the coarser of the two grids.
_REACH = {"bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0, "box": 0.5}
_NEVER_NEGATIVE = ("bilinear", "box")
_LUMA = (0.299, 0.587, 0.114)
SMALL_PIXELS = 70 * 70
"""Up to here, before and after, :func:`resample_small` is faster than :func:`resample`."""


@dataclass(frozen=True)
class Preprocessing:
    """How images become a network's input; the module's docstring states the rule.

    Attributes:
        size: the network's input, (height, width) in pixels; one number means a square.
        resize: ``"shorter"``, ``"squash"`` or ``"pad"``.
        crop: share of the frame's side that the central crop keeps, in (0, 1].
        interpolation: ``"bilinear"``, ``"bicubic"``, ``"lanczos"`` or ``"box"``; all antialiased.
        mean: for each channel, or one for all, on the 0..1 scale.
        std: likewise; positive.
        color_mode: ``"rgb"``, ``"grayscale"`` or ``"rgba"``.

    Raises:
        ConfigError: a field has another type, length or range.
    """

    size: tuple[int, int] = (224, 224)
    resize: Resize = "shorter"
    crop: float = 0.875
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    color_mode: ColorMode = "rgb"

    def __post_init__(self) -> None:
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        object.__setattr__(self, "size", _numbers("size", size, int, (2,), low=1))
        for field, kind in (
            ("resize", Resize),
            ("interpolation", Interpolation),
            ("color_mode", ColorMode),
        ):
            if getattr(self, field) not in get_args(kind):
                raise ConfigError(
                    f"Preprocessing.{field} must be one of {', '.join(get_args(kind))}; "
                    f"found {getattr(self, field)!r}"
                )
        if not _is_number(self.crop) or not 0 < self.crop <= 1:
            raise ConfigError(f"Preprocessing.crop must be in (0, 1]; found {self.crop!r}")
        lengths = (1, self.channels)
        object.__setattr__(self, "mean", _numbers("mean", self.mean, float, lengths))
        object.__setattr__(self, "std", _numbers("std", self.std, float, lengths, low=1e-6))

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return _CHANNELS[self.color_mode]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The network's input, (height, width, channels)."""
        return (*self.size, self.channels)

    @property
    def image_channels(self) -> int:
        """Channels of the decoded image that goes in: 4 for an rgba network, else 3 (RGB)."""
        return 4 if self.color_mode == "rgba" else 3

    @property
    def frame(self) -> tuple[int, int]:
        """Height and width that the image is resized to cover, fill or fit, before the crop."""
        return round(self.size[0] / self.crop), round(self.size[1] / self.crop)

    def adapted_to(self, input_shape: Sequence[int]) -> "Preprocessing":
        """The same rule for a network of another input shape (height, width, channels).

        Where the number of channels changes, each of mean and std becomes its own average.
        """
        height, width, channels = input_shape
        mode = next((mode for mode, n in _CHANNELS.items() if n == channels), None)
        if mode is None:
            raise ConfigError(f"a network's input has 1, 3 or 4 channels; found {channels}")
        mean, std = (
            row if len(row) in (1, channels) else (sum(row) / len(row),)
            for row in (self.mean, self.std)
        )
        return replace(self, size=(height, width), color_mode=mode, mean=mean, std=std)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of :meth:`to_dict`; unknown and missing fields raise ConfigError."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"preprocessing must be an object, found {type(values).__name__}")
        known = {field.name for field in fields(cls)}
        if set(values) != known:
            raise ConfigError(
                f"preprocessing needs the fields {sorted(known)}, found {sorted(map(str, values))}"
            )
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**plain)


def transform(image: "tf.Tensor", rule: Preprocessing) -> "tf.Tensor":
    """One decoded image through the whole rule.

    Args:
        image: uint8 ``[h, w, rule.image_channels]``, RGB or RGBA, any size of at least one pixel.
        rule: what to do.

    Returns:
        float32 ``[H, W, rule.channels]``.
    """
    return normalize(resize_and_crop(image, rule), rule)


def resize_and_crop(image: "tf.Tensor", rule: Preprocessing) -> "tf.Tensor":
    """Steps 1 to 4: uint8 ``[h, w, c]`` -> float32 ``[H, W, c]`` on the 0..255 scale."""
    return place(image, rule, *placement(image, rule))


def placement(image: "tf.Tensor", rule: Preprocessing) -> tuple["tf.Tensor", "tf.Tensor"]:
    """Steps 1 to 3 as numbers: the scale factors and the offset of the crop, float32 ``[2]`` each.

    Rows come first. The offset counts pixels of the resized image; it is negative for padding.
    """
    import tensorflow as tf  # on first use: model specs hold a Preprocessing, and load instantly

    source = tf.shape(image, out_type=tf.int64)[:2]
    resized = _resized(source[0], source[1], rule)
    offset = tf.truncatediv(resized - tf.constant(rule.size, tf.int64), 2)
    scale = tf.cast(resized, tf.float32) / tf.cast(source, tf.float32)
    return scale, tf.cast(offset, tf.float32)


def place(
    image: "tf.Tensor", rule: Preprocessing, scale: "tf.Tensor", offset: "tf.Tensor"
) -> "tf.Tensor":
    """Resize by ``scale``, cut out the input size at ``offset``, clip to 0..255.

    Only the pixels that are kept are computed; beyond the image they are black.
    """
    import tensorflow as tf

    out = resample(image[None], rule, rule.size, scale, offset)[0]
    return tf.ensure_shape(out, (*rule.size, rule.image_channels))


def resample(
    images: "tf.Tensor",
    rule: Preprocessing,
    size: tuple[int, int],
    scale: "tf.Tensor",
    offset: "tf.Tensor",
) -> "tf.Tensor":
    """Images resized by ``scale``, cut out at ``offset`` and clipped; black lies around an image.

    ``ScaleAndTranslate`` resizes the rows with a loop over long vectors, and the columns with one
    over the channels of a pixel, which takes most of its time. Here it only ever resizes rows: of
    the image whose pixels of a row are taken for one pixel of many channels, then of the same on
    its side. The values are the same to the bit, in a third of the time.

    Args:
        images: uint8 or float32 ``[n, h, w, c]`` on the 0..255 scale.
        rule: whose interpolation is taken.
        size: height and width of what is cut out.
        scale: float32 ``[2]``, rows first.
        offset: float32 ``[2]``, in pixels of the resized image.

    Returns:
        float32 ``[n, *size, c]`` on the 0..255 scale.
    """
    import tensorflow as tf

    upright = _resample_rows(images, rule, size[0], scale[0], offset[0])
    on_its_side = tf.transpose(upright, [0, 2, 1, 3])
    out = _resample_rows(on_its_side, rule, size[1], scale[1], offset[1])
    out = _within_scale(tf.transpose(out, [0, 2, 1, 3]), rule)
    return tf.ensure_shape(out, (None, *size, images.shape[-1]))


def resample_small(images: "tf.Tensor", rule: Preprocessing) -> "tf.Tensor":
    """Steps 1 to 4 for small images of one size: as :func:`resample`, by matrices.

    A resampled row is a weighted sum of rows: a product with a matrix, for all images at once,
    which for small ones takes a fifth of the time of the operation made for it.

    Args:
        images: uint8 ``[n, h, w, rule.image_channels]``.
        rule: what to do.

    Returns:
        float32 ``[n, H, W, rule.image_channels]`` on the 0..255 scale.
    """
    import tensorflow as tf

    scale, offset = placement(images[0], rule)
    channels = images.shape[-1]
    shape = tf.shape(images)
    count, height, width = shape[0], shape[1], shape[2]

    def weights(axis: int, length: "tf.Tensor") -> "tf.Tensor":
        """What each of ``length`` rows adds to each new one: [new, length]."""
        each = tf.eye(length)[None, :, :, None]
        made = _resample_rows(each, rule, rule.size[axis], scale[axis], offset[axis])
        return tf.reshape(made, [rule.size[axis], length])

    rows = tf.reshape(tf.cast(images, tf.float32), [count, height, width * channels])
    upright = tf.matmul(weights(0, height)[None], rows)
    # Columns, each channel from its own: as one matrix of [w * c, W * c].
    apart = tf.transpose(weights(1, width))[:, None, :, None] * tf.eye(channels)[None, :, None, :]
    matrix = tf.reshape(apart, [width * channels, rule.size[1] * channels])
    out = tf.matmul(tf.reshape(upright, [count * rule.size[0], width * channels]), matrix)
    return _within_scale(tf.reshape(out, [count, *rule.size, channels]), rule)


def reach(rule: Preprocessing, scale: "tf.Tensor") -> "tf.Tensor":
    """How many pixels beyond a part of the image have a say in it, float32 of ``scale``'s shape."""
    import tensorflow as tf

    return _REACH[rule.interpolation] / tf.minimum(scale, 1.0)


def _within_scale(images: "tf.Tensor", rule: Preprocessing) -> "tf.Tensor":
    import tensorflow as tf

    images = tf.minimum(images, 255.0)
    return images if rule.interpolation in _NEVER_NEGATIVE else tf.maximum(images, 0.0)


def _resample_rows(
    images: "tf.Tensor", rule: Preprocessing, size: int, scale: "tf.Tensor", offset: "tf.Tensor"
) -> "tf.Tensor":
    """[n, h, w, c] -> [n, size, w, c]."""
    import tensorflow as tf

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


def normalize(images: "tf.Tensor", rule: Preprocessing) -> "tf.Tensor":
    """Steps 5 and 6: RGB(A) on the 0..255 scale, any leading axes -> float32 network input."""
    import tensorflow as tf

    images = tf.cast(images, tf.float32)
    if rule.color_mode == "grayscale":
        images = tf.reduce_sum(images * tf.constant(_LUMA, tf.float32), axis=-1, keepdims=True)
    gain = [1 / (255 * std) for std in rule.std]
    bias = [-mean / std for mean, std in zip(*_same_length(rule.mean, rule.std), strict=True)]
    width, channels = images.shape[-2], images.shape[-1]
    if width is None:
        return images * tf.constant(gain, tf.float32) + tf.constant(bias, tf.float32)
    # Whole rows at once: with the channels alone as the inner loop it takes five times as long.
    length = width * channels
    rows = tf.reshape(images, tf.concat([tf.shape(images)[:-2], [length]], 0))
    gains, biases = (tf.constant(row * (length // len(row)), tf.float32) for row in (gain, bias))
    out = rows * gains + biases
    return tf.ensure_shape(tf.reshape(out, tf.shape(images)), images.shape)


def _resized(height: "tf.Tensor", width: "tf.Tensor", rule: Preprocessing) -> "tf.Tensor":
    """Step 2's size in exact integers, int64 [2]; floats would round differently elsewhere."""
    import tensorflow as tf

    rows, columns = (tf.constant(side, tf.int64) for side in rule.frame)
    if rule.resize == "squash":
        return tf.stack([rows, columns])
    by_height = tf.stack([rows, tf.maximum(width * rows // height, 1)])
    by_width = tf.stack([tf.maximum(height * columns // width, 1), columns])
    wide = width * rows >= height * columns
    return tf.where(wide if rule.resize == "shorter" else ~wide, by_height, by_width)


def _same_length(*rows: tuple[float, ...]) -> list[tuple[float, ...]]:
    longest = max(map(len, rows))
    return [row * longest if len(row) == 1 else row for row in rows]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _numbers(
    field: str, value: Any, kind: type, lengths: tuple[int, ...], low: float = -1e6
) -> tuple[Any, ...]:
    value = (value,) if _is_number(value) else value
    ok = (
        isinstance(value, tuple | list)
        and len(value) in lengths
        and all(_is_number(v) and low <= v <= 1e6 and kind(v) == v for v in value)
    )
    if not ok:
        what = "whole numbers" if kind is int else "numbers"
        wanted = " or ".join(map(str, sorted(set(lengths))))
        raise ConfigError(
            f"Preprocessing.{field} must be {wanted} {what} from {low:g} to 1e+06; found {value!r}"
        )
    return tuple(kind(v) for v in value)
