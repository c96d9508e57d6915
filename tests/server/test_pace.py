"""Which runs are done in place."""

import asyncio
import threading
import time

import numpy as np
import pytest
from test_batching import call

from keras_cls.server.batching import Batcher, BatchingOptions
from keras_cls.server.pace import Pace, work_of


def paced(*seconds, in_place=False):
    pace = Pace()
    for each in seconds:
        pace.note(each, in_place=in_place)
    return pace


def test_what_has_been_short_for_long_is_short():
    assert not paced(*[0.001] * 31).is_short(10)
    assert paced(*[0.001] * 32).is_short(10)
    assert not paced(*[0.001] * 32).is_short(10**6), "much more than before"


def test_it_is_the_mean_of_the_last_ones_that_counts():
    assert paced(*[0.001] * 40, 0.02).is_short(10)
    pace = paced(*[0.001] * 40, *[0.02] * 5)
    assert not pace.is_short(10)
    for _ in range(40):
        pace.note(0.001, in_place=False)
    assert pace.is_short(10)


@pytest.mark.parametrize(("in_place", "short_again"), [(False, True), (True, False)])
def test_one_that_kept_all_waiting_was_the_last(in_place, short_again):
    pace = paced(*[0.001] * 40)
    pace.note(0.1, in_place=in_place)
    for _ in range(100):
        pace.note(0.001, in_place=False)
    assert pace.is_short(10) == short_again


def test_work_is_bytes_and_pixels():
    texts = np.array([[b"abc", b""], [b"de", b"f"]], object)
    assert work_of({"a": texts, "b": np.zeros((2, 3), np.float32)}, 100) == 6 + 24 + 100
    assert work_of({}, 0) == 0


def where_it_runs(times, seconds=0.0, alone=True, **options):
    """The names of the threads of a model's runs, one caller after the other."""
    threads = []

    def run(signature, inputs, outputs):
        threads.append(threading.current_thread().name)
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass
        return {"y": inputs["x"]}

    async def main():
        batcher = Batcher(run, BatchingOptions(**options), alone=alone)
        for number in range(times):
            assert (await batcher.run(call(number)))["y"] == [number]
        batcher.close()

    asyncio.run(main())
    return threads


def test_short_runs_need_no_thread_after_a_while():
    threads = where_it_runs(40)
    assert all(name.startswith("keras_cls-batch") for name in threads[:20])
    assert threads[-1] == threading.current_thread().name


@pytest.mark.parametrize(
    "options", [{"seconds": 0.008}, {"alone": False}, {"batch_timeout_micros": 0}], ids=str
)
def test_others_have_their_threads(options):
    assert all(name.startswith("keras_cls-batch") for name in where_it_runs(40, **options))
