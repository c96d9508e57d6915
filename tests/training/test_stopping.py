"""A run that is ended, by whatever, goes on and ends as the undisturbed one."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import assert_ended_alike, start, state_of, training_script

from keras_cls.errors import ConfigError
from keras_cls.training.stopping import stop_requests

# A small network, and a checkpoint after every step.
SMALL = {"model": "lenet5", "input_shape": None}
OFTEN = {**SMALL, "checkpoint_minutes": 1e-9}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert start(training_script(folder, **SMALL)).wait() == 0
    return folder


def wait_until(folder: Path, process: subprocess.Popen, epochs: int, step: int) -> None:
    """Wait for a checkpoint in the middle of an epoch, so far behind or further."""
    while process.poll() is None:
        try:
            state = state_of(folder)
        except ConfigError:  # the checkpoint that was spoken of has just been replaced
            continue
        if state.epochs_done >= epochs and state.step >= step:
            return
        time.sleep(0.005)
    pytest.fail("the run ended too early to prove anything")


def test_a_run_killed_in_the_middle_of_an_epoch(tmp_path: Path, undisturbed: Path) -> None:
    folder = tmp_path / "killed"
    for epochs, step in ((0, 2), (2, 1)):
        process = start(training_script(folder, **OFTEN))
        wait_until(folder, process, epochs, step)
        process.send_signal(signal.SIGKILL)
        process.wait()
        state = state_of(folder)
        assert not state.finished
    assert start(training_script(folder, **OFTEN)).wait() == 0
    assert_ended_alike(undisturbed, folder)
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert len(names) == 2
    assert names[1] == "epoch-0004.npz", "those in between are gone"


def command(folder: Path) -> list[str]:
    arguments = ["lenet5", "--data", "digits"]
    return [sys.executable, "-m", "keras_cls", "train", *arguments, "--run-dir", str(folder)]


@pytest.mark.parametrize(
    ("number", "code"),
    # test_cli interrupts a training among the default tests
    [(signal.SIGTERM, 75), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
    ids=["SIGTERM", "SIGINT"],
)
def test_the_command_saves_and_says_so(tmp_path: Path, number: signal.Signals, code: int) -> None:
    folder = tmp_path / "run"

    def heed() -> None:  # a job in the background, as the tests may be, ignores interrupts
        signal.signal(signal.SIGINT, signal.default_int_handler)

    process = subprocess.Popen(
        [*command(folder), "--checkpoint-minutes", "1e-9"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed,
    )
    wait_until(folder, process, 0, 1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"stopped by {number.name} in epoch 1, after step" in errors
    assert f"all is saved in {folder}; the same call on that folder goes on" in errors
    assert "Traceback" not in errors
    assert state_of(folder).step > 0


@pytest.mark.slow
def test_sigterm_in_the_middle_ends_like_the_undisturbed_run(
    tmp_path: Path, undisturbed: Path
) -> None:
    folder = tmp_path / "stopped"
    process = start(training_script(folder, **OFTEN), stderr=subprocess.PIPE, text=True)
    wait_until(folder, process, 1, 2)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "TrainingStoppedError: stopped by SIGTERM in epoch" in errors
    assert start(training_script(folder, **SMALL)).wait() == 0, "other checkpoints"
    assert_ended_alike(undisturbed, folder)


def test_signals_are_requests_inside_and_what_they_were_outside() -> None:
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with stop_requests() as request:
            assert not request
            os.kill(os.getpid(), signal.SIGTERM)
            assert request
            assert request.signal is signal.SIGTERM
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with stop_requests() as request:
            os.kill(os.getpid(), signal.SIGINT)
            assert not request, "what the caller ignores stays ignored"
    finally:
        signal.signal(signal.SIGINT, earlier)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux whether the signal is heeded yet")
def test_the_command_says_so_as_well_before_it_trains(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen(command(folder), stderr=subprocess.PIPE, text=True)
    status = Path(f"/proc/{process.pid}/status")
    caught = re.compile(r"SigCgt:\s*([0-9a-f]+)")
    while not int(caught.findall(status.read_text())[0], 16) >> (signal.SIGTERM - 1) & 1:
        time.sleep(0.005)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "stopped by SIGTERM" in errors and "the same command" in errors
    assert "Traceback" not in errors
    assert not folder.exists()
