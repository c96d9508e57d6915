"""Where labelled images come from: folders, manifests, arrays and the built-in digits.

Nothing is decoded here. A source is opened, checked and described as :class:`LabelledImages`; every
mistake in it is a :class:`~keras_cls.errors.DataError` that says where it is and what to do.
"""

import csv
import io
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from keras_cls.data import ilsvrc
from keras_cls.errors import ConfigError, DataError, ImageError
from keras_cls.images import to_uint8
from keras_cls.labels import checked_labels, checked_name, listing, match_labels, printable

Data = str | os.PathLike[str] | tuple[object, object]

# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".dib", ".webp", ".tif",
    ".tiff", ".jp2", ".j2k", ".avif", ".heic", ".heif", ".hif", ".ico", ".ppm", ".pgm", ".pbm",
    ".pnm", ".mpo", ".tga",
})
# fmt: on
ACCEPTED_DATA = (
    "data is a folder of class folders, a folder that holds train/ and val/ folders of class "
    "folders, ILSVRC's folder, a .csv, .tsv or .jsonl manifest, a tuple (images, targets) of "
    "arrays, or 'digits'"
)

# Left behind by operating systems and archivers; whatever begins with a dot is ignored as well.
_IGNORED_NAMES = frozenset({"thumbs.db", "__macosx", "@eadir", "$recycle.bin", "lost+found"})
_TRAINING_NAMES = ("train", "training")
# In order of preference: a test set is left alone where there is a validation set.
_VALIDATION_NAMES = ("val", "valid", "validation", "test")
_MANIFEST_COLUMNS = {
    "file": ("file", "path", "image", "filename", "file_name"),
    "label": ("label", "class", "name", "category"),
    "split": ("split",),
}


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and their classes, before any decoding.

    Attributes:
        labels: the class names; a target is an index into them. Sorted as plain strings, except
            where arrays of integers, or the caller's own ``labels``, fix another order.
        targets: int64 [N], each in 0..len(labels) - 1.
        paths: the N image files, or None where there are pixels.
        pixels: uint8 [N, H, W] or [N, H, W, C] with C of 1, 3 or 4, or None where there are paths.
        origin: how messages name the whole: "photos/", "labels.csv", "arrays", "digits".
        positions: int64 [N], where each image stood in the source that it was first read from, so
            that a subset still calls it by the same name; counted 0..N - 1 where not given.
    """

    labels: tuple[str, ...]
    targets: np.ndarray
    paths: tuple[Path, ...] | None
    pixels: np.ndarray | None
    origin: str
    positions: np.ndarray | None = None

    def __post_init__(self) -> None:
        if (self.paths is None) == (self.pixels is None):
            raise DataError(f"{self.origin}: give either paths or pixels")
        images = self.paths if self.paths is not None else self.pixels
        if images is not None and len(images) != len(self.targets):
            raise DataError(f"{self.origin}: {len(images)} images, but {len(self.targets)} targets")

    def __len__(self) -> int:
        return len(self.targets)

    def name(self, index: int) -> str:
        """What messages call image ``index``: its path, or such as "image 17 of arrays"."""
        if self.paths is not None:
            return printable(str(self.paths[index]))
        position = index if self.positions is None else int(self.positions[index])
        return f"image {position} of {self.origin}"

    def subset(self, indices: Sequence[int] | np.ndarray) -> "LabelledImages":
        """The images at ``indices``, in that order, under the same labels."""
        chosen = np.asarray(indices, dtype=np.int64)
        positions = np.arange(len(self)) if self.positions is None else self.positions
        return replace(
            self,
            targets=self.targets[chosen],
            paths=None if self.paths is None else tuple(self.paths[i] for i in chosen),
            pixels=None if self.pixels is None else self.pixels[chosen],
            positions=positions[chosen],
        )

    def aligned_to(self, labels: Sequence[str]) -> "LabelledImages":
        """The same images with targets that index ``labels``, matched by class name.

        A class of ImageNet goes by its WordNet id or any of its names:
        :func:`keras_cls.labels.match_labels`.

        Raises:
            DataError: images belong to classes that are not among ``labels``.
        """
        present = np.unique(self.targets)
        found = match_labels([self.labels[target] for target in present], labels, self.origin)
        new_index = np.full(len(self.labels), -1, np.int64)
        new_index[present] = found
        return replace(self, labels=tuple(labels), targets=new_index[self.targets])


@dataclass(frozen=True)
class Sources:
    """What a data source holds: training images and, if it sets some apart, validation images.

    Both share ``train.labels``. A source that is not divided has everything in ``train``.
    """

    train: LabelledImages
    validation: LabelledImages | None = None


def open_source(
    data: Data, labels: Sequence[str] | None = None, *, every_class: bool = True
) -> Sources:
    """Find the images and classes of ``data``, without decoding any image file.

    Args:
        data: one of

            - a folder of class folders; images are found at any depth inside a class folder. What
              is hidden, and images beside the class folders, are ignored.
            - a folder that holds ``train/`` and one of ``val/``, ``valid/``, ``validation/`` and
              ``test/`` (the first that exists), each a folder of class folders.
            - ILSVRC's folder, or Kaggle's of it, where the validation images lie side by side and
              their classes stand in the development kit or ``LOC_val_solution.csv``
              (:mod:`keras_cls.data.ilsvrc`). To evaluate on, its ``val/`` is enough.
            - a ``.csv``, ``.tsv`` or ``.jsonl`` manifest in UTF-8 with a column for the file
              (file, path, image, filename, file_name), one for the class (label, class, name,
              category) and, if it likes, ``split`` (train; val, valid, validation or test, where
              test counts only if there is no other). Relative paths start at the manifest's folder.
              A repeated row counts once.
            - a tuple (images, targets): images of numbers on the 0..255 scale (uint16 on
              0..65535, bool black and white), of shape [N, H, W] or [N, H, W, C] with C of 1,
              3 or 4; targets integers [N] or [N, 1], or class names [N].
            - ``"digits"``: scikit-learn's 1,797 handwritten digits of 8x8 pixels. (A folder of that
              name is ``"./digits"``.)
        labels: the class names in the order that the targets shall have. Folders and manifests
            must have the same names.
        every_class: False for images to evaluate on, which need not show every one of the
            ``labels``, nor more than one class, nor (in a manifest) have training rows.

    Raises:
        DataError: the data cannot be used; the message names the file, row, folder or class.
        ConfigError: ``labels`` is not a sequence of distinct names.
    """
    names = None if labels is None else checked_labels(labels)
    if isinstance(data, tuple | list) and len(data) == 2:
        return Sources(_from_arrays(data[0], data[1], names, every_class))
    if isinstance(data, str) and data == "digits":
        return _with_labels(Sources(_digits()), names, every_class)
    if isinstance(data, str | os.PathLike):
        return _with_labels(_open_path(Path(data).expanduser(), every_class), names, every_class)
    if isinstance(data, np.ndarray):
        raise DataError(f"images without targets: pass a tuple (images, targets). {ACCEPTED_DATA}")
    raise DataError(f"data of type {type(data).__name__} is not understood: {ACCEPTED_DATA}")


def split(
    images: LabelledImages, fraction: float, seed: int
) -> tuple[LabelledImages, LabelledImages]:
    """Set apart about ``fraction`` of the images of each class for validation.

    The division depends on the seed, the class names and the order of the file names alone: not on
    the file system, the place of the folder or the order of the labels. A class of two or more
    images has at least one on either side; a class of one image keeps it for training.

    Returns:
        The training images and the validation images, each in the order of ``images``.

    Raises:
        ConfigError: ``fraction`` is not in (0, 1), or ``seed`` is negative.
        DataError: no class has two images, so that none can be set apart.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"the validation fraction is {fraction}: it must lie between 0 and 1")
    if seed < 0:
        raise ConfigError(f"the seed is {seed}: it must not be negative")
    held_out = np.zeros(len(images), dtype=bool)
    order = _canonical_order(images)
    targets_in_order = images.targets[order]
    for target, label in enumerate(images.labels):
        members = order[targets_in_order == target]
        if len(members) < 2:
            continue
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        # Seeded by the name, so that another class more or less does not reshuffle this one.
        generator = np.random.default_rng([seed, *label.encode()])
        held_out[generator.permutation(members)[:count]] = True
    if not held_out.any():
        raise DataError(
            f"{images.origin}: no class has two images, so none can be set apart for validation: "
            "add images, or give a validation set"
        )
    return images.subset(np.flatnonzero(~held_out)), images.subset(np.flatnonzero(held_out))


