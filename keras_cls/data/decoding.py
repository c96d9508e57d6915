"""Decode images with TensorFlow operations alone, for tf.data pipelines and for exported graphs.

Gives the pixels that keras_cls.images gives for the formats that
:func:`keras_cls.images.graph_reads` accepts: the same bytes for JPEG and PNG. A file that
TensorFlow cannot decode raises ``tf.errors.InvalidArgumentError`` when the graph runs.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from keras_cls.preprocessing import SMALL_PIXELS

# An EXIF block stands near the front and has at most 64 KiB; the walk looks no further than this.
_HEADER_BYTES = 1 << 18
_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_EXIF = r"Exif\x00\x00"
_DCT = "INTEGER_ACCURATE"  # that libjpeg, hence Pillow, uses by default
_REDUCTIONS = (1, 2, 4, 8)
_FEW = 8
# Larger files are not of small images, and take so long that going one by one costs nothing.
_SMALL_BYTES = 1 << 16


def decode_image(data: tf.Tensor, channels: int) -> tf.Tensor:
    """Decode one JPEG, PNG, GIF (first frame) or BMP (24-bit), upright.

    Args:
        data: scalar string, the encoded bytes.
        channels: 3 for RGB, transparent pixels shown on white; 4 for RGBA.

    Returns:
        uint8 ``[height, width, channels]``.
    """
    jpeg = is_jpeg(data)
    is_png = _starts_with(data, _PNG)
    is_gif = _starts_with(data, b"GIF8")
    is_bmp = _starts_with(data, b"BM")
    known = tf.debugging.Assert(
        jpeg | is_png | is_gif | is_bmp,
        ["not a JPEG, PNG, GIF or BMP image; convert it first, as keras_cls.Client does"],
        name="known_format",
    )
    decoders = [
        (jpeg, lambda: with_channels(_decode_jpeg(data), channels)),
        (is_png, lambda: _decode_png(data, channels)),
        (is_gif, lambda: with_channels(tf.io.decode_gif(data)[0], channels)),
    ]
    dependencies = [] if known is None else [known]
    with tf.control_dependencies(dependencies):
        image = tf.case(
            decoders,
            default=lambda: with_channels(tf.io.decode_bmp(data, channels=3), channels),
            exclusive=False,
        )
    return tf.ensure_shape(image, [None, None, channels])


def decode_small_alike(batch: tf.Tensor, channels: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode small images of one size, as one array, if that is what they all are.

    For a small image the operations around the decoder take ten times as long as the decoder; what
    becomes of a whole batch needs them once. Taken are JPEGs without EXIF and PNGs without
    transparency, which come out as from :func:`decode_image`, to the bit.

    Args:
        batch: string ``[N]`` with N >= 1, encoded images.
        channels: 3 or 4, as for :func:`decode_image`.

    Returns:
        Whether all of them are such images, of one size and at most ``SMALL_PIXELS``: bool scalar.
        And where they are, uint8 ``[N, height, width, channels]``.
    """

    def plain() -> tuple[tf.Tensor, tf.Tensor]:
        jpeg = is_jpeg(batch)
        png = _starts_with(batch, _PNG)
        plain_jpeg = jpeg & ~_holds(batch, _EXIF)
        return jpeg, tf.reduce_all(plain_jpeg | (png & ~png_has_alpha(batch)))

    small = tf.reduce_max(tf.strings.length(batch)) <= _SMALL_BYTES
    jpeg, known = tf.cond(small, plain, lambda: (tf.fill(tf.shape(batch), False), False))
    size = tf.cond(
        known,
        lambda: tf.cond(jpeg[0], lambda: _jpeg_size(batch[0]), lambda: _png_size(batch[0])),
        lambda: tf.zeros([2], tf.int32),
    )
    rows, columns = size[0], size[1]
    known &= (rows > 0) & (columns > 0) & (rows <= SMALL_PIXELS // tf.maximum(columns, 1))
    # What a header says is not believed beyond that: the blank is made before anything is decoded.
    rows, columns = tf.where(known, rows, 0), tf.where(known, columns, 0)
    blank = tf.zeros([rows, columns, 3], tf.uint8)

    def decoded(image: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        data, jpeg = image
        pixels = tf.cond(
            jpeg, lambda: _plain_jpeg(data), lambda: tf.io.decode_png(data, channels=3)
        )
        same = tf.reduce_all(tf.shape(pixels)[:2] == size)
        return tf.cond(same, lambda: pixels, lambda: blank), same

    def together() -> tuple[tf.Tensor, tf.Tensor]:
        signature = (tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([], tf.bool))
        pixels, same = tf.map_fn(decoded, (batch, jpeg), fn_output_signature=signature)
        return tf.reduce_all(same), pixels

    alike, pixels = tf.cond(known, together, lambda: (False, blank[None]))
    return alike, with_channels(pixels, channels)


def with_channels(pixels: tf.Tensor, channels: int) -> tf.Tensor:
    """Grey, RGB or RGBA pixels as RGB (3) or RGBA (4); transparent pixels are shown on white.

    Args:
        pixels: uint8 ``[..., c]`` with c, known beforehand, of 1, 3 or 4.
        channels: 3 or 4.
    """
    found = pixels.shape[-1]
    if found == 1:
        pixels, found = tf.repeat(pixels, 3, axis=-1), 3
    if found == channels:
        return pixels
    if found == 4:
        return _on_white(pixels)
    opaque = tf.fill(tf.concat([tf.shape(pixels)[:-1], [1]], 0), tf.constant(255, tf.uint8))
    return tf.concat([pixels, opaque], axis=-1)


def exif_orientation(data: tf.Tensor) -> tf.Tensor:
    """The EXIF orientation of a JPEG, int32 1 (upright) to 8; 1 where absent or senseless.

    The rule of :func:`keras_cls.images.orientation`, for the first EXIF block.

    Args:
        data: scalar string, the encoded bytes.
    """
    header = tf.strings.substr(data, 0, _HEADER_BYTES)
    # One scan of the header spares most files the walk from marker to marker.
    return tf.cond(
        _holds(header, _EXIF),
        folded(lambda: _walk_to_orientation(tf.cast(tf.io.decode_raw(header, tf.uint8), tf.int32))),
        lambda: tf.constant(1),
    )


def folded(branch: Callable[[], tf.Tensor]) -> Callable[[], tf.Tensor]:
    """A branch of a condition that is seldom taken, and costs nothing where it is not.

    Others are unfolded into the graph around them, which passes by each of their operations.
    """
    return tf.function(branch, autograph=False, experimental_attributes={"_noinline": True})


class JpegHeader(NamedTuple):
    """What a JPEG says of itself.

    Attributes:
        size: int32 [2], height and width as stored.
        orientation: int32, 1 (upright) to 8.
    """

    size: tf.Tensor
    orientation: tf.Tensor

    @property
    def upright_size(self) -> tf.Tensor:
        """int32 [2], height and width as shown."""
        return tf.where(self.orientation >= 5, self.size[::-1], self.size)


class JpegPart(NamedTuple):
    """A part of an image, perhaps at a reduced size.

    Attributes:
        pixels: uint8 [h, w, 3], upright.
        corner: float32 [2], where its first pixel begins in the whole image, in pixels of that.
        reduction: float32, how many pixels of the whole image one of its pixels is across.
    """

    pixels: tf.Tensor
    corner: tf.Tensor
    reduction: tf.Tensor


def is_jpeg(data: tf.Tensor) -> tf.Tensor:
    """Whether encoded bytes begin as a JPEG does; bool of the data's shape."""
    return _starts_with(data, _JPEG)


def jpeg_header(data: tf.Tensor) -> JpegHeader:
    """Size and orientation of a JPEG, without decoding it."""
    return JpegHeader(_jpeg_size(data), exif_orientation(data))


def decode_jpeg_part(
    data: tf.Tensor, header: JpegHeader, begin: tf.Tensor, end: tf.Tensor, coarsest: tf.Tensor
) -> JpegPart:
    """Decode no more of a JPEG than is needed; of these pixels, those that a whole one would have.

    Args:
        data: scalar string, the encoded bytes.
        header: what :func:`jpeg_header` says of it.
        begin: float32 [2], the corner of the part, in pixels of the upright image.
        end: float32 [2], the opposite corner.
        coarsest: float32, the largest reduction that is allowed; the transform that JPEG is made
            of gives an image at 1/2, 1/4 and 1/8 of its size, for less work.

    Returns:
        A part that covers what was asked for, where it lies within the image.
    """
    upright_size = tf.cast(header.upright_size, tf.float32)
    turn = _Turn.of(header.orientation)
    corners = turn.to_stored(tf.stack([begin, end]), upright_size)
    reductions = tf.constant(_REDUCTIONS, tf.float32)
    choice = tf.maximum(tf.math.count_nonzero(reductions <= coarsest, dtype=tf.int32) - 1, 0)
    reduction = tf.gather(reductions, choice)
    size = tf.cast(tf.math.ceil(tf.cast(header.size, tf.float32) / reduction), tf.int32)
    first, last = covering(
        size, tf.reduce_min(corners, 0) / reduction, tf.reduce_max(corners, 0) / reduction
    )
    window = tf.concat([first, last - first], 0)

    def decoded(ratio: int) -> tf.Tensor:
        return tf.image.decode_and_crop_jpeg(data, window, 3, ratio, dct_method=_DCT)

    branches = [lambda ratio=ratio: decoded(ratio) for ratio in _REDUCTIONS]
    pixels = _upright(tf.switch_case(choice, branches), header.orientation)
    covered = tf.cast(tf.stack([first, last]), tf.float32) * reduction
    return JpegPart(pixels, tf.reduce_min(turn.to_upright(covered, upright_size), 0), reduction)


def covering(size: tf.Tensor, begin: tf.Tensor, end: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The pixels, int32 [2] from and to, of an image of ``size`` that hold ``begin`` to ``end``.

    Where colours are stored at half the size, those at the border of what is decoded are not
    smoothed with their neighbours beyond it: two pixels more make up for that. Of a few columns
    none would be smoothed.
    """
    first = tf.cast(tf.floor(begin), tf.int32) - 2
    last = tf.cast(tf.math.ceil(end), tf.int32) + 2
    first = tf.clip_by_value(first, 0, tf.maximum(size - _FEW, 0))
    return first, tf.minimum(tf.maximum(last, first + _FEW), size)


class _Turn(NamedTuple):
    """What turns a stored image upright: transposed first, then mirrored and turned over; bools."""

    transposed: tf.Tensor
    mirrored: tf.Tensor
    upside_down: tf.Tensor

    @classmethod
    def of(cls, orientation: tf.Tensor) -> "_Turn":
        return cls(
            orientation >= 5,
            tf.reduce_any(orientation == [2, 3, 6, 7]),
            tf.reduce_any(orientation == [3, 4, 7, 8]),
        )

    def to_upright(self, points: tf.Tensor, upright_size: tf.Tensor) -> tf.Tensor:
        """Places [n, 2] of the stored image as places of the upright one."""
        points = tf.where(self.transposed, points[:, ::-1], points)
        return tf.where([self.upside_down, self.mirrored], upright_size - points, points)

    def to_stored(self, points: tf.Tensor, upright_size: tf.Tensor) -> tf.Tensor:
        """The inverse of :meth:`to_upright`."""
        points = tf.where([self.upside_down, self.mirrored], upright_size - points, points)
        return tf.where(self.transposed, points[:, ::-1], points)


def _decode_jpeg(data: tf.Tensor) -> tf.Tensor:
    return _upright(_plain_jpeg(data), exif_orientation(data))


def _plain_jpeg(data: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_jpeg(data, channels=3, dct_method=_DCT)


def _jpeg_size(data: tf.Tensor) -> tf.Tensor:
    """Height and width, int32 [2]."""
    return tf.io.extract_jpeg_shape(data)[:2]


def _png_size(data: tf.Tensor) -> tf.Tensor:
    """Height and width as the header has them, int32 [2]; zeros where there is no header."""
    header = tf.strings.substr(data, 0, 24)
    whole = tf.equal(tf.strings.length(header), 24)
    numbers = tf.where(
        whole, tf.strings.substr(tf.strings.join([header, "\0" * 24]), 16, 8), "\0" * 8
    )
    return tf.ensure_shape(tf.io.decode_raw(numbers, tf.int32, little_endian=False), [2])[::-1]


def _decode_png(data: tf.Tensor, channels: int) -> tf.Tensor:
    def with_alpha() -> tf.Tensor:
        return with_channels(tf.io.decode_png(data, channels=4), channels)

    return tf.cond(
        png_has_alpha(data),
        with_alpha,
        lambda: with_channels(tf.io.decode_png(data, channels=3), channels),
    )


def png_has_alpha(data: tf.Tensor) -> tf.Tensor:
    """Whether each PNG may have transparent pixels; bool of the data's shape."""
    # Byte 25 is the colour type: 4 and 6 have alpha; a tRNS chunk gives it to the others.
    start = tf.strings.substr(data, 0, 26)
    return tf.strings.regex_full_match(start, r"(?s)\C{25}[\x04\x06]") | _holds(data, "tRNS")


def _on_white(rgba: tf.Tensor) -> tf.Tensor:
    """The integer rule of keras_cls.images, in TensorFlow."""
    values = tf.cast(rgba, tf.int32)
    colour, cover = values[..., :3], values[..., 3:]
    return tf.cast((colour * cover + 255 * (255 - cover) + 127) // 255, tf.uint8)


def _upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    def turned() -> tf.Tensor:
        turn = _Turn.of(orientation)
        out = tf.cond(turn.transposed, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
        out = tf.cond(turn.mirrored, lambda: tf.reverse(out, [1]), lambda: out)
        return tf.cond(turn.upside_down, lambda: tf.reverse(out, [0]), lambda: out)

    return tf.cond(orientation > 1, turned, lambda: image)


def _walk_to_orientation(header: tf.Tensor) -> tf.Tensor:
    """Walk a JPEG's segments to its EXIF block and read it. ``header``: int32 [n] bytes."""
    size = tf.size(header)
    padded = tf.concat([header, tf.zeros([16], tf.int32)], 0)  # reads past the end find zeros
    # What is not 0xFF, and 0xFF before 0xFF or 0, is filling between the segments.
    starts_marker = (padded[:-1] == 0xFF) & (padded[1:] != 0xFF) & (padded[1:] != 0)
    markers = tf.concat([tf.cast(tf.where(starts_marker)[:, 0], tf.int32), [size]], 0)

    def marker_from(at: tf.Tensor) -> tf.Tensor:
        """The place of the first marker at or behind ``at``, or ``size``."""
        return markers[tf.searchsorted(markers, [tf.minimum(at, size)])[0]]

    def end(at: tf.Tensor) -> tf.Tensor:
        """Where the segment ends; markers 0xD0 to 0xD9 stand alone."""
        alone = (padded[at + 1] >= 0xD0) & (padded[at + 1] <= 0xD9)
        length = padded[at + 2] * 256 + padded[at + 3]
        return at + 2 + tf.where(alone, 0, tf.maximum(length, 2))

    def is_exif(at: tf.Tensor) -> tf.Tensor:
        signature = tf.gather(padded[at : at + 10], [0, 1, *range(4, 10)])
        return tf.reduce_all(signature == [0xFF, 0xE1, *b"Exif", 0, 0]) & (end(at) >= at + 10)

    def goes_on(at: tf.Tensor) -> tf.Tensor:
        start_of_scan = tf.equal(padded[at + 1], 0xDA)
        return (at < size) & ~start_of_scan & ~is_exif(at)

    (at,) = tf.while_loop(goes_on, lambda at: [marker_from(end(at))], [marker_from(2)])
    return tf.cond(is_exif(at), lambda: _tiff_orientation(header[at + 10 : end(at)]), lambda: 1)


def _tiff_orientation(block: tf.Tensor) -> tf.Tensor:
    """Read tag 0x0112 of the first image directory of a TIFF header. ``block``: int32 [n] bytes."""
    size = tf.size(block)
    padded = tf.concat([block, tf.zeros([8], tf.int32)], 0)
    little_endian = tf.reduce_all(padded[:4] == [*b"II*", 0])
    big_endian = tf.reduce_all(padded[:4] == [*b"MM", 0, *b"*"])

    def number(at: tf.Tensor, width: int) -> tf.Tensor:
        """Unsigned, of 2 or 4 bytes, at each of the given places, which lie inside; int64."""
        digits = tf.gather(padded, tf.expand_dims(at, -1) + tf.range(width))
        digits = tf.where(little_endian, tf.reverse(digits, [-1]), digits)
        powers = tf.constant([256**i for i in reversed(range(width))], tf.int64)
        return tf.reduce_sum(tf.cast(digits, tf.int64) * powers, -1)

    directory = tf.cast(tf.minimum(number(tf.constant(4), 4), tf.cast(size, tf.int64)), tf.int32)
    room = tf.maximum((size - directory - 2) // 12, 0)
    count = tf.minimum(tf.cast(number(directory, 2), tf.int32), room)
    entries = directory + 2 + 12 * tf.range(count)
    values = number(entries + 8, 2)
    sound = (
        (number(entries, 2) == 0x0112)
        & (number(entries + 2, 2) == 3)  # SHORT
        & (number(entries + 4, 4) == 1)
        & (values >= 1)
        & (values <= 8)
    )
    found = tf.concat([tf.boolean_mask(values, sound), [1]], 0)[0]
    return tf.where(little_endian | big_endian, tf.cast(found, tf.int32), 1)


def _holds(data: tf.Tensor, pattern: str) -> tf.Tensor:
    """Whether a pattern is somewhere in the bytes; bool of the data's shape."""
    # To replace it is many times faster than to match all that stands around it.
    without = tf.strings.regex_replace(data, pattern, "", replace_global=False)
    return tf.strings.length(without) < tf.strings.length(data)


def _starts_with(data: tf.Tensor, prefix: bytes) -> tf.Tensor:
    return tf.equal(tf.strings.substr(data, 0, len(prefix)), prefix)
