"""Run a command in a child process, and start it again when it can go on where it was.

Of several workers one may be killed. TensorFlow cannot let it in again beside those that survive:
they have to begin anew too, as new processes, from the last checkpoint. Their supervisors see to
that. Needs no TensorFlow.
"""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from keras_cls.errors import GO_ON_CODE

_LOG = logging.getLogger(__name__)
_MARK = "KERAS_CLS_SUPERVISED"  # in the child's environment
_PASSED_ON = (signal.SIGINT, signal.SIGTERM)
_SET_PARENT_DEATH_SIGNAL = 1  # prctl(2), PR_SET_PDEATHSIG


def is_supervised(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is a supervisor's child."""
    return _MARK in environ


def supervise(
    command: Sequence[str],
    progress: Callable[[], object] = lambda: None,
    *,
    restarts: int = 10,
    first_pause: float = 1.0,
    longest_pause: float = 30.0,
) -> int:
    """Run a command until it is done; begin again where it lost a worker, or was killed.

    SIGTERM and SIGINT are passed on, and after them nothing is started any more. If this process is
    killed, its child goes too (on Linux).

    Args:
        command: program and arguments. Exit code 75 or death by a signal say that it can go on.
        progress: anything that is another value once the command has got further.
        restarts: in a row, without progress.
        first_pause: seconds before the first restart; twice as many before each further one.
        longest_pause: seconds.

    Returns:
        the exit code to end with: the child's; 128 + N where signal N ended it.
    """
    with _Relay.listening() as relay:
        reached, failures = progress(), 0
        while True:
            code = relay.run(command)
            if relay.signal is not None or not _can_go_on(code):
                return _exit_code(code)
            before, reached = reached, progress()
            failures = 1 if reached != before else failures + 1
            if failures > restarts:
                _LOG.error(
                    "%s; given up after %d restarts without progress", _ended(code), restarts
                )
                return _exit_code(code)
            pause = min(first_pause * 2 ** (failures - 1), longest_pause)
            _LOG.warning(
                "%s; starting again in %.0f s (%d of %d without progress)",
                _ended(code),
                pause,
                failures,
                restarts,
            )
            relay.wait(pause)
            if relay.signal is not None:
                return 128 + relay.signal


class _Relay:
    """Passes signals on to the child that runs.

    Attributes:
        signal: the first one that came.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def listening(cls) -> Iterator["_Relay"]:
        """A relay that gets this process's signals."""
        relay = cls()
        earlier = {number: signal.signal(number, relay._take) for number in _PASSED_ON}
        try:
            yield relay
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def run(self, command: Sequence[str]) -> int:
        """Run it to its end; returns its code, negative where a signal ended it."""
        # In a process group of its own: a terminal's Ctrl-C would reach it twice.
        self._child = subprocess.Popen(
            command,
            env={**os.environ, _MARK: "1"},
            process_group=0,
            preexec_fn=_dies_with(os.getpid()),
        )
        if self.signal is not None:  # it came while the child was made
            self._child.send_signal(self.signal)
        try:
            return self._child.wait()
        finally:
            self._child = None

    def wait(self, seconds: float) -> None:
        """Pause, but not longer than until a signal comes."""
        end = time.monotonic() + seconds
        while self.signal is None and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
        if self._child is not None:
            self._child.send_signal(number)


def _dies_with(parent: int) -> Callable[[], None] | None:
    """What a child calls before it begins, so that it ends with its parent, however that ends."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # loaded here: a forked child should do little

    def tie() -> None:
        libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before the call
            os.kill(os.getpid(), signal.SIGKILL)

    return tie


def _can_go_on(code: int) -> bool:
    return code == GO_ON_CODE or (code < 0 and -code not in _PASSED_ON)


def _exit_code(code: int) -> int:
    return code if code >= 0 else 128 - code


def _ended(code: int) -> str:
    how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
    return f"training ended with {how}"