def _canonical_order(images: LabelledImages) -> np.ndarray:
    """Indices int64 [N] that sort the images by path, or by position where there are no paths."""
    if images.paths is not None:
        parts = [path.parts for path in images.paths]
        return np.array(sorted(range(len(parts)), key=parts.__getitem__), dtype=np.int64)
    if images.positions is not None:
        return np.argsort(images.positions, kind="stable")
    return np.arange(len(images))


# ------------------------------------------------------------------------------ labels and wording


def _with_labels(sources: Sources, labels: tuple[str, ...] | None, every_class: bool) -> Sources:
    """``sources`` with the classes in the order of ``labels``, which must name the same ones."""
    if labels is None:
        return sources
    train, validation = sources.train.aligned_to(labels), sources.validation
    missing = [labels[i] for i in np.flatnonzero(~np.isin(np.arange(len(labels)), train.targets))]
    if every_class and missing:
        raise DataError(
            f"{train.origin}: no images of {listing(sorted(missing))}, which labels names: add "
            "images, or leave it out of labels"
        )
    return Sources(train, None if validation is None else validation.aligned_to(labels))


def _require_two_classes(labels: Sequence[str], origin: str, remedy: str) -> None:
    if len(labels) == 1:
        raise DataError(
            f"{origin}: only one class, {listing(labels)}: there is nothing to tell it from. "
            f"{remedy}"
        )


