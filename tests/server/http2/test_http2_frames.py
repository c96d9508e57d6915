"""Frames, streams and connections as RFC 9113 has them, right and wrong, on raw sockets."""

import pytest
from echo_service import running
from raw_peer import HTTP, POST, RawPeer, head, message

from keras_cls.server.http2 import frames
from keras_cls.server.http2.frames import (
    CONTINUATION,
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
)
from keras_cls.server.http2.hpack import literal, write_integer

OK = {"grpc-status": "0"}


@pytest.fixture(scope="module")
def server():
    with running(message_bytes=1 << 20) as found:
        yield found


@pytest.fixture
def peer(server):
    with RawPeer(server.port) as found:
        yield found


def test_a_call(peer):
    peer.call(1)
    fields, body = peer.answer(1)
    assert body == message(b"hello")
    assert fields == {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-accept-encoding": "identity, deflate, gzip",
        "grpc-status": "0",
    }


def test_the_server_s_settings(peer):
    assert peer.server_settings == {
        frames.MAX_CONCURRENT_STREAMS: 1000,
        frames.INITIAL_WINDOW_SIZE: 4 << 20,
        frames.MAX_HEADER_LIST_SIZE: 1 << 14,
    }
    assert peer.expect(WINDOW_UPDATE, 0)


def test_bytes_may_come_one_by_one(server):
    with RawPeer(server.port, greet=False) as peer:
        whole = frames.PREFACE + frames.settings({}) + frames.frame(HEADERS, 4, 1, head())
        for byte in whole + frames.frame(DATA, 1, 1, message(b"slowly")):
            peer.send(bytes((byte,)))
        assert peer.answer(1)[1] == message(b"slowly")


def test_a_request_in_many_frames(peer):
    block = head("echo", *[(b"x-%d" % number, b"y") for number in range(20)])
    peer.frame(HEADERS, 0x8 | 0x20, 1, b"\3" + b"\0\0\0\0\x10" + block[:5] + bytes(3))
    peer.frame(CONTINUATION, 0, 1, block[5:50])
    peer.frame(CONTINUATION, 0, 1)
    peer.frame(CONTINUATION, 4, 1, block[50:])
    whole = message(b"0123456789")
    for at in range(len(whole)):
        peer.frame(DATA, 0x8, 1, b"\2" + whole[at : at + 1] + bytes(2))
    peer.frame(DATA, 1, 1)
    fields, body = peer.answer(1)
    assert fields["grpc-status"] == "0"
    assert body == whole


def test_a_request_may_end_with_trailers(peer):
    peer.headers(1, head())
    peer.data(1, message(b"hello"))
    peer.headers(1, literal(b"x-end", b"now"), end=True)
    assert peer.answer(1)[1] == message(b"hello")


def test_many_streams_at_once(peer):
    for stream in range(1, 400, 2):
        peer.call(stream, body=b"%d" % stream)
    seen = {}
    while len(seen) < 200:
        found = peer.read_frame()
        if found.kind == DATA:
            seen[found.stream] = found.payload
    assert seen == {stream: message(b"%d" % stream) for stream in range(1, 400, 2)}


def test_heads_are_known_only_as_long_as_they_mean_the_same(peer):
    """The same bytes stand for another path once the dynamic table has changed."""
    rest = literal(b"te", b"trailers") + literal(b"content-type", b"application/grpc")
    index = b"\xbe"  # the newest field
    add = [b"\x44" + write_integer(len(p), 0x7F) + p for p in (b"/test.Echo/echo", b"/a/b")]
    for stream, block in [(1, add[0]), (3, index), (5, index), (7, add[1]), (9, index)]:
        peer.headers(stream, POST + HTTP + block + rest)
        peer.data(stream, message(b"x"), end=True)
        wanted = "0" if stream < 7 else "12"
        assert peer.answer(stream)[0]["grpc-status"] == wanted, stream


def test_pings_are_answered(peer):
    peer.check_alive()


