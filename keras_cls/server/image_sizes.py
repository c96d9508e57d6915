"""Refuse images that would become enormous, from what their first bytes say.

A PNG of a hundred bytes can declare 30,000 x 30,000 pixels, and TensorFlow makes room for all of
them before it finds out that they are not there. Only what the contract calls an image is looked
at: the input ``image_bytes`` of any signature, and the examples of ``classify`` in a model that has
such an input. Other strings are nobody's business here.
"""

import re
import struct
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from keras_cls.contract import (
    EXAMPLE_IMAGE_KEY,
    INPUT_EXAMPLES,
    INPUT_IMAGE_BYTES,
    SIGNATURE_CLASSIFY,
)
from keras_cls.contract.messages import Example
from keras_cls.contract.tensors import STRING
from keras_cls.server.batching import Check
from keras_cls.server.predict import PredictCall
from keras_cls.server.signatures import Signature
from keras_cls.server.status import Code, RequestError

DEFAULT_MAX_IMAGE_PIXELS = 100_000_000
"""Ten thousand by ten thousand, or 48 photos of a telephone: 300 MB once decoded."""

# Of all images of a request together. Blocks of a GIF have 255 bytes each, so these are 50 MB of
# it; they take up to 0.15 s to walk, in which nobody else is answered.
_MOST_PARTS = 200_000
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
_NO_SIZE_IN = (0xC4, 0xC8, 0xCC)  # among the markers C0 to CF, which else begin a frame
_BARE_MARKERS = (0x01, *range(0xD0, 0xD9))
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
_GIF_EXTENSION, _GIF_IMAGE = 0x21, 0x2C


def image_check(signatures: Mapping[str, Signature], max_pixels: int) -> Check | None:
    """What refuses calls with images of more than ``max_pixels`` pixels.

    Args:
        signatures: of the model.
        max_pixels: of one image; those of all frames count where it moves.

    Returns:
        A function that raises RequestError (INVALID_ARGUMENT) for such a call, and returns how
        many pixels the images of others have; None for a model that takes no encoded images, as
        far as its signatures tell.
    """
    if not any(_takes_strings(each, INPUT_IMAGE_BYTES) for each in signatures.values()):
        return None

    def check(call: PredictCall) -> int:
        if _takes_strings(call.signature, INPUT_IMAGE_BYTES):
            images: Iterable[bytes] = call.inputs[INPUT_IMAGE_BYTES].ravel().tolist()
        elif call.signature.name == SIGNATURE_CLASSIFY and INPUT_EXAMPLES in call.inputs:
            images = _images_of(call.inputs[INPUT_EXAMPLES])
        else:
            return 0
        parts = iter(range(_MOST_PARTS))
        total = 0
        for place, image in enumerate(images):
            pixels = image_pixels(image, parts)
            total += pixels
            if pixels > max_pixels:
                raise RequestError(
                    Code.INVALID_ARGUMENT,
                    f"image {place} would have {pixels} pixels, and this server takes {max_pixels} "
                    "at most: send it smaller",
                )
        return total

    return check


def image_pixels(data: bytes, parts: Iterator[int] | None = None) -> int:
    """How many pixels an encoded image declares, of all its frames together.

    Args:
        data: JPEG, PNG, GIF, BMP or WebP, told from the first bytes as TensorFlow does.
        parts: one is taken for each part of a header that is walked; for images that share a
            limit. By default the image has it for itself.

    Returns:
        The number; 0 where there is no header that tells it, and decoding will fail.

    Raises:
        RequestError: INVALID_ARGUMENT, there are so many parts that they are not walked.
    """
    if parts is None:
        parts = iter(range(_MOST_PARTS))
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg_pixels(data, parts)
        if data.startswith(b"\x89PNG"):
            width, height = struct.unpack_from(">II", data, 16)
            return int(width * height)
        if data.startswith(b"GIF8"):
            return _gif_pixels(data, parts)
        if data.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", data, 18)
            return abs(width * height)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp_pixels(data, parts)
    except (struct.error, IndexError):  # it ends too early
        pass
    return 0


def _takes_strings(signature: Signature, alias: str) -> bool:
    spec = signature.inputs.get(alias)
    return spec is not None and spec.data_type == STRING.number


def _images_of(examples: np.ndarray) -> Iterator[bytes]:
    for serialized in examples.ravel().tolist():
        try:
            features = Example.FromString(serialized).features.feature
        except DecodeError:  # the model will say so
            continue
        if EXAMPLE_IMAGE_KEY in features:
            yield from features[EXAMPLE_IMAGE_KEY].bytes_list.value


def _jpeg_pixels(data: bytes, parts: Iterator[int]) -> int:
    """From the frame's header, which stands behind any number of other segments."""
    position = 2
    for _ in parts:
        found = _JPEG_MARKER.search(data, position)  # libjpeg, too, passes over what is none
        if found is None:
            return 0
        position = found.end()
        marker = data[position - 1]
        if 0xC0 <= marker <= 0xCF and marker not in _NO_SIZE_IN:
            height, width = struct.unpack_from(">HH", data, position + 3)
            return int(height * width)
        if marker in (_END_OF_IMAGE, _START_OF_SCAN):
            return 0
        if marker not in _BARE_MARKERS:
            position += struct.unpack_from(">H", data, position)[0]
    raise _too_many_parts()


def _gif_pixels(data: bytes, parts: Iterator[int]) -> int:
    """TensorFlow decodes every frame, each at the size of the largest."""
    frames = 0
    width, height = struct.unpack_from("<HH", data, 6)
    position = 13 + _colour_table(data[10])
    try:
        while data[position] in (_GIF_EXTENSION, _GIF_IMAGE):
            if data[position] == _GIF_IMAGE:
                frame_width, frame_height = struct.unpack_from("<HH", data, position + 5)
                width, height = max(width, frame_width), max(height, frame_height)
                frames += 1
                position += 11 + _colour_table(data[position + 9])
            else:
                position += 2
            while size := data[position]:
                position += size + 1
                if next(parts, None) is None:
                    raise _too_many_parts()
            position += 1
            if next(parts, None) is None:
                raise _too_many_parts()
    except IndexError:  # what came before the end is decoded all the same
        pass
    return frames * width * height


def _colour_table(flags: int) -> int:
    """How many bytes it takes, from the byte that says so."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _webp_pixels(data: bytes, parts: Iterator[int]) -> int:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return int((width & 0x3FFF) * (height & 0x3FFF))
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return int(((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1))
    if kind == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, 24)
        width = (low_width | high_width << 16) + 1
        height = (low_height | high_height << 16) + 1
        return int(width * height) * max(1, _webp_frames(data, parts))
    return 0


def _webp_frames(data: bytes, parts: Iterator[int]) -> int:
    frames, position = 0, 12
    for _ in parts:
        if position + 8 > len(data):
            return frames
        frames += data[position : position + 4] == b"ANMF"
        (size,) = struct.unpack_from("<I", data, position + 4)
        position += 8 + size + (size & 1)
    raise _too_many_parts()


def _too_many_parts() -> RequestError:
    return RequestError(
        Code.INVALID_ARGUMENT,
        f"the headers of a request's images have more than {_MOST_PARTS} parts; this server does "
        "not read so many",
    )
