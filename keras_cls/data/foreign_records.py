"""TFRecord files that others wrote: looked through once, and then read as our own.

The ImageNet format of TF-slim and of the TensorFlow models is understood (``train-00000-of-01024``,
with ``image/encoded`` and ``image/class/label``), and that of TensorFlow Datasets (``image`` and
``label``). Such files say neither how many images they hold nor where each begins nor which classes
there are, so one pass finds out; what it found is kept in the cache, never beside the files.
"""

import hashlib
import io
import json
import os
import re
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_cls.data.records import (
    FRAME_BYTES,
    STANDARD_KEYS,
    TRAIN,
    VALIDATION,
    RecordIndex,
    RecordKeys,
    RecordShards,
    RecordSources,
    Shard,
    damage,
    example_features,
    read_arrays,
)
from keras_cls.data.scanning import Progress, describe_unreadable, tensorflow_decodes
from keras_cls.errors import DataError, ImageError
from keras_cls.files import new_file
from keras_cls.labels import checked_labels, checked_name, listing, printable

TFDS_KEYS = RecordKeys(image="image", label="label", name="image/filename")
"""Those of TensorFlow Datasets where a data set is made of images and labels."""

_PARTS = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
    "test": "test",
}
_PART = re.compile(rf"(?:^|[-_.])({'|'.join(_PARTS)})(?=[-_.]|$)")
_NUMBERED = re.compile(r"[-_.](\d{3,6})-of-(\d{3,6})(?=\.|$)")
_SUFFIX = re.compile(r"\.(?:tfrecords?|tfrec)(?=[-.]|$)")
_LABELS_FILE = "labels.txt"
_GZIP = b"\x1f\x8b"
_TELL_EVERY_S = 0.2


# --- Finding the files ------------------------------------------------------------------------


def record_files(path: Path) -> Mapping[str, tuple[Path, ...]]:
    """The TFRecord files of a folder, or of the folders in it, by part; empty if there are none.

    The part ("train", "validation") stands in the file's name, or else in its folder's; files
    without any belong to "train". A test set counts only where there is no validation set.

    Raises:
        DataError: some of the files that their names count are missing.
    """
    if path.is_file():
        return {TRAIN: (path,)} if _is_record_name(path.name) else {}
    found = _named_records(path) or [
        file for folder in _folders(path) for file in _named_records(folder)
    ]
    by_part: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(found):
        by_part[_part_of(file, path)].append(file)
    for files in by_part.values():
        _require_all(files)
    held_out = by_part.pop("test", [])
    if held_out and VALIDATION not in by_part:
        by_part[VALIDATION] = held_out
    return {part: tuple(files) for part, files in by_part.items()}


def holds_records(path: Path) -> bool:
    """Whether there are TFRecord files in the folder, or in folders in it."""
    try:
        if path.is_file():
            return _is_record_name(path.name)
        return bool(_named_records(path)) or any(map(_named_records, _folders(path)))
    except (OSError, ValueError):  # whoever opens the folder will say why
        return False


def _is_record_name(name: str) -> bool:
    is_named_so = _SUFFIX.search(name) or (
        _NUMBERED.search(name) and _PART.search(name) and "." not in name
    )
    return bool(is_named_so) and not name.startswith(".")


