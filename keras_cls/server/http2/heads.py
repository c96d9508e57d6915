"""The head of a call: what a request's header fields say (RFC 9113, section 8; gRPC over HTTP2)."""

import base64
import binascii
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import grpc

from keras_cls.server.http2.answers import http_refusal_block, refusal_block
from keras_cls.server.http2.hpack import Field
from keras_cls.server.http2.messages import ENCODINGS, IDENTITY
from keras_cls.server.status import Code

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]
FindMethod: TypeAlias = Callable[[str, Metadata], "Method | None"]

_TIMEOUT_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MAX_TIMEOUT_DIGITS = 8
_PSEUDO_FIELDS = frozenset({b":method", b":scheme", b":path", b":authority"})
_NEEDED_FIELDS = frozenset({b":method", b":scheme", b":path"})
# Section 8.2.2: they are of HTTP/1.
_FORBIDDEN_FIELDS = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)
# Not for handlers: of HTTP/2 and of gRPC itself.
_RESERVED_FIELDS = frozenset({b"te", b"content-type", b"content-length"})
_NAME_BYTES = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
_WRONG_VALUE_BYTES = (0x00, 0x0A, 0x0D)


class MalformedError(Exception):
    """Fields that no request has (section 8.1.1)."""


class Method:
    """What answers a path.

    Attributes:
        handle: the handler's coroutine function, or its function that makes an async generator.
        one_request: whether a request is one message.
        one_answer: whether an answer is one.
        deserialize: from bytes to what the handler takes; None if these are bytes.
        serialize: from what the handler gives to bytes; None if these are bytes.
    """

    __slots__ = ("deserialize", "handle", "one_answer", "one_request", "serialize")

    def __init__(self, handler: grpc.RpcMethodHandler) -> None:
        self.one_request = not handler.request_streaming
        self.one_answer = not handler.response_streaming
        self.deserialize: Callable[[bytes], Any] | None = handler.request_deserializer
        self.serialize: Callable[[Any], bytes] | None = handler.response_serializer
        kinds = {
            (True, True): handler.unary_unary,
            (True, False): handler.unary_stream,
            (False, True): handler.stream_unary,
            (False, False): handler.stream_stream,
        }
        self.handle: Callable[[Any, Any], Awaitable[Any]] = kinds[self.one_request, self.one_answer]


class HandlerCallDetails(NamedTuple):
    """What a ``grpc.GenericRpcHandler`` is asked with."""

    method: str
    invocation_metadata: Metadata


class Head:
    """What is known of a call from its header block; calls whose blocks are the same share it.

    Attributes:
        method: what answers; None where ``refusal`` is set.
        timeout: seconds, ``math.inf`` for none.
        encoding: how messages are compressed that say they are.
        content_length: bytes of DATA that were announced; -1 for none.
        refusal: the header block of the answer, where nothing else needs to be known for it.
        fields: as they came, without those that begin with a colon.
    """

    __slots__ = ("content_length", "encoding", "fields", "method", "path", "refusal", "timeout")

    def __init__(self, path: str, fields: Sequence[Field]) -> None:
        self.path = path
        self.fields = fields
        self.method: Method | None = None
        self.timeout = math.inf
        self.encoding = IDENTITY
        self.content_length = -1
        self.refusal: bytes | None = None

    def metadata(self) -> Metadata:
        """What handlers may know."""
        return tuple(
            (name.decode(), _plain(name, value))
            for name, value in self.fields
            if name not in _RESERVED_FIELDS and not name.startswith(b"grpc-")
        )


def read_head(fields: Sequence[Field], find: FindMethod) -> Head:
    """The head that a list of fields is.

    Raises:
        MalformedError: they are none (sections 8.2 and 8.3); the stream is reset.
    """
    pseudo, regular = _checked(fields)
    path = pseudo[b":path"].decode("latin-1")
    head = Head(path, regular)
    named = dict(regular)
    if (length := named.get(b"content-length")) is not None:
        if not length.isdigit() or len(length) > 15:
            raise MalformedError("a content-length that is none")
        head.content_length = int(length)
    if pseudo[b":method"] != b"POST":
        head.refusal = http_refusal_block(405, "gRPC calls are POST requests")
    elif not _is_grpc(named.get(b"content-type", b"")):
        head.refusal = http_refusal_block(415, "the content-type of gRPC is application/grpc")
    else:
        _read_call(head, named, find)
    return head


