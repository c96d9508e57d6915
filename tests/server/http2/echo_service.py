"""A server of bytes in a thread of its own, and what its handlers saw."""

import asyncio
import threading
from collections import Counter
from contextlib import contextmanager

import grpc

from keras_cls.server.http2 import GrpcServer
from keras_cls.server.http2.limits import Limits

SERVICE = "test.Echo"


class EchoService:
    """Its methods are handlers; ``seen`` counts what happened to them."""

    def __init__(self):
        self.seen = Counter()
        self.contexts = []

    async def echo(self, request, context):
        return request

    async def wait(self, request, context):
        """Until the caller goes away, or for ever."""
        self.seen["begun"] += 1
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            self.seen["cancelled"] += 1
            raise

    async def sleep(self, request, context):
        """So many seconds."""
        self.seen["begun"] += 1
        await asyncio.sleep(float(request))
        self.seen["ended"] += 1
        return b"slept"

    async def remaining(self, request, context):
        seconds = context.time_remaining()
        return b"for ever" if seconds is None else b"%f" % seconds

    async def zeros(self, request, context):
        """So many of them."""
        return bytes(int(request))

    async def fails(self, request, context):
        raise ValueError(request.decode())

    async def aborts(self, request, context):
        await context.abort(grpc.StatusCode.NOT_FOUND, request.decode(), (("x-why", "because"),))

    async def code(self, request, context):
        context.set_code(grpc.StatusCode.DATA_LOSS)
        context.set_details(request.decode())
        return b"not seen"

    async def text(self, request, context):
        return "no bytes"

    async def metadata(self, request, context):
        """What came, on its way back."""
        self.contexts.append(context)
        sent = context.invocation_metadata()
        mine = tuple((key, value) for key, value in sent if key.startswith("x-"))
        await context.send_initial_metadata(mine)
        context.set_trailing_metadata((("x-trailing-bin", b"\0\xff"),))
        return context.peer().encode()

    async def count(self, request, context):
        for number in range(int(request)):
            yield b"%d" % number

    async def write(self, request, context):
        for number in range(int(request)):
            await context.write(b"%d" % number)

    async def watch(self, request, context):
        """One message, then nothing."""
        self.seen["begun"] += 1
        await context.write(b"here")
        try:
            await asyncio.sleep(1000)
        finally:
            self.seen["ended"] += 1

    async def collect(self, requests, context):
        return b"".join([request async for request in requests])

    async def read(self, requests, context):
        found = []
        while (request := await context.read()) is not grpc.aio.EOF:
            found.append(request)
        return b"".join(found)

    async def deaf(self, requests, context):
        """Never reads."""
        await asyncio.sleep(1000)

    async def chat(self, requests, context):
        async for request in requests:
            yield request

    def handlers(self):
        kinds = {
            grpc.unary_unary_rpc_method_handler: "echo wait sleep remaining zeros fails aborts "
            "code text metadata",
            grpc.unary_stream_rpc_method_handler: "count write watch",
            grpc.stream_unary_rpc_method_handler: "collect read deaf",
            grpc.stream_stream_rpc_method_handler: "chat",
        }
        methods = {
            name: make(getattr(self, name))
            for make, names in kinds.items()
            for name in names.split()
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)


class Running:
    """A server that answers."""

    def __init__(self, limits):
        self.service = EchoService()
        self.server = GrpcServer(limits)
        self.server.add_generic_rpc_handlers([self.service.handlers()])
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.port = self.do(self._start())
        self.address = f"127.0.0.1:{self.port}"

    async def _start(self):
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        return port

    def do(self, work):
        """The outcome of a coroutine in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def ask(self, function):
        """What a function says there."""

        async def asked():
            return function()

        return self.do(asked())

    def connections(self):
        return self.ask(lambda: len(self.server._connections))

    def options(self, level, name):
        """A socket option, of each connection."""

        def found():
            sockets = [c._transport.get_extra_info("socket") for c in self.server._connections]
            return [each.getsockopt(level, name) for each in sockets]

        return self.ask(found)

    def calls(self):
        return self.ask(lambda: sum(len(c.calls) for c in self.server._connections))

    def tasks(self):
        """Of calls."""
        return self.ask(
            lambda: [t for t in asyncio.all_tasks() if t.get_name() == "grpc-call" and not t.done()]
        )

    def held(self):
        return self.ask(lambda: self.server.budget.held)

    def close(self):
        self.do(self.server.stop(None))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@contextmanager
def running(**limits):
    """A server with limits of its own."""
    server = Running(Limits(**limits))
    try:
        yield server
    finally:
        server.close()