def _named_records(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [Path(e.path) for e in entries if _is_record_name(e.name) and e.is_file()]


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [
            Path(entry.path)
            for entry in entries
            if entry.name.casefold() in _PARTS and entry.is_dir()
        ]


def _part_of(file: Path, root: Path) -> str:
    names = [file.name.casefold()] + ([] if file.parent == root else [file.parent.name.casefold()])
    found = next((match for name in names if (match := _PART.search(name))), None)
    return TRAIN if found is None else _PARTS[found[1]]


def _require_all(files: Sequence[Path]) -> None:
    """Of files that count themselves, such as ``train-00000-of-01024``, none may be missing."""
    present: dict[tuple[Path, int], set[int]] = defaultdict(set)
    for file in files:
        if match := _NUMBERED.search(file.name):
            series = file.with_name(_NUMBERED.sub(f"-*-of-{match[2]}", file.name))
            present[series, int(match[2])].add(int(match[1]))
    for (series, count), numbers in present.items():
        missing = sorted(set(range(count)) - numbers)
        if missing:
            raise DataError(
                f"{printable(str(series))}: {len(missing)} of {count} files are missing, the first "
                f"of them is number {missing[0]}: fetch it again"
            )


# --- Looking through them ---------------------------------------------------------------------


@dataclass
class _Found:
    """What one file holds."""

    positions: list[int] = field(default_factory=list)
    begins: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    labels: list[list[int]] = field(default_factory=list)
    texts: dict[str, dict[int, str | None]] = field(default_factory=lambda: defaultdict(dict))
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    records: int = 0

    def add_text(self, key: str, label: int, text: str) -> None:
        """Note what a class is called; None where records do not agree."""
        if self.texts[key].setdefault(label, text) != text:
            self.texts[key][label] = None


@dataclass(frozen=True)
class Survey:
    """What the pass over all files found.

    Attributes:
        index: the records with sound images.
        records: how many records each file has, all told.
        texts: for each key of class names, what each class number is called; None where its
            records do not agree.
        unreadable: (name, reason) of the others.
    """

    index: RecordIndex
    records: tuple[int, ...]
    texts: Mapping[str, Mapping[int, str | None]]
    unreadable: tuple[ImageError, ...]


def survey(
    files: Sequence[Path], keys: RecordKeys, cache: Path, progress: Progress | None = None
) -> Survey:
    """Look through all records of the files, or remember what was found the last time.

    Raises:
        DataError: a file cannot be read, is damaged or compressed, or holds something else.
    """
    digest = hashlib.sha256(repr(keys).encode())
    sizes = []
    for file in files:
        try:
            status = file.stat()
        except OSError as error:
            raise DataError(f"{printable(str(file))}: {error.strerror}") from error
        sizes.append(status.st_size)
        digest.update(f"{file.absolute()}\0{status.st_size} {status.st_mtime_ns}\0".encode())
    remembered = cache / f"records-{digest.hexdigest()[:24]}.npz"
    try:
        return _recall(remembered)
    except (DataError, OSError, ValueError, KeyError):
        found = _merged(_look_through(files, sizes, keys, progress), files)
    with new_file(remembered) as temporary:
        temporary.write_bytes(_memory_of(found))
    return found


def _look_through(
    files: Sequence[Path], sizes: Sequence[int], keys: RecordKeys, progress: Progress | None
) -> list[_Found]:
    seen = [_Found() for _ in files]
    stop = threading.Event()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tasks = [
            pool.submit(_look_into, file, keys, found, stop)
            for file, found in zip(files, seen, strict=True)
        ]
        try:
            waiting = set(tasks)
            while waiting:
                done, waiting = wait(waiting, _TELL_EVERY_S, FIRST_EXCEPTION)
                for task in done:
                    task.result()
                if progress is not None:
                    _tell(progress, seen, sum(sizes), finished=not waiting)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return seen


def _tell(progress: Progress, seen: Sequence[_Found], size: int, finished: bool) -> None:
    """How far it is; how many records there are is guessed from their size so far."""
    done, read = sum(f.records for f in seen), sum(f.ends[-1] for f in seen if f.ends)
    if done and read:
        progress(done, done if finished else max(done, round(done * size / read)))


def _look_into(file: Path, keys: RecordKeys, found: _Found, stop: threading.Event) -> None:
    shown = printable(str(file))
    begin = 0
    try:
        for content in tf.data.TFRecordDataset(str(file), buffer_size=1 << 20).as_numpy_iterator():
            if stop.is_set():
                return
            end = begin + len(content) + FRAME_BYTES
            _look_at(content, keys, found, begin, end, f"record {found.records} of {shown}")
            found.records += 1
            begin = end
    except tf.errors.OpError as error:
        with file.open("rb") as stream:
            compressed = stream.read(2) == _GZIP
        if compressed:
            raise DataError(
                f"{shown}: compressed, so that reading cannot begin anywhere: unpack it with gunzip"
            ) from error
        raise damage(file, found.records, begin) from error


def _look_at(
    content: bytes, keys: RecordKeys, found: _Found, begin: int, end: int, where: str
) -> None:
    features = example_features(content, where)
    images, labels = features.get(keys.image, []), features.get(keys.label, [])
    if len(images) != 1 or not isinstance(images[0], bytes):
        raise DataError(
            f"{where}: the feature '{keys.image}' should be one encoded image; the features are "
            f"{listing(sorted(features))}"
        )
    if not all(isinstance(label, int) and label >= 0 for label in labels):
        raise DataError(
            f"{where}: the feature '{keys.label}' should be class numbers from 0 on, found "
            f"{printable(repr(list(labels[:3])))}"
        )
    if not tensorflow_decodes(images[0]):
        reason = "not a sound JPEG, PNG, GIF or BMP image"
        names = [n.decode(errors="replace") for n in features.get(keys.name, [])]
        found.unreadable.append((f"{printable(names[0])} ({where})" if names else where, reason))
        return
    for key in keys.class_names:
        texts = features.get(key, [])
        if len(labels) == 1 and texts and isinstance(texts[0], bytes):
            found.add_text(key, labels[0], texts[0].decode(errors="replace"))
    found.positions.append(found.records)
    found.begins.append(begin)
    found.ends.append(end)
    found.labels.append(list(labels))


def _merged(seen: Sequence[_Found], files: Sequence[Path]) -> Survey:
    def joined(lists: Iterable[list[int]]) -> np.ndarray:
        return np.array([value for values in lists for value in values], np.int64)

    every = _Found()
    for found in seen:
        for key, texts in found.texts.items():
            for label, text in texts.items():
                if text is None:
                    every.texts[key][label] = None
                else:
                    every.add_text(key, label, text)
    labels = [numbers for found in seen for numbers in found.labels]
    index = RecordIndex(
        shard=np.repeat(np.arange(len(files)), [len(found.begins) for found in seen]),
        position=joined(found.positions for found in seen),
        begin=joined(found.begins for found in seen),
        end=joined(found.ends for found in seen),
        label_counts=np.array([len(numbers) for numbers in labels], np.int64),
        labels=joined(labels),
    )
    unreadable = tuple(ImageError(*each) for found in seen for each in found.unreadable)
    return Survey(index, tuple(found.records for found in seen), every.texts, unreadable)


_INDEX_ARRAYS = ("shard", "position", "begin", "end", "label_counts", "labels")


def _memory_of(found: Survey) -> bytes:
    about = {
        "texts": {key: list(texts.items()) for key, texts in found.texts.items()},
        "unreadable": [(error.name, error.reason) for error in found.unreadable],
    }
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        records=np.array(found.records, np.int64),
        about=np.frombuffer(json.dumps(about).encode(), np.uint8),
        **{name: getattr(found.index, name) for name in _INDEX_ARRAYS},
    )
    return buffer.getvalue()


