import json
import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keras_cls.errors import ConfigError
from keras_cls.files import (
    TEMPORARY_PREFIX,
    new_file,
    new_folder,
    read_json,
    write_json,
    write_text,
)


class Interrupted(BaseException):
    """As KeyboardInterrupt: no subclass of Exception."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestNewFile:
    def test_it_appears_when_the_block_ends_well(self, tmp_path):
        path = tmp_path / "deep/er/model.weights.h5"
        with new_file(path) as temporary:
            assert temporary.parent == path.parent and temporary.name.endswith(".weights.h5")
            assert temporary.name.startswith(TEMPORARY_PREFIX)
            temporary.write_bytes(b"new")
            assert not path.exists()
        assert path.read_bytes() == b"new"
        assert names(path.parent) == ["model.weights.h5"]

    @pytest.mark.parametrize("error", [RuntimeError, Interrupted])
    def test_an_exception_leaves_the_old_content_and_nothing_else(self, tmp_path, error):
        path = tmp_path / "history.csv"
        path.write_text("old")
        with pytest.raises(error), new_file(path) as temporary:
            temporary.write_text("half of the n")
            raise error
        assert path.read_text() == "old"
        assert names(tmp_path) == ["history.csv"]

    def test_a_target_that_cannot_be_replaced_leaves_nothing(self, tmp_path):
        (tmp_path / "taken").mkdir()
        with pytest.raises(OSError) as raised, new_file(tmp_path / "taken") as temporary:
            temporary.write_text("new")
        assert raised.value.filename == str(tmp_path / "taken")
        assert names(tmp_path) == ["taken"]

    def test_threads_do_not_meet(self, tmp_path):
        # They share one umask as well: files get the usual permissions, and go on doing so.
        (tmp_path / "usual").touch()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: write_text(tmp_path / "one", str(n) * 1000), range(200)))
        text = (tmp_path / "one").read_text()
        assert text == text[: len(text) // 1000] * 1000
        (tmp_path / "later").touch()
        modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in names(tmp_path)}
        assert names(tmp_path) == ["later", "one", "usual"] and len(modes) == 1


class TestNewFolder:
    def test_it_appears_complete(self, tmp_path):
        path = tmp_path / "models/1"
        with new_folder(path) as temporary:
            (temporary / "variables").mkdir()
            (temporary / "variables/data").write_text("weights")
            assert not path.exists()
        assert (path / "variables/data").read_text() == "weights"
        assert names(path.parent) == ["1"]
        (tmp_path / "usual").mkdir()
        assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode

    def test_an_existing_folder_is_not_overwritten(self, tmp_path):
        (tmp_path / "1").mkdir()
        (tmp_path / "1/old").touch()
        with pytest.raises(FileExistsError), new_folder(tmp_path / "1") as temporary:
            (temporary / "new").touch()
        assert names(tmp_path) == ["1"] and names(tmp_path / "1") == ["old"]

    def test_replace_exchanges_it(self, tmp_path):
        for content in ("first", "second"):
            with new_folder(tmp_path / "best", replace=True) as temporary:
                (temporary / content).touch()
        assert names(tmp_path) == ["best"] and names(tmp_path / "best") == ["second"]

    @pytest.mark.parametrize("error", [RuntimeError, Interrupted])
    @pytest.mark.parametrize("replace", [False, True])
    def test_an_exception_leaves_the_old_folder_and_nothing_else(self, tmp_path, error, replace):
        if replace:
            (tmp_path / "best").mkdir()
            (tmp_path / "best/old").touch()
        with pytest.raises(error), new_folder(tmp_path / "best", replace=replace) as temporary:
            (temporary / "new").touch()
            raise error
        assert names(tmp_path) == (["best"] if replace else [])
        assert not replace or names(tmp_path / "best") == ["old"]


KILLED_CHILD = """
import sys
from pathlib import Path
from keras_cls.files import new_file, new_folder
folder = Path(sys.argv[1])
with new_file(folder / "file") as file, new_folder(folder / "folder", replace=True) as new:
    file.write_text("half of the n")
    (new / "half").touch()
    print("in the middle", flush=True)
    sys.stdin.read()
"""


def test_a_killed_process_leaves_the_old_content_readable(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/old").write_text("old")
    command = [sys.executable, "-c", KILLED_CHILD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"in the middle\n"
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path / "folder") == ["old"]
    leftovers = [name for name in names(tmp_path) if name not in ("file", "folder")]
    assert leftovers and all(name.startswith(TEMPORARY_PREFIX) for name in leftovers)
    write_text(tmp_path / "file", "new")  # what was left does not stand in the way
    assert (tmp_path / "file").read_text() == "new"


class TestJson:
    def test_there_and_back(self, tmp_path):
        content = {"name": "Kätzchen", "size": [224, 224], "crop": 0.875, "none": None}
        write_json(tmp_path / "card.json", content)
        assert read_json(tmp_path / "card.json") == content
        assert "Kätzchen" in (tmp_path / "card.json").read_text(encoding="utf-8")

    def test_a_file_name_that_is_no_text_comes_back(self, tmp_path):
        write_json(tmp_path / "card.json", {"file": "\udcff.jpg"})
        assert read_json(tmp_path / "card.json") == {"file": "\udcff.jpg"}

    def test_what_json_does_not_know_is_not_written(self, tmp_path):
        for value in (float("nan"), object()):
            with pytest.raises((ValueError, TypeError)):
                write_json(tmp_path / "card.json", {"value": value})
        assert names(tmp_path) == []

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "no such file"),
            (b"", "not valid JSON"),
            (b'{"half": ', "not valid JSON"),
            (b"\xff\xfe", "not valid JSON"),
            (b"[1]", "expected a JSON object, found list"),
            (b"[" * 100_000, "not valid JSON"),
        ],
    )
    def test_a_damaged_file_is_named(self, tmp_path, content, message):
        path = tmp_path / "card.json"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match=f"card.json: .*{message}"):
            read_json(path)

    def test_a_folder_is_no_file(self, tmp_path):
        with pytest.raises(ConfigError, match="is a directory"):
            read_json(tmp_path)

    def test_indented_for_readers(self, tmp_path):
        write_json(tmp_path / "a.json", {"a": 1})
        text = (tmp_path / "a.json").read_text()
        assert text == json.dumps({"a": 1}, indent=2) + "\n"
