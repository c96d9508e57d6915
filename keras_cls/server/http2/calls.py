"""A call: its stream, the task of its handler, and the context that the handler is given."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from keras_cls.server.http2.answers import (
    MESSAGE_PREFIX,
    initial_block,
    refusal_block,
    trailers_block,
)
from keras_cls.server.http2.frames import ErrorCode
from keras_cls.server.http2.heads import Head, Metadata, Method
from keras_cls.server.http2.incoming import Incoming
from keras_cls.server.http2.messages import inflated
from keras_cls.server.status import Code, RequestError

if TYPE_CHECKING:
    from keras_cls.server.http2.connection import Connection

_LOG = logging.getLogger(__name__)
# Compressed messages above this size are inflated in a thread.
_INFLATED_HERE = 1 << 10
_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Call:
    """One request and its answer.

    Handlers know it as their context: what ``grpc.aio.ServicerContext`` can do, it can.

    Attributes:
        id: the number of its stream.
        fresh: it is to be one message, of which nothing has come.
        remote_done: the peer has sent all.
        local_done: nothing more is to be sent: it has ended, or was reset.
        window: bytes that the peer takes on this stream.
        backlog: what waits for a window.
        closing: the header block that ends the answer, behind the backlog.
        waiter: who waits for the backlog to be sent.
        sweeps: how often it was looked at since something happened.
    """

    __slots__ = (
        "_aborted",
        "_callbacks",
        "_code",
        "_details",
        "_started",
        "_trailing",
        "backlog",
        "closing",
        "connection",
        "deadline",
        "fresh",
        "head",
        "id",
        "incoming",
        "local_done",
        "remote_done",
        "sweeps",
        "task",
        "waiter",
        "was_cancelled",
        "window",
    )

    def __init__(self, connection: "Connection", number: int, head: Head) -> None:
        method = head.method
        self.connection = connection
        self.id = number
        self.head = head
        self.fresh = method is not None and method.one_request
        self.deadline = math.inf
        self.window = connection.outbox.first_window
        self.remote_done = self.local_done = self.was_cancelled = False
        self.sweeps = 0
        self.task: asyncio.Task[None] | None = None
        self.incoming: Incoming | None = None
        self.backlog: deque[memoryview] | None = None
        self.closing: bytes | None = None
        self.waiter: asyncio.Future[None] | None = None
        self._started = self._aborted = False
        self._code = 0
        self._details = ""
        self._trailing: Sequence[tuple[str, str | bytes]] = ()
        self._callbacks: list[Callable[[Any], None]] | None = None

    # What the connection tells.

    def start(self, message: bytes, compressed: bool = False) -> None:
        """The one message of the request has come."""
        method = self.head.method
        assert method is not None
        if self.deadline <= time.monotonic():
            self.fail(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
            return
        if method.one_answer and not compressed:
            work = self._answer(message, method)
        else:
            work = self._serve_one(message, compressed, method)
        self.task = asyncio.Task(work, loop=self.connection.loop, name="grpc-call")

    def start_stream(self) -> None:
        """Its messages are going to come."""
        method = self.head.method
        assert method is not None
        self.incoming = self.connection.new_incoming()
        work = self._serve(self._requests(), method)
        self.task = asyncio.Task(work, loop=self.connection.loop, name="grpc-call")

    def feed(self, data: bytes) -> None:
        """Bytes of DATA that are no whole request by themselves."""
        incoming = self.incoming
        if incoming is None:
            self.fresh = False
            incoming = self.incoming = self.connection.new_incoming()
        self.sweeps = 0
        try:
            incoming.feed(data)
        except RequestError as error:
            self.fail(error.code, error.message)
            return
        method = self.head.method
        if method is not None and method.one_request and len(incoming.messages) > 1:
            self.fail(Code.UNIMPLEMENTED, "a request of one message has more")

    def end(self) -> None:
        """The peer has sent all."""
        self.remote_done = True
        incoming, method = self.incoming, self.head.method
        if self.local_done or method is None:
            return
        if incoming is not None and incoming.partial:
            self.fail(Code.INTERNAL, "a message that is not whole")
        elif not method.one_request:
            assert incoming is not None
            incoming.wake()
        elif incoming is None or not incoming.messages:
            self.fail(Code.UNIMPLEMENTED, "a request of one message has none")
        else:
            compressed, message = incoming.take()
            self.start(message, compressed)

    def drop(self) -> None:
        """Nobody waits for the answer any more."""
        if not self.local_done:
            self.local_done = self.was_cancelled = True
            self._let_go()
        self.connection.outbox.forget(self)
        if self.task is not None and not self.task.done():
            self.connection.linger(self.task)
            self.task.cancel()

    def fail(self, code: int, details: str) -> None:
        """End with an error, whatever the handler may be at."""
        if self.local_done:
            return
        if self.backlog:  # what follows half a message is not read
            self.connection.reset(self, ErrorCode.CANCEL)
            return
        self.was_cancelled = True
        self._end(code, details)
        if self.task is not None and not self.task.done():
            self.connection.linger(self.task)
            self.task.cancel()

    def refuse(self, block: bytes) -> None:
        """End with an answer that is one header block."""
        self.local_done = self._started = True
        self.connection.outbox.end(self, block)

    def sent(self) -> None:
        """The answer's end is on its way."""
        self.connection.finished(self)

    # The handler.

    async def _answer(self, message: bytes, method: Method) -> None:
        """The shortest way: a message, a coroutine, a message."""
        try:
            if method.deserialize is None:
                work = method.handle(message, self)
            else:
                work = method.handle(_request(method, message), self)
            del message
            answer = await work
            if not self.local_done:
                if method.serialize is not None:
                    answer = method.serialize(answer)
                self._finish(answer)
        except BaseException as error:
            self._failed(error)

    async def _serve_one(self, message: bytes, compressed: bool, method: Method) -> None:
        try:
            request = _request(method, await self._inflated(compressed, message))
        except BaseException as error:
            self._failed(error)
            return
        del message
        await self._serve(request, method)

    async def _serve(self, request: Any, method: Method) -> None:
        try:
            work: Any = method.handle(request, self)
            del request
            if method.one_answer:
                answer = await work
                if not self.local_done:
                    self._finish(answer if method.serialize is None else method.serialize(answer))
                return
            if hasattr(work, "__aiter__"):
                async for answer in work:
                    await self.write(answer)
            else:
                await work
            if not self.local_done:
                self._end(self._code, self._details)
        except BaseException as error:
            self._failed(error)

    def _finish(self, answer: bytes) -> None:
        connection = self.connection
        if type(answer) is not bytes:
            raise TypeError(f"Expected bytes, got {type(answer).__name__}")
        if self._code or self._started or self._trailing or self._details:
            if not self._code:
                self._send(answer)
            self._end(self._code, self._details)
            return
        self.local_done = True
        if connection.outbox.answer(self.id, self.window, answer):
            self._let_go()
            connection.finished(self)
        else:
            self._send(answer)
            self._close(trailers_block(0))

    def _failed(self, error: BaseException) -> None:
        """The handler did not come to its end."""
        if not isinstance(error, Exception | asyncio.CancelledError):
            raise error
        if self.local_done:
            return
        if isinstance(error, asyncio.CancelledError):
            self._end(Code.CANCELLED, "the handler was cancelled")
        elif isinstance(error, RequestError):
            self._end(error.code, error.message)
        else:
            _LOG.error("%s failed", self.head.path, exc_info=error)
            self._end(Code.UNKNOWN, f"Unexpected {type(error)}: {error}")

    def _send(self, message: bytes, flag: int = 0) -> None:
        if not self._started:
            self._started = True
            self.connection.outbox.headers(self.id, initial_block())
        self.connection.outbox.data(self, (MESSAGE_PREFIX.pack(flag, len(message)), message))

    def _end(self, code: int, details: str) -> None:
        self.local_done = True
        if self._started:
            self._close(trailers_block(code, details, self._trailing))
        else:
            self._started = True
            self._close(refusal_block(code, details, self._trailing))

    def _close(self, block: bytes) -> None:
        self._let_go()
        self.connection.outbox.end(self, block)

    def _let_go(self) -> None:
        if self.incoming is not None:
            self.incoming.drop()
            self.incoming.wake()
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
        if self._callbacks is not None:
            for callback in self._callbacks:
                self.connection.loop.call_soon(callback, self)

    async def _inflated(self, compressed: bool, message: bytes) -> bytes:
        if not compressed:
            return message
        most = self.connection.limits.message_bytes
        if len(message) <= _INFLATED_HERE:
            return inflated(message, self.head.encoding, most)
        return await asyncio.to_thread(inflated, message, self.head.encoding, most)

    async def _requests(self) -> AsyncIterator[Any]:
        while (request := await self.read()) is not grpc.aio.EOF:
            yield request

    # The context of handlers.

    async def read(self) -> Any:
        """The next message of the request; ``grpc.aio.EOF`` behind the last."""
        incoming, method = self.incoming, self.head.method
        assert method is not None
        if incoming is None:
            return grpc.aio.EOF
        while not incoming.messages:
            if self.remote_done or self.local_done:
                return grpc.aio.EOF
            incoming.waiter = self.connection.loop.create_future()
            await incoming.waiter
        compressed, message = incoming.take()
        self.connection.widen(self)
        return _request(method, await self._inflated(compressed, message))

    async def write(self, message: Any) -> None:
        """Send a message; return when the peer's windows have taken it."""
        method = self.head.method
        assert method is not None
        if self.local_done:
            raise asyncio.InvalidStateError("the call has ended")
        self._send(message if method.serialize is None else method.serialize(message))
        while self.backlog:
            self.waiter = self.connection.loop.create_future()
            await self.waiter

    async def send_initial_metadata(self, metadata: Metadata) -> None:
        """Send the answer's head before its first message."""
        if self._started or self.local_done:
            raise asyncio.InvalidStateError("the answer has begun")
        self._started = True
        self.connection.outbox.headers(self.id, initial_block(metadata))

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> NoReturn:
        """End with an error; it raises, so that the handler ends as well."""
        number = code.value[0]
        if not self.local_done:
            self._trailing = trailing_metadata or self._trailing
            self._end(number or Code.UNKNOWN, details)
        raise grpc.aio.AbortError("the call was aborted")

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """The same."""
        await self.abort(status.code, status.details, status.trailing_metadata)

    def time_remaining(self) -> float | None:
        """Seconds until nobody waits any more; None if somebody always will."""
        if self.deadline == math.inf:
            return None
        return max(self.deadline - time.monotonic(), 0.0)

    def invocation_metadata(self) -> Metadata:
        """What came with the request."""
        return self.head.metadata()

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """What the answer ends with."""
        self._trailing = metadata

    def trailing_metadata(self) -> Metadata:
        """What was set."""
        return tuple(self._trailing)

    def set_code(self, code: grpc.StatusCode) -> None:
        """The status that the answer ends with."""
        self._code = code.value[0]

    def code(self) -> grpc.StatusCode:
        """What was set."""
        return _GRPC_CODES[self._code]

    def set_details(self, details: str) -> None:
        """The sentence that belongs to the status."""
        self._details = details

    def details(self) -> str:
        """What was set."""
        return self._details

    def set_compression(self, compression: grpc.Compression) -> None:
        """Answers are sent as they are, which every client takes."""

    def disable_next_message_compression(self) -> None:
        """Nothing is compressed."""

    def peer(self) -> str:
        """Who asks, as gRPC writes it."""
        return self.connection.peer

    def peer_identities(self) -> None:
        """Nobody's identity is known in plain text."""

    def peer_identity_key(self) -> None:
        """The same."""

    def auth_context(self) -> dict[str, Sequence[bytes]]:
        """The same."""
        return {}

    def cancelled(self) -> bool:
        """Whether it ended before the handler did."""
        return self.was_cancelled

    def done(self) -> bool:
        """Whether it has ended."""
        return self.local_done

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call this with the context once it has ended."""
        if self.local_done:
            self.connection.loop.call_soon(callback, self)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)


def _request(method: Method, message: bytes) -> Any:
    if method.deserialize is None:
        return message
    try:
        return method.deserialize(message)
    except Exception as error:
        raise RequestError(Code.INTERNAL, "Exception deserializing request!") from error
