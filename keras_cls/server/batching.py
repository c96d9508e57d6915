"""Requests that arrive together go through the model together.

One :class:`Batcher` per model. Requests wait in a queue for each (signature, outputs) pair;
whenever a worker thread is free, it takes what has gathered, up to ``max_execution_batch_size``
rows, as one run of the model; runs that are always short need no thread (pace.py). A lone caller
never waits. Where many ask at once, most of those who are expected are waited for, as long as they
keep coming: a run of a small model costs about the same for one row as for ten.

It does what TensorFlow Serving's batching session does, with its words for a refusal, and is kinder
in three ways: a request that makes a batch fail fails alone (its companions are run again without
it), nothing is run for a caller who has gone, and requests of unequal shapes do not disturb each
other: where they are not to be padded, each shape has its own runs.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from keras_cls.errors import ConfigError
from keras_cls.server.arguments import check_bool, check_whole
from keras_cls.server.pace import Pace, work_of
from keras_cls.server.predict import PredictCall
from keras_cls.server.signatures import Signature
from keras_cls.server.status import Code, RequestError

_LOG = logging.getLogger(__name__)
# Seconds; who comes through a busy event loop comes a third of a millisecond after the last.
_LONGEST_WAIT = 0.01
_LONGEST_PAUSE = 0.002
_WEIGHT_OF_LAST = 0.2
_SHARE_OF_EXPECTED = 0.75
# Whoever is not waited for comes too late, and is not expected next time either: every so many runs
# all who may come are waited for.
_RUNS_BETWEEN_LOOKS = 8

Arrays: TypeAlias = Mapping[str, np.ndarray]
RunModel: TypeAlias = Callable[[Signature, Arrays, tuple[str, ...]], dict[str, np.ndarray]]
Waited: TypeAlias = Callable[[Signature, float], None]
Check: TypeAlias = Callable[[PredictCall], int]
Outcome: TypeAlias = dict[str, np.ndarray] | RequestError


@dataclass(frozen=True, slots=True)
class BatchingOptions:
    """How requests are gathered; the names are TensorFlow Serving's.

    Attributes:
        max_batch_size: the most rows that one request may bring.
        max_execution_batch_size: the most rows that go through the model at once. Smaller requests
            are merged up to it, larger ones are run in parts.
        batch_timeout_micros: how long a batch that is not full waits for company although a worker
            is free; None to wait for most of the rows that were in flight lately, until nobody has
            come for 2 ms, and for 10 ms at most.
        max_enqueued_batches: how many batches may wait in a queue; beyond it, requests are refused
            with UNAVAILABLE.
        num_batch_threads: how many batches run at the same time. TensorFlow spreads each over all
            cores, so that two keep the cores busy while one of them is fed and emptied.
        allowed_batch_sizes: run batches of these sizes only, filled up with copies of a row whose
            results are thrown away; ascending, and the last is the largest batch: that is,
            ``max_execution_batch_size``, or ``max_batch_size`` where nothing is split. Empty: any.
        pad_variable_length_inputs: merge inputs whose shapes behind the rows differ, filled up to
            the largest with the first element of each.
        enable_large_batch_splitting: run a request of more than ``max_execution_batch_size`` rows
            in parts. Without it both limits have to be the same, and larger requests are refused.
    """

    max_batch_size: int = 1000
    max_execution_batch_size: int = 32
    batch_timeout_micros: int | None = None
    max_enqueued_batches: int = 10
    num_batch_threads: int = 2
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = True

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if isinstance(option.default, bool):
                check_bool(option.name, value)
            elif option.name != "allowed_batch_sizes" and value is not None:
                check_whole(option.name, value, int(option.name != "batch_timeout_micros"))
        if not self.enable_large_batch_splitting and (
            self.max_execution_batch_size != self.max_batch_size
        ):
            raise ConfigError(
                f"max_execution_batch_size {self.max_execution_batch_size} and max_batch_size "
                f"{self.max_batch_size} must be the same without enable_large_batch_splitting"
            )
        self._check_allowed_sizes()

    def padded_rows(self, rows: int) -> int:
        """How many rows a batch of ``rows`` is filled up to."""
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows)

    def _check_allowed_sizes(self) -> None:
        sizes = self.allowed_batch_sizes
        if not isinstance(sizes, tuple):
            raise ConfigError(f"allowed_batch_sizes must be a tuple of numbers, not {sizes!r}")
        for size in sizes:
            check_whole("allowed_batch_sizes", size, 1)
        if any(later <= earlier for earlier, later in pairwise(sizes)):
            raise ConfigError(f"allowed_batch_sizes must be ascending, not {list(sizes)}")
        splits = self.enable_large_batch_splitting
        limit = "max_execution_batch_size" if splits else "max_batch_size"
        if sizes and sizes[-1] != getattr(self, limit):
            raise ConfigError(
                f"Last entry in allowed_batch_sizes must match {limit}; last entry was "
                f"{sizes[-1]}; expected {getattr(self, limit)}"
            )


@dataclass(frozen=True, slots=True)
class _QueueKey:
    signature_name: str
    outputs: tuple[str, ...]


@dataclass(slots=True, eq=False)
class _Task:
    """A request, or a part of a large one, that waits for its run."""

    call: PredictCall
    inputs: Arrays
    rows: int
    merges: bool
    deadline: float
    future: asyncio.Future[dict[str, np.ndarray]]
    work: int
    enqueued: float = field(default_factory=time.monotonic)

    def fits_with(self, other: "_Task", *, padding: bool) -> bool:
        """Whether the rows of both can be stacked, where wanted after ``padding``."""
        return (
            self.merges
            and other.merges
            and all(
                _can_stack(array, other.inputs[alias], padding)
                for alias, array in self.inputs.items()
            )
        )


class Batcher:
    """Gathers calls and runs them in worker threads. All methods belong to one event loop."""

    def __init__(
        self,
        run_model: RunModel,
        options: BatchingOptions,
        waited: Waited = lambda *_: None,
        check: Check | None = None,
        alone: bool = False,
    ) -> None:
        """Args:
        run_model: runs a batch; called in worker threads.
        options: how requests are gathered.
        waited: is told how many seconds a request has waited when its run begins.
        check: refuses a call (RequestError) before it waits, and tells how many pixels its encoded
            images have.
        alone: a run takes no thread but the one that calls; short ones may be done in place.
        """
        self._run_model = run_model
        self._check = check
        # A batching parameters file is followed to the letter, its threads included.
        self._may_run_in_place = alone and options.batch_timeout_micros is None
        self._closed = False
        self._waited = waited
        self._options = options
        self._queues: dict[_QueueKey, deque[_Task]] = {}
        self._paces: dict[_QueueKey, Pace] = {}
        self._free_workers = options.num_batch_threads
        self._workers = ThreadPoolExecutor(options.num_batch_threads, "keras_cls-batch")
        self._dispatch_is_due = False
        self._unanswered: set[_Task] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._running_rows = 0
        # What the wait for company goes by: rows in flight lately.
        self._expected_rows = 0.0
        self._runs = 0

    async def run(self, call: PredictCall, deadline: float = math.inf) -> dict[str, np.ndarray]:
        """Run a call, with others where possible.

        Args:
            call: the checked request.
            deadline: on the clock of ``time.monotonic``; what has not begun by then never does.

        Returns:
            The outputs for this call's rows.

        Raises:
            RequestError: the model's refusal, or the queue's: UNAVAILABLE when it is full,
                RESOURCE_EXHAUSTED when the deadline passed in it, INVALID_ARGUMENT for a request
                that is too large; and UNAVAILABLE after :meth:`close`.
        """
        if self._closed:
            raise _shutting_down()
        rows = self._rows_of(call)  # first: a message of thirty bytes can declare two million
        pixels = 0 if self._check is None else self._check(call)
        tasks = self._split(call, rows, deadline, work_of(call.inputs, pixels))
        queue = self._queue_with_room(_queue_key(call))
        queue.extend(tasks)
        self._unanswered.update(tasks)
        self._dispatch_soon()
        try:
            if len(tasks) == 1:
                return await tasks[0].future
            results = await asyncio.gather(*(task.future for task in tasks))
        except BaseException:  # cancellation too: the caller has gone
            _give_up(tasks, queue)
            raise
        finally:
            self._unanswered.difference_update(tasks)
            # A task holds its error, the error this frame: the inputs would stay until Python
            # looks for cycles.
            del tasks
        return {
            alias: np.concatenate([result[alias] for result in results]) for alias in call.outputs
        }

    @property
    def waiting(self) -> int:
        """How many requests, or parts of large ones, wait for their run."""
        return sum(len(queue) for queue in self._queues.values())

    def close(self) -> None:
        """Refuse all who still wait for an answer with UNAVAILABLE, and start nothing more.

        A run of the model that has begun ends by itself.
        """
        self._closed = True
        self._queues.clear()
        for task in self._unanswered:
            _settle(task, _shutting_down())
        self._workers.shutdown(wait=False)

    def _rows_of(self, call: PredictCall) -> int:
        """How many rows a call has; 0 where there is nothing to split or to merge."""
        rows = _common_rows(call) if call.signature.can_batch else 0
        if rows > self._options.max_batch_size:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"Task size {rows} is larger than maximum input batch size "
                f"{self._options.max_batch_size}",
            )
        return rows

    def _split(self, call: PredictCall, rows: int, deadline: float, work: int) -> list[_Task]:
        """The call as tasks of at most ``max_execution_batch_size`` rows each."""
        loop = asyncio.get_running_loop()
        if rows == 0:
            return [_Task(call, call.inputs, 1, False, deadline, loop.create_future(), work)]
        size = self._options.max_execution_batch_size
        return [
            _Task(
                call,
                {alias: array[start : start + size] for alias, array in call.inputs.items()},
                min(size, rows - start),
                True,
                deadline,
                loop.create_future(),
                work,
            )
            for start in range(0, rows, size)
        ]

    def _queue_with_room(self, key: _QueueKey) -> deque[_Task]:
        queue = self._queues.setdefault(key, deque())
        size = self._options.max_execution_batch_size
        waiting = sum(task.rows for task in queue)
        # A batch that is not full yet has room; a large request may overshoot, once.
        if waiting // size >= self._options.max_enqueued_batches:
            raise RequestError(
                Code.UNAVAILABLE,
                "The batch scheduling queue to which this task was submitted is full; currently "
                f"{math.ceil(waiting / size)} batches enqueued and max_enqueued_batches is "
                f"{self._options.max_enqueued_batches}",
            )
        return queue

    def _dispatch_soon(self) -> None:
        """Dispatch after the requests that this turn of the event loop still brings."""
        if not self._dispatch_is_due:
            self._dispatch_is_due = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatch_is_due = False
        loop = asyncio.get_running_loop()
        while self._free_workers and (batch := self._next_batch()):
            self._free_workers -= 1
            now = time.monotonic()
            for task in batch:
                self._running_rows += task.rows
                self._waited(task.call.signature, now - task.enqueued)
            if self._is_short(batch):
                self._finish(batch, *self._timed(batch), in_place=True)
                return  # what has come meanwhile is looked at first
            self._workers.submit(self._work, batch, loop)

    def _next_batch(self) -> list[_Task]:
        """The next batch to run, from the queue whose turn it is; empty if none is ready."""
        for key in list(self._queues):
            queue = self._queues.pop(key)
            _drop_late_tasks(queue)
            if not queue:
                continue
            self._queues[key] = queue  # at the end: the other queues come first next time
            wait = self._wait_for_company(queue)
            if wait <= 0:
                return self._take_batch(queue)
            self._dispatch_after(wait)
        return []

    def _dispatch_after(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() <= when and not self._timer.cancelled():
                return
            self._timer.cancel()
        self._timer = loop.call_at(when, self._wait_is_over)

    def _wait_is_over(self) -> None:
        self._timer = None
        self._dispatch_soon()

    def _wait_for_company(self, queue: deque[_Task]) -> float:
        """How many seconds the queue's next batch should still wait."""
        options = self._options
        gathered = sum(task.rows for task in queue)
        if options.batch_timeout_micros is not None:
            end = queue[0].enqueued + options.batch_timeout_micros / 1e6
            wanted = options.max_execution_batch_size
        else:
            end = min(queue[0].enqueued + _LONGEST_WAIT, queue[-1].enqueued + _LONGEST_PAUSE)
            self._expected_rows = max(self._expected_rows, gathered + self._running_rows)
            # The last few are not worth a wait where others run meanwhile.
            share = 1.0 if self._is_short(queue) else _SHARE_OF_EXPECTED
            wanted = min(options.max_execution_batch_size, round(share * self._expected_rows))
            if wanted > 1 and self._runs % _RUNS_BETWEEN_LOOKS == 0:
                wanted = options.max_execution_batch_size
        return 0 if gathered >= wanted else end - time.monotonic()

    def _learn(self, rows: int) -> None:
        """What the next wait for company goes by, after a run of so many rows."""
        self._runs += 1
        self._running_rows -= rows
        # Callers come and go: what is expected fades unless it is seen again.
        waiting = sum(task.rows for queue in self._queues.values() for task in queue)
        in_flight = rows + self._running_rows + waiting
        self._expected_rows += _WEIGHT_OF_LAST * (in_flight - self._expected_rows)

    def _take_batch(self, queue: deque[_Task]) -> list[_Task]:
        """The first task and those behind it that fit with it; the others keep their places."""
        size = self._options.max_execution_batch_size
        padding = self._options.pad_variable_length_inputs
        first = queue.popleft()
        batch, rows, left = [first], first.rows, []
        while queue and rows < size:
            task = queue.popleft()
            if rows + task.rows <= size and task.fits_with(first, padding=padding):
                batch.append(task)
                rows += task.rows
            else:
                left.append(task)
        queue.extendleft(reversed(left))
        return batch

    def _is_short(self, batch: Collection[_Task]) -> bool:
        """Whether to run these here and now."""
        work = sum(task.work for task in batch)
        return self._may_run_in_place and self._pace_of(batch).is_short(work)

    def _pace_of(self, batch: Collection[_Task]) -> Pace:
        key = _queue_key(next(iter(batch)).call)
        if key not in self._paces:
            self._paces[key] = Pace()
        return self._paces[key]

    def _work(self, batch: list[_Task], loop: asyncio.AbstractEventLoop) -> None:
        """In a worker thread: run a batch and bring the outcomes home."""
        outcomes, seconds = self._timed(batch)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._finish, batch, outcomes, seconds)

    def _timed(self, batch: list[_Task]) -> tuple[list[Outcome], float]:
        start = time.thread_time()
        outcomes = self._run_batch(batch)
        return outcomes, time.thread_time() - start

    def _run_batch(self, batch: list[_Task]) -> list[Outcome]:
        """One outcome for each task."""
        if len(batch) > 1:
            try:
                return self._run_merged(batch)
            except Exception:
                _LOG.debug("a batch of %d requests failed: running each alone", len(batch))
        return [self._run_alone(task) for task in batch]

    def _run_merged(self, batch: list[_Task]) -> list[Outcome]:
        outputs = self._run_stacked(batch)
        if outputs is None:
            raise RequestError(Code.INTERNAL, "the outputs do not have a row for each input row")
        outcomes: list[Outcome] = []
        start = 0
        for task in batch:
            rows = slice(start, start + task.rows)
            outcomes.append({alias: array[rows] for alias, array in outputs.items()})
            start += task.rows
        return outcomes

    def _run_stacked(self, batch: list[_Task]) -> dict[str, np.ndarray] | None:
        """Run the rows of all tasks at once, filled up; None if a row's results cannot be told."""
        call = batch[0].call
        rows = self._options.padded_rows(sum(task.rows for task in batch))
        stacked = {
            alias: _stack([task.inputs[alias] for task in batch], rows)
            for alias in call.signature.inputs
        }
        outputs = self._run_model(call.signature, stacked, call.outputs)
        told = all(array.shape[:1] == (rows,) for array in outputs.values())
        return outputs if told else None

    def _run_alone(self, task: _Task) -> Outcome:
        if task.future.cancelled() or task.deadline <= time.monotonic():
            return _deadline_passed()
        try:
            if task.merges and self._options.padded_rows(task.rows) > task.rows:
                filled_up = self._run_stacked([task])
                if filled_up is not None:
                    return {alias: array[: task.rows] for alias, array in filled_up.items()}
            return self._run_model(task.call.signature, task.inputs, task.call.outputs)
        except RequestError as error:
            return RequestError(error.code, error.message)  # without the frames that hold the task
        except Exception as error:
            _LOG.exception("signature %s failed", task.call.signature.name)
            return RequestError(Code.INTERNAL, f"{type(error).__name__}: {error}")

    def _finish(
        self, batch: list[_Task], outcomes: list[Outcome], seconds: float, in_place: bool = False
    ) -> None:
        self._free_workers += 1
        self._learn(sum(task.rows for task in batch))
        self._pace_of(batch).note(seconds, in_place=in_place)
        for task, outcome in zip(batch, outcomes, strict=True):
            _settle(task, outcome)
        if in_place:  # these answers are sent before the event loop is busy with the next run
            asyncio.get_running_loop().call_soon(self._dispatch_soon)
        else:
            self._dispatch_soon()


