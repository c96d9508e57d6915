"""The package as a whole: what importing costs, and which room may look into which."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import keras_cls

PACKAGE = Path(keras_cls.__file__).parent

# From left to right: a room imports from itself and from rooms to its left.
GROUND = ["processor", "lazy", "version", "hushing", "errors", "files", "images", "labels"]
BUILD_WING = [
    *GROUND,
    "preprocessing",
    "data",
    "contract",
    "architectures",
    "weights",
    "classifier",
    "evaluation",
    "training",
    "exporting",
    "compression",
]
RUN_WING = {
    "contract": [*GROUND, "contract"],
    "server": [*GROUND, "contract", "server"],
    "client": [*GROUND, "preprocessing", "contract", "client"],
}
EDGE = ["cli", "demo"]


def rooms():
    return sorted(
        path.stem if path.is_file() else path.name
        for path in PACKAGE.iterdir()
        if (path.suffix == ".py" and not path.stem.startswith("__"))
        or (path / "__init__.py").exists()
    )


def imports_of(room):
    """The rooms that a room imports from, wherever in its files the import stands."""
    path = PACKAGE / room
    for file in path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "") == "keras_cls":
                names = [f"keras_cls.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                if name.startswith("keras_cls."):
                    yield name.split(".")[1], file


def test_every_room_has_its_place():
    assert set(rooms()) == {*BUILD_WING, *RUN_WING, *EDGE}


@pytest.mark.parametrize("room", sorted({*BUILD_WING, *RUN_WING} - set(EDGE)))
def test_imports_run_one_way(room):
    allowed = RUN_WING.get(room) or BUILD_WING[: BUILD_WING.index(room) + 1]
    for found, file in imports_of(room):
        assert found in allowed, f"{file.relative_to(PACKAGE)} imports from {found}"


@pytest.mark.parametrize("room", ["contract", "client", "images", "files", "errors"])
def test_the_client_side_needs_neither_tensorflow_nor_keras(room):
    for file in [PACKAGE / f"{room}.py", *(PACKAGE / room).rglob("*.py")]:
        if not file.exists():
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            for module in modules:
                assert module.split(".")[0] not in ("tensorflow", "keras", "tf_keras"), file


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_importing_the_package_loads_neither_tensorflow_nor_keras():
    code = (
        "import sys, keras_cls, keras_cls.cli, keras_cls.client; keras_cls.Client; "
        "heavy = ('tensorflow', 'keras', 'tf_keras', 'sklearn', 'matplotlib'); "
        "print([module for module in heavy if module in sys.modules])"
    )
    assert run_python(code).strip() == "[]"


def test_every_public_name_is_there():
    assert sorted(keras_cls.__all__) == sorted(keras_cls._HOMES)
    for name in keras_cls.__all__:
        assert getattr(keras_cls, name) is not None
    assert set(keras_cls.__all__) <= set(dir(keras_cls))


def test_no_room_bears_the_name_of_a_public_verb():
    assert not set(rooms()) & set(keras_cls.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = keras_cls.trian


def test_without_tensorflow_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['tensorflow'] = None; sys.modules['keras'] = None\n"
        "import keras_cls\n"
        "try: keras_cls.train\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    assert "pip install 'keras-cls[train]'" in run_python(code)


def test_every_module_imports():
    for file in PACKAGE.rglob("*.py"):
        if file.stem == "__main__":
            continue
        name = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        importlib.import_module(name.removesuffix(".__init__"))
