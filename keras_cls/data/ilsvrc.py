"""The ILSVRC layout: validation images in one flat folder, their classes in a file elsewhere.

The training images of ILSVRC-2012 lie in a folder for each WordNet id, as everywhere. The
validation images lie side by side, and their classes stand in one of

- the development kit: ``ILSVRC2012_validation_ground_truth.txt``, a number for each image, with
  ``meta.mat`` or ``map_clsloc.txt``, which tell which class has which number. Its numbers run from
  1 to 1,000 in an order of its own, not that of the WordNet ids;
- ``LOC_val_solution.csv``, as Kaggle has it: the WordNet id for each image.
"""

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from keras_cls.data._matlab import DamagedError, Value, read_structures
from keras_cls.errors import DataError
from keras_cls.labels import listing, printable

GROUND_TRUTH = (
    "ILSVRC2012_validation_ground_truth.txt",
    "ILSVRC2015_clsloc_validation_ground_truth.txt",
)
META = "meta.mat"
MAP = "map_clsloc.txt"
KAGGLE_SOLUTION = "LOC_val_solution.csv"

_KAGGLE_IMAGES = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")
_VALIDATION_NAMES = ("val", "valid", "validation")
# Where the files with the labels are, seen from the images' folder or one above it.
_DEVKIT_FOLDERS = (
    "",
    "data",
    "devkit",
    "devkit/data",
    "ILSVRC2012_devkit_t12",
    "ILSVRC2012_devkit_t12/data",
)
_FOLDERS_ABOVE = 4  # Kaggle's val/ is that far below its LOC_val_solution.csv
_IMAGE = re.compile(r"(ILSVRC2012_val_(\d{8}))\.(jpe?g|png)", re.IGNORECASE)
_WNID = re.compile(r"n\d{8}")
# Fields of meta.mat's structures.
_NUMBER, _ID, _CHILDREN = "ILSVRC2012_ID", "WNID", "num_children"


def image_root(folder: Path) -> Path:
    """The folder that holds ``train/`` and ``val/``: deep inside Kaggle's, else ``folder``."""
    inside = (folder / path for path in _KAGGLE_IMAGES)
    return next((path for path in inside if path.is_dir()), folder)


def validation_folder(folder: Path) -> Path | None:
    """The folder of ILSVRC's validation images: ``folder``, or its ``val/``; None if neither is.

    Its images lie in it directly, or in nothing but folders named by WordNet ids.
    """
    if _is_flat(folder):
        return folder
    inside = (folder / name for name in _VALIDATION_NAMES)
    return next((path for path in inside if _is_flat(path) or _is_sorted(path)), None)


def labelled_images(folder: Path) -> list[tuple[str, Path]] | None:
    """Each validation image of a flat folder with its WordNet id, by number.

    Returns:
        None where no image lies in the folder that is named as ILSVRC's validation images are.

    Raises:
        DataError: the labels are missing or damaged, or there are more or fewer than images.
    """
    images = _images(folder)
    if not images:
        return None
    file, wnid_of = _labels(folder, list(images))
    unlabelled = [images[name] for name in images if name not in wnid_of]
    if unlabelled:
        raise DataError(
            f"{_shown(folder)}/: {_shown(file)} has labels for {len(wnid_of):,} images, but none "
            f"for {listing((path.name for path in unlabelled), limit=3)}: take the file that goes "
            "with these images, or remove the images"
        )
    if len(images) < len(wnid_of):
        raise DataError(
            f"{_shown(folder)}/: holds {len(images):,} images, but {_shown(file)} has labels for "
            f"{len(wnid_of):,}: extract ILSVRC2012_img_val.tar again; to use a part of the images, "
            "list it in a .csv manifest with the columns file and label"
        )
    return [(wnid_of[name], path) for name, path in images.items()]


