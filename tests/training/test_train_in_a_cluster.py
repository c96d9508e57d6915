"""train() in two real worker processes on one machine, and one of them killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from clusters import free_addresses
from runs import assert_ended_alike, state_of, training_script
from test_devices import GENTLE

from keras_cls.errors import ConfigError


def environment(addresses: list[str], index: int) -> dict[str, str]:
    config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    return {**os.environ, "TF_CONFIG": json.dumps(config), "TF_CPP_MIN_LOG_LEVEL": "3"}


def start(command: list[str], **options: Any) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *command], stderr=subprocess.PIPE, text=True, **options
    )


# Who touches the run folder otherwise than reading fails.
READ_ONLY = """
import os, sys
def refuse(event, arguments):
    if not arguments or {folder!r} not in os.fsdecode(str(arguments[0])):
        return
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
        raise AssertionError(f"{{event}} {{arguments}}")
sys.addaudithook(refuse)
"""


@pytest.mark.slow
def test_two_workers_equal_one_and_only_the_chief_writes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    changes = {"recipe": "gentle", "epochs": 2}
    # Images are mixed within a worker's own, so there is nothing to mix here.
    unmixed = GENTLE.replace("aux_weight=0.0", "mixing=recipes.Mixing()")
    assert start(["-c", training_script(one, before=unmixed, **changes)]).wait() == 0
    addresses = free_addresses(2)
    workers = [
        start(
            ["-c", training_script(two, before=before + unmixed, **changes)],
            env=environment(addresses, index),
        )
        for index, before in enumerate(("", READ_ONLY.format(folder=str(two))))
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=240)
        assert worker.returncode == 0, errors[-3000:]
    assert_ended_alike(one, two)
    settings = json.loads((two / "settings.json").read_text())
    assert settings["resolved"]["devices"] == "2 workers, 1 CPU each"


def command(folder: Path) -> list[str]:
    return [
        *["-m", "keras_cls", "train", "lenet5", "--data", "digits", "--recipe", "plain"],
        *["--epochs", "3", "--batch-size", "32", "--precision", "float32", "--quiet"],
        *["--checkpoint-minutes", "0.001", "--run-dir", str(folder)],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [1, 0], ids=["worker", "chief"])
def test_a_worker_killed_in_the_middle_and_started_again(tmp_path: Path, victim: int) -> None:
    alone, both = tmp_path / "alone", tmp_path / "both"
    assert start(command(alone)).wait() == 0
    addresses = free_addresses(2)
    workers = [start(command(both), env=environment(addresses, index)) for index in (0, 1)]
    begun = time.monotonic()
    while time.monotonic() - begun < 240:
        try:
            state = state_of(both)
        except ConfigError:  # the checkpoint that was spoken of has just been replaced
            continue
        if state.epochs_done == 1 and state.step > 5:
            break
        time.sleep(0.01)
    workers[victim].send_signal(signal.SIGKILL)
    workers[victim].wait()
    assert not state_of(both).finished
    workers[victim] = start(command(both), env=environment(addresses, victim))
    for worker in workers:
        _, errors = worker.communicate(timeout=240)
        assert worker.returncode == 0, errors[-3000:]
    assert_ended_alike(alone, both)


def test_a_cluster_needs_a_folder() -> None:
    addresses = free_addresses(2)
    done = subprocess.run(
        [sys.executable, "-m", "keras_cls", "train", "lenet5", "--data", "digits"],
        env=environment(addresses, 0),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "several workers need a --run-dir" in done.stderr
    assert "Traceback" not in done.stderr
