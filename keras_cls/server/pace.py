"""Which runs of a model are so short that the event loop does them itself.

To hand a run to another thread and back costs as much as a small network takes for an image, and in
Python the threads keep each other waiting. What has been short for long is done in place; what is
not short, or may not be, in threads, so that no request keeps others waiting for more than a few
milliseconds. Only models that run in the thread that calls can be told by its time.
"""

from collections.abc import Mapping

import numpy as np

_SHORT = 0.005  # seconds of the thread's CPU time
_RUNS_TO_KNOW = 32
_WEIGHT_OF_LAST = 0.1
# One that takes so long in place, however short those before it were, was the last.
_FAR_TOO_LONG = 0.05
_MOST_WORK = 1 << 19


class Pace:
    """How long the runs of one signature take."""

    __slots__ = ("_runs", "_seconds", "_surprised")

    def __init__(self) -> None:
        self._runs = 0
        self._seconds = 0.0
        self._surprised = False

    def is_short(self, work: int) -> bool:
        """Whether the next run, on so much (:func:`work_of`), will be short.

        That is, whether the last ones were, and it is not on much more than they can have been.
        """
        known = self._runs >= _RUNS_TO_KNOW and not self._surprised
        return known and self._seconds <= _SHORT and work <= _MOST_WORK

    def note(self, seconds: float, *, in_place: bool) -> None:
        """A run has taken so long."""
        self._runs += 1
        self._seconds += max(_WEIGHT_OF_LAST, 1 / self._runs) * (seconds - self._seconds)
        self._surprised |= in_place and seconds > _FAR_TOO_LONG


def work_of(inputs: Mapping[str, np.ndarray], pixels: int) -> int:
    """How much there is to do, roughly: the bytes of inputs, and pixels that are to be decoded."""
    return pixels + sum(
        sum(map(len, array.flat)) if array.dtype == object else array.nbytes
        for array in inputs.values()
    )
