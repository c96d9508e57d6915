"""HPACK, the compression of header fields (RFC 7541)."""

import functools
from typing import TypeAlias

from keras_cls.server.http2 import huffman

Field: TypeAlias = tuple[bytes, bytes]

DEFAULT_TABLE_BYTES = 4096
_ENTRY_OVERHEAD = 32  # section 4.1
_MAX_INTEGER_BYTES = 5
_MAX_CACHED_STRING = 128
# A list is read to its end, for the table's sake, until it is so many times as long as it may be.
_PATIENCE = 4

# Appendix A; the first field has index 1.
STATIC_TABLE: tuple[Field, ...] = (
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
)
_STATIC_FIELDS = len(STATIC_TABLE)


class HpackError(Exception):
    """Bytes that are no header block; what both sides know of the table is lost."""


class Decoder:
    """Reads the header blocks of a connection, in their order.

    Attributes:
        changes: how often the dynamic table has changed. A block that did not change it means the
            same again until another one does.
        list_bytes: the size of the last list as section 6.5.2 of RFC 9113 counts it. Fields
            beyond the largest size are not given back.
    """

    __slots__ = ("_max_list_bytes", "_max_table_bytes", "_size", "_table", "changes", "list_bytes")

    def __init__(self, max_list_bytes: int) -> None:
        self._max_list_bytes = max_list_bytes
        self._max_table_bytes = DEFAULT_TABLE_BYTES
        self._table: list[Field] = []  # the newest at the end
        self._size = 0
        self.changes = 0
        self.list_bytes = 0

    def decode(self, block: bytes) -> list[Field]:
        """The fields of a block.

        Raises:
            HpackError: it cannot be read, or goes on far beyond the largest size.
        """
        try:
            return self._decode(block)
        except IndexError as error:
            raise HpackError("a header block that ends too early") from error
        except huffman.HuffmanError as error:
            raise HpackError(str(error)) from error

    def _decode(self, block: bytes) -> list[Field]:
        fields: list[Field] = []
        at, end, size, most = 0, len(block), 0, self._max_list_bytes
        while at < end:
            first = block[at]
            if first & 0x80:  # section 6.1
                index, at = read_integer(block, at, 0x7F)
                field = self._field(index)
            elif first & 0x40:  # section 6.2.1
                field, at = self._literal(block, at, 0x3F)
                self._add(field)
            elif first & 0x20:  # section 6.3, which has its place by section 4.2
                if size:
                    raise HpackError("the table's size is changed behind a field")
                limit, at = read_integer(block, at, 0x1F)
                self._resize(limit)
                continue
            else:  # sections 6.2.2 and 6.2.3
                field, at = self._literal(block, at, 0x0F)
            size += len(field[0]) + len(field[1]) + _ENTRY_OVERHEAD
            if size <= most:
                fields.append(field)
            elif size > _PATIENCE * most:
                raise HpackError("a header list that goes on and on")
        self.list_bytes = size
        return fields

    def _field(self, index: int) -> Field:
        if 0 < index <= _STATIC_FIELDS:
            return STATIC_TABLE[index - 1]
        if not 0 < index <= _STATIC_FIELDS + len(self._table):
            raise HpackError(f"no field has index {index}")
        return self._table[_STATIC_FIELDS - index]

    def _literal(self, block: bytes, at: int, mask: int) -> tuple[Field, int]:
        index, at = read_integer(block, at, mask)
        if index:
            name = self._field(index)[0]
        else:
            name, at = _read_string(block, at)
        value, at = _read_string(block, at)
        return (name, value), at

    def _add(self, field: Field) -> None:
        """Section 4.4."""
        self.changes += 1
        self._size += len(field[0]) + len(field[1]) + _ENTRY_OVERHEAD
        self._table.append(field)
        self._evict()

    def _resize(self, limit: int) -> None:
        if limit > DEFAULT_TABLE_BYTES:
            raise HpackError(f"a table of {limit} bytes is more than was agreed on")
        self.changes += 1
        self._max_table_bytes = limit
        self._evict()

    def _evict(self) -> None:
        """Section 4.3: the oldest go."""
        count = 0
        while self._size > self._max_table_bytes:
            name, value = self._table[count]
            self._size -= len(name) + len(value) + _ENTRY_OVERHEAD
            count += 1
        del self._table[:count]


def read_integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """An integer whose prefix are the bits of the mask (section 5.1), and where it ends.

    Raises:
        HpackError: it is longer than any that is of use.
        IndexError: the block ends before it does.
    """
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    for shift in range(0, 7 * _MAX_INTEGER_BYTES, 7):
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise HpackError("an integer that is too long")


def _read_string(block: bytes, at: int) -> tuple[bytes, int]:
    """Section 5.2."""
    huffman_coded = block[at] & 0x80
    length, at = read_integer(block, at, 0x7F)
    end = at + length
    if end > len(block):
        raise HpackError("a string that goes beyond its block")
    text = block[at:end]
    if huffman_coded:
        text = _plain(text) if length <= _MAX_CACHED_STRING else huffman.decode(text)
    return text, end


_plain = functools.lru_cache(1024)(huffman.decode)


def write_integer(value: int, mask: int, first: int = 0) -> bytes:
    """An integer behind the other bits of its first byte (section 5.1)."""
    if value < mask:
        return bytes((first | value,))
    found = bytearray((first | mask,))
    value -= mask
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def literal(name: bytes | int, value: bytes) -> bytes:
    """A field that goes into no table (section 6.2.2); the name may be one of the static table."""
    if isinstance(name, int):
        start = write_integer(name, 0x0F)
    else:
        start = b"\0" + write_integer(len(name), 0x7F) + name
    return start + write_integer(len(value), 0x7F) + value
