"""What a peer may ask of the server, and what all peers together may."""

import time
from dataclasses import dataclass

_MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one connection, unless it says otherwise.

    Attributes:
        message_bytes: of a request's message, as sent and as inflated.
        streams: calls at once; those that were cancelled count until their handlers have ended.
        header_list_bytes: of a request's header fields, counted as RFC 9113 does (section 6.5.2).
            Calls with more are refused.
        header_block_bytes: the same before it is decoded. More end the connection.
        continuations: frames that a header block may have behind its first.
        stream_window: bytes that a stream may send before it is told to go on.
        connection_window: and all its streams.
        unfinished_bytes: of all messages of the server that have not come whole, or that no handler
            has asked for yet; one message more is always taken.
        handshake_seconds: until a connection must have said that it speaks HTTP/2.
        stall_seconds: how long nothing may come where something has begun (a frame, a request),
            and how long a peer may read nothing.
        noise: frames that ask for nothing (empty DATA, PING, SETTINGS, ...) in ``noise_seconds``,
            beside a few for each call.
        resets: calls that are cancelled, or refused for what the peer did, in ``noise_seconds``.
        noise_seconds: see there.
    """

    message_bytes: int = 4 * _MEBIBYTE
    streams: int = 1000
    header_list_bytes: int = 1 << 14
    header_block_bytes: int = 1 << 16
    continuations: int = 16
    stream_window: int = 4 * _MEBIBYTE
    connection_window: int = 16 * _MEBIBYTE
    unfinished_bytes: int = 1024 * _MEBIBYTE
    handshake_seconds: float = 20.0
    stall_seconds: float = 60.0
    noise: int = 10_000
    resets: int = 10_000
    noise_seconds: float = 5.0


class Rate:
    """Counts what may not come too often."""

    __slots__ = ("_count", "_most", "_seconds", "_since", "_useful")

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._count = 0
        self._since = time.monotonic()
        self._useful = 0

    def exceeded(self, useful: int = 0) -> bool:
        """Count one more: has it come more than ``most`` times within ``seconds``?

        Args:
            useful: how many may come beside these; a number that grows as the connection is of use.
        """
        self._count += 1
        if self._count <= self._most or self._count <= self._most + useful - self._useful:
            return False
        now = time.monotonic()
        if now - self._since < self._seconds:
            return True
        self._count, self._since, self._useful = 0, now, useful
        return False


class Budget:
    """Bytes of messages that have not come whole, of all connections together."""

    __slots__ = ("held", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0
