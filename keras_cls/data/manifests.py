"""Manifests: tables that name an image file and its classes in each row.

A .csv, .tsv or .jsonl file is read and checked row by row here; what becomes of the rows is decided
in :mod:`keras_cls.data.sources`. Every mistake is a :class:`~keras_cls.errors.DataError` that says
in which row it is.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from keras_cls.errors import DataError
from keras_cls.labels import checked_name, listing, printable

SEPARATOR = "|"
"""Stands between the names of an image's classes; the name of a class cannot hold it."""

TRAINING_NAMES = ("train", "training")
# In order of preference: a test set is left alone where there is a validation set.
VALIDATION_NAMES = ("val", "valid", "validation", "test")

_COLUMNS = {
    "file": ("file", "path", "image", "filename", "file_name"),
    "label": ("label", "class", "name", "category"),
    "split": ("split",),
}


@dataclass(frozen=True)
class Row:
    """A row of a manifest, checked by itself.

    Attributes:
        number: counts from 1, the header included.
        file: as it stands there.
        names: the image's classes, without repetition; None where the cell is empty, which may
            mean none of the classes, or a class that was forgotten.
        label_column: what the column of the classes is called.
        split: "train", "validation" or "test".
    """

    number: int
    file: str
    names: tuple[str, ...] | None
    label_column: str
    split: str


def read_manifest(manifest: Path, multi_label: bool | None = None) -> tuple[dict[Path, Row], bool]:
    """The files of a manifest and the row of each, and whether an image may have several classes.

    Args:
        manifest: a .csv, .tsv or .jsonl file.
        multi_label: None: as soon as one row names several classes, or says ``[]``. True: in any
            case; several rows of one file then add up. False: never.

    Raises:
        DataError: a row cannot be used, a file is not there, or, single-label, a row has no class
            or several.
    """
    origin = printable(str(manifest))
    records = READERS[manifest.suffix.lower()](_text(manifest, origin), origin)
    rows = [_checked_row(number, record, origin) for number, record in records]
    if not rows:
        raise DataError(f"{origin}: no rows: list an image file and its class in each")
    several = multi_label
    if several is None:
        several = any(row.names is not None and len(row.names) != 1 for row in rows)
    if not several:
        _require_one_class(rows, origin)
    items = _distinct_files(rows, manifest.parent, origin, adding_up=multi_label is True)
    _require_files(items, manifest.parent, origin)
    return items, several


def _require_one_class(rows: Iterable[Row], origin: str) -> None:
    for row in rows:
        if row.names is None:
            raise DataError(
                f"{origin}: row {row.number}: the column '{row.label_column}' is empty: fill it "
                "in, or, if such images show none of the classes, say multi_label=True"
            )
        if len(row.names) != 1:
            found = f"has the classes {listing(row.names)}" if row.names else "has no class"
            raise DataError(
                f"{origin}: row {row.number}: '{printable(row.file)}' {found}, but here each image "
                "has exactly one (a classifier for several is trained with multi_label=True)"
            )


def _text(manifest: Path, origin: str) -> str:
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


READERS: Mapping[str, Callable[[str, str], Iterator[tuple[int, Mapping[str, object]]]]] = {
    ".csv": _delimited_records,
    ".tsv": _delimited_records,
    ".jsonl": _json_records,
}
"""By the ending of the file's name."""


def _find_columns(columns: Iterable[str], where: str) -> dict[str, str]:
    """Which of ``columns`` serves as the file, the label and, where there is one, the split."""
    columns = list(columns)
    chosen: dict[str, str] = {}
    for role, accepted in _COLUMNS.items():
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


def _checked_row(number: int, record: Mapping[str, object], origin: str) -> Row:
    where = f"{origin}: row {number}"
    columns = _find_columns(record, where)
    file = _cell(record[columns["file"]], where, columns["file"])
    if not file:
        raise DataError(f"{where}: the column '{columns['file']}' is empty: fill it in")
    split = "train"
    if "split" in columns:
        split = _split_name(_cell(record[columns["split"]], where, columns["split"]), where)
    return Row(
        number=number,
        file=file,
        names=_class_names(record[columns["label"]], where, columns["label"]),
        label_column=columns["label"],
        split=split,
    )


def _class_names(value: object, where: str, column: str) -> tuple[str, ...] | None:
    """What a cell, or a list in JSON, names; None where it is empty."""
    if isinstance(value, list):
        entries = [_cell(entry, where, column) for entry in value]
        if joined := [entry for entry in entries if SEPARATOR in entry]:
            raise DataError(
                f"{where}: the column '{column}' holds '{printable(joined[0])}': '{SEPARATOR}' "
                "separates classes and cannot be part of a name"
            )
    else:
        text = _cell(value, where, column)
        if not text:
            return None
        entries = [entry.strip() for entry in text.split(SEPARATOR)]
    return tuple(dict.fromkeys(checked_name(entry, where, DataError) for entry in entries))


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
    if name in TRAINING_NAMES:
        return "train"
    if name in VALIDATION_NAMES:
        return "test" if name == "test" else "validation"
    raise DataError(
        f"{where}: the split is '{printable(text)}': make it train, val or test, or leave the "
        "column out"
    )


def _distinct_files(
    rows: Iterable[Row], folder: Path, origin: str, adding_up: bool
) -> dict[Path, Row]:
    """The first row of each file, by path; its other rows must say the same, or add classes."""
    items: dict[Path, Row] = {}
    for row in rows:
        path = Path(os.path.normpath(folder / row.file))
        first = items.setdefault(path, row)
        if first.split != row.split:
            raise DataError(
                f"{origin}: rows {first.number} and {row.number} put '{printable(row.file)}' in "
                f"two splits, {first.split} and {row.split}: keep one"
            )
        if set(first.names or ()) == set(row.names or ()):
            continue
        if not adding_up:
            raise DataError(
                f"{origin}: rows {first.number} and {row.number} give '{printable(row.file)}' two "
                f"labels, {_shown(first)} and {_shown(row)}: keep one; if the image shows both, "
                f"write them in one row with '{SEPARATOR}' between, or say multi_label=True"
            )
        both = tuple(dict.fromkeys((*(first.names or ()), *(row.names or ()))))
        items[path] = replace(first, names=both)
    return items


def _shown(row: Row) -> str:
    return f"'{printable(SEPARATOR.join(row.names or ()))}'"


def _require_files(items: Mapping[Path, Row], folder: Path, origin: str) -> None:
    missing = [row for path, row in items.items() if not _is_file(path)]
    if not missing:
        return
    shown = ", ".join(f"row {row.number} '{printable(row.file)}'" for row in missing[:3])
    rest = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    noun = "file" if len(missing) == 1 else "files"
    raise DataError(
        f"{origin}: {len(missing)} {noun} not found: {shown}{rest}. Relative paths start at the "
        f"manifest's folder, {printable(str(folder.absolute()))}"
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # such as a name that is too long
        return False
