"""Pack labelled images into TFRecord shards: few large files instead of many small ones.

The folder that comes of it::

    dataset.json                     labels; of each part the shards, their sizes and SHA-256
    train.index.npz                  where each record begins, and its classes
    train-00000-of-00016.tfrecord
    validation.index.npz ...

A record is a ``tf.train.Example`` in the ImageNet format of TF-slim and the TensorFlow models, so
other programs read it too. Images are spread over the shards at random, from the seed.
"""

import hashlib
import io
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_cls.data.datasets import LabelledDataset
from keras_cls.data.opening import Reading, open_parts
from keras_cls.data.records import (
    DATASET_FILE,
    FORMAT,
    FRAME_BYTES,
    SETTINGS_FILE,
    TRAIN,
    VALIDATION,
    VERSION,
    WORK_FOLDER,
    RecordShards,
    Shard,
    index_of_shards,
    open_packed,
    write_index,
)
from keras_cls.data.scanning import Progress, describe_unreadable, encoded_for_tensorflow
from keras_cls.data.sources import LabelledImages, split
from keras_cls.errors import ConfigError, DataError, ImageError
from keras_cls.files import new_file, read_json, remove_leftovers, sole_owner, write_json
from keras_cls.images import encode_png, read_image
from keras_cls.labels import printable

SHARD_BYTES = 128 << 20
"""About how large a shard is, where their number is not given: 1,200 photos of ImageNet."""

MOST_SHARDS = 99_999
_AT_ONCE = 64

Packable: TypeAlias = LabelledImages | RecordShards


@dataclass(frozen=True)
class PackedData:
    """What was packed.

    Attributes:
        directory: the folder of shards, to be passed as ``data``.
        labels: the class names.
        counts: how many images each part has.
        shards: how many shards each part has.
        bytes: of all shards.
        unreadable: an error for each image left out.
    """

    directory: Path
    labels: tuple[str, ...]
    counts: Mapping[str, int]
    shards: Mapping[str, int]
    bytes: int
    unreadable: tuple[ImageError, ...]


@dataclass(frozen=True)
class Reencoding:
    """How images are written.

    Attributes:
        size: larger images are resized to this shorter side, in pixels; None leaves every file as
            it is.
        quality: of the JPEG files that resizing makes, 1 to 100.

    Raises:
        ConfigError: a value is out of its range.
    """

    size: int | None = None
    quality: int = 95

    def __post_init__(self) -> None:
        if self.size is not None and not _is_whole(self.size, 1, 65_535):
            raise ConfigError(f"size: expected a whole number of pixels, found {self.size!r}")
        if not _is_whole(self.quality, 1, 100):
            raise ConfigError(f"quality: expected 1 to 100, found {self.quality!r}")


