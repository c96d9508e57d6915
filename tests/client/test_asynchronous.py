"""The client for asyncio on a real server: order, several calls in flight, cancellation."""

import asyncio
import time

import grpc
import numpy as np
import pytest
from serving_models import LABELS, image_of, server_process
from shades import NAMES, SHADES, best, encoded, free_port, silent_address

from keras_cls import AsyncClient, Prediction
from keras_cls.client.retrying import Send
from keras_cls.contract.messages import PREDICTION_SERVICE
from keras_cls.errors import ConfigError, ImageError, ServingError
from keras_cls.images import encode_png

CUT = encoded(0)[:60]  # all pixels are there, the end of the file is not


class Echo(grpc.GenericRpcHandler):
    """A service whose Predict hangs; it knows what has become of its calls."""

    def __init__(self) -> None:
        self.begun = self.cancelled = 0

    def service(self, details):
        if details.method == f"/{PREDICTION_SERVICE}/Predict":
            return grpc.unary_unary_rpc_method_handler(self.predict)
        return None

    async def predict(self, request, context):
        self.begun += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


async def hanging_service():
    service, server = Echo(), grpc.aio.server()
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return service, server, f"127.0.0.1:{port}"


def test_every_kind_of_image(server, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(250, "JPEG"))
    stack = np.stack([image_of(0), image_of(255)])

    async def ask():
        async with AsyncClient(server.address, model="shades") as client:
            rows = await client.classify([path, str(path), encoded(0, "WEBP"), image_of(128)])
            assert best(rows) == ["bright", "bright", "dark", "medium"]
            assert isinstance(rows[0][0], Prediction)
            assert best(await client.classify(stack)) == ["dark", "bright"]
            assert best(await client.classify(image for image in stack)) == ["dark", "bright"]
            assert await client.classify([]) == []
            assert await client.status() == {3: "AVAILABLE"}
            probabilities = await client.probabilities(stack)
            assert probabilities.dtype == np.float32
            assert probabilities.shape == (2, len(LABELS))
            with pytest.raises(ConfigError, match="one image at least"):
                await client.probabilities([])

    asyncio.run(ask())


@pytest.mark.parametrize("concurrency", [1, 3, 50])
def test_the_order_is_kept_and_no_more_calls_are_in_flight(server, monkeypatch, concurrency):
    images = [encoded(shade) for shade in SHADES * 10]
    in_flight, most, read = 0, 0, 0

    def reading():
        nonlocal read
        for image in images:
            read += 1
            yield image

    async def ask():
        async with AsyncClient(
            server.address, model="shades", images_per_call=1, concurrency=concurrency
        ) as client:
            real = client._take

            async def late_first(step):
                nonlocal in_flight, most
                in_flight += 1
                most = max(most, in_flight)
                assert read <= len(images)
                if in_flight == 1:
                    await asyncio.sleep(0.02)  # others overtake it
                try:
                    return await real(step)
                finally:
                    in_flight -= 1

            monkeypatch.setattr(client, "_take", late_first)
            return best(await client.classify(reading()))

    assert asyncio.run(ask()) == NAMES * 10
    assert 1 <= most <= concurrency
    assert (most > 1) == (concurrency > 1)


def test_images_are_read_as_they_are_needed():
    read = []

    def reading():
        for number in range(100):
            read.append(number)
            yield encoded(0)

    async def ask():
        service, server, address = await hanging_service()
        async with AsyncClient(
            address, model="m", images_per_call=2, concurrency=3, timeout=60
        ) as client:
            asking = asyncio.create_task(client.classify(reading()))
            await until(lambda: service.begun == 3)
            await asyncio.sleep(0.05)
            asking.cancel()
            await asyncio.wait([asking])
        await server.stop(0)

    asyncio.run(ask())
    assert len(read) <= 2 * 3 + 1


def test_cancellation_leaves_nothing_behind(base_path):
    async def ask():
        service, server, address = await hanging_service()
        async with AsyncClient(address, model="m", images_per_call=1, timeout=60) as client:
            before = asyncio.all_tasks()
            asking = asyncio.create_task(client.classify([encoded(0)] * 20))
            await until(lambda: service.begun == 4)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await until(lambda: service.cancelled == 4)
            assert service.begun == 4
            await until(lambda: len(asyncio.all_tasks()) <= len(before))
            with pytest.raises(TimeoutError):  # and the client can go on
                async with asyncio.timeout(0.2):
                    await client.classify(encoded(0))
            await until(lambda: service.cancelled == 5)
        await server.stop(0)

    asyncio.run(ask())


