"""The load on a server, from a process of its own: callers with one request each at a time.

``python -m benchmarks.serving_load`` reads a job as JSON from each line and answers with a line. It
is as cheap as it can be in Python, for it may share its cores with the server: requests are bytes
made beforehand, and answers are not parsed. A window of measurement ends when the last answer has
come, so that all work is counted and belongs to a request that is counted.
"""

import asyncio
import base64
import gc
import itertools
import json
import os
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

Ask: TypeAlias = Callable[[bytes], Awaitable[bytes]]

TIMEOUT = 60.0
_NEVER = 1e9


@dataclass(frozen=True)
class Target:
    """Where requests go.

    Attributes:
        kind: ``"grpc"`` or ``"http"``.
        port: on this machine.
        path: gRPC's method, or the path of the POST.
        headers: of HTTP.
    """

    kind: Literal["grpc", "http"]
    port: int
    path: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Found:
    """What a job saw.

    Attributes:
        answers: how many came.
        failed: how many requests had none.
        seconds: from the first request to the last answer.
        server_cpu: seconds of the server's processes in that time.
        load_cpu: and of this one.
        p50: milliseconds from request to answer, the median.
        p99: of all but one in a hundred.
        error: of the first request that failed.
    """

    answers: int
    failed: int
    seconds: float
    server_cpu: float
    load_cpu: float
    p50: float
    p99: float
    error: str


def session_processes(session: int) -> list[int]:
    """The processes of a session, which its leader started and theirs."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields and int(fields[3]) == session:
                found.append(int(entry.name))
    return found


def cpu_seconds(processes: Sequence[int]) -> float:
    """User and system time of processes so far, and of their children that have ended."""
    ticks = sum(sum(map(int, fields[11:15])) for p in processes if (fields := _stat(p)))
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_bytes(processes: Sequence[int]) -> int:
    """Memory that processes hold, each for itself: RSS."""
    pages = sum(int(fields[21]) for process in processes if (fields := _stat(process)))
    return pages * os.sysconf("SC_PAGE_SIZE")


def _stat(process: int) -> list[str]:
    """The fields behind the name, the third of proc(5) first; none where it has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def percentile(ordered: Sequence[float], share: float) -> float:
    """Of ascending numbers the one that a share of them does not exceed; 0 where there is none."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def http_request(target: Target, body: bytes) -> bytes:
    """A whole POST."""
    headers = {"Host": "127.0.0.1", "Content-Length": str(len(body)), **dict(target.headers)}
    lines = [f"POST {target.path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


class HttpConnection(asyncio.Protocol):
    """One connection that is kept, with one request at a time."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._received = bytearray()
        self._answer: asyncio.Future[bytes] | None = None

    async def ask(self, request: bytes) -> bytes:
        """Send a request; the answer's body.

        Raises:
            ConnectionError: it is no answer with status 200, or none came.
        """
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("the connection is closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        before, known, length = head.lower().partition(b"content-length:")
        if not known:
            self._fail("an answer without its length")
        elif len(body) >= int(length.split(b"\r\n", 1)[0]):
            self._received.clear()
            if before.split(b" ", 2)[1] == b"200":
                self._settle(bytes(body))
            else:
                self._fail(f"{head[:200].decode()}: {body[:200].decode()}")

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"the connection was closed: {error}")

    def _fail(self, message: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(message))
        self._transport.close()

    def _settle(self, body: bytes) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(body)

    def close(self) -> None:
        self._transport.close()