def test_settings_are_acknowledged_and_followed(peer):
    peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 0, 0x99: 7}))
    while not peer.expect(SETTINGS).flags & 1:
        pass
    peer.call(1)
    peer.expect(HEADERS, 1)
    peer.frame(WINDOW_UPDATE, 0, 1, (4).to_bytes(4))
    assert peer.expect(DATA, 1).payload == message(b"hello")[:4]
    peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 2}))
    assert peer.expect(DATA, 1).payload == message(b"hello")[4:6]
    # A window that has become smaller than what was sent: nothing until it is positive again.
    peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    peer.frame(WINDOW_UPDATE, 0, 1, (2).to_bytes(4))
    peer.frame(WINDOW_UPDATE, 0, 1, (100).to_bytes(4))
    found = b""
    while len(found) < 4:
        found += peer.expect(DATA, 1).payload
    assert found == message(b"hello")[6:]
    assert peer.expect(HEADERS, 1).flags & 1


def test_a_peer_with_a_smaller_table_is_told_once(peer):
    peer.send(frames.settings({frames.HEADER_TABLE_SIZE: 0}))
    peer.call(1)
    first = peer.expect(HEADERS, 1).payload
    assert first.startswith(b"\x20\x88")
    assert not peer.expect(HEADERS, 1).payload.startswith(b"\x20")
    peer.call(3)
    assert peer.expect(HEADERS, 3).payload == first[1:]


def test_the_connection_s_window_is_shared(peer):
    peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 20}))
    for stream in (1, 3):
        peer.call(stream, "zeros", b"50000")
    received = {1: 0, 3: 0}
    while sum(received.values()) < 65535:
        found = peer.expect(DATA)
        received[found.stream] += len(found.payload)
        assert len(found.payload) <= 1 << 14
    assert sum(received.values()) == 65535
    assert min(received.values()) > 0  # in turns
    peer.frame(WINDOW_UPDATE, 0, 0, (1 << 20).to_bytes(4))
    while sum(received.values()) < 2 * 50005:
        found = peer.expect(DATA)
        received[found.stream] += len(found.payload)
    assert set(received.values()) == {50005}


def test_larger_frames_where_the_peer_takes_them(peer):
    values = {frames.INITIAL_WINDOW_SIZE: 1 << 20, frames.MAX_FRAME_SIZE: 1 << 18}
    peer.send(frames.settings(values))
    peer.frame(WINDOW_UPDATE, 0, 0, (1 << 20).to_bytes(4))
    peer.call(1, "zeros", b"100000")
    assert len(peer.expect(DATA, 1).payload) == 100005


def test_a_stream_is_told_to_go_on():
    """Windows are widened in time for a message that is larger than they are."""
    limits = {"stream_window": 1 << 17, "connection_window": 1 << 17}
    with running(message_bytes=1 << 20, **limits) as small, RawPeer(small.port) as peer:
        peer.headers(1, head("collect"))
        whole = message(bytes(500_000))
        windows = {0: 65535, 1: 1 << 17}
        at = 0
        while at < len(whole):
            size = min(1 << 14, *windows.values(), len(whole) - at)
            if size > 0:
                peer.data(1, whole[at : at + size])
                at += size
                windows = {which: left - size for which, left in windows.items()}
            if size <= 0 or at % (1 << 16) == 0:
                found = peer.expect(WINDOW_UPDATE)
                windows[found.stream] += int.from_bytes(found.payload)
        peer.data(1, b"", end=True)
        peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 20}))
        peer.frame(WINDOW_UPDATE, 0, 0, (1 << 20).to_bytes(4))
        assert peer.answer(1)[1] == whole


# What is wrong with a connection.

FIELDS = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/test.Echo/echo")]


def block_of(*fields):
    return b"".join(literal(*field) for field in fields)


def raw(kind, flags, stream, payload=b""):
    return frames.frame(kind, flags, stream, payload)


