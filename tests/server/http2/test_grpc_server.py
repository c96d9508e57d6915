"""The server as gRPC's own clients see it."""

import asyncio
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from echo_service import SERVICE, running
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from keras_cls.server.http2 import GrpcServer

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
MOST = 32 << 20
SECONDS = 20


@pytest.fixture(scope="module")
def server():
    with running(message_bytes=MOST) as found:
        yield found


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.address, options=UNLIMITED) as found:
        yield found


def unary(channel, method, request=b"", **options):
    return channel.unary_unary(f"/{SERVICE}/{method}")(
        request, **{"timeout": SECONDS, "wait_for_ready": True, **options}
    )


def refused(channel, method, request=b"", **options):
    with pytest.raises(grpc.RpcError) as caught:
        unary(channel, method, request, **options)
    return caught.value.code().name, caught.value.details()


def eventually(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 65_535, 1 << 20, 20 << 20])
def test_messages_of_any_size_both_ways(channel, size):
    sent = bytes(size // 2) + b"x" * (size - size // 2)
    assert unary(channel, "echo", sent) == sent


def test_answers_do_not_wait_for_acknowledgements(server, channel):
    unary(channel, "echo", b"x")
    assert all(server.options(socket.IPPROTO_TCP, socket.TCP_NODELAY))


def test_many_large_messages_at_once(server, channel):
    sent = [bytes((number,)) * (3 << 20) for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda body: unary(channel, "echo", body), sent)) == sent
    assert server.held() == 0


