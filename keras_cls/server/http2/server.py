"""The server: what ``grpc.aio.Server`` is for plain text, in the parts that are used here."""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc

from keras_cls.server.http2.addresses import listen, peer_name
from keras_cls.server.http2.connection import Connection
from keras_cls.server.http2.heads import HandlerCallDetails, Metadata, Method
from keras_cls.server.http2.limits import Budget, Limits

_SWEEPS_A_STALL = 4
_CLOSING_SECONDS = 0.2
_END = "Cancelling all calls"


class GrpcServer:
    """Answers gRPC calls in plain text on the event loop in which it is started.

    Handlers are those of ``grpc``: coroutine functions and async generators, whose context can do
    what ``grpc.aio.ServicerContext`` can.

    Attributes:
        limits: what peers may ask of it.
        budget: what they have sent that is of no use yet.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        most = max(self.limits.unfinished_bytes, self.limits.message_bytes)
        self.budget = Budget(most + self.limits.stream_window)
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._methods: dict[str, grpc.RpcMethodHandler] = {}
        self._sockets: list[socket.socket] = []
        self._listeners: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._sweeping: asyncio.TimerHandle | None = None

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Answer what these know. Of those that know a method, the first does."""
        self._handlers.extend(handlers)

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler]
    ) -> None:
        """Answer these methods of a service."""
        for name, handler in handlers.items():
            self._methods[f"/{service}/{name}"] = handler

    def add_insecure_port(self, address: str) -> int:
        """Listen on ``HOST:PORT``, where port 0 is any that is free, or ``unix:PATH``.

        Returns:
            The port.

        Raises:
            RuntimeError: it cannot be had.
        """
        found, port = listen(address)
        self._sockets.extend(found)
        return port

    async def start(self) -> None:
        """Answer."""
        loop = asyncio.get_running_loop()
        for listening in self._sockets:
            listening.setblocking(False)
            make = loop.create_server
            if listening.family not in (socket.AF_INET, socket.AF_INET6):
                make = loop.create_unix_server  # type: ignore[assignment]
            self._listeners.append(await make(lambda: Connection(self, loop), sock=listening))
        self._sweep_later(loop)

    async def stop(self, grace: float | None) -> None:
        """Let what is in flight end within ``grace`` seconds, then end it; close everything."""
        self._stop_listening()
        if grace and self._connections:
            for connection in list(self._connections):
                connection.drain()
            await self._wait_until_empty(grace)
        for connection in list(self._connections):
            connection.end(_END)
        await self._wait_until_empty(_CLOSING_SECONDS)
        for connection in list(self._connections):
            connection.abort()
        await self._wait_until_empty(_CLOSING_SECONDS)
        if self._sweeping is not None:
            self._sweeping.cancel()

    # For connections.

    def find(self, path: str, metadata: Metadata) -> Method | None:
        """What answers a path."""
        handler = self._methods.get(path)
        if handler is None:
            details = HandlerCallDetails(path, metadata)
            found = (each.service(details) for each in self._handlers)
            handler = next((each for each in found if each is not None), None)
        return None if handler is None else Method(handler)

    def joined(self, connection: Connection, transport: asyncio.Transport) -> str:
        """A connection has been made; who it is with."""
        self._connections.add(connection)
        self._empty.clear()
        found: socket.socket = transport.get_extra_info("socket")
        if found.family in (socket.AF_INET, socket.AF_INET6):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            # asyncio does so only where the listening socket names its protocol, which these do
            # not: answers would wait up to 40 ms for the peer to acknowledge those before them.
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            return peer_name(found)
        except OSError:  # it has gone already
            return ""

    def left(self, connection: Connection) -> None:
        """A connection is no more."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def _stop_listening(self) -> None:
        for listening in self._sockets:
            if listening.family == getattr(socket, "AF_UNIX", None):
                Path(listening.getsockname()).unlink(missing_ok=True)
        for listener in self._listeners:
            listener.close()
        for listening in self._sockets:
            listening.close()
        self._listeners.clear()
        self._sockets.clear()

    async def _wait_until_empty(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._empty.wait(), seconds)
        except TimeoutError:
            return

    def _sweep_later(self, loop: asyncio.AbstractEventLoop) -> None:
        pause = self.limits.stall_seconds / _SWEEPS_A_STALL
        self._sweeping = loop.call_later(pause, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        for connection in list(self._connections):
            connection.sweep()
        self._sweep_later(loop)