OPEN = raw(HEADERS, 4, 1, head("wait"))
OVER = raw(HEADERS, 4, 1, head()) + raw(DATA, 1, 1, message(b"x"))
WORD = (1).to_bytes(4)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (raw(DATA, 0, 0, b"x"), "PROTOCOL_ERROR"),
        (raw(DATA, 0, 1, b"x"), "PROTOCOL_ERROR"),
        (OPEN + raw(DATA, 8, 1, b"\5abc"), "PROTOCOL_ERROR"),
        (OPEN + raw(DATA, 8, 1), "PROTOCOL_ERROR"),
        (raw(HEADERS, 4, 0, head()), "PROTOCOL_ERROR"),
        (raw(HEADERS, 4, 2, head()), "PROTOCOL_ERROR"),
        (raw(HEADERS, 4 | 0x20, 1, b"\0\0"), "FRAME_SIZE_ERROR"),
        (raw(HEADERS, 4 | 0x20, 1, b"\0\0\0\1\0" + head()), "PROTOCOL_ERROR"),
        (raw(HEADERS, 4 | 8, 1, b"\xff" + head()), "PROTOCOL_ERROR"),
        (raw(HEADERS, 4, 3, head("wait")) + raw(HEADERS, 4, 1, head()), "STREAM_CLOSED"),
        (raw(HEADERS, 4, 1, b"\xbe"), "COMPRESSION_ERROR"),
        (raw(HEADERS, 4, 1, b"\x3f\xff\x7f"), "COMPRESSION_ERROR"),
        (OVER + raw(DATA, 0, 1, b"x"), "STREAM_CLOSED"),
        (OVER + raw(HEADERS, 4, 1, head()), "STREAM_CLOSED"),
        (OPEN + raw(RST_STREAM, 0, 1, WORD) + raw(DATA, 0, 1, b"x"), "STREAM_CLOSED"),
        (raw(HEADERS, 0, 1, head()) + raw(PING, 0, 0, bytes(8)), "PROTOCOL_ERROR"),
        (raw(HEADERS, 0, 1, head()) + raw(HEADERS, 4, 3, head()), "PROTOCOL_ERROR"),
        (raw(HEADERS, 0, 1, head()) + raw(CONTINUATION, 4, 3), "PROTOCOL_ERROR"),
        (raw(CONTINUATION, 4, 1), "PROTOCOL_ERROR"),
        (OPEN + raw(CONTINUATION, 4, 1), "PROTOCOL_ERROR"),
        (raw(PRIORITY, 0, 0, bytes(5)), "PROTOCOL_ERROR"),
        (raw(RST_STREAM, 0, 0, WORD), "PROTOCOL_ERROR"),
        (raw(RST_STREAM, 0, 1, WORD), "PROTOCOL_ERROR"),
        (OPEN + raw(RST_STREAM, 0, 1, b"\0"), "FRAME_SIZE_ERROR"),
        (raw(SETTINGS, 0, 1), "PROTOCOL_ERROR"),
        (raw(SETTINGS, 0, 0, b"\0"), "FRAME_SIZE_ERROR"),
        (raw(SETTINGS, 1, 0, bytes(6)), "FRAME_SIZE_ERROR"),
        (frames.settings({frames.ENABLE_PUSH: 2}), "PROTOCOL_ERROR"),
        (frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 31}), "FLOW_CONTROL_ERROR"),
        (frames.settings({frames.MAX_FRAME_SIZE: 100}), "PROTOCOL_ERROR"),
        (frames.settings({frames.MAX_FRAME_SIZE: 1 << 24}), "PROTOCOL_ERROR"),
        (raw(PUSH_PROMISE, 4, 1, WORD), "PROTOCOL_ERROR"),
        (raw(PING, 0, 1, bytes(8)), "PROTOCOL_ERROR"),
        (raw(PING, 0, 0, bytes(7)), "FRAME_SIZE_ERROR"),
        (raw(GOAWAY, 0, 1, bytes(8)), "PROTOCOL_ERROR"),
        (raw(GOAWAY, 0, 0, bytes(7)), "FRAME_SIZE_ERROR"),
        (raw(WINDOW_UPDATE, 0, 0, bytes(4)), "PROTOCOL_ERROR"),
        (raw(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), "FLOW_CONTROL_ERROR"),
        (raw(WINDOW_UPDATE, 0, 1, WORD), "PROTOCOL_ERROR"),
        (OPEN + raw(WINDOW_UPDATE, 0, 1, bytes(3)), "FRAME_SIZE_ERROR"),
        (
            OPEN
            + raw(WINDOW_UPDATE, 0, 1, b"\x40\0\0\0")
            + frames.settings({frames.INITIAL_WINDOW_SIZE: (1 << 31) - 1}),
            "FLOW_CONTROL_ERROR",
        ),
        (((1 << 14) + 1).to_bytes(3) + b"\0\0\0\0\0\1", "FRAME_SIZE_ERROR"),
        (raw(HEADERS, 0, 1) + raw(CONTINUATION, 0, 1) * 20, "ENHANCE_YOUR_CALM"),
        (raw(HEADERS, 0, 1) + raw(CONTINUATION, 0, 1, bytes(1 << 14)) * 5, "ENHANCE_YOUR_CALM"),
    ],
)
def test_what_ends_a_connection(peer, server, data, code):
    peer.send(data)
    assert peer.goaway() == code
    with RawPeer(server.port) as other:
        other.call(1)
        assert other.answer(1)[0]["grpc-status"] == "0"
    assert not server.tasks()


