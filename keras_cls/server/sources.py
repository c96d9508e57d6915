"""Which versions of a model its folder offers, and whether their files are all there.

A version is loaded when its files are complete and have not changed between two looks: what is
still being copied waits for its end.
"""

import re
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from keras_cls.contract import LITE_FILE, MODEL_FILE
from keras_cls.server.loading import VersionFolder, find_versions
from keras_cls.server.settings import All, Latest, ModelSettings, Specific

Fingerprint: TypeAlias = tuple[tuple[str, int, int], ...]

# Files that nobody has touched for so long are not being written.
_AT_REST_SECONDS = 2.0
_VARIABLES_INDEX = "variables/variables.index"
_SHARD = re.compile(r"variables\.data-\d+-of-(\d+)")


@dataclass(frozen=True, slots=True)
class Offer:
    """A version that is to be served, as it lies in its folder.

    Attributes:
        folder: its number and place.
        fingerprint: name, size and time of change of each file.
        missing: what is not there yet; "" for a complete version.
        at_rest: nothing has been written to it lately.
    """

    folder: VersionFolder
    fingerprint: Fingerprint
    missing: str
    at_rest: bool


def offered_versions(settings: ModelSettings, *, lite: bool = False) -> list[Offer]:
    """The versions in a model's folder that its policy wants, the oldest first.

    Args:
        settings: of the model.
        lite: a version may consist of a LiteRT file.

    Raises:
        ConfigError: there is no such folder.
    """
    versions = find_versions(settings.base_path, lite=lite)
    match settings.policy:
        case Latest(number):
            versions = versions[-number:]
        case Specific(wanted):
            versions = [version for version in versions if version.number in wanted]
        case All():
            pass
    return [_offer(folder, lite) for folder in versions]


def _offer(folder: VersionFolder, lite: bool) -> Offer:
    files = []
    newest = 0
    for path in _walk(folder.path):
        try:
            found = path.stat()
        except OSError:  # it is being replaced
            newest = time.time_ns()
            continue
        # Those who copy may set the time of change back, but not the one of the entry itself; and
        # a folder is changed when a file is begun in it.
        newest = max(newest, found.st_mtime_ns, found.st_ctime_ns)
        if stat.S_ISREG(found.st_mode):
            name = path.relative_to(folder.path).as_posix()
            files.append((name, found.st_size, found.st_mtime_ns))
    at_rest = time.time_ns() - newest > _AT_REST_SECONDS * 1e9
    return Offer(folder, tuple(files), _missing(folder.path, files, lite), at_rest)


def _walk(folder: Path) -> list[Path]:
    """Everything below a folder, and itself; less where it is being taken away meanwhile."""
    found = [folder]
    with suppress(OSError):
        found.extend(sorted(folder.rglob("*")))
    return found


def _missing(path: Path, files: list[tuple[str, int, int]], lite: bool) -> str:
    sizes = {name: size for name, size, _ in files}
    if lite and LITE_FILE in sizes:
        return "" if sizes[LITE_FILE] else f"{path / LITE_FILE} is empty"
    if sizes.get(MODEL_FILE) == 0:
        return f"{path / MODEL_FILE} is empty"
    shards = [name for name in sizes if _SHARD.fullmatch(Path(name).name)]
    if shards and _VARIABLES_INDEX not in sizes:
        return f"{path / _VARIABLES_INDEX} is not there"
    if not shards and _VARIABLES_INDEX in sizes:
        return f"{path / 'variables'} holds an index and no data"
    for name in shards:
        found = _SHARD.fullmatch(Path(name).name)
        assert found is not None
        if len(shards) < int(found[1]):
            return f"{path / 'variables'} holds {len(shards)} of {int(found[1])} files of data"
    return ""
