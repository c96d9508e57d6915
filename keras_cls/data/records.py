"""TFRecord shards as a data source: images in few large files, read in any order, from any place.

A record is a ``tf.train.Example``. Shards that :mod:`keras_cls.data.packing` wrote lie beside a
``dataset.json`` and an index of their records; foreign ones (the ImageNet format of TF-slim and of
the TensorFlow models, TensorFlow Datasets) are looked through once, which makes the same index.

Order. The index says where each record begins, so that reading can begin anywhere. Records are read
in runs of neighbours, half a megabyte at once: that is as fast as reading whole files, on disks and
networks that dislike small reads too. Each epoch draws a new order of all runs, and the images of
256 runs at a time are shuffled among each other. The order depends on the seed and the epoch alone,
and going on in the middle of an epoch reads less than one such window again. (A shuffle buffer
over whole shards would have to read everything before.)
"""

import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from keras_cls.data import ordering
from keras_cls.data.stratification import held_out
from keras_cls.errors import ConfigError, DataError, ImageError
from keras_cls.files import read_json
from keras_cls.labels import checked_labels, match_labels, printable

DATASET_FILE = "dataset.json"
WORK_FOLDER = "packing"
"""In a folder of shards: that they are still being written, and how far it is."""

SETTINGS_FILE = "settings.json"
"""What was asked for, in that folder."""

FORMAT = "keras_cls records"
VERSION = 1
TRAIN, VALIDATION = "train", "validation"

FRAME_HEADER_BYTES = 12
"""Before a record's content: its length and that length's checksum. Behind it: its checksum."""
FRAME_BYTES = FRAME_HEADER_BYTES + 4

_ANEW = "Fetch the file again, or pack the data again"
_HEAD_BYTES = 4096
_READERS = 8
_RUNS_IN_FLIGHT = 16


@dataclass(frozen=True)
class RecordKeys:
    """What the features of an example are called.

    Attributes:
        image: the encoded image, one string.
        label: its class number, one integer; or the numbers of its classes, any number of them.
        name: what the image is called, a string that may be absent.
        class_names: strings that may name its class, the best first.
    """

    image: str
    label: str
    name: str
    class_names: tuple[str, ...] = ()


STANDARD_KEYS = RecordKeys(
    image="image/encoded",
    label="image/class/label",
    name="image/filename",
    class_names=("image/class/synset", "image/class/text"),
)
"""Those of TF-slim and the TensorFlow models; our shards have them too."""


@dataclass(frozen=True)
class Grain:
    """How finely records are shuffled.

    Attributes:
        run_bytes: neighbours are read together up to so many bytes ...
        run_records: ... and so many records.
        window: of so many runs at a time, the records are shuffled among each other.
    """

    run_bytes: int = 1 << 19
    run_records: int = 64
    window: int = 256


@dataclass(frozen=True)
class Shard:
    """A file of records. ``digest`` is its SHA-256 in hexadecimal, where it is known."""

    file: Path
    records: int
    bytes: int
    digest: str = ""


@dataclass(frozen=True, eq=False)
class RecordIndex:
    """Where records lie and what they say of their classes, in the order in which they lie.

    Attributes:
        shard: int64 [N], which shard each record is in.
        position: int64 [N], its number in that shard.
        begin: int64 [N], its first byte there.
        end: int64 [N], the byte behind its last.
        label_counts: int64 [N], how many class numbers each record has; with one label each, ones.
        labels: int64 [sum of label_counts], these numbers as the records have them.
    """

    shard: np.ndarray
    position: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    label_counts: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.shard)

    def subset(self, indices: np.ndarray) -> "RecordIndex":
        """The records at ``indices``, which ascend."""
        kept = np.zeros(len(self), bool)
        kept[indices] = True
        return RecordIndex(
            self.shard[kept],
            self.position[kept],
            self.begin[kept],
            self.end[kept],
            self.label_counts[kept],
            self.labels[np.repeat(kept, self.label_counts)],
        )


