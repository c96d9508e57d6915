"""What is known to bring HTTP/2 servers down, and bytes of no sense: the server stays as it was."""

import asyncio
import random
import socket
import struct
import time
from contextlib import ExitStack, suppress

import pytest
from echo_service import running
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_peer import RawPeer, head, message

from keras_cls.server.http2 import frames
from keras_cls.server.http2.frames import (
    CONTINUATION,
    DATA,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
)
from keras_cls.server.http2.hpack import literal

FEW = {"noise": 500, "resets": 100, "streams": 50}


@pytest.fixture(scope="module")
def server():
    """Patient as little as can be, so that little is an attack."""
    with running(message_bytes=1 << 20, **FEW) as found:
        yield found


@pytest.fixture
def peer(server):
    with RawPeer(server.port) as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_is_left(request):
    """Behind each test here: no call, no task, no byte of a request."""
    yield
    if "server" in request.fixturenames:
        check_nothing_is_left(request.getfixturevalue("server"))


def check_nothing_is_left(server):
    end = time.monotonic() + 10
    while server.calls() or server.tasks() or server.held() or server.connections():
        assert time.monotonic() < end, (server.calls(), server.tasks(), server.held())
        time.sleep(0.01)
    with RawPeer(server.port) as peer:
        peer.call(1)
        assert peer.answer(1)[1] == message(b"hello")


def many(*each, count=3000):
    return b"".join(each) * count


@pytest.mark.parametrize(
    "data",
    [
        many(frames.frame(PING, 0, 0, bytes(8))),
        many(frames.settings({})),
        many(frames.settings({frames.INITIAL_WINDOW_SIZE: 1, 3: 4})),
        many(frames.frame(PRIORITY, 0, 1, bytes(5))),
        many(frames.frame(0x77, 0, 0)),
        many(frames.frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1")),
        frames.frame(HEADERS, 4, 1, head("wait")) + many(frames.frame(DATA, 0, 1)),
        frames.frame(HEADERS, 4, 1, head("wait")) + many(frames.frame(DATA, 8, 1, b"\0")),
        frames.frame(HEADERS, 4, 1, head("none")) + many(frames.frame(DATA, 0, 1, b"x")),
        frames.frame(HEADERS, 0, 1) + many(frames.frame(CONTINUATION, 0, 1)),
        frames.frame(HEADERS, 4, 1, literal(b":path", b"/"))
        + many(frames.frame(PING, 1, 0, bytes(8))),
    ],
    ids=[
        "pings",
        "settings",
        "windows",
        "priorities",
        "unknown",
        "dribble",
        "empty data",
        "padding",
        "refused data",
        "continuations",
        "acknowledgements",
    ],
)
def test_floods(peer, data):
    """Frames that ask for nothing, without end."""
    peer.try_to_send(data)
    assert peer.goaway() in ("ENHANCE_YOUR_CALM", "closed")


def test_rapid_reset(server, peer):
    """CVE-2023-44487."""
    server.service.seen.clear()
    for stream in range(1, 2001, 2):
        opened = frames.frame(HEADERS, 4, stream, head("wait"))
        body = frames.frame(DATA, 1, stream, message(b"x"))
        if not peer.try_to_send(opened + body + frames.rst_stream(stream, 8)):
            break
    assert peer.goaway() in ("ENHANCE_YOUR_CALM", "closed")
    assert server.service.seen["begun"] <= 250


def test_resets_that_the_server_makes(peer):
    """CVE-2025-8671: the peer does what makes the server reset each stream."""
    for stream in range(1, 3001, 2):
        opened = frames.frame(HEADERS, 4, stream, head("wait"))
        wrong = frames.frame(WINDOW_UPDATE, 0, stream, bytes(4))
        if not peer.try_to_send(opened + wrong):
            break
    assert peer.goaway() in ("ENHANCE_YOUR_CALM", "closed")


def test_more_streams_than_there_may_be(server, peer):
    for stream in range(1, 121, 2):
        peer.headers(stream, head("wait"))
    refused = {peer.expect(RST_STREAM).stream for _ in range(10)}
    assert refused == set(range(101, 121, 2))
    assert server.calls() == 50
    peer.frame(RST_STREAM, 0, 1, (8).to_bytes(4))
    peer.call(121)
    assert peer.answer(121)[1] == message(b"hello")


def test_a_header_bomb(peer):
    """A long field in the table, and bytes that stand for it."""
    block = b"\x40\x01x\x7f\xd1\x1d" + b"a" * 3920 + b"\xbe" * 10_000
    peer.headers(1, block)
    assert peer.goaway() == "COMPRESSION_ERROR"


def test_a_list_that_is_too_long_ends_its_call_alone(peer):
    block = head("echo", *[(b"x-%d" % number, b"y" * 100) for number in range(150)])
    peer.send(frames.header_frames(1, 1, block, 1 << 14))
    assert peer.answer(1)[0]["grpc-status"] == "8"
    peer.call(3)
    assert peer.answer(3)[1] == message(b"hello")


def test_more_than_the_windows_allow():
    with running(stream_window=1 << 16, connection_window=1 << 20) as server:
        with RawPeer(server.port) as peer:
            peer.headers(1, head("deaf"))
            for _ in range(8):
                peer.data(1, message(bytes(16_000)))
            assert peer.expect(RST_STREAM, 1).payload == (3).to_bytes(4)
            check = [peer.call(3), peer.answer(3)[1]]
            assert check[1] == message(b"hello")
        check_nothing_is_left(server)


def test_all_unfinished_messages_have_a_limit_together():
    limits = {"message_bytes": 1 << 20, "stream_window": 1 << 20, "unfinished_bytes": 1 << 21}
    with running(connection_window=1 << 24, **limits) as server:
        with RawPeer(server.port) as peer:
            part = message(bytes(1 << 20))[: 1 << 14]
            for stream in range(1, 101, 2):
                peer.headers(stream, head())
                for _ in range(10):
                    peer.data(stream, part if _ == 0 else bytes(1 << 14))
            codes = {peer.answer(99)[0]["grpc-status"]}
            assert codes == {"8"}
            assert server.held() <= 3 << 20
        check_nothing_is_left(server)


def test_a_peer_that_does_not_read():
    """Its answers do not pile up: it is not read any more, and others are."""
    with running() as server, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", server.port))
        deaf.settimeout(0.5)
        deaf.sendall(frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 30}))
        deaf.sendall(frames.frame(WINDOW_UPDATE, 0, 0, b"\x7f\0\0\0"))
        body = message(b"200000" + b" " * 10_000)
        asked = 0
        with suppress(TimeoutError):
            for stream in range(1, 20_001, 2):
                deaf.sendall(
                    frames.frame(HEADERS, 4, stream, head("zeros"))
                    + frames.frame(DATA, 1, stream, body)
                )
                asked += 1
        assert asked < 5000
        written = server.ask(
            lambda: [c._transport.get_write_buffer_size() for c in server.server._connections]
        )
        assert max(written) < 8 << 20
        with RawPeer(server.port) as peer:
            peer.call(1)
            assert peer.answer(1)[1] == message(b"hello")


