"""Which versions a folder offers, and whether they are whole."""

import os
import shutil
import threading
import time

import pytest
from tiny_models import save_tiny_model

from keras_cls.errors import ConfigError
from keras_cls.server.settings import All, Latest, ModelSettings, Specific
from keras_cls.server.sources import offered_versions


def touch(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def base(tmp_path):
    for number in ("1", "2", "3", "0010"):
        touch(tmp_path / number / "saved_model.pb")
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "m" / "1", 2.0)


LATEST = Latest()


def offers(base, policy=LATEST, **options):
    return offered_versions(ModelSettings("m", base, policy), **options)


@pytest.mark.parametrize(
    ("policy", "numbers"),
    [
        (Latest(), [10]),
        (Latest(3), [2, 3, 10]),
        (Latest(99), [1, 2, 3, 10]),
        (All(), [1, 2, 3, 10]),
        (Specific((2, 10)), [2, 10]),
        (Specific((7, 3)), [3]),
        (Specific((7,)), []),
    ],
)
def test_policies(base, policy, numbers):
    assert [offer.folder.number for offer in offers(base, policy)] == numbers


def test_no_folder(tmp_path):
    with pytest.raises(ConfigError, match="nowhere: no such file or directory"):
        offers(tmp_path / "nowhere")


def test_no_version(tmp_path):
    touch(tmp_path / "saved_model.pb")
    touch(tmp_path / "x1" / "saved_model.pb")
    assert offers(tmp_path) == []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda v: (v / "saved_model.pb").write_bytes(b""), "saved_model.pb is empty"),
        (lambda v: (v / "variables" / "variables.index").unlink(), "index is not there"),
        (
            lambda v: (v / "variables" / "variables.data-00000-of-00001").unlink(),
            "holds an index and no data",
        ),
        (
            lambda v: (v / "variables" / "variables.data-00000-of-00001").rename(
                v / "variables" / "variables.data-00001-of-00003"
            ),
            "holds 1 of 3 files of data",
        ),
    ],
)
def test_what_is_missing_is_told(whole, tmp_path, spoil, words):
    version = tmp_path / "1"
    shutil.copytree(whole, version)
    (offer,) = offers(tmp_path)
    assert offer.missing == ""
    spoil(version)
    (offer,) = offers(tmp_path)
    assert words in offer.missing
    assert str(version) in offer.missing


def test_a_lite_version_needs_its_file_alone(tmp_path):
    touch(tmp_path / "1" / "model.tflite", b"")
    assert offers(tmp_path) == []
    (offer,) = offers(tmp_path, lite=True)
    assert offer.missing.endswith("model.tflite is empty")
    touch(tmp_path / "1" / "model.tflite")
    touch(tmp_path / "1" / "saved_model.pb", b"")
    (offer,) = offers(tmp_path, lite=True)
    assert offer.missing == ""
    (offer,) = offers(tmp_path)
    assert "saved_model.pb is empty" in offer.missing


def test_what_was_just_written_is_not_at_rest(base):
    (offer,) = offers(base)
    assert not offer.at_rest
    # An old time of change, as `cp -p` and `tar` leave it, says nothing of when it came here.
    os.utime(base / "0010" / "saved_model.pb", (1, 1))
    (offer,) = offers(base)
    assert not offer.at_rest
    time.sleep(2.1)
    (offer,) = offers(base)
    assert offer.at_rest
    (base / "0010" / "variables").mkdir()  # the next file is about to come
    (offer,) = offers(base)
    assert not offer.at_rest


def test_a_change_shows_in_the_fingerprint(base):
    (before,) = offers(base)
    (again,) = offers(base)
    assert before.fingerprint == again.fingerprint
    touch(base / "0010" / "saved_model.pb", b"yz")
    (after,) = offers(base)
    assert after.fingerprint != before.fingerprint


def test_links_to_folders_are_followed(base, tmp_path):
    (base / "11").symlink_to(base / "3", target_is_directory=True)
    (base / "12").symlink_to(base / "12")  # to itself
    (offer,) = offers(base)
    assert offer.folder.number == 11
    assert [name for name, _, _ in offer.fingerprint] == ["saved_model.pb"]


def test_folders_that_come_and_go_meanwhile(whole, tmp_path):
    """Whatever happens on the disk, the answer is versions or a ConfigError."""
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            shutil.copytree(whole, tmp_path / "m" / "7")
            shutil.rmtree(tmp_path / "m")

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            try:
                found = offers(tmp_path / "m", All())
            except ConfigError:
                continue
            assert [offer.folder.number for offer in found] in ([], [7])
    finally:
        stop.set()
        thread.join()