def test_many_calls_over_several_channels(server):
    """Each gets its own answer."""

    async def caller(channel, name):
        method = channel.unary_unary(f"/{SERVICE}/echo")
        for number in range(50):
            sent = b"%s %d" % (name, number)
            assert await method(sent, timeout=SECONDS) == sent

    async def ask():
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(server.address, options=options) for _ in range(4)]
        await asyncio.gather(
            *(caller(channels[number % 4], b"%d" % number) for number in range(64))
        )
        assert server.connections() >= 4
        for channel in channels:
            await channel.close()

    asyncio.run(ask())
    eventually(lambda: server.calls() == 0)


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("size", [10, 1000, 8 << 20])
def test_compressed_requests(channel, compression, size):
    sent = b"0123456789" * (size // 10)
    assert unary(channel, "echo", sent, compression=compression) == sent


@pytest.mark.parametrize("size", [MOST + 1, 50 << 20])
def test_bombs_are_not_inflated(server, channel, size):
    found = refused(channel, "echo", bytes(size), compression=grpc.Compression.Gzip)
    assert found == ("RESOURCE_EXHAUSTED", "Decompressed message larger than max")
    assert server.held() == 0


def test_messages_that_are_too_large(server, channel):
    found = refused(channel, "echo", bytes(MOST + 1))
    said = f"SERVER: Received message larger than max ({MOST + 1} vs. {MOST})"
    assert found == ("RESOURCE_EXHAUSTED", said)
    assert unary(channel, "echo", b"x") == b"x"
    assert server.held() == 0


# How calls end.


@pytest.mark.parametrize("text", ["plain", "100 % of it", "ä 模 🙂 \n\t\0", ""])
def test_details_of_errors(channel, text):
    assert refused(channel, "aborts", text.encode()) == ("NOT_FOUND", text)
    assert refused(channel, "code", text.encode()) == ("DATA_LOSS", text)


def test_metadata_of_an_error(channel):
    with pytest.raises(grpc.RpcError) as caught:
        unary(channel, "aborts", b"x")
    assert caught.value.trailing_metadata() == (("x-why", "because"),)


def test_handlers_that_fail(channel):
    said = "Unexpected <class 'ValueError'>: for a reason"
    assert refused(channel, "fails", b"for a reason") == ("UNKNOWN", said)
    said = "Unexpected <class 'TypeError'>: Expected bytes, got str"
    assert refused(channel, "text") == ("UNKNOWN", said)


def test_methods_that_are_not_there(channel):
    assert refused(channel, "none") == ("UNIMPLEMENTED", "Method not found!")
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/other.Service/echo")(b"", timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_metadata_both_ways(server, channel):
    sent = (("x-text", "a b"), ("x-raw-bin", bytes(range(256))), ("x-raw-bin", b"twice"))
    answer, call = channel.unary_unary(f"/{SERVICE}/metadata").with_call(
        b"", timeout=SECONDS, metadata=(*sent, ("other", "x"))
    )
    assert answer.startswith(b"ipv4:127.0.0.1:")
    assert call.initial_metadata() == sent
    assert call.trailing_metadata() == (("x-trailing-bin", b"\0\xff"),)
    context = server.service.contexts.pop()
    assert dict(context.invocation_metadata())["user-agent"].startswith("grpc-python/")
    assert context.done()
    assert not context.cancelled()


def test_deadlines(server, channel):
    server.service.seen.clear()
    assert unary(channel, "remaining", timeout=None) == b"for ever"
    assert 50 < float(unary(channel, "remaining", timeout=60)) <= 61
    start = time.monotonic()
    calls = [
        channel.unary_unary(f"/{SERVICE}/wait").future(b"", timeout=seconds)
        for seconds in (0.6, 0.2, 0.4, 60)
    ]
    for call in calls[:3]:
        assert call.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0.5 < time.monotonic() - start < 5
    eventually(lambda: server.service.seen["cancelled"] == 3)
    calls[3].cancel()
    eventually(lambda: server.service.seen["cancelled"] == 4)
    assert not server.tasks()


def test_cancelled_calls_end_their_handlers(server, channel):
    server.service.seen.clear()
    method = channel.unary_unary(f"/{SERVICE}/wait")
    calls = [method.future(b"", timeout=SECONDS) for _ in range(50)]
    eventually(lambda: server.service.seen["begun"] == 50)
    for call in calls:
        call.cancel()
    eventually(lambda: server.service.seen["cancelled"] == 50)
    eventually(lambda: server.calls() == 0)


def test_a_client_that_vanishes_ends_its_handlers(server):
    server.service.seen.clear()
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary(f"/{SERVICE}/wait").future(b"")
        watch = channel.unary_stream(f"/{SERVICE}/watch")(b"")
        assert next(watch) == b"here"
        eventually(lambda: server.service.seen["begun"] == 2)
    eventually(lambda: server.service.seen["cancelled"] == 1)
    eventually(lambda: server.service.seen["ended"] == 1)
    assert call.cancelled() or call.exception()


# Streams.


@pytest.mark.parametrize("method", ["count", "write"])
def test_streams_of_answers(channel, method):
    answers = channel.unary_stream(f"/{SERVICE}/{method}")(b"1000", timeout=SECONDS)
    assert [int(answer) for answer in answers] == list(range(1000))
    assert list(channel.unary_stream(f"/{SERVICE}/{method}")(b"0", timeout=SECONDS)) == []


@pytest.mark.parametrize("method", ["collect", "read"])
@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
def test_streams_of_requests(server, channel, method, compression):
    parts = [bytes((number,)) * 100_000 for number in range(100)]
    collect = channel.stream_unary(f"/{SERVICE}/{method}")
    assert collect(iter(parts), timeout=SECONDS, compression=compression) == b"".join(parts)
    assert collect(iter(()), timeout=SECONDS) == b""
    assert server.held() == 0


def test_streams_both_ways(channel):
    parts = [b"%d" % number * 1000 for number in range(300)]
    answers = channel.stream_stream(f"/{SERVICE}/chat")(iter(parts), timeout=SECONDS)
    assert list(answers) == parts


def test_a_conversation(channel):
    """An answer comes before the next question is asked."""
    answered = threading.Semaphore(1)

    def questions():
        for number in range(20):
            answered.acquire(timeout=SECONDS)
            yield b"%d" % number

    for number, answer in enumerate(
        channel.stream_stream(f"/{SERVICE}/chat")(questions(), timeout=SECONDS)
    ):
        assert answer == b"%d" % number
        answered.release()


def test_who_is_not_read_may_not_send_for_ever(server, channel):
    """Nothing is read: the sender is held up by the stream's window."""
    sent = 0

    def endless():
        nonlocal sent
        for _ in range(10_000):
            sent += 1 << 16
            yield bytes(1 << 16)

    call = channel.stream_unary(f"/{SERVICE}/deaf").future(endless(), timeout=SECONDS)
    eventually(lambda: server.held() > 3 << 20)
    time.sleep(0.5)
    assert server.held() <= 5 << 20
    assert sent < 100 << 20
    call.cancel()
    eventually(lambda: server.held() == 0)
    assert unary(channel, "echo", b"x") == b"x"


def test_who_does_not_read_holds_the_writer_up(server):
    """An answer without end to a peer that takes nothing more is not piled up."""

    async def ask():
        async with grpc.aio.insecure_channel(server.address) as channel:
            call = channel.unary_stream(f"/{SERVICE}/count")(b"100000000")
            async for answer in call:
                if answer == b"10":
                    break
            await asyncio.sleep(1)
            backlog = server.ask(
                lambda: [
                    len(call.backlog or ())
                    for connection in server.server._connections
                    for call in connection.calls.values()
                ]
            )
            assert max(backlog) < 10
            call.cancel()

    asyncio.run(ask())
    eventually(lambda: server.calls() == 0)


# gRPC's own services.


@pytest.fixture
def services(server):
    """Health and reflection on a server of their own."""
    found = GrpcServer()
    service = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(service, found)
    names = [health.SERVICE_NAME, reflection.SERVICE_NAME]
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
        reflection.aio.ReflectionServicer(names), found
    )

    async def start():
        port = found.add_insecure_port("localhost:0")
        await found.start()
        return port

    port = server.do(start())
    with grpc.insecure_channel(f"localhost:{port}") as channel:
        yield channel, service, found
    server.do(found.stop(None))


