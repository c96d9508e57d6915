"""Read any image file the way a viewer shows it: upright, eight bits a channel, RGB.

Both wings stand on this room: the build wing scans and predicts with it, the client puts into shape
what an exported graph cannot read. It needs Pillow and NumPy only.

The rules, which the exported graph follows to the bit for JPEG and PNG:

* EXIF orientation is applied; XMP is not asked (browsers ignore it as well).
* Sixteen bits become eight by keeping the high byte.
* Transparent pixels are shown on white, unless alpha is asked for.
* CMYK is converted without a colour profile; Lab through the standard one.
* Of an animation, or a multi-picture file, the first frame counts.
"""

import io
import struct
import warnings
from os import PathLike, fspath
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from keras_cls.errors import ImageError

ImageSource: TypeAlias = (
    str | PathLike[str] | bytes | bytearray | memoryview | Image.Image | np.ndarray
)

MAX_PIXELS = 178_956_970
"""Larger images are refused before decoding (Pillow's own limit against decompression bombs)."""

_ORIENTATION_TAG = 0x0112
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
    return _pixels(_decode(_open(source, name), name), alpha)


def encode_for_graph(source: ImageSource, *, name: str | None = None) -> bytes:
    """The encoded bytes to send to an exported graph, which decodes JPEG, PNG, GIF and BMP itself.

    Files that the graph reads as this module does go as they are, undecoded: the bytes are not
    looked at beyond the header. Everything else (CMYK, WebP, HEIC, TIFF, transparent GIF, PIL
    images, arrays, ...) is decoded here and sent as an upright PNG.

    Raises:
        ImageError: as :func:`read_image`.
    """
    name = name or describe(source)
    if not isinstance(source, np.ndarray | Image.Image) and graph_reads(_open(source, name)):
        return _bytes(source, name)
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
        image = _decode(_open(source, name), name)
        pixels = _pixels(image, image.has_transparency_data)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def graph_reads(image: Image.Image) -> bool:
    """Whether TensorFlow's decoders read this opened file to the same pixels as this module."""
    if image.format in ("JPEG", "MPO"):
        return image.mode in ("L", "RGB")
    if image.format == "PNG":
        return orientation(image) == 1
    if image.format == "GIF":
        # TensorFlow paints a transparent or partial first frame on black.
        whole = [tile.extents for tile in image.tile] == [(0, 0, *image.size)]
        return whole and image.palette is not None and "transparency" not in image.info
    if image.format == "BMP":
        return (
            image.mode == "RGB" and image.info.get("compression") == 0 and _bmp_depth(image) == 24
        )
    return False


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 where it is absent or makes no sense."""
    try:
        if image.format == "TIFF":
            value = image.tag_v2.get(_ORIENTATION_TAG)  # type: ignore[attr-defined]
        else:
            exif = Image.Exif()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exif.load(image.info.get("exif") or b"")
            value = exif.get(_ORIENTATION_TAG)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error):
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def to_uint8(array: np.ndarray, name: str) -> np.ndarray:
    """Numbers to eight bits: values are on the 0..255 scale whatever the dtype, uint16 on 0..65535.

    Raises:
        ImageError: another dtype, values out of range, or floats that look like the 0..1 scale.
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return (array >> 8).astype(np.uint8)
    if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
        raise ImageError(name, f"pixels must be numbers, preferably uint8; found {array.dtype}")
    if array.size == 0:
        return array.astype(np.uint8)
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 255):
        raise ImageError(
            name, f"pixels must lie within 0..255; found {array.dtype} from {low:g} to {high:g}"
        )
    if array.dtype.kind != "i" and array.dtype.kind != "u" and high <= 1:
        raise ImageError(
            name,
            f"{array.dtype} pixels up to {high:g} look like the 0..1 scale; pixels are on the "
            "0..255 scale: multiply by 255",
        )
    return np.rint(array).astype(np.uint8)


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
    try:
        return Path(source).read_bytes()  # type: ignore[arg-type]
    except OSError as error:
        raise ImageError(name, _reason(error)) from error


def _open(source: ImageSource, name: str) -> Image.Image:
    """Read the header only; the pixels follow in :func:`_decode`."""
    if isinstance(source, Image.Image):
        return source
    if not isinstance(source, str | PathLike | bytes | bytearray | memoryview):
        raise ImageError(
            name, "an image is a path, encoded bytes, a PIL image or a NumPy array, not this type"
        )
    data = _bytes(source, name)
    if not data:
        raise ImageError(name, "the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = _open_heif(data, name) if _is_heif(data) else Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise ImageError(name, f"not an image that can be read ({_sniff(data)})") from error
    except Image.DecompressionBombError as error:
        raise ImageError(name, f"too large: more than {MAX_PIXELS:,} pixels") from error
    except (OSError, SyntaxError, ValueError, TypeError, struct.error, OverflowError) as error:
        raise ImageError(name, f"damaged: {_reason(error)}") from error
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            name,
            f"too large: {image.width} x {image.height} is more than {MAX_PIXELS:,} pixels",
        )
    return image


def _decode(image: Image.Image, name: str) -> Image.Image:
    """Load the pixels and turn them upright, in a mode that NumPy can take over."""
    turn = _TRANSPOSE.get(orientation(image))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
            image = _eight_bits(image, name)
            return image.transpose(turn) if turn is not None else image
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(name, f"too large: more than {MAX_PIXELS:,} pixels") from error
    except (
        OSError,
        SyntaxError,
        ValueError,
        TypeError,
        IndexError,
        EOFError,
        struct.error,
    ) as error:
        raise ImageError(name, f"damaged: {_reason(error)}") from error


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Modes beyond eight bits, and the colour spaces that ``Image.convert`` does not know."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise ImageError(
                name, "32-bit pixels have no defined brightness: convert the image to 8 or 16 bits"
            )
        return Image.fromarray((values.astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ImageError(
            name, "floating-point pixels have no defined brightness: convert to 8 or 16 bits"
        )
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None
        return converted
    return image


def _pixels(image: Image.Image, alpha: bool) -> np.ndarray:
    if alpha:
        return np.array(image.convert("RGBA"))
    if image.has_transparency_data:
        return _on_white(np.array(image.convert("RGBA")))
    return np.array(image.convert("RGB"))


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
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise ImageError(name, f"too large: more than {MAX_PIXELS:,} pixels")
    array = to_uint8(array, name)
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    if alpha and array.shape[2] == 3:
        return np.concatenate([array, np.full_like(array[..., :1], 255)], axis=2)
    return _on_white(array) if not alpha and array.shape[2] == 4 else array


def _bmp_depth(image: Image.Image) -> int:
    assert image.fp is not None
    image.fp.seek(28)
    return int.from_bytes(image.fp.read(2), "little")


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
    try:
        return pi_heif.open_heif(data).to_pillow()
    except (RuntimeError, EOFError) as error:
        raise ImageError(name, f"damaged: {_reason(error)}") from error


def _sniff(data: bytes) -> str:
    head = data[:256].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "it holds an HTML page, perhaps a saved error message"
    if data.isascii():
        return "it holds text"
    return f"it begins with {data[:8].hex(' ')}"


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).strip() or type(error).__name__
