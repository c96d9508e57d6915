"""Packages whose names are imported when they are first used."""

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: str,
    namespace: dict[str, Any],
    homes: Mapping[str, str],
    extra_of: Callable[[str], str],
    prepare: Callable[[str], None] = lambda home: None,
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: its name.
        namespace: its ``globals()``, where a name stays once it has been imported.
        homes: module, within the package, of each name.
        extra_of: what to install where a module's libraries are missing, by module.
        prepare: called with a module before it is imported.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        prepare(homes[name])
        try:
            value = getattr(import_module(f"{package}.{homes[name]}"), name)
        except ModuleNotFoundError as error:
            backend = os.environ.get("KERAS_BACKEND", "tensorflow")
            if error.name == backend != "tensorflow":
                raise ImportError(
                    f"KERAS_BACKEND is {backend!r}; keras_cls needs 'tensorflow'"
                ) from error
            if (error.name or "").startswith("keras_cls"):
                raise
            raise ModuleNotFoundError(
                f"{package}.{name} needs {error.name!r}, which is not installed: "
                f"pip install 'keras-cls[{extra_of(homes[name])}]'",
                name=error.name,
            ) from error
        namespace[name] = value
        return value

    return find, lambda: sorted({*namespace, *homes})
