"""The messages of a call as they come, where they do not come whole in one frame."""

import asyncio
from collections import deque

from keras_cls.server.http2.answers import MESSAGE_PREFIX, PREFIX_BYTES
from keras_cls.server.http2.limits import Budget
from keras_cls.server.http2.messages import too_large
from keras_cls.server.status import Code, RequestError


class Incoming:
    """Puts messages together.

    Attributes:
        messages: those that are whole and not taken yet, and whether they are compressed.
        waiter: who waits for a message, or for their end.
        window: bytes that the peer may still send.
        received: bytes of DATA so far.
    """

    __slots__ = ("_budget", "_buffer", "_held", "_most", "messages", "received", "waiter", "window")

    def __init__(self, budget: Budget, most: int, window: int) -> None:
        self._buffer = bytearray()
        self._budget = budget
        self._held = 0
        self._most = most
        self.messages: deque[tuple[bool, bytes]] = deque()
        self.waiter: asyncio.Future[None] | None = None
        self.window = window
        self.received = 0

    @property
    def partial(self) -> bool:
        """Whether a message has begun and is not whole."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Bytes of DATA.

        Raises:
            RequestError: a message is larger than it may be, or all that have not come whole are
                together.
        """
        self.received += len(data)
        self._hold(len(data))
        self._buffer += data
        while len(self._buffer) >= PREFIX_BYTES:
            flag, size = MESSAGE_PREFIX.unpack_from(self._buffer)
            if size > self._most:
                raise too_large(size, self._most)
            if flag > 1:
                raise RequestError(Code.INTERNAL, "a message that is neither plain nor compressed")
            end = PREFIX_BYTES + size
            if len(self._buffer) < end:
                return
            with memoryview(self._buffer) as view:
                message = bytes(view[PREFIX_BYTES:end])
            del self._buffer[:end]
            self.messages.append((bool(flag), message))
            self.wake()

    def take(self) -> tuple[bool, bytes]:
        """The first message."""
        found = self.messages.popleft()
        self._hold(-PREFIX_BYTES - len(found[1]))
        return found

    def wake(self) -> None:
        """Let who waits look again."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def drop(self) -> None:
        """Nobody wants the messages any more."""
        self._buffer = bytearray()
        self.messages.clear()
        self._hold(-self._held)

    def _hold(self, count: int) -> None:
        if count > 0 and self._budget.held + count > self._budget.most:
            raise RequestError(
                Code.RESOURCE_EXHAUSTED, "too many requests are on their way at once"
            )
        self._held += count
        self._budget.held += count
