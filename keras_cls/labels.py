"""Label names: what the classes of a classifier are called, and ImageNet's in particular.

A class of ImageNet has a WordNet id and several words, and data and classifiers name it by either:
:func:`match_labels` finds one in the other.
"""

import csv
import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from keras_cls.errors import ConfigError, DataError, UserError

CIFAR10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
"""The classes of CIFAR-10 in the order of its labels 0 to 9."""

_NAMED_IN_ERRORS = 8
_NEAREST = 3


@dataclass(frozen=True)
class ImageNetClass:
    """One of the 1,000 classes of ILSVRC-2012.

    Attributes:
        wnid: its WordNet id, such as ``"n01440764"``.
        name: what it is called here, such as ``"tench"``: no two classes are called the same.
        synonyms: the words of WordNet 3.0 for it, the commonest first. Other classes may share
            some of them.
    """

    wnid: str
    name: str
    synonyms: tuple[str, ...]


@cache
def imagenet_classes() -> tuple[ImageNetClass, ...]:
    """The 1,000 classes of ILSVRC-2012 by WordNet id: the order of Keras, torchvision and timm.

    TF-slim's 1,001 outputs are a background class and these. The development kit's
    order of 1 to 1,000 is another one, see :mod:`keras_cls.data.ilsvrc`.
    """
    text = files("keras_cls").joinpath("imagenet.csv").read_text("utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return tuple(
        ImageNetClass(row["wnid"], row["name"], tuple(row["synonyms"].split(", "))) for row in rows
    )


_CLASS_NAMES: Mapping[str, Callable[[], tuple[str, ...]]] = {
    "imagenet": lambda: tuple(each.name for each in imagenet_classes()),
    "cifar10": lambda: CIFAR10,
}


def class_names(classes: str) -> tuple[str, ...]:
    """The names of a well-known dataset's classes, all different, in the order of its labels.

    Args:
        classes: ``"imagenet"``, the 1,000 of ILSVRC-2012 by WordNet id, or ``"cifar10"``.

    Raises:
        ConfigError: there is no such dataset here.
    """
    if classes not in _CLASS_NAMES:
        raise ConfigError(
            f"classes: expected one of {', '.join(map(repr, _CLASS_NAMES))}, found {classes!r}"
        )
    return _CLASS_NAMES[classes]()


def match_labels(
    found: Sequence[str], labels: Sequence[str], where: str = "data"
) -> tuple[int, ...]:
    """The place in ``labels`` of each class that was found in data.

    A name is looked for as it is. Else, if it stands for a class of ImageNet, whatever stands for
    the same class among the labels is taken: its WordNet id, its name, or a word of WordNet that
    no other class has (case, underscores and hyphens do not count).

    Args:
        found: the names of classes in data, all different.
        labels: a classifier's, all different.
        where: the data's name, for messages.

    Returns:
        An index into ``labels`` for each of ``found``.

    Raises:
        DataError: names that are not among the labels, with the nearest that are; names that may
            mean several of them; or two names for one label.
    """
    place_of = {label: place for place, label in enumerate(labels)}
    if any(name not in place_of for name in found):
        by_class = _places_by_class(labels)
        for name in found:
            if name not in place_of and (same := by_class.get(_class_of(name))) is not None:
                place_of[name] = same
    missing = [name for name in found if name not in place_of]
    if missing:
        raise DataError(_not_among(missing, labels, where))
    names_of: dict[int, list[str]] = defaultdict(list)
    for name in found:
        names_of[place_of[name]].append(name)
    for place, names in names_of.items():
        if len(names) > 1:
            raise DataError(
                f"{where}: {listing(names)} are the same class, '{printable(labels[place])}': give "
                "all its images one name"
            )
    return tuple(place_of[name] for name in found)


