"""A supervisor and its child: real processes, real signals."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keras_cls.training.supervisor import is_supervised, supervise

# Appends a line to a file, then ends as told, one way a start.
CHILD = """
import os, pathlib, signal, sys, time
log = pathlib.Path(sys.argv[1])
with log.open("a") as stream:
    stream.write(os.environ.get("KERAS_CLS_SUPERVISED", "alone") + "\\n")
ways = sys.argv[2:]
way = ways[min(len(log.read_text().splitlines()), len(ways)) - 1]
if way.startswith("SIG"):
    signal.signal(getattr(signal, way), signal.SIG_DFL) if way not in ("SIGKILL",) else None
    os.kill(os.getpid(), getattr(signal, way))
elif way == "sleep":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(33))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(44))
    with log.open("a") as stream:
        stream.write(f"{os.getpid()}\\n")
    time.sleep(60)
else:
    sys.exit(int(way))
"""

SUPERVISOR = """
import sys
from keras_cls.training.supervisor import supervise
sys.exit(supervise(sys.argv[2:], first_pause=float(sys.argv[1])))
"""


def child(log, *ways):
    return [sys.executable, "-c", CHILD, str(log), *ways]


def starts(log):
    return len(log.read_text().splitlines())


def run(log, *ways, **options):
    return supervise(child(log, *ways), first_pause=0.01, **options)


def start(log, *ways, pause=0.01):
    return subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(pause), *child(log, *ways)],
        stderr=subprocess.DEVNULL,
        # The tests may run where SIGINT is ignored, as in a shell's background job.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for_lines(log, count):
    end = time.monotonic() + 60
    while not log.exists() or starts(log) < count:
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("code", [0, 1, 2, 74, 130])
def test_other_ends_are_passed_through(tmp_path, code):
    assert run(tmp_path / "log", str(code)) == code
    assert starts(tmp_path / "log") == 1


@pytest.mark.parametrize("end", ["75", "SIGABRT", "SIGKILL", "SIGSEGV"])
def test_what_can_go_on_is_started_again(tmp_path, end):
    assert run(tmp_path / "log", end, end, "3") == 3
    assert starts(tmp_path / "log") == 3


@pytest.mark.parametrize("end", ["SIGTERM", "SIGINT"])
def test_a_child_that_was_told_to_stop_is_left_alone(tmp_path, end):
    assert run(tmp_path / "log", end) == 128 + getattr(signal, end)
    assert starts(tmp_path / "log") == 1


@pytest.mark.parametrize(("end", "code"), [("75", 75), ("SIGABRT", 134)])
def test_without_progress_it_gives_up(tmp_path, caplog, end, code):
    assert run(tmp_path / "log", end, restarts=2) == code
    assert starts(tmp_path / "log") == 3
    assert "given up after 2 restarts without progress" in caplog.text


def test_with_progress_it_does_not(tmp_path):
    log = tmp_path / "log"
    ends = ["75"] * 6
    progress = lambda: starts(log) // 2 if log.exists() else 0  # noqa: E731
    assert run(log, *ends, "0", progress=progress, restarts=2) == 0
    assert starts(log) == 7


def test_a_child_knows_that_it_is_one(tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_CLS_SUPERVISED", raising=False)
    assert not is_supervised()
    run(tmp_path / "log", "0")
    assert (tmp_path / "log").read_text() == "1\n"
    assert is_supervised({"KERAS_CLS_SUPERVISED": "1"})


def test_handlers_are_put_back(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run(tmp_path / "log", "0")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 33), (signal.SIGINT, 44)])
def test_signals_are_passed_on(tmp_path, number, code):
    log = tmp_path / "log"
    supervisor = start(log, "sleep")
    wait_for_lines(log, 2)
    supervisor.send_signal(number)
    assert supervisor.wait(30) == code
    assert starts(log) == 2


def test_a_signal_between_two_starts_ends_it(tmp_path):
    log = tmp_path / "log"
    supervisor = start(log, "75", pause=30)
    wait_for_lines(log, 1)
    time.sleep(1)
    supervisor.terminate()
    assert supervisor.wait(20) in (75, 128 + signal.SIGTERM)  # 75: the child was not gone yet
    assert starts(log) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="Linux ends a child with its parent")
def test_a_killed_supervisor_takes_its_child_along(tmp_path):
    log = tmp_path / "log"
    supervisor = start(log, "sleep")
    wait_for_lines(log, 2)
    process = int(log.read_text().split()[1])
    supervisor.kill()
    supervisor.wait()
    end = time.monotonic() + 10
    while alive(process):
        assert time.monotonic() < end, "the child outlived its supervisor"
        time.sleep(0.02)


def alive(process):
    """Whether it runs; one that ended and was not waited for does not."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
