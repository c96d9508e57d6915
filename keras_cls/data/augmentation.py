"""Random variations of training images, as stateless TensorFlow operations.

The same seed and place give the same variation, whatever the order or the number of threads, and
whether an image is varied alone or in a batch: a resumed run sees what the undisturbed one would
have seen.

An image goes through a *view*, which may need no more of it than a part, to a *canvas*: the input
and, around it, as much as it may be shifted. What follows works on the canvas.
"""

from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from keras_cls.data.draws import Draws, Purpose, Seen
from keras_cls.data.rand_augment import RandAugment, rand_augment
from keras_cls.preprocessing import Preprocessing, placement, resample

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
        reflect: let the mirror image of the input come in at the border instead of black.
        flip: mirror left to right with probability one half.
        alternating_flip: mirror every image in every second epoch, half of the images in the
            first (arXiv:2404.00498, section 3.6); images without an index (TFRecord files, a
            ``tf.data.Dataset`` of the caller's) as by ``flip``.
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
    reflect: bool = False
    flip: bool = False
    alternating_flip: bool = False
    rand_augment: RandAugment | None = None
    jitter: float = 0.0
    pca_color: float = 0.0
    erase: float = 0.0

    @property
    def random_scale(self) -> bool:
        """Whether each image is resized by a factor of its own, whatever its size."""
        return self.random_crop is not None or self.scale_jitter is not None

    @property
    def works_on_batches(self) -> bool:
        """Whether images of one size can be varied all at once."""
        return not self.random_scale and self.rand_augment is None

    @property
    def mirrors(self) -> bool:
        """Whether some images are mirrored."""
        return self.flip or self.alternating_flip

    @property
    def margin(self) -> int:
        """How many pixels the canvas is wider than the input, on each side."""
        return 0 if self.reflect else self.shift

    def canvas(self, rule: Preprocessing) -> tuple[int, int]:
        """Height and width of the canvas."""
        return rule.size[0] + 2 * self.margin, rule.size[1] + 2 * self.margin


class View(NamedTuple):
    """How an image comes to lie on the canvas: resized by ``scale``, cut out at ``offset``.

    Both float32 ``[2]``, rows first; the offset counts pixels of the resized image.
    """

    scale: tf.Tensor
    offset: tf.Tensor

    def of_part(self, corner: tf.Tensor, reduction: tf.Tensor | float = 1.0) -> "View":
        """The same view of a part of the image that begins at ``corner`` and is made smaller."""
        return View(self.scale * reduction, self.offset - corner * self.scale)


class Geometry(NamedTuple):
    """What moves the pixels of n images about.

    Attributes:
        part: float32 [n, 4], numbers in 0..1 from which a random part is made.
        corner: int32 [n, 2], where on its canvas each image begins; beyond it, if reflected.
        mirrored: bool [n], whether each is mirrored, where images are.
    """

    part: tf.Tensor
    corner: tf.Tensor
    mirrored: tf.Tensor

    def of(self, image: int) -> "Geometry":
        """One image's, without the first axis."""
        return Geometry(*(numbers[image] for numbers in self))


def augment(
    image: tf.Tensor,
    rule: Preprocessing,
    augmentation: Augmentation,
    seed: int,
    place: tf.Tensor | int,
    seen: Seen | None = None,
) -> tf.Tensor:
    """A random variation of one image.

    Args:
        image: uint8 ``[h, w, rule.image_channels]``, decoded.
        rule: the network's preprocessing.
        augmentation: what to vary.
        seed: of the whole run.
        place: int64 scalar, the image's place in the run.
        seen: which image it is; None where it has no index.

    Returns:
        float32 ``[H, W, rule.image_channels]`` on the 0..255 scale, not normalized yet.
    """
    draws = Draws(seed, tf.convert_to_tensor(place, tf.int64), 1, seen)
    geometry = draw_geometry(augmentation, draws).of(0)
    view = view_of(tf.shape(image)[:2], rule, augmentation, geometry)
    canvas = on_canvas(image, rule, augmentation, view)
    return vary_canvas(canvas, rule, augmentation, geometry, draws)


def augment_batch(
    images: tf.Tensor,
    rule: Preprocessing,
    augmentation: Augmentation,
    seed: int,
    first: tf.Tensor | int,
    seen: Seen | None = None,
) -> tf.Tensor:
    """What :func:`augment` makes of images of one size at consecutive places, all at once.

    Args:
        images: uint8 ``[n, h, w, rule.image_channels]`` of a shape known beforehand.
        rule: the network's preprocessing.
        augmentation: what to vary; it must ``works_on_batches``.
        seed: of the whole run.
        first: int64 scalar, the first image's place in the run.
        seen: which images they are; None where they have no index.

    Returns:
        float32 ``[n, H, W, rule.image_channels]`` on the 0..255 scale, not normalized yet.
    """
    count, height, width, _ = images.shape
    draws = Draws(seed, tf.convert_to_tensor(first, tf.int64), count, seen)
    with tf.init_scope():
        scale, offset = (part.numpy() for part in _placement_of([height, width], rule))
    offset -= augmentation.margin
    size = augmentation.canvas(rule)
    if scale.tolist() == [1, 1]:  # the pixels stay as they are, and small
        canvas = _cut_out(images, offset.astype(int).tolist(), size)
    else:
        canvas = resample(images, rule, size, tf.constant(scale), tf.constant(offset))
    geometry = draw_geometry(augmentation, draws)
    out = tf.cast(_moved_and_mirrored(canvas, rule, augmentation, geometry), tf.float32)
    return _vary_colors(out, augmentation, draws)


def draw_geometry(augmentation: Augmentation, draws: Draws) -> Geometry:
    """The random numbers of what moves pixels about."""
    numbers = draws.uniform(Purpose.GEOMETRY, 8)
    shift = augmentation.shift
    corner = tf.cast(numbers[:, 4:6] * (2 * shift + 1), tf.int32) + augmentation.margin - shift
    turns = draws.turns() if augmentation.alternating_flip else None
    mirrored = numbers[:, 6] < 0.5 if turns is None else turns
    return Geometry(part=numbers[:, :4], corner=corner, mirrored=mirrored)


def view_of(
    size: tf.Tensor, rule: Preprocessing, augmentation: Augmentation, geometry: Geometry
) -> View:
    """The view of one image of that size, int [2], height first."""
    part = geometry.part
    if augmentation.random_crop is not None:
        view = _random_crop(size, rule, augmentation.random_crop, augmentation.aspect, part)
    elif augmentation.scale_jitter is not None:
        view = _jittered_scale(size, rule, augmentation.scale_jitter, part)
    else:
        view = _placement_of(size, rule)
    return View(view.scale, view.offset - augmentation.margin)


def on_canvas(
    image: tf.Tensor, rule: Preprocessing, augmentation: Augmentation, view: View
) -> tf.Tensor:
    """One image, or a part of it, on its canvas: uint8 ``[h, w, c]`` -> float32."""
    return resample(image[None], rule, augmentation.canvas(rule), view.scale, view.offset)[0]


def vary_canvas(
    canvas: tf.Tensor,
    rule: Preprocessing,
    augmentation: Augmentation,
    geometry: Geometry,
    draws: Draws,
) -> tf.Tensor:
    """One canvas, float32 ``[., ., c]``, to a varied image ``[H, W, c]``."""
    out = canvas
    if augmentation.shift:
        for axis, side in enumerate(rule.size):
            pixels = _within(tf.range(side) + geometry.corner[axis], canvas.shape[axis])
            out = tf.gather(out, pixels, axis=axis)
    if augmentation.mirrors:
        out = tf.cond(geometry.mirrored, lambda: tf.reverse(out, [1]), lambda: out)
    out = tf.ensure_shape(out, (*rule.size, rule.image_channels))
    if augmentation.rand_augment is not None:
        seed = draws.seeds(Purpose.OPERATIONS)[0]
        color = rand_augment(out[..., :3], augmentation.rand_augment, seed)
        out = tf.concat([color, out[..., 3:]], axis=-1)
    return _vary_colors(out[None], augmentation, draws)[0]


# -------------------------------------------------------------------------------- geometry


def _moved_and_mirrored(
    canvas: tf.Tensor, rule: Preprocessing, augmentation: Augmentation, geometry: Geometry
) -> tf.Tensor:
    """[n, ., ., c] -> [n, H, W, c]: each image's part of its canvas, by one look-up of pixels."""
    if not augmentation.shift and not augmentation.mirrors:
        return canvas
    count, rows, columns, channels = canvas.shape
    down, across = (tf.range(side)[None] for side in rule.size)
    if augmentation.mirrors:
        across = tf.where(geometry.mirrored[:, None], across[:, ::-1], across)
    down = _within(down + geometry.corner[:, :1], rows)
    across = _within(across + geometry.corner[:, 1:], columns)
    image = tf.range(count)[:, None, None]
    pixel = (image * rows + down[:, :, None]) * columns + across[:, None, :]
    return tf.gather(tf.reshape(canvas, [-1, channels]), pixel)


def _within(places: tf.Tensor, side: int) -> tf.Tensor:
    """Places on a side of 0..side - 1; those beyond it are reflected, the border not repeated."""
    return tf.abs(side - 1 - tf.abs(side - 1 - places))


def _cut_out(images: tf.Tensor, corner: list[int], size: tuple[int, int]) -> tf.Tensor:
    """A part of each image [n, h, w, c], with black where it sticks out."""
    spans, padding = [], []
    for begin, length, there in zip(corner, size, images.shape[1:3], strict=True):
        spans.append(slice(max(begin, 0), max(begin + length, 0)))
        padding.append([max(-begin, 0), max(begin + length - there, 0)])
    return tf.pad(images[:, spans[0], spans[1]], [[0, 0], *padding, [0, 0]])


def _placement_of(size: tf.Tensor | list[int], rule: Preprocessing) -> View:
    """:func:`~keras_cls.preprocessing.placement` of an image of which the size alone is known."""
    without_channels = tf.zeros(tf.concat([size, [0]], 0), tf.uint8)  # hence without a pixel
    return View(*placement(without_channels, rule))


def _random_crop(
    size: tf.Tensor,
    rule: Preprocessing,
    area: tuple[float, float],
    aspect: tuple[float, float],
    numbers: tf.Tensor,
) -> View:
    """A random part; one that would stick out is cut to the image."""
    size = tf.cast(size, tf.float32)
    share, shape, y, x = tf.unstack(numbers)
    side = tf.clip_by_value(_sides(size, area, aspect, share, shape), 1.0, size)
    corner = (size - side) * tf.stack([y, x])
    scale = tf.constant(rule.size, tf.float32) / side
    return View(scale, corner * scale)


def _jittered_scale(
    size: tf.Tensor, rule: Preprocessing, shorter: tuple[float, float], numbers: tf.Tensor
) -> View:
    size = tf.cast(size, tf.float32)
    drawn, y, x, _ = tf.unstack(numbers)
    side = (shorter[0] + drawn * (shorter[1] - shorter[0])) * min(rule.size)
    target = tf.constant(rule.size, tf.float32)
    # Never smaller than the input: a long input is covered too.
    scale = tf.maximum(side / tf.reduce_min(size), tf.reduce_max(target / size))
    offset = tf.floor((size * scale - target) * tf.stack([y, x]))
    return View(tf.stack([scale, scale]), offset)


def _sides(
    size: tf.Tensor,
    area: tuple[float, float],
    aspect: tuple[float, float],
    share: tf.Tensor,
    shape: tf.Tensor,
) -> tf.Tensor:
    """Heights and widths of rectangles, [..., 2]; their areas are uniform, their aspects in logs.

    ``share`` and ``shape`` are random numbers in 0..1, of shape [...].
    """
    low, high = tf.math.log(aspect[0]), tf.math.log(aspect[1])
    ratio = tf.exp(low + shape * (high - low))
    covered = (area[0] + share * (area[1] - area[0])) * size[0] * size[1]
    return tf.sqrt(covered[..., None] * tf.stack([1 / ratio, ratio], axis=-1))


# --------------------------------------------------------------------------------- colours


def _vary_colors(images: tf.Tensor, augmentation: Augmentation, draws: Draws) -> tf.Tensor:
    """Images float32 [n, H, W, 3 | 4]; the last channel of four is left alone but by erasing."""
    if augmentation.jitter or augmentation.pca_color:
        numbers = draws.uniform(Purpose.COLOR, 8)
        color, alpha = images[..., :3], images[..., 3:]
        if augmentation.jitter:
            color = _color_jitter(color, augmentation.jitter, numbers[:, :3])
        if augmentation.pca_color:
            color = _pca_color(color, augmentation.pca_color, numbers[:, 3:6])
        images = tf.concat([color, alpha], axis=-1)
    if augmentation.erase:
        images = _erase(images, augmentation.erase, draws)
    return images


def _color_jitter(images: tf.Tensor, amount: float, numbers: tf.Tensor) -> tf.Tensor:
    factors = 1 + amount * (2 * numbers - 1)
    brightness, contrast, saturation = tf.unstack(factors[:, :, None, None, None], axis=1)
    images = tf.clip_by_value(images * brightness, 0.0, 255.0)
    mean = tf.reduce_mean(tf.image.rgb_to_grayscale(images), axis=(1, 2, 3), keepdims=True)
    images = tf.clip_by_value(mean + (images - mean) * contrast, 0.0, 255.0)
    grey = tf.image.rgb_to_grayscale(images)
    return tf.clip_by_value(grey + (images - grey) * saturation, 0.0, 255.0)


def _pca_color(images: tf.Tensor, deviation: float, numbers: tf.Tensor) -> tf.Tensor:
    # Uniform numbers through the inverse of the normal distribution; it is infinite at 0.
    normal = tf.math.ndtri(tf.maximum(numbers, 2.0**-24))
    moved = tf.linalg.matvec(
        tf.constant(_COLOR_EIGENVECTORS), deviation * normal * tf.constant(_COLOR_EIGENVALUES)
    )
    return tf.clip_by_value(images + 255 * moved[:, None, None], 0.0, 255.0)


def _erase(images: tf.Tensor, probability: float, draws: Draws) -> tf.Tensor:
    chance, share, shape, y, x = tf.unstack(draws.uniform(Purpose.ERASING, 5), axis=1)
    height, width, channels = images.shape[1:]
    size = tf.constant([height, width], tf.float32)
    side = tf.round(_sides(size, _ERASED_AREA, _ERASED_ASPECT, share, shape))
    side = tf.clip_by_value(side, 1.0, size)
    begin = tf.floor((size - side + 1) * tf.stack([y, x], axis=-1))
    end = tf.where((chance < probability)[:, None], begin + side, begin)

    def within(cells: int, axis: int) -> tf.Tensor:
        """bool [n, cells]."""
        places = tf.range(cells, dtype=tf.float32)
        return (places >= begin[:, axis, None]) & (places < end[:, axis, None])

    inside = within(height, 0)[:, :, None] & within(width, 1)[:, None, :]
    noise = 255 * draws.uniform(Purpose.NOISE, height, width, channels)
    return tf.where(inside[..., None], noise, images)
