"""Write beside, then rename: a reader, or a killed process, never meets half a file or folder."""

import errno
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from keras_cls.errors import ConfigError

TEMPORARY_PREFIX = ".tmp-"
"""Names that begin so are work in progress, or what a killed process left of it."""

LOCK_FILE = ".lock"
"""A file in a folder whose lock says that a process is at work there."""


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder; it becomes ``path`` when the block ends well."""
    if path.is_dir():  # else the temporary name would be the one that is complained of
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(path, suffix="".join(path.suffixes))
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file in one step."""
    with new_file(path) as temporary:
        # A file name may hold bytes that are no text; in JSON they come back as they were.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: Any) -> None:
    """Write an indented JSON file in one step."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ConfigError: the file is missing, damaged or holds something else; it is named.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``path``; it becomes ``path`` when the block ends well.

    Args:
        path: the folder to make. Without ``replace``, ``FileExistsError`` where it exists already.
        replace: exchange an existing folder for the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(path)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _flush(file)
        if replace and path.exists():
            _exchange(temporary, path)
        elif path.exists():
            raise FileExistsError(path)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def sole_owner(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; the operating system releases it whatever ends the process.

    Raises:
        ConfigError: another process holds it.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a+b") as stream:
        try:
            _lock(stream.fileno())
        except OSError as error:
            raise ConfigError(f"{folder}: another process is at work in this folder") from error
        try:
            yield
        finally:
            if made:
                remove_if_unused(folder)


def remove_if_unused(folder: Path) -> None:
    """Remove a folder in which nothing was written but its lock."""
    with suppress(OSError):
        if {entry.name for entry in folder.iterdir()} <= {LOCK_FILE}:
            (folder / LOCK_FILE).unlink(missing_ok=True)
            folder.rmdir()


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left of its work. Only for a folder that one owns alone."""
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _exchange(new: Path, path: Path) -> None:
    """The old folder stays complete, under a temporary name, until the new one is in its place."""
    old = _temporary_name(path)
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _flush(file: Path) -> None:
    with file.open("rb+") as stream:  # Windows flushes only what may be written
        os.fsync(stream.fileno())


def _temporary_name(path: Path, suffix: str = "") -> Path:
    """A new name beside ``path``. Made by the caller, it has the permissions of any new file."""
    return path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}{suffix}")
