"""Where labelled images come from: folders, manifests, arrays and the built-in digits.

Nothing is decoded here. A source is opened, checked and described as :class:`LabelledImages`; every
mistake in it is a :class:`~keras_cls.errors.DataError` that says where it is and what to do.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from keras_cls.data import ilsvrc
from keras_cls.data.manifests import READERS, TRAINING_NAMES, VALIDATION_NAMES, read_manifest
from keras_cls.data.stratification import held_out
from keras_cls.errors import DataError, ImageError
from keras_cls.files import LOCK_FILE
from keras_cls.images import IMAGE_SUFFIXES, to_uint8
from keras_cls.labels import checked_labels, checked_name, listing, match_labels, printable

Data = str | os.PathLike[str] | tuple[object, object]

ACCEPTED_DATA = (
    "data is a folder of class folders, a folder that holds train/ and val/ folders of class "
    "folders, ILSVRC's folder, a .csv, .tsv or .jsonl manifest, a folder of TFRecord files, "
    "'tfds:NAME', a tuple (images, targets) of arrays, a tf.data.Dataset, or 'digits'"
)

# Left behind by operating systems and archivers; whatever begins with a dot is ignored as well.
_IGNORED_NAMES = frozenset({"thumbs.db", "__macosx", "@eadir", "$recycle.bin", "lost+found"})


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and their classes, before any decoding.

    Attributes:
        labels: the class names; a target is an index into them. Sorted as plain strings, except
            where arrays of integers, or the caller's own ``labels``, fix another order.
        targets: int64 [N], each in 0..len(labels) - 1; or, where an image may show any number of
            the classes, float32 [N, len(labels)] of zeros and ones.
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
        if self.multi_label and self.targets.shape[1] != len(self.labels):
            raise DataError(
                f"{self.origin}: targets of {self.targets.shape[1]} columns, but "
                f"{len(self.labels)} labels"
            )

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def multi_label(self) -> bool:
        """Whether an image may show any number of the classes instead of exactly one."""
        return self.targets.ndim == 2

    @property
    def counts(self) -> np.ndarray:
        """The images of each class, int64 [len(labels)]; multi-label, those that show it."""
        if self.multi_label:
            return np.count_nonzero(self.targets, axis=0).astype(np.int64)
        return np.bincount(self.targets, minlength=len(self.labels)).astype(np.int64)

    def as_multi_label(self) -> "LabelledImages":
        """The same images with a column of zeros and ones for each class."""
        if self.multi_label:
            return self
        rows = np.zeros((len(self), len(self.labels)), np.float32)
        rows[np.arange(len(self)), self.targets] = 1
        return replace(self, targets=rows)

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
        present = np.flatnonzero(self.counts)
        found = match_labels([self.labels[target] for target in present], labels, self.origin)
        if self.multi_label:
            rows = np.zeros((len(self), len(labels)), np.float32)
            rows[:, list(found)] = self.targets[:, present]
            return replace(self, labels=tuple(labels), targets=rows)
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
    data: Data,
    labels: Sequence[str] | None = None,
    *,
    every_class: bool = True,
    multi_label: bool | None = None,
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
              A repeated row counts once. An image of several classes has their names in one cell,
              separated by ``|`` (so no name can hold it), or, in .jsonl, in a list. In such a
              manifest an empty cell, or list, stands for an image of none of the classes.
            - a tuple (images, targets): images of numbers on the 0..255 scale (uint16 on
              0..65535, bool black and white), of shape [N, H, W] or [N, H, W, C] with C of 1,
              3 or 4; targets integers [N] or [N, 1], class names [N], or [N, K] of zeros and ones
              with K of 2 or more, a column for each class.
            - ``"digits"``: scikit-learn's 1,797 handwritten digits of 8x8 pixels. (A folder of that
              name is ``"./digits"``.)
        labels: the class names in the order that the targets shall have. Folders and manifests
            must have the same names.
        every_class: False for images to evaluate on, which need not show every one of the
            ``labels``, nor more than one class, nor (in a manifest) have training rows.
        multi_label: whether an image may show any number of the classes. None: if one shows more
            or fewer than one. True: in any case; several rows of a manifest may then name the same
            file, each with some of its classes. False: refuse images of several classes or none.

    Raises:
        DataError: the data cannot be used; the message names the file, row, folder or class.
        ConfigError: ``labels`` is not a sequence of distinct names.
    """
    names = None if labels is None else checked_labels(labels)
    if isinstance(data, tuple | list) and len(data) == 2:
        return Sources(_from_arrays(data[0], data[1], names, every_class, multi_label))
    if isinstance(data, str) and data == "digits":
        digits = _digits().as_multi_label() if multi_label else _digits()
        return _with_labels(Sources(digits), names, every_class)
    if isinstance(data, str | os.PathLike):
        opened = _open_path(Path(data).expanduser(), every_class, multi_label)
        return _with_labels(opened, names, every_class)
    if isinstance(data, np.ndarray):
        raise DataError(f"images without targets: pass a tuple (images, targets). {ACCEPTED_DATA}")
    raise DataError(f"data of type {type(data).__name__} is not understood: {ACCEPTED_DATA}")


