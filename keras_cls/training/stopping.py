"""Stopping in good order: a signal asks, the loop finishes its step, saves and stops."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether somebody asked for a stop, and how.

    Attributes:
        signal: the first signal that came; None as long as none did.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: at once
        self.signal = self.signal or signal.Signals(number)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """SIGTERM and the first SIGINT (Ctrl-C) are requests inside; a second Ctrl-C stops at once.

    Outside of the main thread Python hands out no signals, and there are no requests.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # What the caller ignores, as a shell does for its background jobs, or C code handles, stays.
    taken = {n: handler for n, handler in earlier.items() if handler not in (signal.SIG_IGN, None)}
    for number in taken:
        signal.signal(number, request._take)
    try:
        yield request
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)