def oversized_head(size: int, most: int) -> Head:
    """That of a call whose fields were too many to be kept."""
    head = Head("", ())
    head.refusal = refusal_block(
        Code.RESOURCE_EXHAUSTED,
        f"received metadata size exceeds hard limit ({size} vs. {most})",
    )
    return head


def _read_call(head: Head, named: dict[bytes, bytes], find: FindMethod) -> None:
    encoding = named.get(b"grpc-encoding", IDENTITY)
    timeout = named.get(b"grpc-timeout")
    if encoding not in ENCODINGS:
        name = encoding.decode(errors="replace")
        head.refusal = refusal_block(
            Code.UNIMPLEMENTED, f"Compression algorithm '{name}' not supported."
        )
        return
    head.encoding = encoding
    if timeout is not None:
        seconds = read_timeout(timeout)
        if seconds is None:
            head.refusal = refusal_block(Code.INTERNAL, "a grpc-timeout that is none")
            return
        head.timeout = seconds
    try:
        metadata = head.metadata()
    except ValueError:
        head.refusal = refusal_block(Code.INTERNAL, "metadata that is not base64")
        return
    head.method = find(head.path, metadata)
    if head.method is None:
        head.refusal = refusal_block(Code.UNIMPLEMENTED, "Method not found!")


def _checked(fields: Sequence[Field]) -> tuple[dict[bytes, bytes], list[Field]]:
    """The pseudo-header fields, and the others."""
    pseudo: dict[bytes, bytes] = {}
    regular: list[Field] = []
    for name, value in fields:
        if any(byte in value for byte in _WRONG_VALUE_BYTES):
            raise MalformedError("a field with a line break or a zero byte")
        if name.startswith(b":"):
            if name in pseudo or name not in _PSEUDO_FIELDS or regular:
                raise MalformedError(f"{name!r} is unknown, comes twice, or too late")
            pseudo[name] = value
            continue
        if not name or not _NAME_BYTES.issuperset(name):
            raise MalformedError(f"no field has the name {name!r}")
        if name in _FORBIDDEN_FIELDS or (name == b"te" and value != b"trailers"):
            raise MalformedError(f"{name!r} belongs to HTTP/1")
        regular.append((name, value))
    if not _NEEDED_FIELDS.issubset(pseudo) or not pseudo[b":path"]:
        raise MalformedError("a request without method, scheme or path")
    return pseudo, regular


def check_trailers(fields: Sequence[Field]) -> None:
    """Of a request's end (section 8.1): gRPC has no use for them, but they are as they must be.

    Raises:
        MalformedError: they are not.
    """
    for name, value in fields:
        if not name or not _NAME_BYTES.issuperset(name):
            raise MalformedError(f"no trailer has the name {name!r}")
        if any(byte in value for byte in _WRONG_VALUE_BYTES):
            raise MalformedError("a trailer with a line break or a zero byte")


def _is_grpc(content_type: bytes) -> bool:
    start = b"application/grpc"
    return content_type.startswith(start) and content_type[len(start) : len(start) + 1] in (
        b"",
        b"+",
        b";",
    )


def read_timeout(text: bytes) -> float | None:
    """Seconds; None if it is no grpc-timeout."""
    digits, unit = text[:-1], text[-1:]
    known = unit in _TIMEOUT_UNITS and digits.isdigit() and len(digits) <= _MAX_TIMEOUT_DIGITS
    return int(digits) * _TIMEOUT_UNITS[unit] if known else None


def _plain(name: bytes, value: bytes) -> str | bytes:
    """A value as handlers see it.

    Raises:
        ValueError: it should be base64 and is not.
    """
    if not name.endswith(b"-bin"):
        return value.decode("latin-1")
    parts = [part.strip().rstrip(b"=") for part in value.split(b",")]
    try:
        decoded = [
            base64.b64decode(part + b"=" * (-len(part) % 4), validate=True) for part in parts
        ]
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    return b",".join(decoded)