def index_of_shards(
    begins: Sequence[np.ndarray],
    sizes: Sequence[int],
    label_counts: np.ndarray,
    labels: np.ndarray,
) -> RecordIndex:
    """The index of shards whose records follow each other without a gap.

    Args:
        begins: for each shard, int64 [n], where its records begin.
        sizes: the bytes of each shard.
        label_counts: int64 [N], as in :class:`RecordIndex`.
        labels: int64, as there.
    """
    counts = [len(begin) for begin in begins]
    empty = [np.zeros(0, np.int64)]  # numpy concatenates no empty lists
    return RecordIndex(
        shard=np.repeat(np.arange(len(counts)), counts),
        position=np.concatenate([*empty, *(np.arange(count) for count in counts)]),
        begin=np.concatenate([*empty, *begins]),
        end=np.concatenate(
            [
                *empty,
                *(np.append(b[1:], size)[: len(b)] for b, size in zip(begins, sizes, strict=True)),
            ]
        ),
        label_counts=label_counts,
        labels=labels,
    )


@dataclass(frozen=True, eq=False)
class _Runs:
    """Neighbouring records that are read at once; each array is int64 [number of runs].

    Attributes:
        shard: which file they are in.
        begin: the first byte.
        bytes: how many bytes to read.
        records: how many records lie there, including those that are not wanted.
        first: the index of the first wanted one; its neighbours' follow.
        wanted: how many are wanted.
    """

    shard: np.ndarray
    begin: np.ndarray
    bytes: np.ndarray
    records: np.ndarray
    first: np.ndarray
    wanted: np.ndarray


def _runs(index: RecordIndex, grain: Grain) -> _Runs:
    firsts: list[int] = []
    shard, begin, end = (array.tolist() for array in (index.shard, index.begin, index.end))
    for i in range(len(index)):
        start = firsts[-1] if firsts else -1
        if (
            start < 0
            or shard[i] != shard[start]
            or i - start >= grain.run_records
            or end[i] - begin[start] > grain.run_bytes
        ):
            firsts.append(i)
    first = np.array(firsts, np.int64)
    last = np.append(first[1:], len(index)) - 1
    return _Runs(
        shard=index.shard[first],
        begin=index.begin[first],
        bytes=index.end[last] - index.begin[first],
        records=index.position[last] - index.position[first] + 1,
        first=first,
        wanted=last - first + 1,
    )


