"""Read any image file the way a viewer shows it: upright, eight bits a channel, RGB.

Both wings stand on this room: the build wing scans and predicts with it, the client puts into shape
what an exported graph cannot read. It needs Pillow and NumPy only.

The rules, which the exported graph follows to the bit for JPEG and PNG:

* EXIF orientation is applied; XMP is not asked (browsers ignore it as well).
* Sixteen bits become eight by keeping the high byte; 32-bit and floating-point pixels, whose
  brightness no format defines, are refused.
* Transparent pixels are shown on white, unless alpha is asked for.
* CMYK is converted without a colour profile; Lab through the standard one.
* Of an animation, or a multi-picture file, the first frame counts.
"""

import io
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

from keras_cls.errors import ImageError

ImageSource: TypeAlias = (
    str | PathLike[str] | bytes | bytearray | memoryview | Image.Image | np.ndarray
)

MAX_PIXELS = 178_956_970
"""Larger images are refused before decoding (Pillow's own limit against decompression bombs)."""

# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".dib", ".webp", ".tif",
    ".tiff", ".jp2", ".j2k", ".avif", ".heic", ".heif", ".hif", ".ico", ".ppm", ".pgm", ".pbm",
    ".pnm", ".mpo", ".tga",
})
# fmt: on
"""Of file names, in small letters: by these, folders are looked through."""

# Photos and the like; EPS, which Pillow hands to an external program, is none of them.
# fmt: off
_FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF",
    "WEBP",
)
# fmt: on
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(source: ImageSource, *, alpha: bool = False, name: str | None = None) -> np.ndarray:
    """Decode one image.

    Args:
        source: a path, encoded bytes, a PIL image, or an array: ``[H, W]`` or ``[H, W, C]`` with
            C = 1 (grey), 3 (RGB) or 4 (RGBA), on the 0..255 scale (see :func:`to_uint8`).
        alpha: keep the alpha channel instead of showing the image on white.
        name: what error messages call the image; a path names itself.

    Returns:
        uint8 ``[H, W, 3]``, or ``[H, W, 4]`` with ``alpha``.

    Raises:
        ImageError: the file is missing, unreadable, damaged or too large; it names the image.
    """
    name = name or describe(source)
    if isinstance(source, np.ndarray):
        return _from_array(source, alpha, name)
    return _decode(_open(source, name), alpha, name)


def encode_for_graph(source: ImageSource, *, name: str | None = None) -> bytes:
    """The encoded bytes to send to an exported graph, which decodes JPEG, PNG, GIF and BMP itself.

    Files that the graph reads as this module does go as they are, undecoded: the bytes are not
    looked at beyond the header. Everything else (CMYK, WebP, HEIC, TIFF, transparent GIF, PIL
    images, arrays, ...) is decoded here and sent as an upright PNG.

    Raises:
        ImageError: as :func:`read_image`.
    """
    name = name or describe(source)
    if not isinstance(source, np.ndarray | Image.Image):
        source = _bytes(source, name)
        if graph_reads(_open(source, name)):
            return source
    return encode_png(source, name=name)


def encode_png(source: ImageSource, *, name: str | None = None) -> bytes:
    """Any image as an upright eight-bit PNG: RGBA where it has transparency, else RGB.

    Raises:
        ImageError: as :func:`read_image`.
    """
    name = name or describe(source)
    if isinstance(source, np.ndarray):
        pixels = _from_array(source, source.ndim == 3 and source.shape[2] == 4, name)
    else:
        image = _open(source, name)
        pixels = _decode(image, image.has_transparency_data, name)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def graph_reads(image: Image.Image) -> bool:
    """Whether TensorFlow's decoders read this opened file to the same pixels as this module."""
    if not isinstance(image, ImageFile.ImageFile):
        return False
    if image.format in ("JPEG", "MPO"):
        return image.mode in ("L", "RGB")
    if image.format == "PNG":
        # TensorFlow compares all sixteen bits with the transparent colour, Pillow keeps eight.
        return orientation(image) == 1 and not (_png_depth(image) == 16 and _colour_key(image))
    if image.format == "GIF":
        # TensorFlow paints a transparent or partial first frame on black.
        whole = [tile.extents for tile in image.tile] == [(0, 0, *image.size)]
        return whole and image.palette is not None and "transparency" not in image.info
    if image.format == "BMP":
        return _bmp_is_plain(image)
    return False