class Callers:
    """Callers of one server: each asks again when it has its answer."""

    def __init__(self, target: Target, bodies: Sequence[bytes]) -> None:
        self._target = target
        requests = bodies
        if target.kind == "http":
            requests = [http_request(target, body) for body in bodies]
        self._requests = itertools.cycle(requests)
        self._channel: Any = None
        self.milliseconds = array("d")
        self.failed = 0
        self.error = ""

    async def ask_until(self, concurrency: int, done: Callable[[], bool]) -> None:
        """Let so many ask until it is done; return when all have their last answer."""
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(self._call(done))

    async def ask_once(self) -> bytes:
        """One answer; raises what went wrong."""
        ask, close = await self._connect()
        try:
            return await asyncio.wait_for(ask(next(self._requests)), TIMEOUT)
        finally:
            close()

    async def close(self) -> None:
        """Close what the callers shared."""
        if self._channel is not None:
            await self._channel.close()

    def forget(self) -> None:
        """Begin to count anew."""
        self.milliseconds, self.failed, self.error = array("d"), 0, ""

    async def _call(self, done: Callable[[], bool]) -> None:
        ask: Ask | None = None
        close: Callable[[], None] = _nothing
        while not done():
            start = time.perf_counter()
            try:
                if ask is None:
                    ask, close = await self._connect()
                await ask(next(self._requests))
            except Exception as error:  # whatever a client may meet, it is a failed request
                self.failed += 1
                self.error = self.error or f"{type(error).__name__}: {error}"
                close()
                ask = None
                await asyncio.sleep(0.01)
            else:
                self.milliseconds.append(1e3 * (time.perf_counter() - start))
        close()

    async def _connect(self) -> tuple[Ask, Callable[[], None]]:
        """A way to ask, and to end it: one channel for all of gRPC, a connection each of HTTP."""
        if self._target.kind == "http":
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(
                HttpConnection, "127.0.0.1", self._target.port
            )
            return connection.ask, connection.close
        if self._channel is None:
            import grpc

            unlimited = [("grpc.max_receive_message_length", -1)]
            self._channel = grpc.aio.insecure_channel(
                f"127.0.0.1:{self._target.port}", options=unlimited
            )
        method = self._channel.unary_unary(self._target.path)
        return lambda request: method(request, timeout=TIMEOUT), _nothing


def _nothing() -> None:
    pass


async def run(job: dict[str, Any], ended: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """One job: ``target`` (of :class:`Target`), ``bodies`` (files), and

    ``once``: the answer to one request; otherwise ``concurrency``, ``seconds`` (null: until a line
    comes), ``warm`` (seconds that do not count) and ``session``, of the server's processes.
    """
    target = Target(**job["target"])
    callers = Callers(target, [Path(body).read_bytes() for body in job["bodies"]])
    try:
        if job.get("once"):
            return {"answer": base64.b64encode(await callers.ask_once()).decode()}
        return asdict(await _measured(callers, job, ended))
    finally:
        await callers.close()


async def _measured(callers: Callers, job: dict[str, Any], ended: Callable[[], bool]) -> Found:
    def until(seconds: float | None) -> Callable[[], bool]:
        end = time.perf_counter() + (_NEVER if seconds is None else seconds)
        return lambda: time.perf_counter() >= end or ended()

    await callers.ask_until(job["concurrency"], until(job["warm"]))
    callers.forget()
    gc.collect()
    if job["seconds"] is not None:
        gc.disable()
    processes = session_processes(job["session"])
    cpu, own, start = cpu_seconds(processes), time.process_time(), time.perf_counter()
    await callers.ask_until(job["concurrency"], until(job["seconds"]))
    seconds, own = time.perf_counter() - start, time.process_time() - own
    cpu = cpu_seconds(processes) - cpu
    gc.enable()
    ordered = sorted(callers.milliseconds)
    p50, p99 = percentile(ordered, 0.5), percentile(ordered, 0.99)
    return Found(len(ordered), callers.failed, seconds, cpu, own, p50, p99, callers.error)


async def main() -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        job = json.loads(line)
        stop = asyncio.create_task(reader.readline()) if job.get("seconds", 0) is None else None
        try:
            found = await run(job, stop.done if stop else lambda: False)
        except Exception as error:
            found = {"problem": f"{type(error).__name__}: {error}"}
        if stop is not None:
            await stop
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