def split(
    images: LabelledImages, fraction: float, seed: int
) -> tuple[LabelledImages, LabelledImages]:
    """Set apart about ``fraction`` of the images of each class for validation.

    The division depends on the seed, the class names and the order of the file names alone: not on
    the file system, the place of the folder or the order of the labels. A class of two or more
    images has at least one on either side; a class of one image keeps it for training. Where
    images show several classes, this holds as far as their other classes allow it:
    :func:`~keras_cls.data.stratification.held_out_by_classes`.

    Returns:
        The training images and the validation images, each in the order of ``images``.

    Raises:
        ConfigError: ``fraction`` is not in (0, 1), or ``seed`` is negative.
        DataError: no class has two images, so that none can be set apart.
    """
    order = _canonical_order(images)
    apart = held_out(images.targets, images.labels, order, fraction, seed, images.origin)
    return images.subset(np.flatnonzero(~apart)), images.subset(np.flatnonzero(apart))


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
    missing = [labels[i] for i in np.flatnonzero(train.counts == 0)]
    if every_class and missing:
        raise DataError(
            f"{train.origin}: no images of {listing(sorted(missing))}, which labels names: add "
            "images, or leave it out of labels"
        )
    return Sources(train, None if validation is None else validation.aligned_to(labels))


def _as_multi_label(sources: Sources) -> Sources:
    held_out = sources.validation
    return Sources(
        sources.train.as_multi_label(), None if held_out is None else held_out.as_multi_label()
    )


def _require_two_classes(labels: Sequence[str], origin: str, remedy: str) -> None:
    if len(labels) == 1:
        raise DataError(
            f"{origin}: only one class, {listing(labels)}: there is nothing to tell it from. "
            f"{remedy}"
        )


def _require_something_to_tell(images: LabelledImages, remedy: str) -> None:
    """Two classes; multi-label, one will do if there are images that do not show it."""
    if not images.labels:
        raise DataError(f"{images.origin}: no image has a class: name the classes of each")
    if not images.multi_label or images.counts.min() == len(images):
        _require_two_classes(images.labels, images.origin, remedy)


def _counted(count: int, singular: str, plural: str) -> str:
    return f"{count} {singular if count == 1 else plural}"


# ---------------------------------------------------------------------------------------- folders


