"""Image files that no encoder at hand writes: PNGs of any depth, JPEGs with any EXIF block."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def photo(height: int = 20, width: int = 30) -> np.ndarray:
    """Smooth uint8 [height, width, 3] with a different brightness in every corner."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.rint(255 * np.stack([x, y, (1 - x) * y], axis=-1)).astype(np.uint8)


def encoded(pixels: np.ndarray | Image.Image, format: str, **options: object) -> bytes:
    """An image file of Pillow's making."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


PNG_COLOURS = {"grey": 0, "rgb": 2, "palette": 3, "grey+alpha": 4, "rgba": 6}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PNG_KINDS = [
    *(("grey", depth) for depth in (1, 2, 4, 8, 16)),
    *(("palette", depth) for depth in (1, 2, 4, 8)),
    *((colours, depth) for colours in ("rgb", "grey+alpha", "rgba") for depth in (8, 16)),
]
"""The fifteen kinds that the PNG specification allows."""


def png(colours: str, depth: int, *, transparent: bool = False, seed: int = 0) -> bytes:
    """A PNG of random pixels, 19 x 7; ``transparent`` gives it a tRNS chunk.

    Where that chunk names one colour, it is the first pixel's, and a tenth of the pixels have it.
    """
    kind, (height, width) = PNG_COLOURS[colours], (7, 19)
    random = np.random.default_rng([seed, kind, depth])
    shape = (height, width, _PNG_CHANNELS[kind])
    samples = random.integers(0, 2**depth, shape, dtype=np.uint16)
    samples[random.random((height, width)) < 0.1] = samples[0, 0]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))]
    if colours == "palette":
        chunks.append((b"PLTE", random.bytes(3 * 2**depth)))
    if transparent:
        key = samples[0, 0].astype(">u2").tobytes()
        chunks.append((b"tRNS", random.bytes(2**depth) if colours == "palette" else key))
    rows = samples.reshape(height, -1)
    bits = (rows[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    packed = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    data = b"".join(b"\0" + row.tobytes() for row in packed)
    chunks += [(b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def segment(marker: int, body: bytes) -> bytes:
    """A JPEG segment with its length."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def exif_block(
    orientation: int, *, order: str = "<", directory: int = 8, tag: int = 0x0112, kind: int = 3
) -> bytes:
    """A TIFF header with one tag, as it stands in an EXIF segment after ``Exif\\0\\0``."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}L", directory)
    value = struct.pack(
        f"{order}L" if kind == 4 else f"{order}HH", *([orientation, 0][: 1 + (kind != 4)])
    )
    entry = struct.pack(f"{order}HHL", tag, kind, 1) + value
    filling = bytes(directory - 8)
    return head + filling + struct.pack(f"{order}H", 1) + entry + bytes(4)


def jpeg_with(*inserted: bytes, pixels: np.ndarray | None = None) -> bytes:
    """A small JPEG with raw bytes right behind its start-of-image marker."""
    data = encoded(photo() if pixels is None else pixels, "JPEG", quality=90)
    return data[:2] + b"".join(inserted) + data[2:]


def oriented_jpeg(orientation: int, pixels: np.ndarray | None = None, order: str = "<") -> bytes:
    """A JPEG whose EXIF block asks for ``orientation``."""
    body = b"Exif\0\0" + exif_block(orientation, order=order)
    return jpeg_with(segment(0xE1, body), pixels=pixels)