def test_health(server, services):
    channel, service, _ = services
    stub = health_pb2_grpc.HealthStub(channel)
    kinds = health_pb2.HealthCheckResponse
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS).status == kinds.SERVING
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == kinds.SERVING
    server.do(service.set("", kinds.NOT_SERVING))
    assert next(watch).status == kinds.NOT_SERVING
    watch.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="none"), timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff", timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.INTERNAL


def test_reflection(services):
    database = ProtoReflectionDescriptorDatabase(services[0])
    assert set(database.get_services()) == {health.SERVICE_NAME, reflection.SERVICE_NAME}
    found = database.FindFileContainingSymbol("grpc.health.v1.Health")
    assert found.package == "grpc.health.v1"


# The end.


def test_what_is_in_flight_ends_before_the_server_does():
    with running() as server, grpc.insecure_channel(server.address) as channel:
        method = channel.unary_unary(f"/{SERVICE}/sleep")
        calls = [method.future(b"0.5", timeout=SECONDS) for _ in range(20)]
        eventually(lambda: server.service.seen["begun"] == 20)
        start = time.monotonic()
        server.do(server.server.stop(10))
        assert time.monotonic() - start < 5
        assert [call.result() for call in calls] == [b"slept"] * 20
        assert server.connections() == 0
        with pytest.raises(grpc.RpcError) as caught:
            method(b"0", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_what_does_not_end_in_time_is_told():
    with running() as server, grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary(f"/{SERVICE}/wait").future(b"", timeout=SECONDS)
        watch = channel.unary_stream(f"/{SERVICE}/watch")(b"", timeout=SECONDS)
        assert next(watch) == b"here"
        eventually(lambda: server.service.seen["begun"] == 2)
        start = time.monotonic()
        server.do(server.server.stop(0.3))
        assert time.monotonic() - start < 10
        assert call.exception().code() is grpc.StatusCode.UNAVAILABLE
        assert call.exception().details() == "Cancelling all calls"
        with pytest.raises(grpc.RpcError) as caught:
            next(watch)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        eventually(lambda: not server.tasks())


def test_no_call_is_lost_where_servers_come_and_go():
    """Each is answered, or told that nobody was there: never one that had begun."""
    outcomes = []
    with running() as server, grpc.insecure_channel(server.address) as channel:
        method = channel.unary_unary(f"/{SERVICE}/echo")
        ended = threading.Event()

        def ask():
            while not ended.is_set():
                try:
                    method(b"x", timeout=SECONDS)
                    outcomes.append("OK")
                except grpc.RpcError as error:
                    outcomes.append(error.code().name)
                    time.sleep(0.01)

        with ThreadPoolExecutor(8) as pool:
            for _ in range(8):
                pool.submit(ask)
            time.sleep(0.5)
            server.do(server.server.stop(5))
            time.sleep(0.2)
            ended.set()
    assert outcomes.count("OK") > 50
    assert set(outcomes) <= {"OK", "UNAVAILABLE"}


# Addresses.


async def start_on(address):
    found = GrpcServer()
    port = found.add_insecure_port(address)
    await found.start()
    return found, port


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "localhost", "127.0.0.1", "[::1]"])
def test_hosts(server, host):
    try:
        found, port = server.do(start_on(f"{host}:0"))
    except RuntimeError:
        pytest.skip("this machine has no IPv6")
    clients = {
        "0.0.0.0": ["127.0.0.1", "[::1]"] if socket.has_dualstack_ipv6() else ["127.0.0.1"],
        "[::]": ["127.0.0.1", "[::1]"],
    }.get(host, [host])
    for client in clients:
        with grpc.insecure_channel(f"{client}:{port}") as channel:
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/a/b")(b"", timeout=SECONDS)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    server.do(found.stop(None))


def test_a_port_that_is_taken(server):
    for host in ("127.0.0.1", "0.0.0.0"):
        with pytest.raises(RuntimeError, match=re.escape(f"{host}:{server.port}: Address already")):
            server.do(start_on(f"{host}:{server.port}"))


def test_addresses_that_are_none(server):
    for address in ("nowhere.invalid:0", "127.0.0.1:x", "192.0.2.1:0"):
        with pytest.raises(RuntimeError, match="Failed to bind to address"):
            server.do(start_on(address))


def test_a_unix_socket(server, tmp_path):
    path = tmp_path / "socket"
    found, _ = server.do(start_on(f"unix:{path}"))
    with grpc.insecure_channel(f"unix:{path}") as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/a/b")(b"", timeout=SECONDS)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    server.do(found.stop(None))
    assert not path.exists()
