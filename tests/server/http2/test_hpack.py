"""HPACK against RFC 7541's own examples, and against itself."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_cls.server.http2 import huffman
from keras_cls.server.http2.hpack import (
    DEFAULT_TABLE_BYTES,
    STATIC_TABLE,
    Decoder,
    HpackError,
    literal,
    read_integer,
    write_integer,
)

EXAMPLE = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/")]
AUTHORITY = (b":authority", b"www.example.com")
REQUESTS = [
    [*EXAMPLE, AUTHORITY],
    [*EXAMPLE, AUTHORITY, (b"cache-control", b"no-cache")],
    [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":path", b"/index.html"),
        AUTHORITY,
        (b"custom-key", b"custom-value"),
    ],
]
COOKIE = b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
PLACE = (b"location", b"https://www.example.com")
DATES = [(b"date", b"Mon, 21 Oct 2013 20:13:2%d GMT" % second) for second in (1, 2)]
PRIVATE = (b"cache-control", b"private")
RESPONSES = [
    [(b":status", b"302"), PRIVATE, DATES[0], PLACE],
    [(b":status", b"307"), PRIVATE, DATES[0], PLACE],
    [
        (b":status", b"200"),
        PRIVATE,
        DATES[1],
        PLACE,
        (b"content-encoding", b"gzip"),
        (b"set-cookie", COOKIE),
    ],
]
TABLE_OF_256 = "3fe101"  # what appendices C.5 and C.6 take for granted
APPENDIX_C = {
    "C.3": (
        REQUESTS,
        [
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ],
    ),
    "C.4": (
        REQUESTS,
        [
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ],
    ),
    "C.5": (
        RESPONSES,
        [
            TABLE_OF_256 + "4803333032580770726976617465611d4d6f6e2c203231204f637420323031"
            "332032303a31333a323120474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
            "4803333037c1c0bf",
            "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738"
            "666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d33"
            "3630303b2076657273696f6e3d31",
        ],
    ),
    "C.6": (
        RESPONSES,
        [
            TABLE_OF_256 + "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082"
            "a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
            "4883640effc1c0bf",
            "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7"
            "b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
        ],
    ),
}


def decoder():
    return Decoder(1 << 14)


@pytest.mark.parametrize("appendix", APPENDIX_C)
def test_the_examples_of_the_rfc(appendix):
    lists, blocks = APPENDIX_C[appendix]
    reader = decoder()
    for fields, block in zip(lists, blocks, strict=True):
        assert reader.decode(bytes.fromhex(block)) == fields
        assert reader.list_bytes == sum(len(n) + len(v) + 32 for n, v in fields)


@pytest.mark.parametrize(
    ("block", "field"),
    [
        ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", (b"custom-key", b"custom-header")),
        ("040c2f73616d706c652f70617468", (b":path", b"/sample/path")),
        ("100870617373776f726406736563726574", (b"password", b"secret")),
        ("82", (b":method", b"GET")),
    ],
)
def test_the_representations_of_appendix_c_2(block, field):
    assert decoder().decode(bytes.fromhex(block)) == [field]


def test_the_table_changes_only_where_it_should():
    reader = decoder()
    for block in ("040c2f73616d706c652f70617468", "100870617373776f726406736563726574", "8286"):
        reader.decode(bytes.fromhex(block))
        assert reader.changes == 0
    reader.decode(bytes.fromhex("400a637573746f6d2d6b65790d637573746f6d2d686561646572"))
    assert reader.changes == 1


@pytest.mark.parametrize(
    ("value", "mask", "coded"), [(10, 0x1F, "0a"), (1337, 0x1F, "1f9a0a"), (42, 0xFF, "2a")]
)
def test_the_integers_of_appendix_c_1(value, mask, coded):
    assert write_integer(value, mask).hex() == coded
    assert read_integer(bytes.fromhex(coded), 0, mask) == (value, len(coded) // 2)


@given(st.integers(0, 1 << 30), st.sampled_from([0x0F, 0x1F, 0x3F, 0x7F]))
def test_integers_come_back(value, mask):
    coded = write_integer(value, mask)
    assert read_integer(b"\xff" + coded, 1, mask) == (value, 1 + len(coded))


@given(st.binary(max_size=300))
def test_strings_come_back_from_huffman_s_code(text):
    assert huffman.decode(huffman.encode(text)) == text


@given(st.binary(max_size=40))
def test_any_bytes_are_a_string_in_one_code_or_none(data):
    """Whatever is decoded has this one code: nothing can be said in two ways."""
    try:
        text = huffman.decode(data)
    except huffman.HuffmanError:
        return
    assert huffman.encode(text) == data


def test_huffman_s_code_is_complete():
    assert sum(2.0**-length for length in huffman.CODE_LENGTHS) == 1
    assert huffman.encode(b"www.example.com").hex() == "f1e3c2e5f23a6ba0ab90f4ff"


@pytest.mark.parametrize("data", [b"\xff" * 4, b"\xff", b"\x00\x00", b"\x1e", b"\xf1\xff"])
def test_strings_that_are_filled_up_wrongly(data):
    with pytest.raises(huffman.HuffmanError):
        huffman.decode(data)


class Encoder:
    """Writes a list in one of the many ways there are, and keeps the table."""

    def __init__(self, draw):
        self._draw = draw
        self._table = []
        self._most = DEFAULT_TABLE_BYTES

    def block(self, fields):
        coded = b""
        while self._draw.random() < 0.2:
            self._most = self._draw.choice([0, 50, 200, DEFAULT_TABLE_BYTES])
            coded += write_integer(self._most, 0x1F, 0x20)
            self._evict()
        return coded + b"".join(self._field(field) for field in fields)

    def _field(self, field):
        known = [*STATIC_TABLE, *self._table]
        if field in known and self._draw.random() < 0.8:
            return write_integer(known.index(field) + 1, 0x7F, 0x80)
        mask, first = self._draw.choice([(0x3F, 0x40), (0x0F, 0), (0x0F, 0x10)])
        names = [name for name, _ in known]
        if field[0] in names and self._draw.random() < 0.8:
            start = write_integer(names.index(field[0]) + 1, mask, first)
        else:
            start = write_integer(0, mask, first) + self._string(field[0])
        if first == 0x40:
            self._table.insert(0, field)
            self._evict()
        return start + self._string(field[1])

    def _string(self, text):
        if self._draw.random() < 0.5:
            coded = huffman.encode(text)
            return write_integer(len(coded), 0x7F, 0x80) + coded
        return write_integer(len(text), 0x7F) + text

    def _evict(self):
        while sum(len(n) + len(v) + 32 for n, v in self._table) > self._most:
            self._table.pop()


names = st.sampled_from([b":path", b":method", b"te", b"x", b"grpc-timeout", b"user-agent"])
values = st.one_of(st.sampled_from([b"GET", b"/", b"trailers"]), st.binary(max_size=80))


@settings(max_examples=300)
@given(
    st.lists(st.lists(st.tuples(names, values), max_size=8), max_size=8),
    st.integers(0, 1 << 32),
)
def test_lists_come_back_however_they_are_written(lists, seed):
    encoder, reader = Encoder(random.Random(seed)), decoder()
    for fields in lists:
        assert reader.decode(encoder.block(fields)) == fields


@settings(max_examples=500)
@given(st.lists(st.binary(max_size=60), max_size=5))
def test_any_bytes_are_decoded_or_refused(blocks):
    reader = decoder()
    try:
        for block in blocks:
            reader.decode(block)
    except HpackError:
        pass
    assert reader._size == sum(len(n) + len(v) + 32 for n, v in reader._table)
    assert reader._size <= DEFAULT_TABLE_BYTES


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",  # index 0
        b"\xbe",  # the dynamic table is empty
        b"\x82\x20",  # the table's size behind a field
        b"\x3f\xff\x7f",  # a table that is larger than agreed
        b"\x40\x05ab",  # a string that ends early
        b"\x40",
        b"\x7f",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # an integer without end
        b"\x00\x81\x00\x00",  # Huffman's code, filled up with zeros
    ],
)
def test_blocks_that_are_none(block):
    with pytest.raises(HpackError):
        decoder().decode(block)


def test_what_is_too_long_is_not_kept_but_known():
    reader = Decoder(100)
    fields = reader.decode(b"\x82" * 5)
    assert len(fields) == 2
    assert reader.list_bytes == 5 * 42
    # A bomb: a long field in the table, and bytes that stand for it.
    with pytest.raises(HpackError, match="goes on"):
        reader.decode(b"\x40\x01x\x7f\x81\x1e" + bytes(4000) + b"\xbe" * 1000)


def test_literals_change_no_table():
    reader = decoder()
    assert reader.decode(literal(b"grpc-status", b"0") + literal(31, b"application/grpc")) == [
        (b"grpc-status", b"0"),
        (b"content-type", b"application/grpc"),
    ]
    assert reader.changes == 0
