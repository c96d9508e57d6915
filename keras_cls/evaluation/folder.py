"""The folder of an evaluation: what was judged, the records so far, and then the results.

    state.json        what is judged, and how
    records.bin       one record an image, in order, appended batch by batch
    cache/            copies of images that TensorFlow cannot decode
    evaluation.json, predictions.csv, per_class.csv, evaluation.html    the results

Of an evaluation that was killed, whole batches count; the same call goes on behind them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_cls.errors import ConfigError
from keras_cls.files import LOCK_FILE, TEMPORARY_PREFIX, read_json, write_json

STATE_FILE = "state.json"
RECORDS_FILE = "records.bin"
CACHE = "cache"

FORMAT = 1


class RecordsInMemory:
    """Keeps the records of an evaluation that nobody will go on with.

    Args:
        columns: how many results there are for each image.
        record: the type of one of them.
    """

    def __init__(self, columns: int, record: np.dtype) -> None:
        self._batches = [np.zeros((0, columns), record)]

    def append(self, records: np.ndarray) -> None:
        """Add a batch's records, ``[n, columns]``."""
        self._batches.append(records)

    def records(self) -> np.ndarray:
        """All records so far, ``[N, columns]``."""
        return np.concatenate(self._batches)


class EvaluationFolder:
    """Keeps the records of an evaluation on disk, so that it can go on after a kill.

    Args:
        path: the folder; made where it is missing.
        columns: how many results there are for each image.
    """

    def __init__(self, path: Path, columns: int) -> None:
        self.path = path
        self._columns = columns
        self._record = np.dtype([])  # until it has begun

    @property
    def cache(self) -> Path:
        """Copies of images that TensorFlow cannot decode."""
        return self.path / CACHE

    def check(self) -> None:
        """Make sure that the folder is free, or an evaluation's.

        Raises:
            ConfigError: it holds something else.
        """
        if (self.path / STATE_FILE).exists():
            self._begun()
        elif self.path.exists() and not (self.path.is_dir() and all(map(_ours, self._content()))):
            raise ConfigError(
                f"{self.path}: exists and is not an evaluation's folder; choose another one"
            )

    def begin(
        self, judged: Mapping[str, Any], record: np.dtype, *, resumable: bool, whole: int
    ) -> int:
        """How many images are done, of an evaluation of the very same; 0 for a new one.

        Args:
            judged: what is judged, and how, by name; JSON's own types.
            record: the type of an image's result.
            resumable: whether the images will come in the same order again; else it starts anew.
            whole: images a batch; what is beyond whole batches is dropped.

        Raises:
            ConfigError: the folder holds an evaluation of something else.
        """
        self._record = record
        state = self.path / STATE_FILE
        if state.exists():
            before = self._begun()
            if changed := [name for name in judged if before.get(name) != judged[name]]:
                raise ConfigError(
                    f"{self.path}: holds an evaluation of something else: {' and '.join(changed)} "
                    "changed since. To go on with it, repeat what it was begun with; to judge "
                    "anew, choose another folder"
                )
            if resumable:
                return self._cut_to_batches(whole)
        self.records_file.unlink(missing_ok=True)
        write_json(state, {"format": FORMAT, "judged": dict(judged)})
        return 0

    def append(self, records: np.ndarray) -> None:
        """Add a batch's records, ``[n, columns]``; what is written survives a kill."""
        with self.records_file.open("ab") as stream:
            stream.write(np.ascontiguousarray(records).tobytes())

    def records(self) -> np.ndarray:
        """All records so far, ``[N, columns]``."""
        if not self.records_file.exists():
            return np.zeros((0, self._columns), self._record)
        return np.fromfile(self.records_file, self._record).reshape(-1, self._columns)

    def speed(self) -> float | None:
        """Images a second, as the evaluation was finished with; None where it was not."""
        found = read_json(self.path / STATE_FILE).get("images_per_second")
        return float(found) if isinstance(found, int | float) else None

    def finish(self, images_per_second: float | None) -> None:
        """Note how fast it went."""
        state = read_json(self.path / STATE_FILE)
        write_json(self.path / STATE_FILE, {**state, "images_per_second": images_per_second})

    @property
    def records_file(self) -> Path:
        """The records' file."""
        return self.path / RECORDS_FILE

    def _begun(self) -> dict[str, Any]:
        """What the evaluation in the folder judges."""
        state = self.path / STATE_FILE
        content = read_json(state)
        if "epochs_done" in content:
            raise ConfigError(f"{self.path}: the folder of a training run; choose another folder")
        judged = content.get("judged")
        if content.get("format") != FORMAT or not isinstance(judged, dict):
            raise ConfigError(
                f"{state}: damaged, or not of an evaluation of this version; choose another folder"
            )
        return judged

    def _content(self) -> list[Path]:
        return list(self.path.iterdir())

    def _cut_to_batches(self, whole: int) -> int:
        if not self.records_file.exists():
            return 0
        size, row = self.records_file.stat().st_size, self._columns * self._record.itemsize
        if size % row == 0 and self._finished():
            return size // row
        done = size // row // whole * whole
        with self.records_file.open("r+b") as stream:
            stream.truncate(done * row)
        return done

    def _finished(self) -> bool:
        return "images_per_second" in read_json(self.path / STATE_FILE)


def _ours(path: Path) -> bool:
    """What a refused evaluation may have left."""
    return path.name in (LOCK_FILE, CACHE, ".DS_Store") or path.name.startswith(TEMPORARY_PREFIX)
