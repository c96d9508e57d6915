"""An HTTP/2 client that sends what it is told, right or wrong, and reads frames."""

import socket
import struct
import time
from typing import NamedTuple

from keras_cls.server.http2 import frames
from keras_cls.server.http2.frames import ErrorCode
from keras_cls.server.http2.hpack import Decoder, literal

POST, HTTP = b"\x83", b"\x86"
ANSWER_SECONDS = 10.0


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def head(method="echo", *more, content_type=b"application/grpc"):
    """A header block of literals only."""
    path = f"/test.Echo/{method}".encode()
    return (
        POST
        + HTTP
        + literal(b":path", path)
        + literal(b":authority", b"here")
        + literal(b"te", b"trailers")
        + literal(b"content-type", content_type)
        + b"".join(literal(*field) for field in more)
    )


def message(body, flag=0):
    return struct.pack(">BI", flag, len(body)) + body


class RawPeer:
    """A connection. ``greet``: the preface and settings are sent, and the server's are read."""

    def __init__(self, port, greet=True, settings=None):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS)
        self._buffer = b""
        self.decoder = Decoder(1 << 16)
        if greet:
            self.send(frames.PREFACE + frames.settings(settings or {}))
            self.server_settings = dict(
                struct.iter_unpack(">HI", self.expect(frames.SETTINGS).payload)
            )
            self.send(frames.settings_ack())

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._socket.close()

    def send(self, *data):
        self._socket.sendall(b"".join(data))

    def try_to_send(self, data):
        """Whether the server still takes it."""
        try:
            self._socket.sendall(data)
        except OSError:
            return False
        return True

    def frame(self, kind, flags, stream, payload=b""):
        self.send(frames.frame(kind, flags, stream, payload))

    def headers(self, stream, block, end=False):
        self.frame(frames.HEADERS, frames.END_HEADERS | (1 if end else 0), stream, block)

    def data(self, stream, data, end=False):
        self.frame(frames.DATA, 1 if end else 0, stream, data)

    def call(self, stream, method="echo", body=b"hello"):
        self.headers(stream, head(method))
        self.data(stream, message(body), end=True)

    def read_frame(self, seconds=ANSWER_SECONDS):
        """The next frame; None at the connection's end."""
        self._socket.settimeout(seconds)
        found = self._take(frames.HEAD_BYTES)
        if found is None:
            return None
        word, flags, stream = frames.FRAME_HEAD.unpack(found)
        payload = self._take(word >> 8) if word >> 8 else b""
        return Frame(word & 0xFF, flags, stream, payload)

    def expect(self, kind, stream=None):
        """The next frame of a kind; others are passed over."""
        end = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < end:
            found = self.read_frame()
            assert found is not None, "the connection has ended"
            if found.kind == kind and stream in (None, found.stream):
                return found
        raise AssertionError("no such frame has come")

    def answer(self, stream):
        """The fields of an answer's head and end in one, and its DATA."""
        fields, body = {}, b""
        while True:
            found = self.read_frame()
            assert found is not None, "the connection has ended"
            if found.kind == frames.RST_STREAM and found.stream == stream:
                return {"reset": ErrorCode(int.from_bytes(found.payload)).name}, body
            if found.kind == frames.GOAWAY:
                raise AssertionError(f"GOAWAY {found.payload}")
            if found.stream != stream:
                if found.kind == frames.HEADERS:
                    self.decoder.decode(found.payload)
                continue
            if found.kind == frames.DATA:
                body += found.payload
            if found.kind == frames.HEADERS:
                decoded = self.decoder.decode(found.payload)
                fields.update({n.decode(): v.decode() for n, v in decoded})
            if found.flags & frames.END_STREAM:
                return fields, body

    def goaway(self):
        """The error code of the GOAWAY with which the connection ends."""
        code = None
        try:
            while (found := self.read_frame()) is not None:
                if found.kind == frames.GOAWAY:
                    code = ErrorCode(int.from_bytes(found.payload[4:8])).name
        except ConnectionError:
            return code or "closed"
        return code or "closed"

    def check_alive(self):
        """It still answers."""
        self.frame(frames.PING, 0, 0, b"12345678")
        while (found := self.expect(frames.PING)).payload != b"12345678" or not found.flags & 1:
            pass

    def read_all(self):
        """What comes until the end."""
        self._socket.settimeout(ANSWER_SECONDS)
        found = self._buffer
        while data := self._socket.recv(65536):
            found += data
        return found

    def _take(self, count):
        while len(self._buffer) < count:
            data = self._socket.recv(1 << 18)
            if not data:
                return None
            self._buffer += data
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found