def test_slow_peers_are_given_up():
    """Those who never say what they speak, stop within a frame or a request, or do not read."""
    with running(handshake_seconds=0.3, stall_seconds=0.4) as server, ExitStack() as stack:
        greeting = frames.PREFACE + frames.settings({})
        opened = frames.frame(HEADERS, 4, 1, head())
        slow = [b"", b"PRI * HT", frames.PREFACE, greeting + b"\0\0\5", greeting + opened[:20]]
        slow.append(greeting + frames.frame(HEADERS, 0, 1, b"\x83"))
        peers = [stack.enter_context(RawPeer(server.port, greet=False)) for _ in slow]
        for peer, data in zip(peers, slow, strict=True):
            peer.send(data)
        half = stack.enter_context(RawPeer(server.port))
        half.headers(1, head())
        half.data(1, message(b"hello")[:7])
        assert half.answer(1)[0]["grpc-status"] == "4"
        for peer in peers:
            with suppress(ConnectionError):
                peer.read_all()
        idle = stack.enter_context(RawPeer(server.port))
        watch = stack.enter_context(RawPeer(server.port))
        watch.call(1, "watch")
        chat = stack.enter_context(RawPeer(server.port))
        chat.headers(1, head("chat"))
        time.sleep(1)
        for patient in (half, idle, watch, chat):  # these have time
            patient.check_alive()


def test_who_is_not_read_while_the_server_stops():
    with running() as server, RawPeer(server.port, greet=False) as peer:
        peer.send(frames.PREFACE[:5])
        with RawPeer(server.port) as other:
            other.headers(1, head("wait"))
            start = time.monotonic()
            server.do(server.server.stop(0.2))
            assert time.monotonic() - start < 10
            assert server.connections() == 0