def devkit_classes(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """The WordNet ids in the order of the development kit's numbers 1, 2, 3, ...

    Args:
        folder: of the development kit, or a folder that holds it; ``meta.mat`` or
            ``map_clsloc.txt`` is read.

    Raises:
        DataError: neither file is there, or it is damaged.
    """
    root = Path(folder).expanduser()
    table = _first(root, [META, MAP], above=0)
    if table is None:
        raise DataError(f"{_shown(root)}/: holds neither {META} nor {MAP} of the development kit")
    wnid_of = _numbers(table)
    if sorted(wnid_of) != list(range(1, len(wnid_of) + 1)):
        raise DataError(f"{_shown(table)}: expected the numbers 1 to {len(wnid_of)}, each once")
    return tuple(wnid_of[number] for number in sorted(wnid_of))


# ------------------------------------------------------------------------------------- the images


def _is_flat(folder: Path) -> bool:
    return any(_IMAGE.fullmatch(entry.name) for entry in _entries(folder))


def _is_sorted(folder: Path) -> bool:
    visible = [entry.name for entry in _entries(folder) if not entry.name.startswith(".")]
    folders = [name for name in visible if (folder / name).is_dir()]
    return bool(folders) and all(_WNID.fullmatch(name) for name in folders)


def _images(folder: Path) -> dict[str, Path]:
    """The stem of each validation image, as the labels have it, and its path, by number."""
    names = sorted(entry.name for entry in _entries(folder))
    found: dict[str, Path] = {}
    for name in names:
        if match := _IMAGE.fullmatch(name):
            stem = f"ILSVRC2012_val_{match[2]}"
            if stem in found:
                raise DataError(
                    f"{_shown(folder)}/: '{found[stem].name}' and '{name}' are the same image: "
                    "remove one"
                )
            found[stem] = folder / name
    return found


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError:  # not there, or not to be listed: whoever opens the data says so
        return


# ------------------------------------------------------------------------------------- the labels


def _labels(folder: Path, names: list[str]) -> tuple[Path, Mapping[str, str]]:
    """The file that has the labels, and the WordNet id of each image, by its name."""
    solution = _first(folder, [KAGGLE_SOLUTION])
    if solution is not None:
        return solution, _kaggle_labels(solution)
    truth = _first(folder, GROUND_TRUTH)
    if truth is None:
        raise DataError(
            f"{_shown(folder)}/: holds ILSVRC's validation images, from {names[0]} on, but their "
            f"labels were not found: extract ILSVRC2012_devkit_t12.tar.gz, which has "
            f"{GROUND_TRUTH[0]} and {META}, beside the folder, or put Kaggle's {KAGGLE_SOLUTION} "
            "there"
        )
    table = _first(folder, [META, MAP])
    if table is None:
        raise DataError(
            f"{_shown(truth)}: numbers the classes in the development kit's order, and neither "
            f"{META} nor {MAP}, which say what the numbers mean, is beside it: extract the whole "
            "of ILSVRC2012_devkit_t12.tar.gz"
        )
    wnid_of = _numbers(table)
    numbers = _ground_truth(truth)
    for line, number in enumerate(numbers, 1):
        if number not in wnid_of:
            raise DataError(
                f"{_shown(truth)}: line {line} has the class {number}, but {_shown(table)} has the "
                f"classes {min(wnid_of)} to {max(wnid_of)}"
            )
    return truth, {
        f"ILSVRC2012_val_{line:08d}": wnid_of[number] for line, number in enumerate(numbers, 1)
    }


def _first(folder: Path, names: Iterable[str], above: int = _FOLDERS_ABOVE) -> Path | None:
    """The nearest file of one of these names, in ``folder``, above it, or in a devkit there."""
    folder = folder.absolute()
    places = [
        base / inside
        for base in (folder, *list(folder.parents)[:above])
        for inside in _DEVKIT_FOLDERS
    ]
    names = list(names)
    files = (place / name for place in places for name in names)
    return next((file for file in files if file.is_file()), None)


def _ground_truth(file: Path) -> list[int]:
    lines = _lines(file)
    for number, line in enumerate(lines, 1):
        if not re.fullmatch(r"[0-9]{1,6}", line.strip()):
            raise DataError(
                f"{_shown(file)}: line {number}: expected the number of a class, found "
                f"'{printable(line[:40])}'"
            )
    return [int(line) for line in lines]


def _kaggle_labels(file: Path) -> dict[str, str]:
    """Rows such as ``ILSVRC2012_val_00048981,n03995372 85 1 499 272``: the id, then boxes."""
    reader = csv.DictReader(_lines(file))
    if not {"ImageId", "PredictionString"} <= set(reader.fieldnames or ()):
        raise DataError(
            f"{_shown(file)}: expected the columns ImageId and PredictionString, found "
            f"{listing(reader.fieldnames or ())}"
        )
    found: dict[str, str] = {}
    for row in reader:
        wnid = (row["PredictionString"] or "").partition(" ")[0]
        if not row["ImageId"] or not _WNID.fullmatch(wnid):
            raise DataError(
                f"{_shown(file)}: row {reader.line_num}: expected an image and a WordNet id such "
                f"as n01440764, found '{printable(str(row['ImageId']))}' and '{printable(wnid)}'"
            )
        found[row["ImageId"].strip()] = wnid
    return found


# ------------------------------------------------------------------- the development kit's numbers


def _numbers(table: Path) -> dict[int, str]:
    """Number -> WordNet id, of the classes (the leaves of the hierarchy) in meta.mat or the map."""
    pairs = list(_READERS[table.name](table))
    found: dict[int, str] = {}
    for number, wnid in pairs:
        if not isinstance(wnid, str) or not _WNID.fullmatch(wnid):
            raise DataError(
                f"{_shown(table)}: expected a WordNet id such as n01440764 for class {number}, "
                f"found {printable(repr(wnid)[:40])}"
            )
        if found.setdefault(number, wnid) != wnid:
            raise DataError(
                f"{_shown(table)}: class {number} is both {found[number]} and {wnid}: extract it "
                "again"
            )
    if not found:
        raise DataError(f"{_shown(table)}: lists no class: extract it again")
    return found


def _read_map(file: Path) -> Iterator[tuple[int, Any]]:
    """Lines such as ``n02119789 1 kit_fox``."""
    for number, line in enumerate(_lines(file), 1):
        fields = line.split()
        if len(fields) < 2 or not re.fullmatch(r"[0-9]{1,6}", fields[1]):
            raise DataError(
                f"{_shown(file)}: line {number}: expected a WordNet id, a number and a name, found "
                f"'{printable(line[:40])}'"
            )
        yield int(fields[1]), fields[0]


def _read_meta(file: Path) -> Iterator[tuple[int, Any]]:
    """The leaves of ``synsets``, an array of structures in MATLAB's format 5."""
    try:
        synsets = read_structures(file, "synsets", (_NUMBER, _ID, _CHILDREN))
    except (OSError, DamagedError) as error:
        raise DataError(
            f"{_shown(file)}: not the development kit's, or damaged: {error}: extract "
            "ILSVRC2012_devkit_t12.tar.gz again"
        ) from error
    for place, synset in enumerate(synsets, 1):
        number, children = synset[_NUMBER], synset[_CHILDREN]
        if not _is_whole(number) or not _is_whole(children):
            raise DataError(
                f"{_shown(file)}: structure {place}: expected whole numbers in {_NUMBER} and "
                f"{_CHILDREN}, found {number!r} and {children!r}: extract "
                "ILSVRC2012_devkit_t12.tar.gz again"
            )
        if children == 0:  # the classes are the leaves; behind them are their ancestors
            yield int(number), synset[_ID]


def _is_whole(number: Value) -> TypeGuard[float]:
    return isinstance(number, float) and number.is_integer()


_READERS: Mapping[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    META: _read_meta,
    MAP: _read_map,
}


def _lines(file: Path) -> list[str]:
    try:
        return [line for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{_shown(file)}: not UTF-8 text: {error.reason}") from error
    except OSError as error:
        raise DataError(f"{_shown(file)}: cannot be read: {error.strerror}") from error


def _shown(path: Path) -> str:
    return printable(str(path))