def _places_by_class(labels: Sequence[str]) -> dict[str | None, int]:
    """WordNet id -> place, of the labels that alone stand for a class of ImageNet."""
    places: dict[str | None, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        places[_class_of(label)].append(place)
    return {
        wnid: found[0] for wnid, found in places.items() if wnid is not None and len(found) == 1
    }


def _class_of(name: str) -> str | None:
    """The WordNet id of the class of ImageNet that ``name`` stands for, if it stands for one."""
    for table, key in zip(_names_of_imagenet(), _KEYS, strict=True):
        wnids = table.get(key(name), ())
        if wnids:
            return wnids[0] if len(wnids) == 1 else None
    return None


def _meanings(name: str) -> list[str]:
    """What the classes of ImageNet are called that ``name`` may mean."""
    by_wnid, *_, by_folded_word = _names_of_imagenet()
    wnids = by_wnid.get(name) or by_folded_word.get(_folded(name), ())
    return [each.name for each in imagenet_classes() if each.wnid in wnids]


def _folded(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name.casefold()).strip()


# How a name is looked up, the surest way first: as WordNet id, as the class's name, then as any
# of its words; "Cardigan" is a dog and "cardigan" a garment, so folding comes after each.
_KEYS: tuple[Callable[[str], str], ...] = (str, str, _folded, str, _folded)


@cache
def _names_of_imagenet() -> tuple[Mapping[str, tuple[str, ...]], ...]:
    """For each of ``_KEYS``, a table: name -> the WordNet ids of the classes that have it."""
    classes = imagenet_classes()

    def table(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
        found: dict[str, dict[str, None]] = defaultdict(dict)  # ordered, without repetitions
        for name, wnid in pairs:
            found[name][wnid] = None
        return {name: tuple(wnids) for name, wnids in found.items()}

    words = [(word, each.wnid) for each in classes for word in each.synonyms]
    return (
        table((each.wnid, each.wnid) for each in classes),
        table((each.name, each.wnid) for each in classes),
        table((_folded(each.name), each.wnid) for each in classes),
        table(words),
        table((_folded(word), wnid) for word, wnid in words),
    )


def _not_among(missing: Sequence[str], labels: Sequence[str], where: str) -> str:
    """What to say of names that no label stands for."""
    noun = "1 class" if len(missing) == 1 else f"{len(missing)} classes"
    hints = [hint for name in missing[:_NAMED_IN_ERRORS] if (hint := _hint(name, labels))]
    return (
        f"{where}: {noun} not among the labels: {listing(missing)}. The labels are "
        f"{listing(labels)}. {' '.join(hints)}{' ' if hints else ''}Rename the class as the label "
        "is, or remove its images"
    )


def _hint(name: str, labels: Sequence[str]) -> str:
    meanings = _meanings(name)
    if len(meanings) > 1:
        return f"'{printable(name)}' may be {listing(meanings, mark=' or ')}."
    if meanings and _folded(meanings[0]) != _folded(name):
        return f"'{printable(name)}' is {listing(meanings)}."
    near = difflib.get_close_matches(name, labels, n=_NEAREST)
    return f"Nearest to '{printable(name)}': {listing(near)}." if near else ""


def listing(names: Iterable[str], limit: int = _NAMED_IN_ERRORS, mark: str = ", ") -> str:
    """The names in quotes, for a message; all but the first ``limit`` of them only counted."""
    names = list(names)
    shown = mark.join(f"'{printable(name)}'" for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def checked_labels(labels: Sequence[str] | np.ndarray, what: str = "labels") -> tuple[str, ...]:
    """The names as :func:`checked_name` gives them, in their order.

    Raises:
        ConfigError: one is not a name, one stands twice, or there are none.
    """
    if isinstance(labels, str) or not isinstance(labels, Sequence | np.ndarray) or len(labels) == 0:
        raise ConfigError(f"{what} must be a list of names, found {printable(repr(labels))}")
    names = tuple(checked_name(label, f"{what}: entry {i}") for i, label in enumerate(labels))
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ConfigError(f"{what}: '{name}' stands there twice")
        seen.add(name)
    return names


def checked_name(name: Any, where: str, error: type[UserError] = ConfigError) -> str:
    """A class name in Unicode's composed form, as macOS and Linux write the same name differently.

    Raises:
        error: it is not text, blank, or holds what cannot be shown; ``where`` says which one.
    """
    if not isinstance(name, str):
        raise error(f"{where}: the class name must be text, found {printable(repr(name))}")
    if not name.strip():
        raise error(f"{where}: the class name is empty")
    # Cc: control characters. Cs: lone surrogates, Python's stand-in for bytes that are not UTF-8.
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise error(
            f"{where}: the class name '{printable(name)}' is not valid text: rename it in UTF-8, "
            "without control characters"
        )
    return unicodedata.normalize("NFC", str(name))


def printable(text: str) -> str:
    """``text`` fit for a message: what is no valid Unicode, and control characters, escaped."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
