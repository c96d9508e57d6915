"""Arguments of a wrong type or out of range are told where they are given."""

import math
from numbers import Integral, Real

from keras_cls.errors import ConfigError


def check_whole(name: str, value: int, least: int, most: float = math.inf) -> None:
    """Refuse what is no whole number from ``least`` to ``most`` (ConfigError)."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= value <= most:
        limits = f"at least {least}" if most == math.inf else f"{least} to {most}"
        raise ConfigError(f"{name} must be a whole number of {limits}, not {value!r}")


def check_bool(name: str, value: bool) -> None:
    """Refuse what is neither True nor False (ConfigError)."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, not {value!r}")


def check_seconds(name: str, value: float) -> None:
    """Refuse what is no number of seconds, 0 or more (ConfigError)."""
    if isinstance(value, bool) or not isinstance(value, Real) or not value >= 0:
        raise ConfigError(f"{name} must be a number of seconds, not {value!r}")