def _queue_key(call: PredictCall) -> _QueueKey:
    return _QueueKey(call.signature.name, call.outputs)


def _common_rows(call: PredictCall) -> int:
    rows = {array.shape[0] for array in call.inputs.values()}
    if len(rows) > 1:
        raise RequestError(
            Code.INVALID_ARGUMENT,
            "Batching Run() input tensors must have equal 0th-dimension size",
        )
    return rows.pop() if rows else 0


def _can_stack(array: np.ndarray, other: np.ndarray, padding: bool) -> bool:
    if array.shape[1:] == other.shape[1:]:
        return True
    # What has no element has none to be filled up with.
    return padding and array.ndim == other.ndim and array.size > 0 and other.size > 0


def _stack(arrays: list[np.ndarray], rows: int) -> np.ndarray:
    """The rows of all arrays, then the last one's first row again and again, up to ``rows``.

    Arrays that are smaller than others behind the rows are filled up with their first element.
    """
    inner = tuple(max(sizes) for sizes in zip(*(a.shape[1:] for a in arrays), strict=True))
    widened = [_widened(array, inner) for array in arrays]
    missing = rows - sum(len(array) for array in arrays)
    if missing:
        widened.append(np.repeat(widened[-1][:1], missing, axis=0))
    return np.concatenate(widened)


def _widened(array: np.ndarray, inner: tuple[int, ...]) -> np.ndarray:
    if array.shape[1:] == inner:
        return array
    shape = (len(array), *inner)
    # Not np.full: it takes a string's trailing zero bytes away.
    widened = np.repeat(array.flat[:1], math.prod(shape)).reshape(shape)
    widened[tuple(slice(size) for size in array.shape)] = array
    return widened


def _give_up(tasks: list[_Task], queue: deque[_Task]) -> None:
    """Nobody waits for these any more."""
    for task in tasks:
        task.future.cancel()
        if task in queue:
            queue.remove(task)


def _drop_late_tasks(queue: deque[_Task]) -> None:
    now = time.monotonic()
    for task in [task for task in queue if task.future.done() or task.deadline <= now]:
        queue.remove(task)
        _settle(task, _deadline_passed())


def _settle(task: _Task, outcome: Outcome) -> None:
    if task.future.done():
        return
    if isinstance(outcome, RequestError):
        task.future.set_exception(outcome)
    else:
        task.future.set_result(outcome)


def _shutting_down() -> RequestError:
    return RequestError(Code.UNAVAILABLE, "The server is shutting down")


def _deadline_passed() -> RequestError:
    return RequestError(
        Code.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue"
    )