def pack(
    data: Any,
    to: str | os.PathLike[str],
    *,
    validation: Any = None,
    labels: Sequence[str] | None = None,
    multi_label: bool | None = None,
    shards: int | None = None,
    size: int | None = None,
    quality: int = 95,
    seed: int = 0,
    strict: bool = False,
    progress: Progress | None = None,
) -> PackedData:
    """Write labelled images as TFRecord shards, which train and evaluate as ``data`` does.

    Killed and started again with the same arguments, it goes on behind the finished shards. On
    finished work it returns at once.

    Args:
        data: as in :func:`keras_cls.data.sources.open_source`, or shards to be packed anew.
        to: the folder to write.
        validation: the same as ``data``, or the share of it to hold out. None: the data's own
            validation part where it has one; else nothing is held out here, but when training.
        labels: the class names in the order of their numbers.
        multi_label: as in :func:`keras_cls.data.sources.open_source`.
        shards: how many files the training images are spread over, validation images in
            proportion; else as many as make about 128 MiB each.
        size: resize larger images to this shorter side, which trains faster. Twice the side of the
            network's input loses little.
        quality: of the JPEG files that resizing makes; images with transparency become PNG.
        seed: what the order of the images is drawn from, and the division.
        strict: stop at unreadable images instead of leaving them out.
        progress: told how many images are done, of how many.

    Raises:
        DataError: the data cannot be used.
        ConfigError: an argument makes no sense, or ``to`` holds something else.
    """
    reencoding = Reencoding(size, quality)
    if shards is not None and not _is_whole(shards, 1, MOST_SHARDS):
        raise ConfigError(f"shards: expected a whole number from 1 on, found {shards!r}")
    if not _is_whole(seed, 0, 2**63 - 1):
        raise ConfigError(f"seed: expected a whole number from 0 on, found {seed!r}")
    folder = Path(to).expanduser()
    _require_apart(data, folder)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{printable(str(folder))}: a file, where a folder is to be written")
    _require_room(folder)
    reading = Reading(folder / WORK_FOLDER, strict)
    parts = _parts(data, validation, labels, multi_label, seed, reading)
    plans = [_planned(name, images, shards, seed, parts[TRAIN]) for name, images in parts.items()]
    settings = {
        "size": size,
        "quality": quality if size is not None else None,
        "seed": seed,
        "shards": {plan.part: len(plan.shards) for plan in plans},
        "images": _digest(parts.values()),
    }
    with sole_owner(folder):
        finished = _finished(folder, settings)
        if finished is not None:
            return finished
        remove_leftovers(folder)
        work = folder / WORK_FOLDER
        _begin_or_go_on(work, settings, folder)
        _write_shards(folder, plans, reencoding, strict, progress)
        _finish(folder, plans, settings)
        shutil.rmtree(work)
    return _described(folder)


# --- What is to be done -----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Plan:
    """Which images of a part go into which shard, in which order."""

    part: str
    images: Packable
    shards: tuple[np.ndarray, ...]

    def file(self, number: int) -> str:
        return f"{self.part}-{number:05d}-of-{len(self.shards):05d}.tfrecord"


def _require_apart(data: Any, folder: Path) -> None:
    """Among the classes, the shards would be taken for one of them."""
    if not isinstance(data, str | os.PathLike):
        return
    source = Path(data).expanduser()
    if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
        raise ConfigError(
            f"{printable(str(folder))}: lies in the folder of the images: give one outside of it"
        )


def _parts(
    data: Any,
    validation: Any,
    labels: Sequence[str] | None,
    multi_label: bool | None,
    seed: int,
    reading: Reading,
) -> dict[str, Packable]:
    """The images of each part, under the same labels."""
    train, own = _opened(data, labels, multi_label, True, reading)
    held_out: Packable | None
    if isinstance(validation, Real) and not isinstance(validation, bool):
        fraction = float(validation)
        train, held_out = (
            train.divided(fraction, seed)
            if isinstance(train, RecordShards)
            else split(train, fraction, seed)
        )
    elif validation is not None:
        given, given_own = _opened(validation, train.labels, train.multi_label, False, reading)
        held_out = (given if given_own is None else given_own).aligned_to(train.labels)
    else:
        held_out = own
    return {TRAIN: train} if held_out is None else {TRAIN: train, VALIDATION: held_out}


def _opened(
    data: Any,
    labels: Sequence[str] | None,
    multi_label: bool | None,
    every_class: bool,
    reading: Reading,
) -> tuple[Packable, Packable | None]:
    if isinstance(data, tf.data.Dataset):
        raise DataError(
            "tf.data.Dataset: packing needs images that can be read in any order: a folder, a "
            "manifest, arrays or TFRecord files"
        )
    images, held_out = open_parts(
        data, labels, reading, every_class=every_class, multi_label=multi_label
    )
    assert not isinstance(images, LabelledDataset) and not isinstance(held_out, LabelledDataset)
    return images, held_out


