"""Which of many cases belong to the default tests."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(quick: Any, cases: Iterable[Any]) -> list[Any]:
    """The cases, all but one marked slow."""
    return [case if case == quick else pytest.param(case, marks=pytest.mark.slow) for case in cases]
