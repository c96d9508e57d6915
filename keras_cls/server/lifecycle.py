"""From a model's folder to an open port, and back down without dropping a request."""

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from types import TracebackType

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from keras_cls.contract.messages import MODEL_SERVICE, PREDICTION_SERVICE
from keras_cls.errors import ConfigError
from keras_cls.server.arguments import check_seconds, check_whole
from keras_cls.server.batching import Batcher, BatchingOptions
from keras_cls.server.loading import LoadedModel, latest_version
from keras_cls.server.registry import ModelState, Registry, ServedModel
from keras_cls.server.services import Services
from keras_cls.server.warmup import warm_up

_LOG = logging.getLogger(__name__)

UNLIMITED = (1 << 31) - 1
"""gRPC's largest message size, TensorFlow Serving's own limit."""

_HEALTH_NAMES = (
    "",
    PREDICTION_SERVICE,
    MODEL_SERVICE,
    "PredictionService",  # TensorFlow Serving's health service knows these
    "ModelService",
)
_LOCAL_NAMES = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
# How long streams that never end by themselves (health watches) hold up the end of a drained
# server.
_STREAM_GRACE = 0.5
_SIGNAL_POLL = 0.5
_BIND_ERRORS = {
    errno.EADDRINUSE: "the port is taken by another program",
    errno.EADDRNOTAVAIL: "the address is not this machine's",
}


class ModelServer:
    """A gRPC server for the latest version of a model, in a thread of its own.

    It speaks TensorFlow Serving's API (``PredictionService``, ``ModelService``) and
    ``grpc.health.v1``::

        with ModelServer("models/pets", port=0) as server:
            Client(server.address, model="pets").classify(["cat.jpg"])
    """

    def __init__(
        self,
        base_path: str | PathLike[str],
        *,
        model_name: str | None = None,
        host: str = "0.0.0.0",
        port: int = 8500,
        batching: BatchingOptions | None = None,
        max_message_bytes: int = UNLIMITED,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        """Nothing is loaded or opened before :meth:`start`.

        Args:
            base_path: the model's folder, which holds a numbered folder for each version.
            model_name: what requests call the model; by default the folder's name.
            host: the address to listen on.
            port: the port to listen on; 0 picks a free one.
            batching: how requests are gathered.
            max_message_bytes: refuse larger requests with RESOURCE_EXHAUSTED.
            credentials: TLS, from ``grpc.ssl_server_credentials``; without it, plain text.

        Raises:
            ConfigError: arguments that make no sense.
        """
        try:
            self._base_path = Path(base_path)
        except TypeError as error:
            raise ConfigError(f"base_path must be a path, not {base_path!r}") from error
        if not isinstance(model_name, str | None):
            raise ConfigError(f"model_name must be a string, not {model_name!r}")
        self.model_name = model_name or self._base_path.resolve().name
        if not self.model_name:
            raise ConfigError(f"{self._base_path}: give a model_name; this folder has no name")
        if not isinstance(host, str) or not host:
            raise ConfigError(f"host must be a name or an address, such as 0.0.0.0, not {host!r}")
        check_whole("port", port, 0, 65535)
        check_whole("max_message_bytes", max_message_bytes, 1, UNLIMITED)
        if not isinstance(batching, BatchingOptions | None):
            raise ConfigError(f"batching must be BatchingOptions, not {batching!r}")
        if not isinstance(credentials, grpc.ServerCredentials | None):
            raise ConfigError("credentials must be made by grpc.ssl_server_credentials")
        bare_ipv6 = ":" in host and not host.startswith("[")
        self._bound_host = f"[{host}]" if bare_ipv6 else host
        self._wanted_port = port
        self._batching = batching or BatchingOptions()
        self._max_message_bytes = max_message_bytes
        self._credentials = credentials
        self._model: LoadedModel | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_wanted: asyncio.Future[float] | None = None
        self._port: int | None = None
        self._dropped = 0

    @property
    def port(self) -> int:
        """The port that is open.

        Raises:
            ConfigError: the server is not running.
        """
        if self._port is None:
            raise ConfigError("the server is not running: call start() first")
        return self._port

    @property
    def address(self) -> str:
        """What a client on this machine connects to, such as ``127.0.0.1:8500``."""
        return f"{_LOCAL_NAMES.get(self._bound_host, self._bound_host)}:{self.port}"

    @property
    def version(self) -> int:
        """The version that is served.

        Raises:
            ConfigError: the server is not running.
        """
        if self._model is None:
            raise ConfigError("the server is not running: call start() first")
        return self._model.version

    def start(self) -> None:
        """Load the model, warm it up, open the port; return when requests can come.

        Raises:
            ConfigError: the folder holds no model that can be loaded, the warm-up fails, or the
                address is taken or not this machine's, which is looked at first.
        """
        if self._thread is not None:
            raise ConfigError("the server is running already")
        _check_free(self._bound_host, self._wanted_port)
        model = LoadedModel(self.model_name, latest_version(self._base_path))
        opened: Future[int] = Future()
        try:
            warm_up(model)
            self._thread = threading.Thread(
                target=lambda: asyncio.run(self._serve(model, opened)),
                name="keras_cls-server",
                daemon=True,
            )
            self._thread.start()
            self._port = opened.result()
        except Exception:
            if self._thread is not None:
                self._thread.join()
                self._thread = None
            model.close()
            raise
        self._model = model

    def stop(self, grace: float = 10.0) -> int:
        """Stop; a server that is not running stays as it is.

        At once the health service says NOT_SERVING and new requests are refused with UNAVAILABLE;
        requests in flight have ``grace`` seconds to end.

        Returns:
            How many requests had not ended by then and were dropped.

        Raises:
            ConfigError: ``grace`` is no number of seconds.
        """
        check_seconds("grace", grace)
        if self._thread is None:
            return 0
        self._ask_to_stop(grace)
        self._thread.join()
        if self._model is not None:
            self._model.close()  # cancels what is still running
        self._thread = self._model = self._port = None
        return self._dropped

    def __enter__(self) -> "ModelServer":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _ask_to_stop(self, grace: float) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._note_stop, grace)

    def _note_stop(self, grace: float) -> None:
        assert self._stop_wanted is not None
        if not self._stop_wanted.done():
            self._stop_wanted.set_result(grace)

    async def _serve(self, model: LoadedModel, opened: Future[int]) -> None:
        """The server's life, on the event loop of its thread."""
        self._loop = asyncio.get_running_loop()
        self._stop_wanted = self._loop.create_future()
        batcher = Batcher(model.run, self._batching)
        try:
            registry = Registry()
            registry.add(ServedModel(model, batcher))
            services = Services(registry)
            health_service = health.aio.HealthServicer()
            server = grpc.aio.server(options=self._channel_options())
            server.add_generic_rpc_handlers(services.handlers())
            health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
            port = self._open_port(server)
            for name in _HEALTH_NAMES:
                await health_service.set(name, health_pb2.HealthCheckResponse.SERVING)
            await server.start()
        except BaseException as error:
            batcher.close()
            opened.set_exception(error)
            return
        opened.set_result(port)
        grace = await self._stop_wanted
        registry.set_state(model.name, model.version, ModelState.UNLOADING)
        await health_service.enter_graceful_shutdown()
        self._dropped = await services.drain(grace)
        if self._dropped:
            _LOG.warning("requests still in flight after %g s, dropped: %d", grace, self._dropped)
        batcher.close()
        await server.stop(_STREAM_GRACE)
        # Otherwise the end of the loop would cancel calls that are just ending, and gRPC log it.
        if ending := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(ending, timeout=_STREAM_GRACE)

    def _open_port(self, server: grpc.aio.Server) -> int:
        address = f"{self._bound_host}:{self._wanted_port}"
        try:
            if self._credentials is not None:
                return server.add_secure_port(address, self._credentials)
            return server.add_insecure_port(address)
        except RuntimeError as error:
            tls = "are the TLS key and certificate PEM files, and a pair?"
            reason = error if self._credentials is None else tls
            raise ConfigError(f"cannot listen on {address}: {reason}") from error

    def _channel_options(self) -> list[tuple[str, int]]:
        return [
            ("grpc.max_receive_message_length", self._max_message_bytes),
            ("grpc.max_send_message_length", UNLIMITED),
            # With it, a second server would share the port of the first without a word.
            ("grpc.so_reuseport", 0),
        ]