def _recall(file: Path) -> Survey:
    arrays = read_arrays(file.read_bytes(), ("records", "about", *_INDEX_ARRAYS), str(file))
    about = json.loads(arrays[1].astype(np.uint8).tobytes())
    return Survey(
        RecordIndex(*arrays[2:]),
        tuple(arrays[0].tolist()),
        {key: dict(texts) for key, texts in about["texts"].items()},
        tuple(ImageError(*each) for each in about["unreadable"]),
    )


# --- As a source ------------------------------------------------------------------------------


def open_foreign(
    path: Path,
    *,
    labels: Sequence[str] | None = None,
    multi_label: bool | None = None,
    cache: Path,
    strict: bool = False,
    progress: Progress | None = None,
) -> RecordSources:
    """The images of a folder of TFRecord files.

    Class names come from ``image/class/synset`` or ``image/class/text`` in the records, or from a
    ``labels.txt`` beside them (``0:daisy``); else ``labels`` names the class numbers from 0 on, or
    from 1 on where 0 is kept for a background class; else the numbers are the names.

    Raises:
        DataError: there is something wrong with a file; it is named, and the record.
    """
    parts = record_files(path)
    origin = f"{printable(str(path))}{'/' if path.is_dir() else ''}"
    if not parts:
        raise DataError(f"{origin}: no TFRecord files")
    files = [file for part in parts.values() for file in part]
    return open_shards(
        parts,
        _keys_of(files),
        origin=origin,
        names=_labels_file(path),
        labels=labels,
        multi_label=multi_label,
        cache=cache,
        strict=strict,
        progress=progress,
    )


def open_shards(
    parts: Mapping[str, Sequence[Path]],
    keys: RecordKeys,
    *,
    origin: str,
    names: Mapping[int, str] | None = None,
    labels: Sequence[str] | None = None,
    multi_label: bool | None = None,
    cache: Path,
    strict: bool = False,
    progress: Progress | None = None,
) -> RecordSources:
    """The images of TFRecord files, for each part some; ``names`` are the classes', if known."""
    files = [file for part in parts.values() for file in part]
    found = survey(files, keys, cache, progress)
    if strict and found.unreadable:
        raise DataError(f"{origin}: {describe_unreadable(found.unreadable)}")
    if not len(found.index):
        raise DataError(
            f"{origin}: no readable image. {describe_unreadable(found.unreadable)}"
            if found.unreadable
            else f"{origin}: the TFRecord files are empty"
        )
    if multi_label is None:
        multi_label = bool((found.index.label_counts != 1).any())
    elif not multi_label and (found.index.label_counts != 1).any():
        raise DataError(f"{origin}: there are records with no or with several classes")
    known = names or _names_in(found, keys)
    classes, numbers = _classes(found.index.labels, known, labels, origin)
    whole = RecordShards(
        classes,
        multi_label,
        tuple(
            Shard(file, records, file.stat().st_size)
            for file, records in zip(files, found.records, strict=True)
        ),
        found.index,
        numbers,
        origin,
        keys,
        found.unreadable,
    )
    streams, first = {}, 0
    for part, part_files in parts.items():
        is_in = (whole.index.shard >= first) & (whole.index.shard < first + len(part_files))
        streams[part] = whole.subset(np.flatnonzero(is_in))
        first += len(part_files)
    if TRAIN not in streams:  # only to evaluate on
        return RecordSources(streams[VALIDATION])
    validation = streams.get(VALIDATION)
    # What was left out is told once.
    rest = None if validation is None else replace(validation, unreadable=())
    return RecordSources(streams[TRAIN], rest)