@dataclass(frozen=True, eq=False)
class RecordShards:
    """Images in TFRecord shards (an image stream of the pipeline; items are (index, example)).

    Attributes:
        labels: the class names.
        multi_label: whether an image may have any number of classes.
        shards: the files.
        index: the records that belong to the stream.
        numbers: int64 [M], for each class number in the records, its place among ``labels``; -1
            where it has none.
        origin: how messages name the whole.
        keys: what the examples' features are called.
        unreadable: an error for each image that was left out.
        grain: how finely it is shuffled.
    """

    labels: tuple[str, ...]
    multi_label: bool
    shards: tuple[Shard, ...]
    index: RecordIndex
    numbers: np.ndarray
    origin: str
    keys: RecordKeys = STANDARD_KEYS
    unreadable: tuple[ImageError, ...] = ()
    grain: Grain = Grain()

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def targets(self) -> np.ndarray:
        """The classes: int64 [N]; multi-label, float32 [N, K] of zeros and ones."""
        places = self.numbers[self.index.labels]
        if not self.multi_label:
            return places
        targets = np.zeros((len(self), len(self.labels)), np.float32)
        targets[np.repeat(np.arange(len(self)), self.index.label_counts), places] = 1
        return targets

    @cached_property
    def counts(self) -> np.ndarray:
        """int64 [C], how many images have each class."""
        return np.bincount(self.numbers[self.index.labels], minlength=len(self.labels))

    def name(self, index: int) -> str:
        """What messages call an image: its record, and what the record calls it."""
        shard, position = self.shards[self.index.shard[index]], self.index.position[index]
        where = f"record {position} of {printable(str(shard.file))}"
        try:
            found = self._features(index).get(self.keys.name)
        except DataError:
            return where
        return f"{printable(found[0].decode(errors='replace'))} ({where})" if found else where

    def encoded(self, index: int) -> bytes:
        """The image as it was encoded.

        Raises:
            DataError: the record is damaged.
        """
        return bytes(self._features(index)[self.keys.image][0])

    def _features(self, index: int) -> Mapping[str, Sequence[Any]]:
        shard = self.shards[self.index.shard[index]]
        begin, end = int(self.index.begin[index]), int(self.index.end[index])
        try:
            content = _record(str(shard.file), begin, end - begin).numpy()
        except tf.errors.OpError as error:
            raise damage(shard.file, int(self.index.position[index]), begin) from error
        where = f"record {self.index.position[index]} of {printable(str(shard.file))}"
        return example_features(content, where)

    def explained(self, error: tf.errors.OpError) -> Exception:
        """An error of reading as a :class:`DataError` that names file and record, if it is one."""
        found = re.search(r"(?:corrupted|truncated) record at (\d+)", error.message)
        if not isinstance(error, tf.errors.DataLossError) or found is None:
            return error
        # That byte is the record's first one, or the first of its content.
        for first in (int(found[1]), int(found[1]) - FRAME_HEADER_BYTES):
            for index in np.flatnonzero(self.index.begin == first):
                try:
                    self._features(int(index))
                except DataError as damage:
                    return damage
        # Perhaps a neighbour that does not belong to the stream.
        for shard in self.shards:
            damaged = _first_damage(shard.file)
            if damaged is not None:
                return damaged
        return error

    def divided(self, fraction: float, seed: int) -> tuple["RecordShards", "RecordShards"]:
        """The rest, and about ``fraction`` of the images of each class, by the rule of folders.

        Raises:
            ConfigError: ``fraction`` is not in (0, 1), or ``seed`` is negative.
            DataError: no class has two images, so that none can be set apart.
        """
        order = np.arange(len(self))
        apart = held_out(self.targets, self.labels, order, fraction, seed, self.origin)
        return self.subset(np.flatnonzero(~apart)), self.subset(np.flatnonzero(apart))

    def subset(self, indices: Sequence[int] | np.ndarray) -> "RecordShards":
        """The images at ``indices``, in the order in which they lie."""
        return replace(self, index=self.index.subset(np.asarray(indices, np.int64)))

    def aligned_to(self, labels: Sequence[str]) -> "RecordShards":
        """The same images with targets that index ``labels``, matched by class name.

        Raises:
            DataError: images belong to classes that are not among ``labels``.
        """
        if tuple(labels) == self.labels:
            return self
        present = np.flatnonzero(self.counts)
        found = match_labels([self.labels[place] for place in present], labels, self.origin)
        place_of = np.full(len(self.labels) + 1, -1, np.int64)  # the last: of no class
        place_of[present] = found
        return replace(self, labels=tuple(labels), numbers=place_of[self.numbers])

    def fingerprint(self) -> str:
        """A digest of what is in the shards and of which records count."""
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(f"{shard.file.name} {shard.bytes} {shard.digest}\0".encode())
        for array in (self.index.shard, self.index.begin, self.numbers[self.index.labels]):
            digest.update(np.ascontiguousarray(array, np.int64).tobytes())
        return digest.hexdigest()

    # --- As the pipeline reads it -----------------------------------------------------------

    def in_order(self) -> tf.data.Dataset:
        """Every item once, as the records lie."""
        return (
            tf.data.Dataset.range(len(self._runs.first))
            .map(self._read_run, num_parallel_calls=_READERS, deterministic=True)
            .unbatch()
        )

    def shuffled(
        self, seed: int, per_epoch: int, first: int | tf.Tensor, balanced: bool = False
    ) -> tf.data.Dataset:
        """Endless items from item ``first`` on, in an order of seed and epoch alone."""
        if balanced:
            # Neighbours in the order are no neighbours in the files.
            return ordering.balanced(self.targets, seed, per_epoch, first).map(
                lambda index: (index, self._read_one_though_damaged(index)),
                num_parallel_calls=_RUNS_IN_FLIGHT,
                deterministic=True,
            )
        return self._windows(seed, per_epoch, first).flat_map(
            lambda *items: tf.data.Dataset.from_tensor_slices(items)
        )

    def load(self, index: tf.Tensor, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """An item as its image, encoded, and its target."""
        label = (
            tf.io.VarLenFeature(tf.int64)
            if self.multi_label
            else tf.io.FixedLenFeature([], tf.int64)
        )
        features = tf.io.parse_single_example(
            record,
            {self.keys.image: tf.io.FixedLenFeature([], tf.string), self.keys.label: label},
        )
        if not self.multi_label:
            return features[self.keys.image], tf.gather(self._numbers, features[self.keys.label])
        places = tf.gather(self._numbers, features[self.keys.label].values)
        shares = tf.reduce_sum(tf.one_hot(places, len(self.labels)), axis=0)
        return features[self.keys.image], tf.minimum(shares, 1.0)

    def _read_one(self, index: tf.Tensor) -> tf.Tensor:
        begin, end = tf.gather(self._begins, index), tf.gather(self._ends, index)
        file = tf.gather(self._files, tf.gather(self._shard_of, index))
        return _record(file, begin, end - begin)

    def _read_run(self, run: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The wanted records of a run by its number: their indices, int64 [n], and string [n]."""
        row = tf.gather(self._run_table, run)
        # Not tf.unstack: beside a batch, TensorFlow 2.21's graph optimizer crashes on it.
        shard, begin, size, count, first, wanted = (row[column] for column in range(6))
        records = _records(tf.gather(self._files, shard), begin, size).take(count).batch(count)
        indices = tf.range(first, first + wanted)
        places = tf.gather(self._positions, indices)
        return indices, tf.gather(records.get_single_element(), places - places[0])

    # In training one damaged record is to cost no more than itself: it is read as nothing, which
    # fails to load.

    def _read_run_though_damaged(self, run: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        def singly(run: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            first, wanted = tf.gather(self._run_table, run)[4], tf.gather(self._run_table, run)[5]
            indices = tf.range(first, first + wanted)
            records = tf.data.Dataset.from_tensor_slices(indices).map(self._read_one_though_damaged)
            return indices, records.batch(wanted).get_single_element()

        return _first_that_can(run, self._read_run, singly)

    def _read_one_though_damaged(self, index: tf.Tensor) -> tf.Tensor:
        return _first_that_can(index, self._read_one, lambda index: tf.constant(""))

    @cached_property
    def _runs(self) -> _Runs:
        return _runs(self.index, self.grain)

    # Constants that several datasets share instead of holding a copy each; made outside of the
    # function that happens to be traced when they are first asked for.

    @cached_property
    def _files(self) -> tf.Tensor:
        return _constant([str(shard.file) for shard in self.shards])

    @cached_property
    def _run_table(self) -> tf.Tensor:
        runs = self._runs
        columns = [runs.shard, runs.begin, runs.bytes, runs.records, runs.first, runs.wanted]
        return _constant(np.stack(columns, axis=1))

    @cached_property
    def _positions(self) -> tf.Tensor:
        return _constant(self.index.position)

    @cached_property
    def _shard_of(self) -> tf.Tensor:
        return _constant(self.index.shard)

    @cached_property
    def _begins(self) -> tf.Tensor:
        return _constant(self.index.begin)

    @cached_property
    def _ends(self) -> tf.Tensor:
        return _constant(self.index.end)

    @cached_property
    def _numbers(self) -> tf.Tensor:
        return _constant(self.numbers)

    def _windows(self, seed: int, per_epoch: int, first: int | tf.Tensor) -> tf.data.Dataset:
        """The shuffled items, a window at a time: (int64 [n], string [n])."""
        runs = self._runs
        in_window = min(self.grain.window, len(runs.first))
        per_pass = -(-len(runs.first) // in_window)
        passes = -(-per_epoch // len(self))
        wanted = tf.constant(runs.wanted)
        most = in_window * int(runs.wanted.max())
        first_epoch, skipped = first // per_epoch, first % per_epoch

        def key(epoch: tf.Tensor) -> tf.Tensor:
            return tf.stack([tf.constant(seed, tf.int64), epoch])

        def shares(epoch: tf.Tensor) -> tf.data.Dataset:
            """(epoch, window, its runs, the share of its images that is used) of one epoch."""
            order = tf.random.experimental.stateless_shuffle(
                tf.range(len(runs.first), dtype=tf.int64), key(epoch)
            )
            sizes = tf.gather(wanted, order)
            sizes = tf.pad(sizes, [[0, per_pass * in_window - len(runs.first)]])
            sizes = tf.tile(tf.reduce_sum(tf.reshape(sizes, [per_pass, in_window]), 1), [passes])
            starts = tf.cumsum(sizes, exclusive=True)
            done = tf.where(epoch == first_epoch, tf.cast(skipped, tf.int64), 0)

            def share(number: tf.Tensor) -> tuple[tf.Tensor, ...]:
                window = number % per_pass
                here = order[window * in_window : (window + 1) * in_window]
                begin = tf.maximum(done - starts[number], 0)
                end = tf.minimum(per_epoch - starts[number], sizes[number])
                return epoch, window, here, begin, end

            from_window = tf.searchsorted(starts, [done], side="right")[0] - 1
            to_window = tf.searchsorted(starts, [tf.constant(per_epoch, tf.int64)])[0]
            numbers = tf.data.Dataset.range(
                tf.cast(from_window, tf.int64), tf.cast(to_window, tf.int64)
            )
            return numbers.map(share)

        def window(
            epoch: tf.Tensor, number: tf.Tensor, here: tf.Tensor, begin: tf.Tensor, end: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor]:
            indices, records = (
                tf.data.Dataset.from_tensor_slices(here)
                .map(self._read_run_though_damaged, num_parallel_calls=_READERS, deterministic=True)
                .unbatch()
                .batch(most)
                .get_single_element()
            )
            order = tf.random.experimental.stateless_shuffle(
                tf.range(tf.size(records)),
                tf.random.experimental.stateless_fold_in(key(epoch), number + 1),
            )
            chosen = order[begin:end]
            return tf.gather(indices, chosen), tf.gather(records, chosen)

        epochs = tf.data.Dataset.counter(first_epoch).flat_map(shares)
        return epochs.map(window).prefetch(1)


def _first_that_can(value: tf.Tensor, *ways: Callable[[tf.Tensor], Any]) -> Any:
    """What the first of several functions makes of a value without an error."""
    one = tf.data.Dataset.from_tensors(value)
    made = one.map(ways[0]).ignore_errors()
    for way in ways[1:]:
        made = made.concatenate(one.map(way))
    return made.take(1).get_single_element()


def _records(file: Any, begin: Any, size: Any) -> tf.data.Dataset:
    """A file's records from byte ``begin`` on, their checksums verified; reads ``size`` bytes."""
    # TFRecordDataset does not show the argument that says where to begin.
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=[file], compression_type="", buffer_size=size, byte_offsets=[begin]
    )
    return tf.data.experimental.from_variant(variant, tf.TensorSpec((), tf.string))


@tf.function(
    input_signature=[
        tf.TensorSpec((), tf.string),
        tf.TensorSpec((), tf.int64),
        tf.TensorSpec((), tf.int64),
    ]
)
def _record(file: tf.Tensor, begin: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """One record's content. (Outside of a function, the operation cannot be run.)"""
    return _records(file, begin, size).take(1).get_single_element()


def _first_damage(file: Path) -> DataError | None:
    position, begin = 0, 0
    try:
        for content in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            position, begin = position + 1, begin + len(content) + FRAME_BYTES
    except tf.errors.OpError:
        return damage(file, position, begin)
    return None


def _constant(values: Any) -> tf.Tensor:
    with tf.init_scope():
        return tf.constant(values)


def example_features(content: bytes, where: str) -> Mapping[str, Sequence[Any]]:
    """The features of a serialized ``tf.train.Example`` by name; ``where`` it was read.

    Raises:
        DataError: it is none.
    """
    try:
        features = tf.train.Example.FromString(content).features.feature
    except DecodeError as error:
        raise DataError(
            f"{where}: not a tf.train.Example: the file holds something else"
        ) from error
    kinds = {name: feature.WhichOneof("kind") for name, feature in features.items()}
    return {
        name: getattr(features[name], kind).value
        for name, kind in kinds.items()
        if kind is not None
    }


def damage(file: Path, position: int, begin: int) -> DataError:
    """What to say of a record that cannot be read."""
    return DataError(
        f"{printable(str(file))}: record {position} (at byte {begin}) is damaged: its content and "
        f"its checksum do not agree. {_ANEW}"
    )


# --- Folders that were packed here ------------------------------------------------------------


@dataclass(frozen=True)
class RecordSources:
    """Training images and, where they are set apart, validation images, under the same labels."""

    train: RecordShards
    validation: RecordShards | None = None


def is_packed(folder: Path) -> bool:
    """Whether there is a ``dataset.json`` of ours, or as much of one as can be told.

    Raises:
        DataError: packing was not finished.
    """
    file = folder / DATASET_FILE
    if not file.is_file():
        if (folder / WORK_FOLDER / SETTINGS_FILE).is_file():
            raise DataError(
                f"{printable(str(folder))}/: these shards are not all written yet: let `keras-cls "
                "data pack` finish, or start it again with the same arguments"
            )
        return False
    with file.open("rb") as stream:
        return FORMAT.encode() in stream.read(_HEAD_BYTES)


def open_packed(folder: Path) -> RecordSources:
    """The images of a folder that :func:`keras_cls.data.packing.pack` has written.

    Raises:
        ConfigError, DataError: ``dataset.json``, an index or a shard is missing or damaged; the
            file is named, and the field.
    """
    file = folder / DATASET_FILE
    content = read_json(file)
    where = printable(str(file))
    if content.get("format") != FORMAT:
        raise DataError(
            f"{where}: format: expected {FORMAT!r}, found {_shown(content.get('format'))}"
        )
    if content.get("version") != VERSION:
        raise DataError(
            f"{where}: version: expected {VERSION}, found {_shown(content.get('version'))}: it was "
            "written by another keras_cls; pack the data again with this one"
        )
    try:
        labels = checked_labels(_field(content, "labels", list, where), f"{where}: labels")
    except ConfigError as error:
        raise DataError(f"{error}. {_ANEW}") from error
    multi_label = _field(content, "multi_label", bool, where)
    parts = _field(content, "splits", dict, where)
    if TRAIN not in parts or parts.keys() - {TRAIN, VALIDATION}:
        raise DataError(
            f"{where}: splits: expected '{TRAIN}' and perhaps '{VALIDATION}', found "
            f"{_shown(list(parts))}. {_ANEW}"
        )
    streams = {
        name: _open_part(folder, labels, multi_label, part, f"{where}: splits.{name}")
        for name, part in parts.items()
    }
    return RecordSources(streams[TRAIN], streams.get(VALIDATION))


def _open_part(
    folder: Path, labels: tuple[str, ...], multi_label: bool, part: Any, where: str
) -> RecordShards:
    if not isinstance(part, dict):
        raise DataError(f"{where}: expected an object, found {_shown(part)}. {_ANEW}")
    shards = tuple(
        _checked_shard(folder, shard, f"{where}.shards[{i}]")
        for i, shard in enumerate(_field(part, "shards", list, where))
    )
    unreadable = tuple(
        ImageError(str(_field(each, "name", str, where)), str(_field(each, "reason", str, where)))
        for each in _field(part, "unreadable", list, where)
    )
    index = _read_index(folder, part, shards, where)
    stream = RecordShards(
        labels,
        multi_label,
        shards,
        index,
        numbers=np.arange(len(labels)),
        origin=f"{printable(str(folder))}/",
        unreadable=unreadable,
    )
    whole = not len(index.labels) or 0 <= index.labels.min() <= index.labels.max() < len(labels)
    if not whole or _field(part, "counts", list, where) != stream.counts.tolist():
        raise DataError(
            f"{where}.counts: they are not those of the index of the records: the files do not "
            f"belong together. {_ANEW}"
        )
    return stream


def _checked_shard(folder: Path, content: Any, where: str) -> Shard:
    if not isinstance(content, dict):
        raise DataError(f"{where}: expected an object, found {_shown(content)}. {_ANEW}")
    name = _field(content, "file", str, where)
    if Path(name).name != name:
        raise DataError(f"{where}.file: expected a file's name, found {_shown(name)}")
    size = _field(content, "bytes", int, where)
    file = folder / name
    try:
        found = file.stat().st_size
    except OSError as error:
        raise DataError(
            f"{printable(str(file))}: {(error.strerror or str(error)).lower()}; {DATASET_FILE} "
            f"lists it. {_ANEW}"
        ) from error
    if found != size:
        raise DataError(
            f"{printable(str(file))}: {found:,} bytes, where {DATASET_FILE} says {size:,}: the "
            f"file is {'cut off' if found < size else 'another one'}. {_ANEW}"
        )
    return Shard(
        file, _field(content, "records", int, where), size, _field(content, "sha256", str, where)
    )


_INDEX_ARRAYS = ("begin", "label_counts", "labels")


def write_index(file: Path, index: RecordIndex) -> str:
    """Write what :func:`open_packed` reads; returns its SHA-256."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: getattr(index, name) for name in _INDEX_ARRAYS})
    file.write_bytes(buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def _read_index(
    folder: Path, part: Mapping[str, Any], shards: Sequence[Shard], where: str
) -> RecordIndex:
    description = _field(part, "index", dict, where)
    name = _field(description, "file", str, f"{where}.index")
    file = folder / name
    shown = printable(str(file))
    if Path(name).name != name:
        raise DataError(f"{where}.index.file: expected a file's name, found {_shown(name)}")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{shown}: {(error.strerror or str(error)).lower()}. {_ANEW}") from error
    if hashlib.sha256(content).hexdigest() != description.get("sha256"):
        raise DataError(
            f"{shown}: its SHA-256 is not the one in {DATASET_FILE}: it is damaged, or another "
            f"one. {_ANEW}"
        )
    begin, label_counts, labels = read_arrays(content, _INDEX_ARRAYS, shown)
    count = sum(shard.records for shard in shards)
    ends_of_shards = np.cumsum([shard.records for shard in shards])
    sound = (
        len(begin) == len(label_counts) == count
        and label_counts.min(initial=0) >= 0
        and label_counts.sum() == len(labels)
        and _field(part, "count", int, where) == count
    )
    if sound:
        begins = np.split(begin, ends_of_shards[:-1])
        index = index_of_shards(begins, [shard.bytes for shard in shards], label_counts, labels)
        sound = all(not len(each) or each[0] == 0 for each in begins) and bool(
            (index.end - index.begin >= FRAME_BYTES).all()
        )
    if not sound:
        raise DataError(
            f"{shown}: it does not fit the shards in {DATASET_FILE}: the files do not belong "
            f"together. {_ANEW}"
        )
    return index


def read_arrays(content: bytes, names: Sequence[str], where: str) -> list[np.ndarray]:
    """One-dimensional int64 arrays of an .npz file by name; nothing in it is unpickled.

    Raises:
        DataError: it is damaged, or holds something else.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = [arrays[name] for name in names]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{where}: not an index of records: {error}. {_ANEW}") from error
    if any(array.ndim != 1 or array.dtype.kind not in "iu" for array in found):
        raise DataError(f"{where}: not an index of records. {_ANEW}")
    return [array.astype(np.int64) for array in found]


def _field(content: Any, name: str, kind: type, where: str) -> Any:
    value: Any = content.get(name) if isinstance(content, dict) else None
    is_kind = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    if not is_kind or (kind is int and value < 0):
        names = {list: "a list", dict: "an object", str: "text", int: "a whole number"}
        expected = names.get(kind, "true or false")
        raise DataError(f"{where}.{name}: expected {expected}, found {_shown(value)}. {_ANEW}")
    return value


def _shown(value: Any) -> str:
    text = printable(repr(value))
    return text if len(text) <= 60 else f"{text[:60]}..."