def test_the_first_failure_ends_the_other_calls():
    async def ask():
        service, server, address = await hanging_service()
        async with AsyncClient(address, model="m", images_per_call=1, timeout=60) as client:
            with pytest.raises(ImageError, match=r"image 2: .*not an image"):
                await client.classify([encoded(0), encoded(0), b"junk", encoded(0)])
            await until(lambda: service.cancelled == service.begun)
        await server.stop(0)

    asyncio.run(ask())


def test_closing_ends_what_is_in_flight_without_cancelling_who_asked():
    async def ask():
        service, server, address = await hanging_service()
        client = AsyncClient(address, model="m", timeout=60)
        asking = asyncio.create_task(client.classify(encoded(0)))
        await until(lambda: service.begun)
        await client.close()
        with pytest.raises(ConfigError, match="the client is closed"):
            await asking
        await server.stop(0)

    asyncio.run(ask())


def test_a_closed_client(server):
    async def ask():
        async with AsyncClient(server.address, model="shades") as client:
            await client.status()
        await client.close()  # again: nothing
        for call in (client.status, lambda: client.classify(encoded(0))):
            with pytest.raises(ConfigError, match="the client is closed"):
                await call()
        await AsyncClient(server.address, model="shades").close()

    asyncio.run(ask())


def test_another_event_loop_is_refused(server):
    client = AsyncClient(server.address, model="shades")
    assert asyncio.run(client.status()) == {3: "AVAILABLE"}
    with pytest.raises(ConfigError, match="the event loop of its first call"):
        asyncio.run(client.status())


def test_a_bad_image_is_asked_for_alone_then_as_a_png(server):
    sent = []

    async def ask():
        async with AsyncClient(server.address, model="shades") as client:
            real = client._take

            async def take(step):
                if isinstance(step, Send):
                    sent.append(list(step.request.inputs["image_bytes"].string_val))
                return await real(step)

            client._take = take
            return best(await client.classify([encoded(255), CUT]))

    assert asyncio.run(ask()) == ["bright", "dark"]
    assert sent == [[encoded(255), CUT], [encoded(255)], [CUT], [encode_png(CUT)]]


def test_nobody_there_and_no_answer_in_time():
    async def ask(address, **options):
        async with AsyncClient(address, model="m", **options) as client:
            await client.status()

    port = free_port()
    with pytest.raises(ServingError, match=f"running at 127.0.0.1:{port}") as caught:
        asyncio.run(ask(f"127.0.0.1:{port}", retries=1))
    assert caught.value.code == "UNAVAILABLE"
    with silent_address() as address, pytest.raises(ServingError) as caught:
        asyncio.run(ask(address, timeout=0.5, retries=0))
    assert caught.value.code in ("DEADLINE_EXCEEDED", "UNAVAILABLE")


def test_the_deadline_of_a_call():
    async def ask():
        _, server, address = await hanging_service()
        async with AsyncClient(address, model="m", timeout=0.3) as client:
            start = time.monotonic()
            with pytest.raises(ServingError, match=r"no answer within 0\.3 seconds") as caught:
                await client.classify(encoded(0))
            assert 0.25 < time.monotonic() - start < 2
        await server.stop(0)
        return caught.value.code

    assert asyncio.run(ask()) == "DEADLINE_EXCEEDED"


@pytest.mark.slow
def test_a_server_that_comes_later_is_waited_for(base_path):
    port = free_port()

    async def ask():
        async with AsyncClient(f"127.0.0.1:{port}", model="shades", timeout=60) as client:
            asking = asyncio.create_task(client.classify(encoded(255)))
            await asyncio.sleep(0.3)
            assert not asking.done()
            starting = server_process(base_path, port)
            await asyncio.to_thread(starting.__enter__)
            try:
                return best(await asking)
            finally:
                starting.__exit__(None, None, None)

    assert asyncio.run(ask()) == ["bright"]


@pytest.mark.parametrize("arguments", [{"concurrency": 0}, {"concurrency": 2.5}, {"timeout": 0}])
def test_arguments_that_make_no_sense(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        AsyncClient("localhost:1", **{"model": "m", **arguments})
