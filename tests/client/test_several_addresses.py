"""Servers that take turns, and the loss of one."""

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from choosing import slow_but
from serving_models import server_process
from shades import NAMES, SHADES, best, encoded, free_port

from keras_cls import AsyncClient, Client
from keras_cls.client.channels import CHANNEL_OPTIONS, callables
from keras_cls.client.retrying import GET_STATUS, Send
from keras_cls.errors import ConfigError, ServingError
from keras_cls.server import ModelServer


@pytest.fixture(scope="module")
def second_server(base_path):
    with ModelServer(base_path, host="127.0.0.1", port=0) as running:
        yield running


def places(client):
    """Counts the calls that a blocking client sends to each of its addresses."""
    counted, real = Counter(), client._take

    def take(step):
        if isinstance(step, Send):
            counted[step.place] += 1
        return real(step)

    client._take = take
    return counted


def test_the_calls_take_turns(server, second_server):
    both = f"{server.address},{second_server.address}"
    with Client(both, model="shades", images_per_call=2) as client:
        counted = places(client)
        assert best(client.classify([encoded(shade) for shade in SHADES * 8])) == NAMES * 8
    assert counted == {0: 6, 1: 6}


def test_not_all_clients_begin_with_the_same():
    first = set()
    for _ in range(60):
        with Client(["localhost:1", "localhost:2", "localhost:3"], model="m") as client:
            first.add(next(client._conversation._turns))
    assert first == {0, 1, 2}


def test_one_that_is_not_there_is_passed_over_without_a_pause(server):
    gone = f"127.0.0.1:{free_port()}"
    with Client([gone, server.address, gone], model="shades", retries=0) as client:
        counted = places(client)
        start = time.monotonic()
        for _ in range(6):
            assert client.status() == {3: "AVAILABLE"}
        assert time.monotonic() - start < 3
    assert counted[1] == 6 < sum(counted.values())


def test_one_that_stops_is_passed_over(base_path, server):
    with (
        ModelServer(base_path, host="127.0.0.1", port=0) as stopping,
        Client([stopping.address, server.address], model="shades", retries=0) as client,
    ):
        assert best(client.classify(encoded(0))) == ["dark"]
        stopping.stop()
        for _ in range(4):
            assert best(client.classify(encoded(0))) == ["dark"]


def test_a_refusal_is_not_taken_elsewhere(server, second_server):
    with Client([server.address, second_server.address], model="dogs") as client:
        counted = places(client)
        with pytest.raises(ServingError, match="'dogs'"):
            client.status()
    assert sum(counted.values()) == 1


@pytest.mark.parametrize("retries", [0, 2])
def test_nobody_anywhere(retries):
    gone = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    with Client(gone, model="m", retries=retries) as client:
        counted = places(client)
        with pytest.raises(ServingError, match=" or ".join(gone)) as caught:
            client.status()
    assert caught.value.code == "UNAVAILABLE"
    assert sum(counted.values()) == 2 * (retries + 1)


def test_the_deadline_holds_for_all_together():
    gone = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    with Client(gone, model="m", timeout=1) as client:
        start = time.monotonic()
        with pytest.raises(ServingError):
            client.status()
        assert 0.8 < time.monotonic() - start < 3


@pytest.mark.parametrize("kind", slow_but("AsyncClient", ["Client", "AsyncClient"]))
def test_one_of_two_is_killed_in_the_middle_of_a_list(base_path, kind):
    with server_process(base_path) as first, server_process(base_path) as second:
        asked = 0

        def images():
            nonlocal asked
            for shade in SHADES * 40:
                asked += 1
                if asked == 40:
                    first.process.kill()
                    first.process.wait()
                yield encoded(shade)

        both = [first.address, second.address]
        options = {"model": "shades", "images_per_call": 3, "timeout": 30}
        if kind == "Client":
            with Client(both, **options) as client:
                answers = client.classify(images())
        else:

            async def ask():
                async with AsyncClient(both, **options) as client:
                    return await client.classify(images())

            answers = asyncio.run(ask())
    assert asked == 120
    assert best(answers) == NAMES * 40


def test_one_comes_back(base_path, server):
    port = free_port()
    with Client([f"127.0.0.1:{port}", server.address], model="shades") as client:
        for _ in range(2):
            client.status()
        with ModelServer(base_path, host="127.0.0.1", port=port):
            counted, end = places(client), time.monotonic() + 20
            while counted != {0: 1, 1: 1}:  # gRPC connects anew within about a second
                assert time.monotonic() < end
                time.sleep(0.1)
                counted.clear()
                for _ in range(2):
                    client.status()


def test_the_hosts_behind_one_name_share_the_calls():
    """gRPC is told what a resolver would find behind a name."""
    counted = Counter()

    def service_on(server):
        class Counting(grpc.GenericRpcHandler):
            def service(self, details):
                counted[server] += 1
                return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")

        server.add_generic_rpc_handlers((Counting(),))
        server.start()

    servers = [grpc.server(ThreadPoolExecutor(1)) for _ in range(2)]
    ports = [server.add_insecure_port("127.0.0.1:0") for server in servers]
    for server in servers:
        service_on(server)
    hosts = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    with grpc.insecure_channel(hosts, CHANNEL_OPTIONS) as channel:
        ask = callables([channel])[0, GET_STATUS]
        end = time.monotonic() + 5
        while len(counted) < 2:  # until both are connected
            assert time.monotonic() < end
            ask(GET_STATUS.request(), timeout=5)
        counted.clear()
        for _ in range(10):
            ask(GET_STATUS.request(), timeout=5)
    for server in servers:
        server.stop(0)
    assert sorted(counted.values()) == [5, 5]


def test_no_addresses():
    with pytest.raises(ConfigError):
        Client([], model="m")
