"""Label names: what the classes of a classifier are called."""

from collections.abc import Sequence
from typing import Any

from keras_cls.errors import ConfigError


def checked_labels(labels: Sequence[Any], what: str = "labels") -> tuple[str, ...]:
    """The names as a tuple, in their order.

    Raises:
        ConfigError: one is not text or is blank, one stands twice, or there are none.
    """
    if isinstance(labels, str) or not isinstance(labels, Sequence) or not labels:
        raise ConfigError(f"{what} must be a list of names, found {labels!r}")
    seen: set[str] = set()
    for index, label in enumerate(labels):
        if not isinstance(label, str) or not label.strip():
            raise ConfigError(f"{what}: entry {index} must be a name, found {label!r}")
        if label in seen:
            raise ConfigError(f"{what}: {label!r} stands there twice")
        seen.add(label)
    return tuple(labels)