def _keys_of(files: Sequence[Path]) -> RecordKeys:
    """Which of the known formats the first record has."""
    for file in files:
        try:
            first = next(iter(tf.data.TFRecordDataset(str(file)).take(1).as_numpy_iterator()), None)
        except tf.errors.OpError:
            return STANDARD_KEYS  # looking through will say what is wrong with the file
        if first is None:
            continue
        features = example_features(first, f"record 0 of {printable(str(file))}")
        for keys in (STANDARD_KEYS, TFDS_KEYS):
            if keys.image in features and keys.label in features:
                return keys
        raise DataError(
            f"{printable(str(file))}: the records should have the features "
            f"'{STANDARD_KEYS.image}' and '{STANDARD_KEYS.label}', or '{TFDS_KEYS.image}' and "
            f"'{TFDS_KEYS.label}'; they have {listing(sorted(features))}"
        )
    return STANDARD_KEYS


def _names_in(found: Survey, keys: RecordKeys) -> Mapping[int, str] | None:
    """Class number -> name, by the first feature that has one name for each class."""
    present = np.unique(found.index.labels).tolist()
    for key in keys.class_names:
        names = [found.texts.get(key, {}).get(number) for number in present]
        if present and all(names) and len(set(names)) == len(names):
            return {
                number: checked_name(name, f"the feature '{key}'", DataError)
                for number, name in zip(present, names, strict=True)
            }
    return None


def _labels_file(path: Path) -> Mapping[int, str] | None:
    """TF-slim's ``labels.txt``: a line ``number:name`` for each class."""
    file = (path if path.is_dir() else path.parent) / _LABELS_FILE
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    pairs = [line.partition(":") for line in lines if line.strip()]
    if not pairs or not all(number.strip().isdecimal() and name for number, _, name in pairs):
        return None
    where = printable(str(file))
    return {int(n): checked_name(name.strip(), where, DataError) for n, _, name in pairs}


def _classes(
    found: np.ndarray,
    known: Mapping[int, str] | None,
    labels: Sequence[str] | None,
    origin: str,
) -> tuple[tuple[str, ...], np.ndarray]:
    """The class names, and for each class number in the records its place among them."""
    present = np.unique(found).tolist()
    highest = max(present, default=0)
    if known is not None:
        unnamed = [number for number in present if number not in known]
        if unnamed:
            raise DataError(
                f"{origin}: class {unnamed[0]} has no name, though "
                f"{listing(known[number] for number in sorted(known))} have"
            )
        numbered = sorted(known)
        names = checked_labels([known[number] for number in numbered], origin)
    elif labels is None or {str(number) for number in present} <= set(labels):
        numbered, names = present, tuple(map(str, present))
    else:
        names = checked_labels(labels)
        first = _first_number(present, len(names), origin)
        numbered = list(range(first, first + len(names)))
    numbers = np.full(max(highest, *numbered) + 1 if numbered else 1, -1, np.int64)
    numbers[numbered] = np.arange(len(numbered))
    return names, numbers


def _first_number(present: Sequence[int], count: int, origin: str) -> int:
    """Whether classes are counted from 0, or from 1 behind a background class."""
    lowest, highest = min(present, default=0), max(present, default=0)
    if lowest == 0 and highest < count:
        return 0
    if lowest >= 1 and highest == count:
        return 1
    if highest > count or (lowest == 0 and highest == count):
        raise DataError(
            f"{origin}: class numbers {lowest}..{highest}, but {count} labels: name each class, in "
            "the order of its number"
        )
    raise DataError(
        f"{origin}: class numbers {lowest}..{highest} of {count}: whether they count from 0 or "
        f"from 1 cannot be seen. Put a {_LABELS_FILE} beside the files with a line NUMBER:NAME for "
        "each class"
    )