def serve(
    base_path: str | PathLike[str],
    *,
    model_name: str | None = None,
    host: str = "0.0.0.0",
    port: int = 8500,
    batching: BatchingOptions | None = None,
    max_message_bytes: int = UNLIMITED,
    credentials: grpc.ServerCredentials | None = None,
    grace: float = 10.0,
) -> None:
    """Serve a model until SIGINT or SIGTERM, from the main thread; then return.

    Requests in flight then have ``grace`` seconds to end; new ones are refused. A line on standard
    output tells when requests can come, another one when all is over. The other arguments are
    :class:`ModelServer`'s.

    Raises:
        ConfigError: as :class:`ModelServer` and :meth:`ModelServer.start`, or this is not the main
            thread.
    """
    check_seconds("grace", grace)
    if threading.current_thread() is not threading.main_thread():
        raise ConfigError("serve() handles signals, which needs the main thread: use ModelServer")
    server = ModelServer(
        base_path,
        model_name=model_name,
        host=host,
        port=port,
        batching=batching,
        max_message_bytes=max_message_bytes,
        credentials=credentials,
    )
    with _stop_signals() as signalled:
        server.start()
        _say(f"serving {server.model_name} version {server.version} on {host}:{server.port}")
        while not signalled.wait(_SIGNAL_POLL):  # without a timeout, Windows would not let ^C in
            pass
        dropped = server.stop(grace)
        _say(f"stopped; requests dropped: {dropped}" if dropped else "stopped")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _check_free(host: str, port: int) -> None:
    """Say at once what gRPC could only refuse once the model is loaded, without the reason."""
    address = f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except (socket.gaierror, ValueError) as error:  # ValueError: no host can have such a name
        raise ConfigError(f"cannot listen on {address}: no host of this name is known") from error
    refusals = []
    for family, _, _, _, place in found:
        try:
            socket.create_server(place, family=family).close()
        except OSError as error:
            refusals.append(error.errno or 0)
    # Of several, as "localhost" may have, gRPC takes those that it can get.
    if errno.EADDRINUSE in refusals or len(refusals) == len(found):
        number = errno.EADDRINUSE if errno.EADDRINUSE in refusals else refusals[0]
        reason = _BIND_ERRORS.get(number) or os.strerror(number).lower()
        raise ConfigError(f"cannot listen on {address}: {reason}")


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, for as long as it is entered."""
    signalled = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, lambda *_: signalled.set()) for number in numbers]
    try:
        yield signalled
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
