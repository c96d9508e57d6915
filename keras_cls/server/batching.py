"""Requests that arrive together go through the model together.

One :class:`Batcher` per model. Requests wait in a queue for each (signature, outputs) pair;
whenever a worker thread is free, it takes what has gathered, up to ``max_execution_batch_size``
rows, as one run of the model. So a lone request never waits, and a busy server fills its batches by
itself.

It does what TensorFlow Serving's batching session does, with its words for a refusal, and is kinder
in three ways: a request that makes a batch fail fails alone (its companions are run again without
it), nothing is run for a caller who has gone, and requests of unequal shapes do not disturb each
other.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import TypeAlias

import numpy as np

from keras_cls.server.arguments import check_whole
from keras_cls.server.predict import PredictCall
from keras_cls.server.signatures import Signature
from keras_cls.server.status import Code, RequestError

_LOG = logging.getLogger(__name__)

Arrays: TypeAlias = Mapping[str, np.ndarray]
RunModel: TypeAlias = Callable[[Signature, Arrays, tuple[str, ...]], dict[str, np.ndarray]]
Outcome: TypeAlias = dict[str, np.ndarray] | RequestError


@dataclass(frozen=True, slots=True)
class BatchingOptions:
    """How requests are gathered; the names are TensorFlow Serving's.

    Attributes:
        max_batch_size: the most rows that one request may bring.
        max_execution_batch_size: the most rows that go through the model at once. Smaller requests
            are merged up to it, larger ones are run in parts.
        batch_timeout_micros: how long a batch that is not full waits for company although a worker
            is free.
        max_enqueued_batches: how many batches may wait in a queue; beyond it, requests are refused
            with UNAVAILABLE.
        num_batch_threads: how many batches run at the same time. TensorFlow spreads each over all
            cores, so that two keep the cores busy while one of them is fed and emptied.
    """

    max_batch_size: int = 1000
    max_execution_batch_size: int = 32
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = 2

    def __post_init__(self) -> None:
        for option in fields(self):
            least = int(option.name != "batch_timeout_micros")
            check_whole(option.name, getattr(self, option.name), least)


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
    enqueued: float = field(default_factory=time.monotonic)

    def fits_with(self, other: "_Task") -> bool:
        """Whether the rows of both can be stacked."""
        return (
            self.merges
            and other.merges
            and all(
                array.shape[1:] == other.inputs[alias].shape[1:]
                for alias, array in self.inputs.items()
            )
        )


class Batcher:
    """Gathers calls and runs them in worker threads. All methods belong to one event loop."""

    def __init__(self, run_model: RunModel, options: BatchingOptions) -> None:
        self._run_model = run_model
        self._options = options
        self._queues: dict[_QueueKey, deque[_Task]] = {}
        self._free_workers = options.num_batch_threads
        self._workers = ThreadPoolExecutor(options.num_batch_threads, "keras_cls-batch")
        self._dispatch_is_due = False
        self._unanswered: set[_Task] = set()

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
                that is too large.
        """
        tasks = self._split(call, deadline)
        queue = self._queue_with_room(_QueueKey(call.signature.name, call.outputs))
        queue.extend(tasks)
        self._unanswered.update(tasks)
        self._dispatch_soon()
        try:
            if len(tasks) == 1:
                return await tasks[0].future
            results = await asyncio.gather(*(task.future for task in tasks))
        except BaseException:  # cancellation too: the caller has gone
            for task in tasks:
                task.future.cancel()
                if task in queue:
                    queue.remove(task)
            raise
        finally:
            self._unanswered.difference_update(tasks)
        return {
            alias: np.concatenate([result[alias] for result in results]) for alias in call.outputs
        }

    def close(self) -> None:
        """Refuse all who still wait for an answer with UNAVAILABLE, and start nothing more.

        A run of the model that has begun ends by itself.
        """
        self._queues.clear()
        for task in self._unanswered:
            _settle(task, RequestError(Code.UNAVAILABLE, "The server is shutting down"))
        self._workers.shutdown(wait=False)

    def _split(self, call: PredictCall, deadline: float) -> list[_Task]:
        """The call as tasks of at most ``max_execution_batch_size`` rows each."""
        loop = asyncio.get_running_loop()
        rows = _common_rows(call) if call.signature.can_batch else 0
        if rows > self._options.max_batch_size:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"Task size {rows} is larger than maximum input batch size "
                f"{self._options.max_batch_size}",
            )
        if rows == 0:  # there is nothing to split or to merge
            return [_Task(call, call.inputs, 1, False, deadline, loop.create_future())]
        size = self._options.max_execution_batch_size
        return [
            _Task(
                call,
                {alias: array[start : start + size] for alias, array in call.inputs.items()},
                min(size, rows - start),
                True,
                deadline,
                loop.create_future(),
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
            asyncio.get_running_loop().call_later(wait, self._dispatch_soon)
        return []

    def _wait_for_company(self, queue: deque[_Task]) -> float:
        """How many seconds the queue's next batch should still wait."""
        timeout = self._options.batch_timeout_micros / 1e6
        if not timeout or sum(t.rows for t in queue) >= self._options.max_execution_batch_size:
            return 0
        return queue[0].enqueued + timeout - time.monotonic()

    def _take_batch(self, queue: deque[_Task]) -> list[_Task]:
        """The first task and those behind it that fit with it; the others keep their places."""
        first = queue.popleft()
        batch, rows, left = [first], first.rows, []
        while queue and rows < self._options.max_execution_batch_size:
            task = queue.popleft()
            if rows + task.rows <= self._options.max_execution_batch_size and task.fits_with(first):
                batch.append(task)
                rows += task.rows
            else:
                left.append(task)
        queue.extendleft(reversed(left))
        return batch

    def _work(self, batch: list[_Task], loop: asyncio.AbstractEventLoop) -> None:
        """In a worker thread: run a batch and bring the outcomes home."""
        outcomes = self._run_batch(batch)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._finish, batch, outcomes)

    def _run_batch(self, batch: list[_Task]) -> list[Outcome]:
        """One outcome for each task."""
        if len(batch) > 1:
            try:
                return self._run_merged(batch)
            except Exception:
                _LOG.debug("a batch of %d requests failed: running each alone", len(batch))
        return [self._run_alone(task) for task in batch]

    def _run_merged(self, batch: list[_Task]) -> list[Outcome]:
        call = batch[0].call
        merged = {
            alias: np.concatenate([task.inputs[alias] for task in batch])
            for alias in call.signature.inputs
        }
        outputs = self._run_model(call.signature, merged, call.outputs)
        total = sum(task.rows for task in batch)
        if any(array.shape[:1] != (total,) for array in outputs.values()):
            raise RequestError(Code.INTERNAL, "the outputs do not have a row for each input row")
        outcomes: list[Outcome] = []
        start = 0
        for task in batch:
            rows = slice(start, start + task.rows)
            outcomes.append({alias: array[rows] for alias, array in outputs.items()})
            start += task.rows
        return outcomes

    def _run_alone(self, task: _Task) -> Outcome:
        if task.future.cancelled() or task.deadline <= time.monotonic():
            return _deadline_passed()
        try:
            return self._run_model(task.call.signature, task.inputs, task.call.outputs)
        except RequestError as error:
            return error
        except Exception as error:
            _LOG.exception("signature %s failed", task.call.signature.name)
            return RequestError(Code.INTERNAL, f"{type(error).__name__}: {error}")

    def _finish(self, batch: list[_Task], outcomes: list[Outcome]) -> None:
        self._free_workers += 1
        for task, outcome in zip(batch, outcomes, strict=True):
            _settle(task, outcome)
        self._dispatch_soon()


def _common_rows(call: PredictCall) -> int:
    rows = {array.shape[0] for array in call.inputs.values()}
    if len(rows) > 1:
        raise RequestError(
            Code.INVALID_ARGUMENT,
            "Batching Run() input tensors must have equal 0th-dimension size",
        )
    return rows.pop() if rows else 0


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


def _deadline_passed() -> RequestError:
    return RequestError(
        Code.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue"
    )
