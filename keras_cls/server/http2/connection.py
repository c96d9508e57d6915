"""One HTTP/2 connection: its frames, streams and end (RFC 9113)."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from keras_cls.server.http2.answers import MESSAGE_PREFIX, PREFIX_BYTES
from keras_cls.server.http2.calls import Call
from keras_cls.server.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEAD,
    GOAWAY,
    HEAD_BYTES,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    LARGEST_FRAME_BYTES,
    LARGEST_WINDOW,
    LAST_STREAM,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_BYTES,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTING,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    WORD,
    ErrorCode,
    PeerError,
    StreamError,
    frame,
    goaway,
    rst_stream,
    settings,
    settings_ack,
    unpadded,
    window_update,
)
from keras_cls.server.http2.frames import ENABLE_PUSH as PUSH_SETTING
from keras_cls.server.http2.heads import (
    Head,
    MalformedError,
    check_trailers,
    oversized_head,
    read_head,
)
from keras_cls.server.http2.hpack import DEFAULT_TABLE_BYTES, Decoder, HpackError
from keras_cls.server.http2.incoming import Incoming
from keras_cls.server.http2.limits import Rate
from keras_cls.server.http2.outbox import Outbox
from keras_cls.server.status import Code

if TYPE_CHECKING:
    from keras_cls.server.http2.server import GrpcServer

_LOG = logging.getLogger(__name__)

_HTTP_1_TEXT = b"This port speaks gRPC, which needs HTTP/2.\n"
_HTTP_1 = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_HTTP_1_TEXT), _HTTP_1_TEXT)
)
_HTTP_1_STARTS = b"CDGHOPT"  # of its methods
_DRAIN_PING = b"draining"
# How long a connection that is being closed may take to read what was sent last.
_LAST_WORDS_SECONDS = 1.0
_SWEEPS = 4
_WRITE_HIGH, _WRITE_LOW = 1 << 20, 1 << 18
_MAX_CACHED_HEADS = 64
_MAX_CACHED_BLOCK = 512
# A stream that was reset may still get what its peer sent before it knew; so many are remembered.
_MAX_REMEMBERED = 1000
_NOISE_A_CALL = 8
_SMALL_INCREMENT = 1 << 10

_read_head = FRAME_HEAD.unpack_from
_read_prefix = MESSAGE_PREFIX.unpack_from


class Connection(asyncio.Protocol):
    """Answers one peer.

    Attributes:
        outbox: what it is sent.
        peer: who it is, as gRPC writes it.
    """

    __slots__ = (
        "_block",
        "_block_flags",
        "_block_stream",
        "_blocks",
        "_closing",
        "_deadline_timer",
        "_decoder",
        "_draining",
        "_final",
        "_greeted",
        "_handshake_timer",
        "_heads",
        "_heard",
        "_last",
        "_lingering",
        "_next_deadline",
        "_noise",
        "_remembered",
        "_resets",
        "_rest",
        "_server",
        "_settled",
        "_silent_sweeps",
        "_transport",
        "_window",
        "calls",
        "limits",
        "loop",
        "outbox",
        "peer",
    )

    def __init__(self, server: "GrpcServer", loop: asyncio.AbstractEventLoop) -> None:
        limits = server.limits
        self.loop = loop
        self.limits = limits
        self.calls: dict[int, Call] = {}
        self.peer = ""
        self._server = server
        self._decoder = Decoder(limits.header_list_bytes)
        self._heads: dict[bytes, Head] = {}
        self._rest = b""
        self._greeted = self._settled = self._closing = self._draining = False
        self._heard = False
        self._silent_sweeps = 0
        self._last = 0
        self._final: int | None = None
        self._lingering = 0
        self._block: bytearray | None = None
        self._block_flags = self._block_stream = self._blocks = 0
        self._window = limits.connection_window
        self._remembered: dict[int, None] = {}
        self._noise = Rate(limits.noise, limits.noise_seconds)
        self._resets = Rate(limits.resets, limits.noise_seconds)
        self._next_deadline = math.inf
        self._deadline_timer: asyncio.TimerHandle | None = None

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nothing is said before the peer has shown what it speaks."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(_WRITE_HIGH, _WRITE_LOW)
        self.outbox = Outbox(self._transport, self.loop)
        self.peer = self._server.joined(self, self._transport)
        self._handshake_timer = self.loop.call_later(
            self.limits.handshake_seconds, self._transport.abort
        )

    def connection_lost(self, error: Exception | None) -> None:
        """Nobody waits for answers any more."""
        self._closing = True
        self._handshake_timer.cancel()
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._drop_calls()
        self._server.left(self)

    def pause_writing(self) -> None:
        """The peer does not read: it is not read either, or its answers would pile up."""
        self.outbox.paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        self.outbox.paused = False
        self._transport.resume_reading()
        self.outbox.pump_blocked()

    def data_received(self, data: bytes) -> None:
        """What the peer sends."""
        if self._closing:
            return
        if self._rest:
            data = self._rest + data
        self._heard = True
        try:
            at = self._read(data) if self._greeted else self._greet(data)
        except PeerError as error:
            self._give_up(error.code, error.text)
        except Exception:
            _LOG.exception("a connection failed")
            self._give_up(ErrorCode.INTERNAL_ERROR, "")
        else:
            self._rest = data[at:]

    # Frames.

    def _greet(self, data: bytes) -> int:
        """Section 3.4: the preface, then the server's own."""
        if not PREFACE.startswith(data[: len(PREFACE)]):
            self._closing = True
            if data[0] in _HTTP_1_STARTS:
                self._transport.write(_HTTP_1)
            self._close_softly()
            return len(data)
        if len(data) < len(PREFACE):
            return 0
        self._greeted = True
        limits = self.limits
        values = {
            MAX_CONCURRENT_STREAMS: limits.streams,
            INITIAL_WINDOW_SIZE: limits.stream_window,
            MAX_HEADER_LIST_SIZE: limits.header_list_bytes,
        }
        self.outbox.put(settings(values))
        if limits.connection_window > 65535:
            self.outbox.put(window_update(0, limits.connection_window - 65535))
        return self._read(data, len(PREFACE))

    def _read(self, data: bytes, at: int = 0) -> int:
        """Read the frames that are whole; where the next one begins."""
        end, most = len(data), self.limits.message_bytes
        calls, heads = self.calls, self._heads
        while end - at >= HEAD_BYTES and not self._closing:
            word, flags, stream = _read_head(data, at)
            length = word >> 8
            if length > MAX_FRAME_BYTES:
                raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "a frame that is too large")
            body = at + HEAD_BYTES
            stop = body + length
            if stop > end:
                break
            at = stop
            kind = word & 0xFF
            # First what nearly all frames are: a whole request in one, and a head that is known.
            if kind == DATA and flags == END_STREAM and length >= PREFIX_BYTES:
                call = calls.get(stream)
                if call is not None and call.fresh:
                    flag, size = _read_prefix(data, body)
                    if not flag and size + PREFIX_BYTES == length and size <= most:
                        call.fresh = False
                        call.remote_done = True
                        self._take_window(length)
                        if call.head.content_length in (-1, length):
                            call.start(data[body + PREFIX_BYTES : stop])
                        else:
                            self.reset(call, ErrorCode.PROTOCOL_ERROR)
                        continue
            elif kind == HEADERS and flags == END_HEADERS and stream > self._last:
                head = heads.get(data[body:stop])
                if head is not None and stream & 1 and self._block is None:
                    self._open(stream, head)
                    continue
            try:
                self._on_frame(kind, flags, stream & LAST_STREAM, data[body:stop])
            except StreamError as error:
                self._on_stream_error(error)
        return at

    def _on_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if not self._settled:
            if kind != SETTINGS or flags & ACK:
                raise PeerError(ErrorCode.PROTOCOL_ERROR, "SETTINGS must come first")
            self._settled = True
            self._handshake_timer.cancel()
        if self._block is not None and (kind != CONTINUATION or stream != self._block_stream):
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")
        if kind < len(_FRAMES):
            _FRAMES[kind](self, flags, stream, payload)
        else:  # section 5.5
            self._note_noise()

    def _on_data(self, flags: int, stream: int, payload: bytes) -> None:
        """Section 6.1."""
        if not stream:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "DATA of no stream")
        length = len(payload)
        self._take_window(length)
        data = unpadded(flags, payload)
        call = self.calls.get(stream)
        if call is None or call.remote_done:
            self._on_closed(stream, "DATA")
            return
        if not data and not flags & END_STREAM:
            self._note_noise()
        elif call.local_done:
            pass  # it was refused, and its peer does not know yet
        elif data:
            call.feed(data)
        if call.incoming is not None and length:
            call.incoming.window -= length
            if call.incoming.window < 0:
                raise StreamError(stream, ErrorCode.FLOW_CONTROL_ERROR)
        if flags & END_STREAM:
            self._end_stream(call)
        else:
            self.widen(call)

    def _end_stream(self, call: Call) -> None:
        announced = call.head.content_length
        if announced >= 0 and not call.local_done:  # section 8.1.1
            received = 0 if call.incoming is None else call.incoming.received
            if announced != received:
                raise StreamError(call.id, ErrorCode.PROTOCOL_ERROR)
        call.end()

    def _on_headers(self, flags: int, stream: int, payload: bytes) -> None:
        """Section 6.2."""
        if not stream & 1:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "HEADERS of no stream of a client's")
        payload = unpadded(flags, payload)
        if flags & WITH_PRIORITY:
            if len(payload) < 5:
                raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without their priority")
            if WORD.unpack_from(payload)[0] & LAST_STREAM == stream:  # RFC 7540, section 5.3.1
                raise PeerError(ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")
            payload = payload[5:]
        if flags & END_HEADERS:
            self._on_block(flags, stream, payload)
            return
        self._block = bytearray(payload)
        self._block_flags, self._block_stream, self._blocks = flags, stream, 0

    def _on_continuation(self, flags: int, stream: int, payload: bytes) -> None:
        """Section 6.10."""
        if self._block is None:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._block += payload
        self._blocks += 1
        limits = self.limits
        if self._blocks > limits.continuations or len(self._block) > limits.header_block_bytes:
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, "a header block that goes on and on")
        if flags & END_HEADERS:
            block, self._block = bytes(self._block), None
            self._on_block(self._block_flags, stream, block)

    def _on_block(self, flags: int, stream: int, block: bytes) -> None:
        """A whole header block: it must be decoded whatever becomes of it (RFC 7541, 2.2)."""
        decoder, known = self._decoder, self._decoder.changes
        head = self._heads.get(block)
        fields = None
        if head is None or stream <= self._last:
            try:
                fields = decoder.decode(block)
            except HpackError as error:
                raise PeerError(ErrorCode.COMPRESSION_ERROR, str(error)) from error
            if decoder.changes != known:
                self._heads.clear()
        if stream <= self._last:
            assert fields is not None
            self._on_trailers(flags, stream, fields)
            return
        if head is None:
            assert fields is not None
            if decoder.list_bytes > self.limits.header_list_bytes:
                head = oversized_head(decoder.list_bytes, self.limits.header_list_bytes)
            else:
                try:
                    head = read_head(fields, self._server.find)
                except MalformedError as error:
                    self._last = stream
                    raise StreamError(stream, ErrorCode.PROTOCOL_ERROR) from error
                if decoder.changes == known and len(block) <= _MAX_CACHED_BLOCK:
                    if len(self._heads) >= _MAX_CACHED_HEADS:
                        self._heads.clear()
                    self._heads[block] = head
        self._open(stream, head)
        if flags & END_STREAM and (call := self.calls.get(stream)) is not None:
            self._end_stream(call)

    def _on_trailers(self, flags: int, stream: int, fields: list[tuple[bytes, bytes]]) -> None:
        """Section 8.1."""
        call = self.calls.get(stream)
        if call is None or call.remote_done:
            self._on_closed(stream, "HEADERS")
            return
        if not flags & END_STREAM:
            raise StreamError(stream, ErrorCode.PROTOCOL_ERROR)
        try:
            check_trailers(fields)
        except MalformedError as error:
            raise StreamError(stream, ErrorCode.PROTOCOL_ERROR) from error
        self._end_stream(call)

    def _on_closed(self, stream: int, what: str) -> None:
        """Section 5.1: what comes for a stream that is over, or was never there."""
        if stream > self._last or not stream & 1:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"{what} of a stream that is idle")
        if stream not in self._remembered:
            raise PeerError(ErrorCode.STREAM_CLOSED, f"{what} of a stream that is closed")
        self._note_noise()

    def _on_priority(self, flags: int, stream: int, payload: bytes) -> None:
        """Section 6.3: checked, and of no use."""
        if not stream:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "PRIORITY of no stream")
        self._note_noise()
        if len(payload) != 5:
            raise StreamError(stream, ErrorCode.FRAME_SIZE_ERROR)
        if WORD.unpack_from(payload)[0] & LAST_STREAM == stream:
            raise StreamError(stream, ErrorCode.PROTOCOL_ERROR)

    def _on_rst_stream(self, flags: int, stream: int, payload: bytes) -> None:
        """Section 6.4: the peer has cancelled a call."""
        if len(payload) != 4:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM has four bytes")
        if stream > self._last or not stream & 1:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "RST_STREAM of a stream that is idle")
        call = self.calls.pop(stream, None)
        if call is None:
            self._note_noise()
            return
        call.drop()
        self._note_reset()
        self._close_if_over()

    def _on_settings(self, flags: int, stream: int, payload: bytes) -> None:
        """Section 6.5."""
        self._note_noise()
        if stream:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "SETTINGS of a stream")
        if len(payload) % SETTING.size or (flags & ACK and payload):
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of an odd length")
        if flags & ACK:
            return
        for name, value in SETTING.iter_unpack(payload):
            self._on_setting(name, value)
        self.outbox.put(settings_ack())

    def _on_setting(self, name: int, value: int) -> None:
        """Section 6.5.2."""
        if name == PUSH_SETTING and value > 1:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
        if name == HEADER_TABLE_SIZE and value < DEFAULT_TABLE_BYTES:
            self.outbox.shrink_table()
        elif name == INITIAL_WINDOW_SIZE:
            self._on_first_window(value)
        elif name == MAX_FRAME_SIZE:
            if not MAX_FRAME_BYTES <= value <= LARGEST_FRAME_BYTES:
                raise PeerError(ErrorCode.PROTOCOL_ERROR, "no MAX_FRAME_SIZE is such")
            self.outbox.frame_bytes = value

    def _on_first_window(self, value: int) -> None:
        """Section 6.9.2: it changes the windows of open streams as well."""
        if value > LARGEST_WINDOW:
            raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "no window is so large")
        change = value - self.outbox.first_window
        self.outbox.first_window = value
        for call in list(self.calls.values()):
            call.window += change
            if call.window > LARGEST_WINDOW:
                raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "no window is so large")
            if change > 0:
                self.outbox.pump(call)

    def _on_push_promise(self, flags: int, stream: int, payload: bytes) -> None:
        """Section 8.4: only servers promise."""
        raise PeerError(ErrorCode.PROTOCOL_ERROR, "a client's PUSH_PROMISE")

    def _on_ping(self, flags: int, stream: int, payload: bytes) -> None:
        """Section 6.7."""
        self._note_noise()
        if stream:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "PING of a stream")
        if len(payload) != 8:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "PING has eight bytes")
        if not flags & ACK:
            self.outbox.put(frame(PING, ACK, 0, payload))
        elif self._draining and self._final is None and payload == _DRAIN_PING:
            # All that was sent before the peer knew has come now.
            self._final = self._last
            self.outbox.put(goaway(self._last, ErrorCode.NO_ERROR))
            self._close_if_over()

    def _on_goaway(self, flags: int, stream: int, payload: bytes) -> None:
        """Section 6.8: it opens no more streams, and closes when it has its answers."""
        self._note_noise()
        if stream:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "GOAWAY of a stream")
        if len(payload) < 8:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY has eight bytes and more")

    def _on_window_update(self, flags: int, stream: int, payload: bytes) -> None:
        """Section 6.9."""
        if len(payload) != 4:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE has four bytes")
        increment = WORD.unpack(payload)[0] & LARGEST_WINDOW
        if increment < _SMALL_INCREMENT:
            self._note_noise()
        if not stream:
            if not increment:
                raise PeerError(ErrorCode.PROTOCOL_ERROR, "a window grows by nothing")
            if not self.outbox.widen(increment):
                raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "no window is so large")
            return
        call = self.calls.get(stream)
        if call is None:
            if stream > self._last or not stream & 1:
                raise PeerError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of an idle stream")
            return
        if not increment:
            raise StreamError(stream, ErrorCode.PROTOCOL_ERROR)
        call.window += increment
        if call.window > LARGEST_WINDOW:
            raise StreamError(stream, ErrorCode.FLOW_CONTROL_ERROR)
        if call.backlog:
            self.outbox.pump(call)

    def _on_stream_error(self, error: StreamError) -> None:
        call = self.calls.get(error.stream)
        if call is not None:
            self.reset(call, error.code)
        else:
            self._remember(error.stream)
            self.outbox.put(rst_stream(error.stream, error.code))
        self._note_reset()

    def _note_noise(self) -> None:
        if self._noise.exceeded(_NOISE_A_CALL * (self._last >> 1)):
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that ask nothing")

    def _note_reset(self) -> None:
        """Calls that come to nothing must not be cheaper for the peer than those that are answered:
        CVE-2023-44487, and CVE-2025-8671 where it makes the server reset them.
        """
        if self._resets.exceeded():
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, "too many calls are cancelled")

    def _take_window(self, length: int) -> None:
        """Section 6.9.1, for the whole connection: what has come is taken at once."""
        self._window -= length
        most = self.limits.connection_window
        if self._window < most >> 1:
            if self._window < 0:
                raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than was allowed")
            self.outbox.put(window_update(0, most - self._window))
            self._window = most

    # Calls.

    def _open(self, stream: int, head: Head) -> None:
        """Section 5.1.1."""
        self._last = stream
        if self._final is not None:  # section 6.8: the peer knows that nobody listens
            self._remember(stream)
            return
        if len(self.calls) + self._lingering >= self.limits.streams:
            self._on_stream_error(StreamError(stream, ErrorCode.REFUSED_STREAM))
            return
        call = Call(self, stream, head)
        self.calls[stream] = call
        if head.refusal is not None:
            call.refuse(head.refusal)
            return
        if head.timeout != math.inf:
            call.deadline = time.monotonic() + head.timeout
            if call.deadline < self._next_deadline:
                self._watch(call.deadline)
        if not call.fresh:
            call.start_stream()

    def new_incoming(self) -> Incoming:
        """What puts a call's messages together."""
        limits = self.limits
        return Incoming(self._server.budget, limits.message_bytes, limits.stream_window)

    def widen(self, call: Call) -> None:
        """Let a call's peer send more, if what it sent was taken."""
        incoming, full = call.incoming, self.limits.stream_window
        if incoming is None or call.remote_done or call.local_done or incoming.messages:
            return
        if incoming.window < full >> 1:
            self.outbox.put(window_update(call.id, full - incoming.window))
            incoming.window = full

    def finished(self, call: Call) -> None:
        """A call's answer is on its way to its end."""
        if self.calls.pop(call.id, None) is None:
            return
        if not call.remote_done:  # section 8.1: the rest of the request is not wanted
            self._remember(call.id)
            self.outbox.put(rst_stream(call.id, ErrorCode.NO_ERROR))
        if self._draining:
            self._close_if_over()

    def reset(self, call: Call, code: ErrorCode) -> None:
        """End a call without an answer."""
        self.calls.pop(call.id, None)
        call.drop()
        if not call.remote_done:
            self._remember(call.id)
        self.outbox.put(rst_stream(call.id, code))
        self._close_if_over()

    def linger(self, task: "asyncio.Task[None]") -> None:
        """A task that was cancelled takes a place until it has ended."""
        self._lingering += 1
        task.add_done_callback(self._lingered)

    def _lingered(self, _task: "asyncio.Task[None]") -> None:
        self._lingering -= 1

    def _remember(self, stream: int) -> None:
        remembered = self._remembered
        remembered[stream] = None
        if len(remembered) > _MAX_REMEMBERED:
            del remembered[next(iter(remembered))]

    def _watch(self, deadline: float) -> None:
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._next_deadline = deadline
        pause = max(deadline - time.monotonic(), 0.0)
        self._deadline_timer = self.loop.call_later(pause, self._expire)

    def _expire(self) -> None:
        now = time.monotonic()
        self._deadline_timer = None
        self._next_deadline = math.inf
        for call in list(self.calls.values()):
            if call.deadline <= now and not call.local_done:
                call.fail(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
        waiting = [call.deadline for call in self.calls.values() if not call.local_done]
        if (earliest := min(waiting, default=math.inf)) != math.inf:
            self._watch(earliest)

    def _drop_calls(self) -> None:
        calls = list(self.calls.values())
        self.calls.clear()
        for call in calls:
            call.drop()

    # The end.

    def drain(self) -> None:
        """Section 6.8: let what is in flight end, and take no more."""
        if self._closing or self._draining:
            return
        if not self._settled:
            self._closing = True
            self._transport.close()
            return
        self._draining = True
        self.outbox.put(goaway(LAST_STREAM, ErrorCode.NO_ERROR))
        self.outbox.put(frame(PING, 0, 0, _DRAIN_PING))

    def end(self, details: str) -> None:
        """Close now; who still waits is told."""
        if self._closing:
            return
        for call in list(self.calls.values()):
            call.fail(Code.UNAVAILABLE, details)
        if self._closing:  # the last of them closed it
            return
        self._give_up(ErrorCode.NO_ERROR, "")

    def abort(self) -> None:
        """Close without a word."""
        self._transport.abort()

    def sweep(self) -> None:
        """Look, from time to time, for what has begun and does not go on."""
        self._silent_sweeps = 0 if self._heard else self._silent_sweeps + 1
        self._heard = False
        if self._silent_sweeps >= _SWEEPS and (
            self._rest or self._block is not None or self.outbox.paused
        ):
            self._transport.abort()
            return
        for call in list(self.calls.values()):
            if call.backlog or (not call.remote_done and call.task is None):
                call.sweeps += 1
                if call.sweeps > _SWEEPS:
                    call.fail(Code.DEADLINE_EXCEEDED, "the request did not come to its end")

    def _close_if_over(self) -> None:
        if self._final is not None and not self.calls and not self._closing:
            self._closing = True
            self._close_softly()

    def _give_up(self, code: ErrorCode, text: str) -> None:
        """Section 5.4.1."""
        self._closing = True
        self._rest = b""
        self._drop_calls()
        if self._greeted:
            self.outbox.put(goaway(self._last, code, text))
        self._close_softly()

    def _close_softly(self) -> None:
        """Let the peer read what was sent last: to close at once could take it away from it."""
        self.outbox.finish()
        self.loop.call_later(_LAST_WORDS_SECONDS, self._transport.abort)


_Handler = Callable[[Connection, int, int, bytes], None]
# By kind.
_FRAMES: tuple[_Handler, ...] = (
    Connection._on_data,
    Connection._on_headers,
    Connection._on_priority,
    Connection._on_rst_stream,
    Connection._on_settings,
    Connection._on_push_promise,
    Connection._on_ping,
    Connection._on_goaway,
    Connection._on_window_update,
    Connection._on_continuation,
)
assert _FRAMES[PUSH_PROMISE] is Connection._on_push_promise
assert _FRAMES[PRIORITY] is Connection._on_priority
assert _FRAMES[RST_STREAM] is Connection._on_rst_stream
assert _FRAMES[GOAWAY] is Connection._on_goaway
assert _FRAMES[WINDOW_UPDATE] is Connection._on_window_update