@pytest.mark.parametrize(
    "first",
    [
        raw(PING, 0, 0, bytes(8)),
        raw(SETTINGS, 1, 0),
        raw(HEADERS, 4, 1, head()),
        raw(0x77, 0, 0),
    ],
)
def test_settings_must_come_first(server, first):
    with RawPeer(server.port, greet=False) as peer:
        peer.send(frames.PREFACE + first)
        assert peer.goaway() == "PROTOCOL_ERROR"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (raw(HEADERS, 4, 1, head() + literal(b"X-Upper", b"x")), "PROTOCOL_ERROR"),
        (raw(HEADERS, 4, 1, head() + literal(b"connection", b"close")), "PROTOCOL_ERROR"),
        (raw(HEADERS, 4, 1, head() + literal(b"te", b"gzip")), "PROTOCOL_ERROR"),
        (raw(HEADERS, 4, 1, head() + literal(b"x", b"a\nb")), "PROTOCOL_ERROR"),
        (raw(HEADERS, 4, 1, head() + literal(b"a b", b"x")), "PROTOCOL_ERROR"),
        (raw(HEADERS, 4, 1, head() + literal(b"", b"x")), "PROTOCOL_ERROR"),
        (raw(HEADERS, 4, 1, head() + literal(b":path", b"/late")), "PROTOCOL_ERROR"),
        (raw(HEADERS, 4, 1, literal(b":status", b"200") + head()), "PROTOCOL_ERROR"),
        (raw(HEADERS, 4, 1, literal(b":path", b"/twice") + head()), "PROTOCOL_ERROR"),
        (raw(HEADERS, 4, 1, block_of(*FIELDS[:2])), "PROTOCOL_ERROR"),
        (raw(HEADERS, 4, 1, block_of(*FIELDS[1:])), "PROTOCOL_ERROR"),
        (raw(HEADERS, 4, 1, block_of(*FIELDS[::2])), "PROTOCOL_ERROR"),
        (raw(HEADERS, 4, 1, block_of(*FIELDS[:2], (b":path", b""))), "PROTOCOL_ERROR"),
        (raw(HEADERS, 4, 1, head("echo", (b"content-length", b"x"))), "PROTOCOL_ERROR"),
        (
            raw(HEADERS, 4, 1, head("echo", (b"content-length", b"7")))
            + raw(DATA, 1, 1, message(b"abc")),
            "PROTOCOL_ERROR",
        ),
        (
            raw(HEADERS, 4, 1, head("echo", (b"content-length", b"7")))
            + raw(DATA, 0, 1, message(b"abc"))
            + raw(DATA, 1, 1),
            "PROTOCOL_ERROR",
        ),
        (OPEN + raw(HEADERS, 4, 1, literal(b"x", b"y")), "PROTOCOL_ERROR"),
        (OPEN + raw(HEADERS, 5, 1, literal(b":path", b"y")), "PROTOCOL_ERROR"),
        (OPEN + raw(WINDOW_UPDATE, 0, 1, bytes(4)), "PROTOCOL_ERROR"),
        (OPEN + raw(WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff"), "FLOW_CONTROL_ERROR"),
        (OPEN + raw(PRIORITY, 0, 1, bytes(4)), "FRAME_SIZE_ERROR"),
        (OPEN + raw(PRIORITY, 0, 1, WORD + b"\0"), "PROTOCOL_ERROR"),
    ],
)
def test_what_ends_a_stream(peer, data, code):
    peer.send(data)
    assert peer.answer(1)[0] == {"reset": code}
    peer.call(3)
    assert peer.answer(3)[1] == message(b"hello")


@pytest.mark.parametrize("cut", [0, 6])
def test_a_right_content_length(peer, cut):
    whole = message(b"abc")
    peer.headers(1, head("echo", (b"content-length", b"8")))
    peer.data(1, whole[:cut])
    peer.data(1, whole[cut:], end=True)
    assert peer.answer(1)[1] == whole


