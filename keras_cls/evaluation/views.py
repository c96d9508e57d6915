"""Views of an image: which parts of it, at which sizes, the published protocols average over.

A protocol is data. :func:`crop_views` and :func:`whole_views` turn it and one decoded image into a
stack of views, each by the one operation that resizes everywhere
(:func:`keras_cls.preprocessing.place`): straight from the image, so a crop of a rescaled image is
never computed twice. Sizes are published for inputs of 224 pixels; for other inputs they grow in
proportion (256 becomes 342 for an input of 299).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import tensorflow as tf

from keras_cls import preprocessing
from keras_cls.errors import ConfigError
from keras_cls.preprocessing import Preprocessing, normalize, place, placement

_PUBLISHED_INPUT = 224

Halves: TypeAlias = tuple[int, int]
"""A place along the height and the width: 0 the beginning, 1 the middle, 2 the end."""

CENTRE: Halves = (1, 1)
CORNERS: tuple[Halves, ...] = ((0, 0), (0, 2), (2, 0), (2, 2))


@dataclass(frozen=True)
class CropProtocol:
    """Views of the network's input size; their probabilities are averaged.

    Attributes:
        name: what results call it.
        source: where it is published, in the words that matter.
        places: where in each frame the crops lie.
        whole_frame: also the frame itself, resized to the input.
        mirrored: also the mirror image of each view, left and right exchanged.
        frames: where the frames lie along the image's longer side: 0, 1, 2 as in ``Halves``. A
            frame is the square (of the input's shape, in general) that the resized image just
            covers. None: the resized image is one frame.
        sides: the frames' shorter sides, for an input of 224; empty: the frame of the classifier's
            own preprocessing.
    """

    name: str
    source: str
    places: tuple[Halves, ...] = (CENTRE,)
    whole_frame: bool = False
    mirrored: bool = False
    frames: tuple[int, ...] | None = (1,)
    sides: tuple[int, ...] = ()

    def count(self, scales: Sequence[int] = ()) -> int:
        """The number of views of an image, at these scales where there are any."""
        in_frame = len(self.places) + self.whole_frame
        frames = 1 if self.frames is None else len(self.frames)
        scale_count = len(scales) or len(self.sides) or 1
        return scale_count * frames * in_frame * (2 if self.mirrored else 1)

    def to_dict(self) -> dict[str, Any]:
        """What sets it apart, as JSON's own types."""
        return {key: _plain(value) for key, value in asdict(self).items() if key != "source"}


@dataclass(frozen=True)
class DenseProtocol:
    """The network over the whole image, wherever it fits; its scores are averaged.

    Attributes:
        name: what results call it.
        source: where it is published, in the words that matter.
        mirrored: also the mirror image; probabilities of both are averaged.
        step: the image's longer side is cut, both ends alike, to a multiple of it. So a few dozen
            sizes stand for all images; the networks' strides are 32 and less, and what is cut off
            hardly reaches their last map.
    """

    name: str
    source: str
    mirrored: bool = True
    step: int = 32

    def to_dict(self) -> dict[str, Any]:
        """What sets it apart, as JSON's own types."""
        return {key: _plain(value) for key, value in asdict(self).items() if key != "source"}


Protocol: TypeAlias = CropProtocol | DenseProtocol

ONE_CROP = CropProtocol("1 crop", "the classifier's own preprocessing")
TEN_CROPS = CropProtocol(
    "10 crops",
    "AlexNet, section 4.1: five 224 x 224 patches (the four corner patches and the center patch) "
    "as well as their horizontal reflections; section 2: of the central 256 x 256 patch",
    places=(CENTRE, *CORNERS),
    mirrored=True,
)
TEN_CROPS_OF_IMAGE = CropProtocol(
    "10 crops of the whole image",
    "ResNet, section 3.4: the standard 10-crop testing; as in its release and in torchvision's "
    "TenCrop, the corners are those of the resized image",
    places=(CENTRE, *CORNERS),
    mirrored=True,
    frames=None,
)
CROPS_144 = CropProtocol(
    "144 crops",
    "GoogLeNet, section 7: 4 scales where the shorter dimension is 256, 288, 320 and 352; the "
    "left, center and right square (in the case of portrait images, top, center and bottom); for "
    "each square the 4 corners and the center 224 x 224 crop as well as the square resized to "
    "224 x 224, and their mirrored versions: 4 x 3 x 6 x 2",
    places=(CENTRE, *CORNERS),
    whole_frame=True,
    mirrored=True,
    frames=(0, 1, 2),
    sides=(256, 288, 320, 352),
)
DENSE = DenseProtocol(
    "dense",
    "VGG, section 3.2: the fully-convolutional net is applied to the whole (uncropped) image; the "
    "class score map is spatially averaged; the soft-max class posteriors of the original and "
    "flipped images are averaged. ResNet, section 3.4: averaged at multiple scales",
)

PROTOCOLS: dict[int | str, Protocol] = {1: ONE_CROP, 10: TEN_CROPS, 144: CROPS_144, "dense": DENSE}
"""What ``crops`` may be."""


def protocol_for(crops: int | str | Protocol) -> Protocol:
    """The protocol that ``crops`` names, or is.

    Raises:
        ConfigError: there is none; the message lists those that there are.
    """
    if isinstance(crops, CropProtocol | DenseProtocol):
        return crops
    is_key = isinstance(crops, int | str) and not isinstance(crops, bool)
    if not is_key or crops not in PROTOCOLS:
        raise ConfigError(f"crops must be 1, 10, 144 or 'dense'; found {crops!r}")
    return PROTOCOLS[crops]


def checked_scales(scales: Sequence[int] | None) -> tuple[int, ...]:
    """Shorter sides in pixels; empty where none are given.

    Raises:
        ConfigError: they are not distinct whole numbers.
    """
    if scales is None:
        return ()
    found = tuple(scales) if isinstance(scales, Sequence) else (scales,)
    whole = [isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in found]
    if not found or isinstance(scales, str) or not all(whole) or len(set(found)) < len(found):
        raise ConfigError(
            f"scales must be distinct shorter sides in pixels, such as (256, 384); found {scales!r}"
        )
    return found


def sides_of(protocol: Protocol, rule: Preprocessing, scales: Sequence[int] = ()) -> list[int]:
    """The shorter sides to which images are resized, in pixels; empty for the rule's own frame.

    Raises:
        ConfigError: a scale is smaller than the crops that are to be taken from it.
    """
    short = min(rule.size)
    if isinstance(protocol, DenseProtocol):
        return list(scales) or [min(rule.frame)]
    sides = list(scales) or [round(side * short / _PUBLISHED_INPUT) for side in protocol.sides]
    if small := [side for side in sides if side < short]:
        raise ConfigError(
            f"scales: {small[0]} is smaller than the network's input, {short}: take scales of "
            f"{short} or more, or crops='dense'"
        )
    return sides


def crop_views(
    image: tf.Tensor, rule: Preprocessing, protocol: CropProtocol, scales: Sequence[int] = ()
) -> tf.Tensor:
    """All views of one image, the mirrored ones last.

    Args:
        image: uint8 ``[h, w, rule.image_channels]``.
        rule: the classifier's preprocessing; its interpolation serves all views.
        protocol: which views.
        scales: shorter sides of the frames in pixels, instead of the protocol's own.

    Returns:
        float32 ``[V, H, W, rule.image_channels]`` on the 0..255 scale.
    """
    rules = [_at_side(rule, side) for side in sides_of(protocol, rule, scales)] or [rule]
    views = [view for rule_at in rules for view in _views_at(image, rule_at, protocol)]
    stack = tf.stack(views)
    return tf.concat([stack, tf.reverse(stack, [2])], 0) if protocol.mirrored else stack


def whole_views(
    image: tf.Tensor, rule: Preprocessing, protocol: DenseProtocol, side: int
) -> tf.Tensor:
    """The whole image with ``side`` pixels on its shorter side, and its mirror image.

    Returns:
        float32 ``[1 or 2, h, w, rule.image_channels]`` on the 0..255 scale.
    """
    source = tf.shape(image, out_type=tf.int64)[:2]
    resized = tf.maximum(source * side // tf.reduce_min(source), side)
    kept = tf.maximum(resized // protocol.step * protocol.step, tf.minimum(resized, side))
    scale = tf.cast(resized, tf.float32) / tf.cast(source, tf.float32)
    view = tf.raw_ops.ScaleAndTranslate(
        images=image[None],
        size=tf.cast(kept, tf.int32),
        scale=scale,
        translation=-tf.cast((resized - kept) // 2, tf.float32),
        kernel_type=preprocessing.KERNELS[rule.interpolation],
        antialias=True,
    )
    view = tf.ensure_shape(tf.clip_by_value(view, 0.0, 255.0), (1, None, None, image.shape[-1]))
    return tf.concat([view, tf.reverse(view, [2])], 0) if protocol.mirrored else view


def prepared_views(
    image: tf.Tensor, rule: Preprocessing, protocol: Protocol, scales: Sequence[int] = ()
) -> tuple[tf.Tensor, ...]:
    """The views of a decoded image, ready for the network, a stack for each of their sizes.

    Args:
        image: uint8 ``[h, w, rule.image_channels]``.
        rule: the classifier's preprocessing.
        protocol: which views.
        scales: shorter sides in pixels, instead of the protocol's own.

    Returns:
        float32 ``[V, H, W, rule.channels]`` each.
    """
    if isinstance(protocol, CropProtocol):
        return (normalize(crop_views(image, rule, protocol, scales), rule),)
    return tuple(
        normalize(whole_views(image, rule, protocol, side), rule)
        for side in sides_of(protocol, rule, scales)
    )


def _at_side(rule: Preprocessing, side: int) -> Preprocessing:
    """The rule with a frame whose shorter side is ``side``."""
    return replace(rule, crop=min(rule.size) / side)


def _views_at(image: tf.Tensor, rule: Preprocessing, protocol: CropProtocol) -> list[tf.Tensor]:
    """The views in one size of the image, none of them mirrored."""
    scale, _ = placement(image, rule)
    source = tf.cast(tf.shape(image)[:2], tf.float32)
    resized = tf.cast(tf.round(scale * source), tf.int64)
    frame, size = tf.constant(rule.frame, tf.int64), tf.constant(rule.size, tf.int64)
    margin = _margin(rule, protocol)

    views = []
    for along in (None,) if protocol.frames is None else protocol.frames:
        for halves in protocol.places:
            at = tf.constant(halves, tf.int64)
            start = at if along is None else along
            # As in the preprocessing's rule, the larger half of an odd remainder lies behind.
            doubled = (resized - frame) * start + (frame - size) * at + 2 * margin * (at - 1)
            offset = tf.cast(tf.truncatediv(doubled, 2), tf.float32)
            views.append(place(image, rule, scale, offset))
        if protocol.whole_frame:
            start = CENTRE if along is None else (along, along)
            offset = tf.truncatediv((resized - frame) * tf.constant(start, tf.int64), 2)
            shrink = tf.cast(size, tf.float32) / tf.cast(frame, tf.float32)
            views.append(place(image, rule, scale * shrink, tf.cast(offset, tf.float32) * shrink))
    return views


def _margin(rule: Preprocessing, protocol: CropProtocol) -> tf.Tensor:
    """Black pixels around the image that corner crops may take in, int64 ``[2]``.

    Where the classifier sees the whole image, as on CIFAR-10, there is nothing to crop. Networks
    for such images are trained on images padded by an eighth (4 pixels of 32; ResNet, section
    4.2), so the corners are taken of these.
    """
    cropped = rule.frame != rule.size or protocol.places == (CENTRE,)
    return tf.constant([0, 0] if cropped else [side // 8 for side in rule.size], tf.int64)


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
