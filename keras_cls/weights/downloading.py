"""Published files of weights: fetched once, checked, kept in a cache folder."""

import hashlib
import http.client
import logging
import os
import sys
from pathlib import Path
from typing import TypeAlias
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from keras_cls.errors import ConfigError
from keras_cls.files import new_file
from keras_cls.weights.source import Release, Source

CACHE_VARIABLE = "KERAS_CLS_CACHE"
"""The environment variable that names another cache folder."""

_SILENCE = 30.0  # seconds without a byte, then the network counts as gone
_PIECE = 1 << 20  # bytes
_LARGE = 10 << 20  # bytes, from which on a bar is worth it

_ALGORITHMS = {"sha256": "SHA-256", "md5": "MD5"}

_log = logging.getLogger("keras_cls")


def cache_folder() -> Path:
    """Where files are kept: ``KERAS_CLS_CACHE``, else the platform's place for such.

    That is ``$XDG_CACHE_HOME`` or ``~/.cache``, ``~/Library/Caches`` on macOS, ``%LOCALAPPDATA%``
    on Windows, and ``keras_cls/weights`` in it.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser()
    if sys.platform == "win32":
        variable, otherwise = "LOCALAPPDATA", "~/AppData/Local"
    elif sys.platform == "darwin":
        variable, otherwise = "", "~/Library/Caches"
    else:
        variable, otherwise = "XDG_CACHE_HOME", "~/.cache"
    return Path(os.environ.get(variable) or otherwise).expanduser() / "keras_cls" / "weights"


def fetch(source: Source, release: Release) -> Path:
    """The release's file in the cache folder; downloaded if it is not there yet.

    A file whose checksum is right is used without any network. One that is put there by hand is as
    good as a downloaded one. Several processes may fetch the same file at once.

    Args:
        source: whose release it is.
        release: what to fetch. Where it has no address, the file can only be put there by hand.

    Returns:
        ``CACHE/SOURCE/FILE``.

    Raises:
        ConfigError: it cannot be had, or is another file than the checksum says. The message names
            the address and where to put the file by hand.
    """
    path = cache_folder() / source.name / _file_name(source, release)
    found = path.is_file()
    if found and _is_right(path, release.checksum):
        return path
    said = _said_checksum(release.checksum)
    if release.url is None:
        problem = (
            f"the file in its place has another checksum than {said}"
            if found
            else "it is not published as a single file"
        )
        raise ConfigError(
            f"weights: {source.name}: {release.name}: {problem}. Put the file at {path}, or give "
            "the path of one that you have"
        )
    try:
        _download(release.url, path, release.checksum)
    except (OSError, ValueError, http.client.HTTPException) as error:
        if path.is_file() and _is_right(path, release.checksum):  # another process was faster
            return path
        checked = f" ({said})" if said else ""
        raise ConfigError(
            f"weights: {source.name}: {release.name}: {release.url}: {_said(error)}. Download "
            f"{_name_in(release.url)}{checked} in another way and put it at {path}"
        ) from error
    return path


def _file_name(source: Source, release: Release) -> str:
    """The address's own, behind the release's name where it would not tell releases apart."""
    if release.url is None:
        return f"{release.name}{source.endings[0]}"
    name = _name_in(release.url)
    return name if name.startswith(release.name) else f"{release.name}-{name}"


def _name_in(url: str) -> str:
    return unquote(urlsplit(url).path).rsplit("/", 1)[-1]


_Checksum: TypeAlias = tuple[str, str] | None


def _is_right(path: Path, checksum: _Checksum) -> bool:
    if checksum is None:
        return True
    algorithm, expected = checksum
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest().startswith(expected)


def _said_checksum(checksum: _Checksum) -> str:
    if checksum is None:
        return ""
    algorithm, digest = checksum
    return f"{_ALGORITHMS[algorithm]} {digest}..."


class _WrongFileError(ValueError):
    """What arrived is not the file that was asked for."""


def _download(url: str, path: Path, checksum: _Checksum) -> None:
    request = Request(url, headers={"User-Agent": "keras-cls"})
    with urlopen(request, timeout=_SILENCE) as response:
        length = response.headers.get("Content-Length")
        expected = int(length) if length is not None else None
        _log.info("downloading %s to %s", url, path)
        algorithm, wanted = checksum or ("sha256", "")
        digest = hashlib.new(algorithm)
        received = 0
        with new_file(path) as temporary:
            with temporary.open("wb") as file, _bar(expected) as bar:
                task = bar.add_task(path.name, total=expected)
                while piece := response.read(_PIECE):
                    file.write(piece)
                    digest.update(piece)
                    received += len(piece)
                    bar.update(task, completed=received)
            # http.client takes a connection that ends early for the end of the file.
            if expected is not None and received < expected:
                raise _WrongFileError(f"it ended after {received} of {expected} bytes")
            if not digest.hexdigest().startswith(wanted):
                raise _WrongFileError(
                    f"expected a file whose {_ALGORITHMS[algorithm]} begins with {wanted}, "
                    f"received one of {received} bytes with {digest.hexdigest()}"
                )


def _bar(size: int | None) -> Progress:
    """What a person sees at a terminal while a large file arrives."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=not console.is_terminal or (size is not None and size < _LARGE),
    )


def _said(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"HTTP status {error.code} ({error.reason})"
    if isinstance(error, URLError):
        return f"no connection ({error.reason})"
    if isinstance(error, TimeoutError):
        return f"nothing arrived for {_SILENCE:.0f} s"
    return str(error) or type(error).__name__