@pytest.mark.parametrize(
    ("block", "fields"),
    [
        (
            head("none"),
            {":status": "200", "grpc-status": "12", "grpc-message": "Method not found!"},
        ),
        (head(content_type=b"text/html"), {":status": "415"}),
        (head(content_type=b"application/grpcx"), {":status": "415"}),
        (head(content_type=b"application/grpc+proto"), OK),
        (head(content_type=b"application/grpc;x=y"), OK),
        (head().replace(POST, b"\x82", 1), {":status": "405"}),
        (head("echo", (b"grpc-encoding", b"br")), {"grpc-status": "12"}),
        (head("echo", (b"grpc-timeout", b"soon")), {"grpc-status": "13"}),
        (head("echo", (b"grpc-timeout", b"123456789S")), {"grpc-status": "13"}),
        (head("wait", (b"grpc-timeout", b"0n")), {"grpc-status": "4"}),
        (head("echo", (b"grpc-timeout", b"1n")), {"grpc-status": "4"}),
        (head("wait", (b"grpc-timeout", b"10m")), {"grpc-status": "4"}),
        (head("echo", (b"x-bin", b"?")), {"grpc-status": "13"}),
        (head("echo", (b"x-bin", b"AAA,AA==")), OK),
        (head("echo", *[(b"x", b"y" * 2000)] * 10), {":status": "200", "grpc-status": "8"}),
    ],
)
def test_heads_that_are_answered_at_once(peer, block, fields):
    peer.headers(1, block) if len(block) < 1 << 14 else peer.send(
        frames.header_frames(1, 0, block, 1 << 14)
    )
    peer.data(1, message(b"x"), end=True)
    found, _ = peer.answer(1)
    assert found == {**found, **fields}
    peer.call(3)
    assert peer.answer(3)[1] == message(b"hello")


@pytest.mark.parametrize(
    ("method", "sent", "code"),
    [
        ("echo", [b""], "12"),  # no message
        ("echo", [message(b"a") + message(b"b")], "12"),  # two
        ("echo", [message(b"a"), message(b"b")], "12"),
        ("echo", [message(b"abc")[:-1]], "13"),
        ("echo", [b"\0\0"], "13"),
        ("collect", [message(b"abc")[:-1]], "13"),
        ("echo", [message(b"abc", 2)], "13"),
        ("echo", [message(b"abc", 1)], "13"),  # compressed, and nobody says how
        ("echo", [message(b"")[:1] + b"\x7f\xff\xff\xff"], "8"),
        ("collect", [message(bytes(9000)), message(b"")[:1] + b"\x7f\xff\xff\xff"], "8"),
    ],
)
def test_messages_that_are_none(peer, server, method, sent, code):
    peer.headers(1, head(method))
    for part in sent[:-1]:
        peer.data(1, part)
    peer.data(1, sent[-1], end=True)
    assert peer.answer(1)[0]["grpc-status"] == code
    peer.call(3)
    assert peer.answer(3)[1] == message(b"hello")
    assert server.held() == 0


def test_what_still_comes_for_a_call_that_was_refused(peer):
    peer.headers(1, head("none"))
    assert peer.answer(1)[0]["grpc-status"] == "12"
    assert int.from_bytes(peer.expect(RST_STREAM, 1).payload) == 0
    for _ in range(5):
        peer.data(1, bytes(1000))
    peer.headers(1, literal(b"x", b"y"), end=True)
    peer.call(3)
    assert peer.answer(3)[1] == message(b"hello")


@pytest.mark.parametrize("data", [raw(0x77, 0xFF, 5, b"unknown"), raw(PRIORITY, 0, 5, bytes(5))])
def test_what_is_passed_over(peer, data):
    peer.send(data)
    peer.call(1)
    assert peer.answer(1)[1] == message(b"hello")


@pytest.mark.parametrize("request_", [b"GET / HTTP/1.1\r\n\r\n", b"POST /x HTTP/1.0\r\n\r\n"])
def test_http_1_is_told(server, request_):
    with RawPeer(server.port, greet=False) as peer:
        peer.send(request_)
        answer = peer.read_all()
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    head_, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % len(body) in head_
    assert b"gRPC" in body


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00\x01\x00", b"\0", b"PRI * HTTP/1.1\r\n"])
def test_anything_else_is_closed_quietly(server, data):
    with RawPeer(server.port, greet=False) as peer:
        peer.send(data)
        assert b"HTTP/2" not in peer.read_all() or data.startswith(b"PRI")