def test_a_graceful_end_on_the_wire():
    """RFC 9113, section 6.8: first no number, then that of the last stream that is answered."""
    with running() as server, RawPeer(server.port) as peer:
        peer.call(1, "sleep", b"0.3")
        peer.check_alive()
        stopping = asyncio.run_coroutine_threadsafe(server.server.stop(10), server.loop)
        first = peer.expect(frames.GOAWAY).payload
        assert struct.unpack(">II", first) == ((1 << 31) - 1, 0)
        ping = peer.expect(PING)
        peer.call(3)  # sent before the peer knew
        peer.frame(PING, 1, 0, ping.payload)
        assert struct.unpack(">II", peer.expect(frames.GOAWAY).payload) == (3, 0)
        peer.call(5)
        rest = iter(peer.read_frame, None)
        answers = {found.stream: found.payload for found in rest if found.kind == DATA}
        assert answers == {1: message(b"slept"), 3: message(b"hello")}
        peer.__exit__()
        stopping.result(5)


# Bytes of no sense.


def some_frame(draw):
    """Of any kind, often of sense, whose length may be a lie."""
    stream = draw.choice([0, 1, 1, 3, 3, 5, 7, 9, 11, 2, (1 << 31) - 1])
    how = draw.randrange(12)
    if how < 4:
        method = draw.choice(["echo", "wait", "collect", "chat", "count", "none", "deaf"])
        whole = head(method, (b"grpc-encoding", b"gzip"), (b"grpc-timeout", b"1S"))
        block = draw.choice([whole, whole, whole, whole[: draw.randrange(99)], draw.randbytes(20)])
        flags = draw.choice([4, 4, 4, 5, 0, 0x24, 0x0C, draw.randrange(256)])
        return frames.frame(HEADERS, flags, stream, block)
    if how < 8:
        body = draw.randbytes(draw.choice([0, 1, 5, 20, 3000]))
        data = draw.choice(
            [message(body), message(body), message(body, 1), body, message(body)[:7]]
        )
        return frames.frame(DATA, draw.choice([0, 0, 1, 1, 8, 9]), stream, data)
    payload = draw.choice(
        [
            draw.randbytes(draw.choice([0, 4, 5, 6, 8, 12])),
            b"\0\0\0\1",
            b"\0\4\0\0\0\1",
            b"\0\4\x7f\xff\xff\xff",
            b"\0\5\0\0\x40\0",
        ]
    )
    kind = draw.choice(
        [PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION, 7, 5, 99]
    )
    made = frames.frame(kind, draw.choice([0, 0, 0, 1, 4, 255]), draw.choice([0, stream]), payload)
    return made if draw.random() < 0.98 else made[: draw.randrange(9)] + made[9:]


def conversation(seed):
    draw = random.Random(seed)
    start = b"" if draw.random() < 0.02 else frames.PREFACE
    start += b"" if draw.random() < 0.02 else frames.settings({})
    return start + b"".join(some_frame(draw) for _ in range(draw.randrange(1, 25)))


def check_conversations(server, seeds):
    """Many after each other, each cut somewhere; some read what comes, some do not."""
    for seed in seeds:
        draw, data = random.Random(-seed), conversation(seed)
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            cuts = sorted(draw.randrange(len(data) + 1) for _ in range(draw.randrange(4)))
            with suppress(OSError):
                for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
                    connection.sendall(data[start:end])
                if draw.random() < 0.3:
                    connection.settimeout(0.01)
                    connection.recv(1 << 16)
    check_nothing_is_left(server)


def test_conversations_of_no_sense(server, caplog):
    check_conversations(server, range(1, 300))
    assert "a connection failed" not in caplog.text


@pytest.mark.slow
def test_very_many_conversations_of_no_sense(server, caplog):
    check_conversations(server, range(300, 30_000))
    assert "a connection failed" not in caplog.text


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_any_bytes(server, caplog, data, preface, greeted):
    start = (frames.PREFACE if preface else b"") + (frames.settings({}) if greeted else b"")
    address = ("127.0.0.1", server.port)
    with socket.create_connection(address, timeout=5) as connection, suppress(OSError):
        connection.sendall(start + data)
    assert "a connection failed" not in caplog.text


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.integers(0, 11),
            st.integers(0, 255),
            st.sampled_from([0, 1, 2, 3]),
            st.binary(max_size=40),
        ),
        max_size=8,
    )
)
def test_any_frames(server, caplog, sent):
    address = ("127.0.0.1", server.port)
    with socket.create_connection(address, timeout=5) as connection, suppress(OSError):
        connection.sendall(frames.PREFACE + frames.settings({}))
        connection.sendall(b"".join(frames.frame(*each) for each in sent))
    assert "a connection failed" not in caplog.text
