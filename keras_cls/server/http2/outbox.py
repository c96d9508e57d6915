"""What a connection sends: in one write a turn, within the peer's windows (RFC 9113, 5.2)."""

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from keras_cls.server.http2.answers import answer_end, answer_start
from keras_cls.server.http2.frames import (
    DATA,
    END_STREAM,
    FIRST_WINDOW,
    FRAME_HEAD,
    LARGEST_WINDOW,
    MAX_FRAME_BYTES,
    header_frames,
)

if TYPE_CHECKING:
    from keras_cls.server.http2.calls import Call

# Large answers are handed to the transport in pieces of about this size, so that they are not all
# copied at once.
_BYTES_A_TURN = 1 << 19
_PREFIX_BYTES = 5
_TABLE_OF_0 = b"\x20"


class Outbox:
    """The way out.

    Attributes:
        window: bytes of DATA that the peer takes on this connection.
        first_window: and on a new stream.
        frame_bytes: the largest payload that it takes.
        paused: the transport has more than enough to send.
    """

    __slots__ = (
        "_blocked",
        "_call_soon",
        "_due",
        "_ended",
        "_first",
        "_frames",
        "_queued",
        "_transport",
        "first_window",
        "frame_bytes",
        "paused",
        "window",
    )

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._call_soon = loop.call_soon
        self._frames: list[bytes | memoryview] = []
        self._due = self._ended = False
        self._first = b""  # what stands before the fields of the next header block
        # Calls that have something to send and wait for the connection, not for their streams.
        self._blocked: dict[int, Call] = {}
        self._queued = 0
        self.window = FIRST_WINDOW
        self.first_window = FIRST_WINDOW
        self.frame_bytes = MAX_FRAME_BYTES
        self.paused = False

    def put(self, frames: bytes) -> None:
        """Frames that no window holds back."""
        self._frames.append(frames)
        if not self._due:
            self._due = True
            self._call_soon(self.flush)

    def answer(self, stream: int, window: int, message: bytes) -> bool:
        """A whole answer, if it is small enough to be sent at once; else nothing is done."""
        size = len(message)
        whole = size + _PREFIX_BYTES
        if whole > self.window or whole > window or whole > self.frame_bytes or self._first:
            return False
        self.window -= whole
        self._frames += (answer_start(stream, size), message, answer_end(stream))
        if not self._due:
            self._due = True
            self._call_soon(self.flush)
        return True

    def headers(self, stream: int, block: bytes) -> None:
        """A header block that does not end the stream."""
        self._put_block(stream, 0, block)

    def shrink_table(self) -> None:
        """The peer wants a smaller table: the next block must say so (RFC 7541, section 4.2)."""
        self._first = _TABLE_OF_0

    def data(self, call: "Call", pieces: tuple[bytes, ...]) -> None:
        """DATA, now or as soon as it may be sent."""
        if call.backlog is None:
            call.backlog = deque()
        call.backlog.extend(memoryview(piece) for piece in pieces if piece)
        self.pump(call)

    def end(self, call: "Call", block: bytes) -> None:
        """The header block that ends the stream, behind what is still to be sent."""
        call.closing = block
        if not call.backlog:
            self._close(call)

    def pump(self, call: "Call") -> None:
        """Send of a call's backlog what may be sent."""
        backlog = call.backlog
        if not backlog:
            return
        while backlog and call.window > 0:
            if self.window <= 0 or self.paused or self._queued >= _BYTES_A_TURN:
                self._blocked[call.id] = call
                return
            self._send_piece(call, backlog)
        if backlog:
            self._blocked.pop(call.id, None)
            return
        self._release(call)

    def forget(self, call: "Call") -> None:
        """Send no more of a call's backlog."""
        self._blocked.pop(call.id, None)
        call.backlog = call.closing = None

    def widen(self, increment: int) -> bool:
        """The peer takes more DATA; False if that is more than a window can have (6.9.1)."""
        self.window += increment
        if self.window > LARGEST_WINDOW:
            return False
        self.pump_blocked()
        return True

    def pump_blocked(self) -> None:
        """Send what waited for the connection: of each call a frame in turn."""
        blocked = self._blocked
        while blocked and self.window > 0 and not self.paused and self._queued < _BYTES_A_TURN:
            call = blocked.pop(next(iter(blocked)))
            if call.backlog and call.window > 0:
                self._send_piece(call, call.backlog)
            if not call.backlog:
                self._release(call)
            elif call.window > 0:
                blocked[call.id] = call

    def flush(self) -> None:
        """Hand everything to the transport, in one write."""
        self._due = False
        frames = self._frames
        if not frames or self._ended:
            return
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        frames.clear()
        self._transport.write(data)
        if self._queued:
            self._queued = 0
            self.pump_blocked()

    def finish(self) -> None:
        """Send what there is, and nothing more."""
        self.flush()
        self._ended = True
        if self._transport.can_write_eof() and not self._transport.is_closing():
            with suppress(OSError):  # the peer has gone already
                self._transport.write_eof()

    def _send_piece(self, call: "Call", backlog: deque[memoryview]) -> None:
        """One frame."""
        size = min(self.window, call.window, self.frame_bytes)
        pieces, taken = [], 0
        while backlog and taken < size:
            piece = backlog.popleft()
            if taken + len(piece) > size:
                backlog.appendleft(piece[size - taken :])
                piece = piece[: size - taken]
            pieces.append(piece)
            taken += len(piece)
        self.window -= taken
        call.window -= taken
        call.sweeps = 0
        self._queued += taken
        self._frames += (FRAME_HEAD.pack(taken << 8 | DATA, 0, call.id), *pieces)
        if not self._due:
            self._due = True
            self._call_soon(self.flush)

    def _release(self, call: "Call") -> None:
        if call.waiter is not None and not call.waiter.done():
            call.waiter.set_result(None)
        if call.closing is not None:
            self._close(call)

    def _close(self, call: "Call") -> None:
        assert call.closing is not None
        block, call.closing = call.closing, None
        self._put_block(call.id, END_STREAM, block)
        call.sent()

    def _put_block(self, stream: int, flags: int, block: bytes) -> None:
        self.put(header_frames(stream, flags, self._first + block, self.frame_bytes))
        self._first = b""