def _planned(part: str, images: Packable, shards: int | None, seed: int, train: Packable) -> _Plan:
    if shards is None:
        count = -(-_size_of(images) // SHARD_BYTES)
    else:
        count = round(shards * len(images) / len(train))
    count = min(max(count, 1), len(images), MOST_SHARDS)
    order = np.random.default_rng([seed, *part.encode()]).permutation(len(images))
    return _Plan(part, images, tuple(np.array_split(order, count)))


def _size_of(images: Packable) -> int:
    """About how many bytes the images have, encoded."""
    if isinstance(images, RecordShards):
        return int((images.index.end - images.index.begin).sum())
    if images.pixels is not None:
        return int(images.pixels.nbytes)
    return sum(_file_size(path) for path in images.paths or ())


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a broken link, which is told when it is read
        return 0


def _digest(parts: Any) -> str:
    """What the images are: their names, sizes and classes."""
    digest = hashlib.sha256()
    for images in parts:
        digest.update("\0".join(images.labels).encode())
        if isinstance(images, RecordShards):
            digest.update(images.fingerprint().encode())
            continue
        digest.update(np.ascontiguousarray(images.targets).tobytes())
        if images.pixels is not None:
            digest.update(np.ascontiguousarray(images.pixels).tobytes())
        for path in images.paths or ():
            digest.update(f"{path.name} {_file_size(path)}\0".encode(errors="replace"))
    return digest.hexdigest()


# --- The folder's state -----------------------------------------------------------------------


def _require_room(folder: Path) -> None:
    """Refuse a folder that holds something else."""
    if not folder.is_dir() or (folder / DATASET_FILE).exists() or (folder / WORK_FOLDER).exists():
        return
    others = [file.name for file in folder.iterdir() if not file.name.startswith(".")]
    if others:
        raise ConfigError(
            f"{printable(str(folder))}: holds other files, such as '{printable(min(others))}': "
            "give a new folder"
        )


def _finished(folder: Path, settings: Mapping[str, Any]) -> PackedData | None:
    if not (folder / DATASET_FILE).exists():
        return None
    _require_same(read_json(folder / DATASET_FILE).get("settings"), settings, folder)
    shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)
    return _described(folder)


def _begin_or_go_on(work: Path, settings: Mapping[str, Any], folder: Path) -> None:
    if (work / SETTINGS_FILE).exists():
        _require_same(read_json(work / SETTINGS_FILE), settings, folder)
        remove_leftovers(work)
    else:
        work.mkdir(exist_ok=True)
        write_json(work / SETTINGS_FILE, settings)


def _require_same(found: Any, settings: Mapping[str, Any], folder: Path) -> None:
    found = found if isinstance(found, dict) else {}
    different = [name for name, value in settings.items() if found.get(name) != value]
    if different:
        changes = ", ".join(
            f"{name} (then {found.get(name)}, now {settings[name]})"
            if name != "images"
            else "the images or their classes"
            for name in different
        )
        raise ConfigError(
            f"{printable(str(folder))}: other data were packed there: different in {changes}. Give "
            "a new folder, or remove this one"
        )


def _described(folder: Path) -> PackedData:
    opened = open_packed(folder)
    streams = {TRAIN: opened.train} | (
        {} if opened.validation is None else {VALIDATION: opened.validation}
    )
    return PackedData(
        directory=folder,
        labels=opened.train.labels,
        counts={name: len(stream) for name, stream in streams.items()},
        shards={name: len(stream.shards) for name, stream in streams.items()},
        bytes=sum(shard.bytes for stream in streams.values() for shard in stream.shards),
        unreadable=tuple(error for stream in streams.values() for error in stream.unreadable),
    )


# --- Writing ----------------------------------------------------------------------------------


