"""Decode images with TensorFlow operations alone, for tf.data pipelines and for exported graphs.

Gives the pixels that keras_cls.images gives for the formats that
:func:`keras_cls.images.graph_reads` accepts: the same bytes for JPEG and PNG. A file that
TensorFlow cannot decode raises ``tf.errors.InvalidArgumentError`` when the graph runs.
"""

import tensorflow as tf

# An EXIF block stands near the front and has at most 64 KiB; the walk looks no further than this.
_HEADER_BYTES = 1 << 18


def decode_image(data: tf.Tensor, channels: int) -> tf.Tensor:
    """Decode one JPEG, PNG, GIF (first frame) or BMP (24-bit), upright.

    Args:
        data: scalar string, the encoded bytes.
        channels: 3 for RGB, transparent pixels shown on white; 4 for RGBA.

    Returns:
        uint8 ``[height, width, channels]``.
    """
    is_jpeg = _starts_with(data, b"\xff\xd8\xff")
    is_png = _starts_with(data, b"\x89PNG\r\n\x1a\n")
    is_gif = _starts_with(data, b"GIF8")
    is_bmp = _starts_with(data, b"BM")
    known = tf.debugging.Assert(
        is_jpeg | is_png | is_gif | is_bmp,
        ["not a JPEG, PNG, GIF or BMP image; convert it first, as keras_cls.Client does"],
        name="known_format",
    )
    decoders = [
        (is_jpeg, lambda: with_channels(_decode_jpeg(data), channels)),
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


def with_channels(pixels: tf.Tensor, channels: int) -> tf.Tensor:
    """Grey, RGB or RGBA pixels as RGB (3) or RGBA (4); transparent pixels are shown on white.

    Args:
        pixels: uint8 ``[h, w, c]`` with c, known beforehand, of 1, 3 or 4.
        channels: 3 or 4.
    """
    found = pixels.shape[-1]
    if found == 1:
        pixels, found = tf.repeat(pixels, 3, axis=2), 3
    if found == channels:
        return pixels
    if found == 4:
        return _on_white(pixels)
    opaque = tf.fill(tf.concat([tf.shape(pixels)[:2], [1]], 0), tf.constant(255, tf.uint8))
    return tf.concat([pixels, opaque], axis=2)


def exif_orientation(data: tf.Tensor) -> tf.Tensor:
    """The EXIF orientation of a JPEG, int32 1 (upright) to 8; 1 where absent or senseless.

    The rule of :func:`keras_cls.images.orientation`, for the first EXIF block.

    Args:
        data: scalar string, the encoded bytes.
    """
    header = tf.strings.substr(data, 0, _HEADER_BYTES)
    # One scan of the header spares most files the walk from marker to marker. \C is any byte.
    mentions_exif = tf.strings.regex_full_match(header, r"(?s)\C*Exif\x00\x00\C*")
    return tf.cond(
        mentions_exif,
        lambda: _walk_to_orientation(tf.cast(tf.io.decode_raw(header, tf.uint8), tf.int32)),
        lambda: tf.constant(1),
    )


def _decode_jpeg(data: tf.Tensor) -> tf.Tensor:
    # INTEGER_ACCURATE is the DCT that libjpeg, hence Pillow, uses by default.
    image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    return _upright(image, exif_orientation(data))


def _decode_png(data: tf.Tensor, channels: int) -> tf.Tensor:
    # Byte 25 is the colour type: 4 and 6 have alpha; a tRNS chunk gives it to the others.
    transparent = tf.strings.regex_full_match(data, r"(?s)\C{25}[\x04\x06]\C*|\C*tRNS\C*")

    def with_alpha() -> tf.Tensor:
        return with_channels(tf.io.decode_png(data, channels=4), channels)

    return tf.cond(
        transparent,
        with_alpha,
        lambda: with_channels(tf.io.decode_png(data, channels=3), channels),
    )


def _on_white(rgba: tf.Tensor) -> tf.Tensor:
    """The integer rule of keras_cls.images, in TensorFlow."""
    values = tf.cast(rgba, tf.int32)
    colour, cover = values[..., :3], values[..., 3:]
    return tf.cast((colour * cover + 255 * (255 - cover) + 127) // 255, tf.uint8)


def _upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    def turned() -> tf.Tensor:
        out = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
        mirrored = tf.reduce_any(orientation == [2, 3, 6, 7])
        out = tf.cond(mirrored, lambda: tf.reverse(out, [1]), lambda: out)
        upside_down = tf.reduce_any(orientation == [3, 4, 7, 8])
        return tf.cond(upside_down, lambda: tf.reverse(out, [0]), lambda: out)

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


def _starts_with(data: tf.Tensor, prefix: bytes) -> tf.Tensor:
    return tf.equal(tf.strings.substr(data, 0, len(prefix)), prefix)