def _counted(count: int, singular: str, plural: str) -> str:
    return f"{count} {singular if count == 1 else plural}"


# ---------------------------------------------------------------------------------------- folders


def _open_path(path: Path, every_class: bool) -> Sources:
    shown = printable(str(path))
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:
        raise DataError(f"{shown}: cannot be opened: {error}. {ACCEPTED_DATA}") from error
    if is_folder:
        return _open_folder(path, every_class)
    if not is_file:
        raise DataError(f"{shown}: no such file or folder. {ACCEPTED_DATA}")
    if path.suffix.lower() not in _MANIFEST_READERS:
        raise DataError(f"{shown}: a file, where a folder or a manifest is needed. {ACCEPTED_DATA}")
    return _open_manifest(path, every_class)


def _open_folder(folder: Path, every_class: bool) -> Sources:
    folder = ilsvrc.image_root(folder)
    to_evaluate_on = None if every_class else ilsvrc.validation_folder(folder)
    if to_evaluate_on is not None:  # the million training images need not even be listed
        return Sources(_from_labelled_folder(to_evaluate_on, every_class))
    division = _division(folder)
    if division is None:
        return Sources(_from_labelled_folder(folder, every_class))
    training_folder, validation_folder = division
    train = _from_class_folders(training_folder, every_class)
    try:
        validation = _from_labelled_folder(validation_folder, every_class=False)
        return Sources(train, validation.aligned_to(train.labels))
    except DataError as error:
        raise DataError(
            f"{error} (to do without this folder, pass '{printable(str(training_folder))}')"
        ) from error


def _division(folder: Path) -> tuple[Path, Path] | None:
    """The training and the validation folder, if ``folder`` is divided into such."""
    by_name = {path.name.casefold(): path for path in _subfolders(folder)}
    training = next((by_name[name] for name in _TRAINING_NAMES if name in by_name), None)
    validation = next((by_name[name] for name in _VALIDATION_NAMES if name in by_name), None)
    if training is None or validation is None:
        return None
    others = by_name.keys() - {*_TRAINING_NAMES, *_VALIDATION_NAMES}
    # "bus", "train" and "test" with images right inside "train" are three classes.
    return None if others and not _subfolders(training) else (training, validation)


def _from_labelled_folder(folder: Path, every_class: bool) -> LabelledImages:
    """A folder of class folders, or ILSVRC's flat one."""
    items = ilsvrc.labelled_images(folder)
    if items is None:
        return _from_class_folders(folder, every_class)
    names = tuple(sorted({wnid for wnid, _ in items}))
    return _from_labelled_paths(items, names, f"{printable(str(folder))}/")