def _write_shards(
    folder: Path,
    plans: Sequence[_Plan],
    reencoding: Reencoding,
    strict: bool,
    progress: Progress | None,
) -> None:
    count = sum(len(plan.images) for plan in plans)
    done = 0

    def advance(images: int) -> None:
        nonlocal done
        done += images
        if progress is not None:
            progress(done, count)

    with ThreadPoolExecutor(os.cpu_count()) as pool, warnings.catch_warnings():
        # Pillow warns of damaged metadata, without saying in which file; the pixels count here.
        warnings.simplefilter("ignore")
        for plan in plans:
            for number, places in enumerate(plan.shards):
                # Written behind the shard: where it is, the shard is whole.
                account = folder / WORK_FOLDER / f"{plan.file(number)}.json"
                if account.exists() and (folder / plan.file(number)).exists():
                    advance(len(places))
                else:
                    file = folder / plan.file(number)
                    write_json(
                        account,
                        _write_shard(file, plan.images, places, reencoding, strict, pool, advance),
                    )


def _write_shard(
    file: Path,
    images: Packable,
    places: np.ndarray,
    reencoding: Reencoding,
    strict: bool,
    pool: ThreadPoolExecutor,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """Write one file of records; returns the account of it."""
    begins: list[int] = []
    labels: list[list[int]] = []
    unreadable: list[ImageError] = []
    size = 0

    def example(place: int) -> bytes | ImageError:
        try:
            return _example(images, place, reencoding)
        except ImageError as error:
            return error

    try:
        with new_file(file) as temporary:
            with tf.io.TFRecordWriter(str(temporary)) as writer:
                for some in _chunks(places):
                    for place, content in zip(some, pool.map(example, some), strict=True):
                        if isinstance(content, ImageError):
                            if strict:
                                raise DataError(
                                    f"{images.origin}: {describe_unreadable((content,))}"
                                )
                            unreadable.append(content)
                            continue
                        writer.write(content)
                        begins.append(size)
                        labels.append(_classes_of(images, place))
                        size += len(content) + FRAME_BYTES
                    advance(len(some))
            if temporary.stat().st_size != size:
                raise DataError(f"{printable(str(file))}: it was not written whole: is there room?")
            with temporary.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except tf.errors.OpError as error:
        raise DataError(f"{printable(str(file))}: cannot be written: {error.message}") from error
    return {
        "records": len(begins),
        "bytes": size,
        "sha256": digest,
        "begins": begins,
        "labels": labels,
        "unreadable": [{"name": error.name, "reason": error.reason} for error in unreadable],
    }


def _chunks(places: np.ndarray) -> Iterator[list[int]]:
    """A few at a time, so that few images are held at once."""
    for start in range(0, len(places), _AT_ONCE):
        yield places[start : start + _AT_ONCE].tolist()


def _classes_of(images: Packable, place: int) -> list[int]:
    target = images.targets[place]
    return np.flatnonzero(target).tolist() if images.multi_label else [int(target)]


def _example(images: Packable, place: int, reencoding: Reencoding) -> bytes:
    """A serialized example of an image."""
    name = images.name(place)
    data, (height, width) = _encoded(_original(images, place, name), name, reencoding)
    classes = _classes_of(images, place)
    labels = [images.labels[number].encode() for number in classes]
    features = {
        "image/encoded": _strings([data]),
        "image/format": _strings([_format_of(data)]),
        "image/height": _integers([height]),
        "image/width": _integers([width]),
        "image/class/label": _integers(classes),
        "image/class/text": _strings(labels),
        "image/filename": _strings([_file_name(images, place, name)]),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(
        deterministic=True
    )


def _original(images: Packable, place: int, name: str) -> bytes | np.ndarray:
    if isinstance(images, RecordShards):
        return images.encoded(place)
    if images.paths is None:
        assert images.pixels is not None
        return images.pixels[place]
    try:
        return images.paths[place].read_bytes()
    except OSError as error:
        raise ImageError(name, (error.strerror or str(error)).lower()) from error


def _file_name(images: Packable, place: int, name: str) -> bytes:
    if isinstance(images, LabelledImages) and images.paths is not None:
        name = "/".join(images.paths[place].parts[-2:])
    return printable(name).encode()


def _encoded(
    original: bytes | np.ndarray, name: str, reencoding: Reencoding
) -> tuple[bytes, tuple[int, int]]:
    """What TensorFlow decodes to the same pixels, resized where asked for; and its [h, w]."""
    if reencoding.size is not None:
        resized = _resized(original, name, reencoding.size, reencoding.quality)
        if resized is not None:
            return resized
    if isinstance(original, np.ndarray):
        data = encode_png(original, name=name)
    else:
        data = encoded_for_tensorflow(original, name)
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
    return data, (height, width)


def _resized(
    original: bytes | np.ndarray, name: str, side: int, quality: int
) -> tuple[bytes, tuple[int, int]] | None:
    """With the shorter side of ``side`` pixels, upright; None where it is no longer than that."""
    pixels = read_image(original, alpha=True, name=name)
    height, width = pixels.shape[:2]
    if min(height, width) <= side:
        return None
    scale = side / min(height, width)
    size = max(round(width * scale), side), max(round(height * scale), side)
    opaque = bool((pixels[..., 3] == 255).all())
    image = Image.fromarray(pixels[..., :3] if opaque else pixels)
    buffer = io.BytesIO()
    image = image.resize(size, Image.Resampling.LANCZOS)
    if opaque:
        image.save(buffer, "JPEG", quality=quality)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue(), (size[1], size[0])


_FORMATS = {b"\xff\xd8": b"JPEG", b"\x89P": b"PNG", b"GI": b"GIF", b"BM": b"BMP"}


def _format_of(data: bytes) -> bytes:
    return _FORMATS.get(data[:2], b"")


def _strings(values: Sequence[bytes]) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def _integers(values: Sequence[int]) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


# --- The end ----------------------------------------------------------------------------------


def _finish(folder: Path, plans: Sequence[_Plan], settings: Mapping[str, Any]) -> None:
    """Put the accounts of the shards together."""
    (train, *_) = plans
    parts = {plan.part: _finished_part(folder, plan) for plan in plans}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "labels": list(train.images.labels),
        "multi_label": train.images.multi_label,
        "settings": settings,
        "splits": parts,
    }
    empty = [
        label
        for label, count in zip(train.images.labels, parts[TRAIN]["counts"], strict=True)
        if not count
    ]
    if empty or not all(part["count"] for part in parts.values()):
        lost = tuple(
            ImageError(each["name"], each["reason"])
            for part in parts.values()
            for each in part["unreadable"]
        )
        where = f"class '{printable(empty[0])}'" if empty else "the validation images"
        raise DataError(
            f"{train.images.origin}: no readable image is left in {where}: "
            f"{describe_unreadable(lost)}"
        )
    write_json(folder / DATASET_FILE, content)


def _finished_part(folder: Path, plan: _Plan) -> dict[str, Any]:
    accounts = [
        read_json(folder / WORK_FOLDER / f"{plan.file(number)}.json")
        for number in range(len(plan.shards))
    ]
    shards = [
        Shard(folder / plan.file(number), each["records"], each["bytes"], each["sha256"])
        for number, each in enumerate(accounts)
    ]
    classes = [numbers for each in accounts for numbers in each["labels"]]
    labels = np.array([number for numbers in classes for number in numbers], np.int64)
    index = index_of_shards(
        [np.array(each["begins"], np.int64) for each in accounts],
        [shard.bytes for shard in shards],
        np.array([len(numbers) for numbers in classes], np.int64),
        labels,
    )
    name = f"{plan.part}.index.npz"
    with new_file(folder / name) as temporary:
        digest = write_index(temporary, index)
    return {
        "count": len(index),
        "counts": np.bincount(labels, minlength=len(plan.images.labels)).tolist(),
        "index": {"file": name, "sha256": digest},
        "shards": [
            {
                "file": shard.file.name,
                "records": shard.records,
                "bytes": shard.bytes,
                "sha256": shard.digest,
            }
            for shard in shards
        ],
        "unreadable": [entry for each in accounts for entry in each["unreadable"]],
    }


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