def _open_path(path: Path, every_class: bool, multi_label: bool | None) -> Sources:
    shown = printable(str(path))
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:
        raise DataError(f"{shown}: cannot be opened: {error}. {ACCEPTED_DATA}") from error
    if is_folder:
        sources = _open_folder(path, every_class)
        return _as_multi_label(sources) if multi_label else sources
    if not is_file:
        raise DataError(f"{shown}: no such file or folder. {ACCEPTED_DATA}")
    if path.suffix.lower() not in READERS:
        raise DataError(f"{shown}: a file, where a folder or a manifest is needed. {ACCEPTED_DATA}")
    return _open_manifest(path, every_class, multi_label)


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
    training = next((by_name[name] for name in TRAINING_NAMES if name in by_name), None)
    validation = next((by_name[name] for name in VALIDATION_NAMES if name in by_name), None)
    if training is None or validation is None:
        return None
    others = by_name.keys() - {*TRAINING_NAMES, *VALIDATION_NAMES}
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
    images = {label: images_below(class_folders[label]) for label in sorted(class_folders)}
    empty = [label for label, paths in images.items() if not paths]
    if len(empty) == len(images):
        raise DataError(
            f"{origin}: no images in {listing(empty)}: images end in .jpg, .png or another of "
            f"{len(IMAGE_SUFFIXES)} known suffixes"
        )
    if empty and every_class:
        runs = any(any(class_folders[label].rglob(LOCK_FILE)) for label in empty)
        remedy = (
            "Choose a run_dir outside of the data" if runs else "Add images, or remove the folder"
        )
        raise DataError(
            f"{origin}: {_counted(len(empty), 'class', 'classes')} without images: "
            f"{listing(empty)}. {remedy}"
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


def _from_paths_of_several(
    items: Sequence[tuple[tuple[str, ...], Path]], labels: tuple[str, ...], origin: str
) -> LabelledImages:
    """Images of any number of the classes each."""
    index_of = {label: index for index, label in enumerate(labels)}
    targets = np.zeros((len(items), len(labels)), np.float32)
    for row, (names, _) in zip(targets, items, strict=True):
        row[[index_of[name] for name in names]] = 1
    paths = tuple(path for _, path in items)
    return LabelledImages(labels, targets, paths, pixels=None, origin=origin)


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


def images_below(class_folder: Path) -> list[Path]:
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


def _open_manifest(manifest: Path, every_class: bool, multi_label: bool | None) -> Sources:
    origin = printable(str(manifest))
    items, several = read_manifest(manifest, multi_label)

    by_split: dict[str, list[tuple[tuple[str, ...], Path]]] = defaultdict(list)
    for path, row in items.items():
        by_split[row.split].append((row.names or (), path))
    training, held_out = by_split["train"], by_split["validation"] or by_split["test"]
    names, held_out_names = _names_in(training), _names_in(held_out)
    if every_class:
        _require_training_rows(training, held_out_names - names, origin)
    labels = tuple(sorted(names | held_out_names))

    def opened(rows: Sequence[tuple[tuple[str, ...], Path]]) -> LabelledImages:
        if several:
            return _from_paths_of_several(rows, labels, origin)
        return _from_labelled_paths([(name, path) for (name,), path in rows], labels, origin)

    train = opened(training)
    if every_class:
        _require_something_to_tell(train, "Add rows of another class")
    return Sources(train, opened(held_out) if held_out else None)


def _names_in(rows: Sequence[tuple[tuple[str, ...], Path]]) -> set[str]:
    return {name for names, _ in rows for name in names}


def _require_training_rows(training: Sequence[object], untrained: set[str], origin: str) -> None:
    if not training:
        raise DataError(
            f"{origin}: no row's split is train: add training images, or leave the column out"
        )
    if untrained:
        raise DataError(
            f"{origin}: {listing(sorted(untrained))} is among the validation rows but not among "
            "the training rows: add training images of it, or remove its rows"
        )


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
    images: object,
    targets: object,
    labels: tuple[str, ...] | None,
    every_class: bool,
    multi_label: bool | None,
) -> LabelledImages:
    pixels = _as_pixels(_as_array(images, "images"))
    array = _as_array(targets, "targets")
    rows = array.ndim == 2 and (array.shape[1] > 1 or (multi_label and labels and len(labels) == 1))
    if not rows:
        array = _one_per_image(array)
    if len(pixels) != len(array):
        raise DataError(
            f"arrays: {len(pixels)} images, but {len(array)} targets: give one target per image"
        )
    if rows:
        found, names = _targets_from_rows(array, labels, multi_label)
    elif array.dtype.kind in "UO" and all(isinstance(target, str) for target in array):
        found, names = _targets_from_names(array, labels)
    else:
        found, names = _targets_from_integers(array, labels)
    opened = LabelledImages(names, found, paths=None, pixels=pixels, origin="arrays")
    if every_class:
        if empty := [names[index] for index in np.flatnonzero(opened.counts == 0)]:
            raise DataError(
                f"arrays: {_counted(len(empty), 'class', 'classes')} without images: "
                f"{listing(empty)}. Add images, or leave it out of labels"
            )
        _require_something_to_tell(opened, "Add images of another class")
    return opened.as_multi_label() if multi_label else opened


_NO_ARRAY = {
    "images": "Images of different sizes belong in a folder or a manifest",
    "targets": "For several classes an image, give a row of zeros and ones, one for each class",
}


def _as_array(values: object, what: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise DataError(f"arrays: {what} is no array: {error}. {_NO_ARRAY[what]}") from error


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
    if targets.ndim != 1:
        raise DataError(
            f"arrays: targets of shape {list(targets.shape)} and dtype {targets.dtype}: they must "
            "be integers [N] or [N, 1], class names [N], or zeros and ones [N, classes]"
        )
    return targets


def _targets_from_rows(
    targets: np.ndarray, labels: tuple[str, ...] | None, multi_label: bool | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """From zeros and ones [N, K]: int64 [N] if each image has just one class; else float32."""
    described = f"arrays: targets of shape {list(targets.shape)} and dtype {targets.dtype}"
    wanted = "rows of targets must be zeros and ones, a column for each class"
    if targets.dtype.kind not in "biuf":
        raise DataError(f"{described}: {wanted}")
    if (wrong := np.argwhere((targets != 0) & (targets != 1))).size:
        row, column = wrong[0].tolist()
        raise DataError(f"{described}: row {row} holds {targets[row, column]}: {wanted}")
    names = tuple(map(str, range(targets.shape[1]))) if labels is None else labels
    if len(names) != targets.shape[1]:
        raise DataError(f"{described}: there are {len(names)} labels: {wanted}")
    ones = np.count_nonzero(targets, axis=1)
    if (ones == 1).all():
        return targets.argmax(axis=1).astype(np.int64), names
    if multi_label is False:
        image = int(np.flatnonzero(ones != 1)[0])
        raise DataError(
            f"arrays: image {image} has {_counted(int(ones[image]), 'class', 'classes')}, but here "
            "each image has exactly one (a classifier for several is trained with multi_label=True)"
        )
    return targets.astype(np.float32), names


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
