"""gRPC's messages: a byte that says whether they are compressed, their length, and themselves."""

import zlib

from keras_cls.server.status import Code, RequestError

IDENTITY = b"identity"
# The bits that zlib takes for each format; "deflate" is zlib's, by gRPC's specification.
_WINDOW_BITS = {b"gzip": zlib.MAX_WBITS | 16, b"deflate": zlib.MAX_WBITS}
ENCODINGS = frozenset({IDENTITY, *_WINDOW_BITS})


def too_large(size: int, most: int) -> RequestError:
    """What is said of a message of so many bytes, in gRPC's words."""
    return RequestError(
        Code.RESOURCE_EXHAUSTED, f"SERVER: Received message larger than max ({size} vs. {most})"
    )


def inflated(message: bytes, encoding: bytes, most: int) -> bytes:
    """The message as it was before it was compressed; never more than ``most`` bytes are made.

    Raises:
        RequestError: RESOURCE_EXHAUSTED if it is larger, INTERNAL if it is not compressed like
            that, both as gRPC has it.
    """
    if encoding not in _WINDOW_BITS:
        raise RequestError(Code.INTERNAL, "a compressed message in a call without grpc-encoding")
    machine = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        found = machine.decompress(message, most + 1)
    except zlib.error as error:
        raise RequestError(Code.INTERNAL, f"a message that is not {encoding.decode()}") from error
    if len(found) > most:
        raise RequestError(Code.RESOURCE_EXHAUSTED, "Decompressed message larger than max")
    if not machine.eof or machine.unused_data:
        raise RequestError(Code.INTERNAL, f"a message that is not whole {encoding.decode()}")
    return found