def _from_class_folders(folder: Path, every_class: bool) -> LabelledImages:
    """The images of a folder of class folders, by class name and then by path."""
    origin = f"{printable(str(folder))}/"
    class_folders: dict[str, Path] = {}
    for path in _subfolders(folder):
        label = checked_name(path.name, origin, DataError)
        if label in class_folders:
            raise DataError(
                f"{origin}: two folders are named '{label}', in different Unicode forms: merge them"
            )
        class_folders[label] = path
    if not class_folders:
        raise _no_class_folders(folder, origin)
    images = {label: _images_below(class_folders[label]) for label in sorted(class_folders)}
    empty = [label for label, paths in images.items() if not paths]
    if len(empty) == len(images):
        raise DataError(
            f"{origin}: no images in {listing(empty)}: images end in .jpg, .png or another of "
            f"{len(IMAGE_SUFFIXES)} known suffixes"
        )
    if empty and every_class:
        raise DataError(
            f"{origin}: {_counted(len(empty), 'class', 'classes')} without images: "
            f"{listing(empty)}. Add images, or remove the folder"
        )
    if every_class:
        (first, *_) = class_folders.values()
        _require_two_classes(
            list(images),
            origin,
            f"If the classes are inside it, pass '{printable(str(first))}'; else add a folder of "
            "images for each other class",
        )
    return _from_labelled_paths(
        [(label, path) for label, paths in images.items() for path in paths], tuple(images), origin
    )


def _from_labelled_paths(
    items: Sequence[tuple[str, Path]], labels: tuple[str, ...], origin: str
) -> LabelledImages:
    index_of = {label: index for index, label in enumerate(labels)}
    return LabelledImages(
        labels=labels,
        targets=np.array([index_of[label] for label, _ in items], dtype=np.int64),
        paths=tuple(path for _, path in items),
        pixels=None,
        origin=origin,
    )


def _no_class_folders(folder: Path, origin: str) -> DataError:
    layout = f"Give each class a folder of its own, such as {origin}cat/1.jpg and {origin}dog/1.jpg"
    entries = _visible_entries(folder)
    if any(_is_image_name(entry.name) for entry in entries):
        return DataError(
            f"{origin}: images lie directly in the folder, so their classes are unknown. {layout}, "
            "or pass a .csv manifest with the columns file and label"
        )
    if entries:
        return DataError(f"{origin}: holds neither class folders nor images. {layout}")
    return DataError(f"{origin}: the folder is empty. {layout}")


