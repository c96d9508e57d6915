"""Label names: what the classes of a classifier are called."""

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_cls.errors import ConfigError, UserError


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
