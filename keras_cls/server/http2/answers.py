"""What gRPC's answers look like in HTTP/2: header blocks made beforehand, and those of errors.

The layout is that of "gRPC over HTTP2" (PROTOCOL-HTTP2.md of the gRPC project). No field goes into
the peer's table, so that a block means the same in every connection.
"""

import base64
from collections.abc import Iterable, Sequence
from struct import Struct

import grpc

from keras_cls.server.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
)
from keras_cls.server.http2.hpack import literal

_STATUS_200 = b"\x88"  # of the static table
_STATUS_NAME = 8
_CONTENT_TYPE_NAME = 31
ACCEPTED_ENCODINGS = b"identity, deflate, gzip"

INITIAL = (
    _STATUS_200
    + literal(_CONTENT_TYPE_NAME, b"application/grpc")
    + literal(b"grpc-accept-encoding", ACCEPTED_ENCODINGS)
)
OK_TRAILERS = literal(b"grpc-status", b"0")

# An answer that is one small message: HEADERS, the head of DATA and the message's prefix; then, the
# message in between, trailers. Of the numbers, those that stay the same come first here.
_START = Struct(f">IBI{len(INITIAL)}sIBIBI")
_END = Struct(f">IBI{len(OK_TRAILERS)}s")
_START_HEAD = len(INITIAL) << 8 | HEADERS
_END_HEAD = len(OK_TRAILERS) << 8 | HEADERS
_END_FLAGS = END_HEADERS | END_STREAM
MESSAGE_PREFIX = Struct(">BI")
PREFIX_BYTES = MESSAGE_PREFIX.size
_pack_start, _pack_end = _START.pack, _END.pack


def answer_start(stream: int, size: int) -> bytes:
    """All that stands before a message of so many bytes that fits into one frame."""
    return _pack_start(
        _START_HEAD,
        END_HEADERS,
        stream,
        INITIAL,
        (size + PREFIX_BYTES) << 8 | DATA,
        0,
        stream,
        0,
        size,
    )


def answer_end(stream: int) -> bytes:
    """What stands behind the message of an answer without fault."""
    return _pack_end(_END_HEAD, _END_FLAGS, stream, OK_TRAILERS)


def initial_block(metadata: Sequence[tuple[str, str | bytes]] = ()) -> bytes:
    """The header block of an answer that has messages."""
    return INITIAL + metadata_block(metadata)


def trailers_block(
    code: int, details: str = "", metadata: Iterable[tuple[str, str | bytes]] = ()
) -> bytes:
    """The header block that ends an answer."""
    block = literal(b"grpc-status", b"%d" % code)
    if details:
        block += literal(b"grpc-message", percent_encoded(details))
    return block + metadata_block(metadata)


def refusal_block(
    code: int, details: str = "", metadata: Iterable[tuple[str, str | bytes]] = ()
) -> bytes:
    """The header block that is a whole answer ("Trailers-Only")."""
    return INITIAL + trailers_block(code, details, metadata)


def http_refusal_block(status: int, details: str) -> bytes:
    """What tells a client that does not speak gRPC what is wrong."""
    block = literal(_STATUS_NAME, b"%d" % status)
    return block + trailers_block(grpc.StatusCode.INTERNAL.value[0], details)


def metadata_block(metadata: Iterable[tuple[str, str | bytes]]) -> bytes:
    """Metadata of a handler's own.

    Raises:
        ValueError: names or values that HTTP/2 cannot carry.
    """
    return b"".join(literal(*_metadata_field(key, value)) for key, value in metadata)


def _metadata_field(key: str, value: str | bytes) -> tuple[bytes, bytes]:
    name = key.encode("ascii")
    if not name or name != name.lower() or name.startswith((b":", b"grpc-")):
        raise ValueError(f"no metadata can have the name {key!r}")
    if name.endswith(b"-bin"):
        raw = value.encode() if isinstance(value, str) else value
        return name, base64.b64encode(raw).rstrip(b"=")
    text = value.encode("ascii") if isinstance(value, str) else bytes(value)
    if any(byte < 0x20 or byte > 0x7E for byte in text):
        raise ValueError(f"the metadata {key!r} has a value that is not printable ASCII")
    return name, text


def percent_encoded(text: str) -> bytes:
    """As grpc-message wants it: UTF-8 in which all but printable ASCII, and %, is escaped."""
    raw = text.encode(errors="replace")
    if raw.isascii() and text.isprintable() and b"%" not in raw:
        return raw
    return b"".join(
        bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
        for byte in raw
    )