def _visible_entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in the folder, sorted by name, without hidden files and system leftovers."""
    try:
        with os.scandir(folder) as entries:
            visible = [
                entry
                for entry in entries
                if not entry.name.startswith(".") and entry.name.lower() not in _IGNORED_NAMES
            ]
    except OSError as error:
        raise DataError(f"{printable(str(folder))}: cannot be listed: {error.strerror}") from error
    return sorted(visible, key=lambda entry: entry.name)


def _subfolders(folder: Path) -> list[Path]:
    return [folder / entry.name for entry in _visible_entries(folder) if _is_folder(entry)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_image_name(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def _images_below(class_folder: Path) -> list[Path]:
    """Image files at any depth, sorted by path. Links are followed, each folder is seen once."""
    # A link up to a parent would bring in the other classes' images.
    parents = {*class_folder.absolute().parents, *class_folder.resolve().parents}
    seen = {_identity(folder) for folder in parents}
    found: list[Path] = []
    waiting = [class_folder]
    while waiting:
        folder = waiting.pop(0)
        identity = _identity(folder)
        if identity in seen:
            continue
        seen.add(identity)
        for entry in _visible_entries(folder):
            if _is_folder(entry):
                waiting.append(folder / entry.name)
            # A broken link counts: it is reported as unreadable later, not passed over in silence.
            elif _is_image_name(entry.name) and (entry.is_symlink() or entry.is_file()):
                found.append(folder / entry.name)
    return sorted(found, key=lambda path: path.parts)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


# -------------------------------------------------------------------------------------- manifests


@dataclass(frozen=True)
class _Row:
    """A row of a manifest, checked by itself. ``number`` counts from 1, the header included."""

    number: int
    file: str
    label: str
    split: str  # "train", "validation" or "test"


def _open_manifest(manifest: Path, every_class: bool) -> Sources:
    origin = printable(str(manifest))
    records = _MANIFEST_READERS[manifest.suffix.lower()](_manifest_text(manifest, origin), origin)
    rows = [_checked_row(number, record, origin) for number, record in records]
    if not rows:
        raise DataError(f"{origin}: no rows: list an image file and its class in each")
    items = _distinct_files(rows, manifest.parent, origin)
    _require_files(items, manifest.parent, origin)

    by_split: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for path, row in items.items():
        by_split[row.split].append((row.label, path))
    training, held_out = by_split["train"], by_split["validation"] or by_split["test"]
    labels = {label for label, _ in training}
    held_out_labels = {label for label, _ in held_out}
    if every_class:
        _require_training_rows(labels, held_out_labels, origin)
    names = tuple(sorted(labels | held_out_labels))
    train = _from_labelled_paths(training, names, origin)
    return Sources(train, _from_labelled_paths(held_out, names, origin) if held_out else None)


def _require_training_rows(labels: set[str], held_out_labels: set[str], origin: str) -> None:
    if not labels:
        raise DataError(
            f"{origin}: no row's split is train: add training images, or leave the column out"
        )
    _require_two_classes(sorted(labels), origin, "Add rows of another class")
    if untrained := held_out_labels - labels:
        raise DataError(
            f"{origin}: {listing(sorted(untrained))} is among the validation rows but not among "
            "the training rows: add training images of it, or remove its rows"
        )


def _manifest_text(manifest: Path, origin: str) -> str:
    try:
        content = manifest.read_bytes()
    except OSError as error:
        raise DataError(f"{origin}: cannot be read: {error.strerror}") from error
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{origin}: encoded in UTF-16: save it as UTF-8")
    if (nul := content.find(b"\0")) >= 0:
        row = content.count(b"\n", 0, nul) + 1
        raise DataError(f"{origin}: row {row} holds a NUL byte: save it as plain UTF-8 text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{origin}: row {row} is not UTF-8 (byte 0x{content[error.start]:02x}): save it as "
            "UTF-8"
        ) from error


def _delimited_records(text: str, origin: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Rows of .csv or .tsv text with their numbers, each by the names in the header."""
    first_line = text.lstrip().partition("\n")[0]
    # Spreadsheets write semicolons where the comma is the decimal mark.
    delimiter = next((mark for mark in ("\t", ",", ";") if mark in first_line), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    number = 0
    try:
        for number, fields in enumerate(reader, start=1):
            if not any(field.strip() for field in fields):
                continue
            if header is None:
                header = [field.strip() for field in fields]
                _find_columns(header, f"{origin}, row {number}")
                continue
            if len(fields) > len(header):
                raise DataError(
                    f"{origin}: row {number} has {len(fields)} fields, but the header has "
                    f"{len(header)}: put a value that contains '{delimiter}' in double quotes"
                )
            padded = fields + [""] * (len(header) - len(fields))
            yield number, dict(zip(header, padded, strict=True))
    except csv.Error as error:
        raise DataError(f"{origin}: row {number + 1} cannot be parsed: {error}") from error
    if header is None:
        raise DataError(f"{origin}: the manifest is empty: its first row names the columns")


def _json_records(text: str, origin: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Objects of .jsonl text, with the numbers of their lines."""
    # Not splitlines(), which would also divide at characters that JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{origin}: row {number} is not valid JSON: {error}") from error
        if not isinstance(record, dict):
            raise DataError(
                f"{origin}: row {number} is not a JSON object such as "
                '{"file": "1.jpg", "label": "cat"}'
            )
        yield number, record


_MANIFEST_READERS: Mapping[
    str, Callable[[str, str], Iterator[tuple[int, Mapping[str, object]]]]
] = {".csv": _delimited_records, ".tsv": _delimited_records, ".jsonl": _json_records}


def _find_columns(columns: Iterable[str], where: str) -> dict[str, str]:
    """Which of ``columns`` serves as the file, the label and, where there is one, the split."""
    columns = list(columns)
    chosen: dict[str, str] = {}
    for role, accepted in _MANIFEST_COLUMNS.items():
        found = [column for column in columns if column.strip().lower() in accepted]
        if len(found) > 1:
            raise DataError(
                f"{where}: {listing(found)} all name the {role}: keep one of these columns"
            )
        if found:
            chosen[role] = found[0]
        elif role != "split":
            raise DataError(
                f"{where}: no column for the {role}, which is named {' or '.join(accepted)}; the "
                f"columns found are {listing(columns)}. The first row must name the columns"
            )
    return chosen


def _checked_row(number: int, record: Mapping[str, object], origin: str) -> _Row:
    where = f"{origin}: row {number}"
    columns = _find_columns(record, where)
    cells = {role: _cell(record[column], where, column) for role, column in columns.items()}
    for role in ("file", "label"):
        if not cells[role]:
            raise DataError(f"{where}: the column '{columns[role]}' is empty: fill it in")
    return _Row(
        number=number,
        file=cells["file"],
        label=checked_name(cells["label"], where, DataError),
        split=_split_name(cells["split"], where) if "split" in cells else "train",
    )


def _cell(value: object, where: str, column: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise DataError(
        f"{where}: the column '{column}' holds a {type(value).__name__}: make it a string"
    )


def _split_name(text: str, where: str) -> str:
    name = text.lower()
    if name in _TRAINING_NAMES:
        return "train"
    if name in _VALIDATION_NAMES:
        return "test" if name == "test" else "validation"
    raise DataError(
        f"{where}: the split is '{printable(text)}': make it train, val or test, or leave the "
        "column out"
    )


def _distinct_files(rows: Iterable[_Row], folder: Path, origin: str) -> dict[Path, _Row]:
    """The first row of each file, by path; its other rows must say the same."""
    items: dict[Path, _Row] = {}
    for row in rows:
        path = Path(os.path.normpath(folder / row.file))
        first = items.setdefault(path, row)
        if first.label != row.label:
            raise DataError(
                f"{origin}: rows {first.number} and {row.number} give '{printable(row.file)}' two "
                f"labels, '{first.label}' and '{row.label}': keep one"
            )
        if first.split != row.split:
            raise DataError(
                f"{origin}: rows {first.number} and {row.number} put '{printable(row.file)}' in "
                f"two splits, {first.split} and {row.split}: keep one"
            )
    return items


def _require_files(items: Mapping[Path, _Row], folder: Path, origin: str) -> None:
    missing = [row for path, row in items.items() if not _is_file(path)]
    if not missing:
        return
    shown = ", ".join(f"row {row.number} '{printable(row.file)}'" for row in missing[:3])
    rest = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    raise DataError(
        f"{origin}: {_counted(len(missing), 'file', 'files')} not found: {shown}{rest}. Relative "
        f"paths start at the manifest's folder, {printable(str(folder.absolute()))}"
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # such as a name that is too long
        return False


# ----------------------------------------------------------------------------------------- arrays


def _digits() -> LabelledImages:
    from sklearn.datasets import load_digits  # needs only be there for this one source

    digits = load_digits()
    return LabelledImages(
        labels=tuple(str(digit) for digit in range(10)),
        targets=digits.target.astype(np.int64),
        paths=None,
        pixels=np.rint(digits.images * (255 / 16)).astype(np.uint8),
        origin="digits",
    )


def _from_arrays(
    images: object, targets: object, labels: tuple[str, ...] | None, every_class: bool
) -> LabelledImages:
    pixels = _as_pixels(_as_array(images, "images"))
    array = _one_per_image(_as_array(targets, "targets"))
    if len(pixels) != len(array):
        raise DataError(
            f"arrays: {len(pixels)} images, but {len(array)} targets: give one target per image"
        )
    if array.dtype.kind in "UO" and all(isinstance(target, str) for target in array):
        indices, names = _targets_from_names(array, labels)
    else:
        indices, names = _targets_from_integers(array, labels)
    if every_class:
        counts = np.bincount(indices, minlength=len(names))
        empty = [names[index] for index in np.flatnonzero(counts == 0)]
        if empty:
            raise DataError(
                f"arrays: {_counted(len(empty), 'class', 'classes')} without images: "
                f"{listing(empty)}. Add images, or leave it out of labels"
            )
        _require_two_classes(names, "arrays", "Add images of another class")
    return LabelledImages(names, indices, paths=None, pixels=pixels, origin="arrays")


def _as_array(values: object, what: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"arrays: {what} is no array: {error}. Images of different sizes belong in a folder or "
            "a manifest"
        ) from error


def _as_pixels(images: np.ndarray) -> np.ndarray:
    """``images`` as uint8 on the 0..255 scale, of the same shape."""
    described = f"images of shape {list(images.shape)} and dtype {images.dtype}"
    _require_image_shape(images, described)
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        first = int(np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(axis=1))[0])
        raise DataError(f"arrays: {described}: image {first} holds NaN or infinity: remove it")
    try:
        return to_uint8(images, f"arrays: {described}")
    except ImageError as error:
        raise DataError(str(error)) from error


def _require_image_shape(images: np.ndarray, described: str) -> None:
    wanted = "the shape must be [N, H, W] or [N, H, W, C] with C of 1, 3 or 4"
    if images.ndim not in (3, 4):
        raise DataError(f"arrays: {described}: {wanted}")
    if len(images) == 0:
        raise DataError(f"arrays: {described}: there are no images")
    if 0 in images.shape:
        raise DataError(f"arrays: {described}: the images have no pixels")
    if images.ndim == 4 and images.shape[3] not in (1, 3, 4):
        remedy = (
            ". The channels seem to come first: pass np.moveaxis(images, 1, -1)"
            if images.shape[1] in (1, 3, 4)
            else ""
        )
        raise DataError(f"arrays: {described}: {wanted}{remedy}")


def _one_per_image(targets: np.ndarray) -> np.ndarray:
    """Targets of shape [N], from [N] or [N, 1]."""
    if targets.ndim == 2 and targets.shape[1] == 1:
        return targets[:, 0]
    if targets.ndim == 2:
        raise DataError(
            f"arrays: targets of shape {list(targets.shape)}: one class index per image is needed. "
            "If they are one-hot, pass targets.argmax(axis=1)"
        )
    if targets.ndim != 1:
        raise DataError(
            f"arrays: targets of shape {list(targets.shape)} and dtype {targets.dtype}: they must "
            "be integers [N] or [N, 1], or class names [N]"
        )
    return targets


def _targets_from_names(
    targets: np.ndarray, labels: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    names = [checked_name(name, f"arrays: target {i}", DataError) for i, name in enumerate(targets)]
    known = labels if labels is not None else tuple(sorted(set(names)))
    index_of = {label: index for index, label in enumerate(known)}
    for i, name in enumerate(names):
        if name not in index_of:
            raise DataError(
                f"arrays: target {i} is '{name}', which is not among the labels: {listing(known)}"
            )
    return np.array([index_of[name] for name in names], dtype=np.int64), known


def _targets_from_integers(
    targets: np.ndarray, labels: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    if targets.dtype.kind not in "iu":
        raise DataError(
            f"arrays: targets of dtype {targets.dtype}: they must be integers or class names. If "
            "they are whole numbers, pass targets.astype(int)"
        )
    negative = targets < 0
    beyond = np.zeros_like(negative) if labels is None else targets >= len(labels)
    if (wrong := np.flatnonzero(negative | beyond)).size:
        first = int(wrong[0])
        limit = "must not be negative" if labels is None else f"must lie in 0..{len(labels) - 1}"
        raise DataError(f"arrays: target {first} is {targets[first]}, but class indices {limit}")
    if labels is not None:
        return targets.astype(np.int64), labels
    present = np.unique(targets)
    if (gaps := np.flatnonzero(present != np.arange(len(present)))).size:
        raise DataError(
            f"arrays: class {gaps[0]} has no images, though class {present[-1]} has: number the "
            "classes 0, 1, 2, ... without a gap, or name them all in labels"
        )
    return targets.astype(np.int64), tuple(str(index) for index in range(len(present)))