def orientation(image: Image.Image) -> int:
    """The EXIF orientation that is left to apply, 1 (upright) to 8; 1 where there is none.

    The rule is the browsers': tag 0x0112 of the first directory, of type SHORT and count 1.
    data/decoding.py repeats it in TensorFlow. (Pillow itself turns a TIFF while loading.)
    """
    exif = image.info.get("exif") or b""
    block = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}L", block, 4)
        (entries,) = struct.unpack_from(f"{order}H", block, directory)
        for at in range(directory + 2, directory + 2 + 12 * entries, 12):
            *tag, value, _ = struct.unpack_from(f"{order}HHLHH", block, at)
            if tag == [0x0112, 3, 1] and 1 <= value <= 8:
                return value
    except struct.error:  # the block ends early
        pass
    return 1


def to_uint8(array: np.ndarray, name: str) -> np.ndarray:
    """Numbers to eight bits: values are on the 0..255 scale whatever the dtype, uint16 on 0..65535.

    Raises:
        ImageError: another dtype, values out of range, or floats that look like the 0..1 scale.
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return np.where(array, np.uint8(255), np.uint8(0))
    if array.dtype == np.uint16:
        return (array >> 8).astype(np.uint8)
    is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    if array.dtype.kind not in "iu" and not is_float:
        raise ImageError(name, f"the dtype must be uint8, or other numbers; found {array.dtype}")
    if array.size == 0:
        return array.astype(np.uint8)
    low, high = float(array.min()), float(array.max())
    check_range(low, high, name)
    if is_float:
        check_scale(high, name)
    return np.rint(array).astype(np.uint8)


def check_range(low: float, high: float, name: str) -> None:
    """Refuse pixels beyond 0..255, or NaN (ImageError)."""
    if not (low >= 0 and high <= 255):
        raise ImageError(
            name,
            f"the values lie in {low:.4g}..{high:.4g}, but must lie in 0..255. Undo the "
            "normalization; the preprocessing does it anew",
        )


def check_scale(high: float, name: str) -> None:
    """Refuse floats whose largest value shows that they are on the 0..1 scale (ImageError)."""
    if 0 < high <= 1:
        raise ImageError(
            name,
            f"the largest value is {high:.4g}, which looks like the 0..1 scale; pixels are on the "
            "0..255 scale: multiply by 255",
        )


def each_image(images: ImageSource | Iterable[ImageSource]) -> Iterator[ImageSource]:
    """One image or many, as an iterator of single images.

    An array ``[N, H, W, C]``, or ``[N, H, W]`` where the last axis is not of length 1, 3 or 4, is
    many.
    """
    if isinstance(images, np.ndarray):
        is_one = images.ndim < 3 or (images.ndim == 3 and images.shape[2] in (1, 3, 4))
        yield from [images] if is_one else images
    elif isinstance(images, Iterable) and not isinstance(
        images, str | bytes | bytearray | memoryview
    ):
        yield from images
    else:
        yield images


def describe(source: object) -> str:
    """What messages call an image that has no other name."""
    if isinstance(source, str | PathLike):
        return fspath(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return f"encoded image of {len(source)} bytes"
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or f"PIL image of mode {source.mode}"
    if isinstance(source, np.ndarray):
        return f"array of shape {source.shape}"
    return f"{type(source).__name__} object"


def _bytes(source: ImageSource, name: str) -> bytes:
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)  # the same object where it is bytes already
    if not isinstance(source, str | PathLike):
        raise ImageError(
            name, "an image is a path, encoded bytes, a PIL image or a NumPy array, not this type"
        )
    try:
        return Path(source).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: no file can have such a name
        raise ImageError(name, _reason(error)) from error


def _open(source: ImageSource, name: str) -> Image.Image:
    """Read the header only; the pixels follow in :func:`_decode`."""
    if isinstance(source, Image.Image):
        return source
    data = _bytes(source, name)
    if not data:
        raise ImageError(name, "the file is empty")
    with _decoding(name):
        if _is_heif(data):
            return _open_heif(data, name)
        try:
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        except UnidentifiedImageError as error:
            reason = f"not an image that can be read ({_sniff(data)})"
            raise ImageError(name, reason) from error
        _check_size(image.size, name)
        return image


def _decode(image: Image.Image, alpha: bool, name: str) -> np.ndarray:
    """Load the pixels and turn them upright."""
    with _decoding(name):
        turn, depth = _TRANSPOSE.get(orientation(image)), _png_depth(image)
        image.load()
        image = _eight_bits(image, depth, name)
        transparent = image.has_transparency_data
        pixels = np.array(image.convert("RGBA" if alpha or transparent else "RGB"))
        if turn is not None:
            pixels = np.array(Image.fromarray(pixels).transpose(turn))
        return pixels if alpha or not transparent else _on_white(pixels)


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Whatever a decoder stumbles over in damaged bytes becomes an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(name, f"too large: more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:
        raise ImageError(name, f"damaged: {_reason(error)}") from error


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ImageError(name, f"too large: {width} x {height} is more than {MAX_PIXELS:,} pixels")


def _eight_bits(image: Image.Image, png_depth: int, name: str) -> Image.Image:
    """Modes beyond eight bits, and the colour spaces that ``Image.convert`` does not know."""
    out = image
    # Pillow opens a 16-bit PGM in its 32-bit mode.
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM"):
        out = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        kind = "32-bit" if image.mode == "I" else "floating-point"
        raise ImageError(
            name,
            f"{kind} pixels have no defined brightness: convert the image to 8 or 16 bits",
        )
    elif image.mode == "La":
        out = image.convert("LA")
    elif image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None
        out = converted
    key = _colour_key(image)
    if png_depth not in (1, 8) and key:
        # Pillow gives the transparent colour at the file's own depth, beside eight-bit pixels.
        top = 2**png_depth - 1
        scaled = tuple(value * 255 // top if png_depth < 8 else value >> 8 for value in key)
        out = out.copy()
        out.info["transparency"] = scaled if len(scaled) > 1 else scaled[0]
    return out


def _colour_key(image: Image.Image) -> tuple[int, ...]:
    """The one grey or RGB colour that stands for transparency; empty where there is none."""
    key = image.info.get("transparency")
    if image.mode == "P" or key is None:
        return ()
    return key if isinstance(key, tuple) else (key,)


def _png_depth(image: Image.Image) -> int:
    """Bits a channel of an opened, not yet loaded PNG; 8 for any other image."""
    tiles = getattr(image, "tile", None)
    if image.format != "PNG" or not tiles:
        return 8
    raw_mode = tiles[0].args  # such as "L;4", "I;16B"; nothing after the colours for eight bits
    return {"1": 1, "L;2": 2, "L;4": 4, "I;16B": 16, "RGB;16B": 16}.get(raw_mode, 8)


def _on_white(rgba: np.ndarray) -> np.ndarray:
    """The integer rule that data/decoding.py repeats in TensorFlow."""
    colour, cover = rgba[..., :3].astype(np.uint16), rgba[..., 3:].astype(np.uint16)
    return ((colour * cover + 255 * (255 - cover) + 127) // 255).astype(np.uint8)


def _from_array(array: np.ndarray, alpha: bool, name: str) -> np.ndarray:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ImageError(
            name, f"expected shape [H, W] or [H, W, C] with C = 1, 3 or 4, found {array.shape}"
        )
    _check_size((array.shape[1], array.shape[0]), name)
    array = to_uint8(array, name)
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    if alpha and array.shape[2] == 3:
        return np.concatenate([array, np.full_like(array[..., :1], 255)], axis=2)
    return _on_white(array) if not alpha and array.shape[2] == 4 else array


def _bmp_is_plain(image: ImageFile.ImageFile) -> bool:
    """Whether it is an uncompressed 24-bit bitmap with a header of Windows' kind."""
    assert image.fp is not None
    image.fp.seek(0)
    header = image.fp.read(34)
    header_size, depth, compression = struct.unpack("<14xL10xHL", header)
    return image.mode == "RGB" and header_size >= 40 and (depth, compression) == (24, 0)


def _is_heif(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS


def _open_heif(data: bytes, name: str) -> Image.Image:
    try:
        import pi_heif
    except ModuleNotFoundError as error:
        raise ImageError(
            name, "HEIC/HEIF needs an optional library: pip install 'keras-cls[heif]'"
        ) from error
    # Opened directly: registering a plugin would change Pillow for the whole process.
    heif = pi_heif.open_heif(data)
    _check_size(heif.size, name)
    return heif.to_pillow()


def _sniff(data: bytes) -> str:
    head = data[:256].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "it holds an HTML page, perhaps a saved error message"
    if data.isascii() and b"\0" not in data:
        return "it holds text"
    return f"it begins with {data[:8].hex(' ')}"


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).strip() or type(error).__name__
