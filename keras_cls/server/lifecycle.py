"""From a model's folder to an open port, and back down without dropping a request."""

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from types import TracebackType

import grpc
import tensorflow as tf
from aiohttp import web
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from keras_cls.contract.messages import MODEL_SERVICE, POOL, PREDICTION_SERVICE
from keras_cls.errors import ConfigError
from keras_cls.server.arguments import check_seconds, check_whole
from keras_cls.server.batching import BatchingOptions
from keras_cls.server.core import Core
from keras_cls.server.http2 import GrpcServer
from keras_cls.server.http2.limits import Limits
from keras_cls.server.loading import latest_version
from keras_cls.server.manager import Manager, ManagerOptions
from keras_cls.server.metrics import Metrics
from keras_cls.server.open_files import allow_many_files, exhaustion_handler
from keras_cls.server.page import page_routes
from keras_cls.server.page_state import page_state
from keras_cls.server.rest import RestSettings, rest_app, rest_runner
from keras_cls.server.services import service_handlers
from keras_cls.server.settings import ModelSettings, read_model_config
from keras_cls.server.status import RequestError
from keras_cls.version import __version__

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
_READINESS_POLL = 0.2
_BIND_ERRORS = {
    errno.EADDRINUSE: "the port is taken by another program",
    errno.EADDRNOTAVAIL: "the address is not this machine's",
}


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What a server does beside serving a model on a port.

    Attributes:
        manager: how models are found, loaded and replaced.
        rest: how the REST API behaves.
        model_config_file: the models to serve, in place of one.
        config_poll_seconds: between two looks at that file; 0 to read it once.
        tensor_content: answer Predict with ``tensor_content`` in place of typed fields.
        check_method: Classify and Regress want signatures that say they do that.
        socket_path: a Unix socket to listen on for gRPC as well.
        channel_arguments: of gRPC's server, by name.
    """

    manager: ManagerOptions = ManagerOptions()
    rest: RestSettings = RestSettings()
    model_config_file: Path | None = None
    config_poll_seconds: float = 0.0
    tensor_content: bool = False
    check_method: bool = False
    socket_path: str | None = None
    channel_arguments: tuple[tuple[str, int | str], ...] = ()


class ModelServer:
    """A server of gRPC and REST for models in their folders, in a thread of its own.

    It speaks TensorFlow Serving's API (``PredictionService``, ``ModelService``, REST) and
    ``grpc.health.v1``::

        with ModelServer("models/pets", port=0) as server:
            Client(server.address, model="pets").classify(["cat.jpg"])
    """

    def __init__(
        self,
        base_path: str | PathLike[str] | None = None,
        *,
        model_name: str | None = None,
        host: str = "0.0.0.0",
        port: int = 8500,
        rest_api_port: int | None = None,
        batching: BatchingOptions | None = None,
        max_message_bytes: int = UNLIMITED,
        credentials: grpc.ServerCredentials | None = None,
        options: ServerOptions | None = None,
    ) -> None:
        """Nothing is loaded or opened before :meth:`start`.

        Args:
            base_path: the model's folder, which holds a numbered folder for each version; None
                where ``options`` names a file that lists the models.
            model_name: what requests call the model; by default the folder's name.
            host: the address to listen on.
            port: the port for gRPC; 0 picks a free one.
            rest_api_port: the port for REST, metrics and the page; 0 picks a free one, None opens
                none.
            batching: how requests are gathered.
            max_message_bytes: refuse larger requests with RESOURCE_EXHAUSTED.
            credentials: TLS for gRPC, from ``grpc.ssl_server_credentials``; without it, plain text.
            options: all the rest.

        Raises:
            ConfigError: arguments that make no sense.
        """
        self._options = options or ServerOptions()
        self._models = self._wanted_models(base_path, model_name)
        if not isinstance(host, str) or not host:
            raise ConfigError(f"host must be a name or an address, such as 0.0.0.0, not {host!r}")
        check_whole("port", port, 0, 65535)
        if rest_api_port is not None:
            check_whole("rest_api_port", rest_api_port, 0, 65535)
            if rest_api_port == port != 0:
                raise ConfigError(f"gRPC and REST need a port each, not both {port}")
        check_whole("max_message_bytes", max_message_bytes, 1, UNLIMITED)
        if not isinstance(batching, BatchingOptions | None):
            raise ConfigError(f"batching must be BatchingOptions, not {batching!r}")
        if not isinstance(credentials, grpc.ServerCredentials | None):
            raise ConfigError("credentials must be made by grpc.ssl_server_credentials")
        if batching is not None:
            self._options = replace(
                self._options, manager=replace(self._options.manager, batching=batching)
            )
        bare_ipv6 = ":" in host and not host.startswith("[")
        self._bound_host = f"[{host}]" if bare_ipv6 else host
        self._wanted_port = port
        self._wanted_rest_port = rest_api_port
        self._max_message_bytes = max_message_bytes
        self._credentials = credentials
        self._core: Core | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_wanted: asyncio.Future[float] | None = None
        self._ports: _Ports | None = None
        self._dropped = 0

    @property
    def model_name(self) -> str:
        """What requests call the model, or the first of them."""
        return self._models[0].name

    @property
    def port(self) -> int:
        """The port that is open for gRPC.

        Raises:
            ConfigError: the server is not running.
        """
        return self._running().grpc

    @property
    def rest_port(self) -> int:
        """The port that is open for REST.

        Raises:
            ConfigError: the server is not running, or has none.
        """
        port = self._running().rest
        if port is None:
            raise ConfigError("the server has no REST port: give it a rest_api_port")
        return port

    @property
    def address(self) -> str:
        """What a client on this machine connects to, such as ``127.0.0.1:8500``."""
        return f"{_LOCAL_NAMES.get(self._bound_host, self._bound_host)}:{self.port}"

    @property
    def url(self) -> str:
        """Where the page and the REST API are, such as ``http://127.0.0.1:8501``."""
        host = _LOCAL_NAMES.get(self._bound_host, self._bound_host)
        return f"http://{host}:{self.rest_port}"

    @property
    def version(self) -> int:
        """The latest version of the (first) model that is served.

        Raises:
            ConfigError: the server is not running.
        """
        self._running()
        assert self._core is not None
        return max(self._core.registry.served(self.model_name), default=0)

    @property
    def served(self) -> str:
        """What is served, in words: ``pets version 3, flowers versions 1 and 2``.

        Raises:
            ConfigError: the server is not running.
        """
        self._running()
        assert self._core is not None
        registry = self._core.registry
        parts = []
        for name in registry.names():
            versions = [str(version) for version in sorted(registry.served(name))]
            if not versions:
                continue
            plural = "s" if len(versions) > 1 else ""
            parts.append(f"{name} version{plural} {' and '.join(versions)}")
        return ", ".join(parts)

    def start(self) -> None:
        """Load and warm up the models, open the ports; return when requests can come.

        Raises:
            ConfigError: a folder holds no model that can be loaded, the warm-up fails, or an
                address is taken or not this machine's, which is looked at first.
        """
        if self._thread is not None:
            raise ConfigError("the server is running already")
        _check_free(self._bound_host, self._wanted_port)
        if self._wanted_rest_port is not None:
            _check_free(self._bound_host, self._wanted_rest_port)
        for model in self._models:
            latest_version(model.base_path, lite=self._options.manager.prefer_lite)
        opened: Future[_Ports] = Future()
        self._thread = threading.Thread(
            target=self._live, args=(opened,), name="keras_cls-server", daemon=True
        )
        self._thread.start()
        try:
            self._ports = opened.result()
        except BaseException:
            # The caller may have been interrupted while the models are still being loaded.
            opened.add_done_callback(lambda _: self._abandon())
            self._thread.join()
            self._thread = None
            raise

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
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._note_stop, grace)
        self._thread.join()
        self._thread = self._ports = self._core = None
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

    def _wanted_models(
        self, base_path: str | PathLike[str] | None, model_name: str | None
    ) -> list[ModelSettings]:
        config_file = self._options.model_config_file
        if config_file is not None:
            if base_path is not None:
                raise ConfigError("give base_path or a model config file, not both")
            models = read_model_config(config_file)
            if not models:
                raise ConfigError(f"{config_file}: it lists no model")
            return models
        try:
            path = Path(base_path)  # type: ignore[arg-type]
        except TypeError as error:
            raise ConfigError(f"base_path must be a path, not {base_path!r}") from error
        if not isinstance(model_name, str | None):
            raise ConfigError(f"model_name must be a string, not {model_name!r}")
        name = model_name or path.resolve().name
        if not name:
            raise ConfigError(f"{path}: give a model_name; this folder has no name")
        return [ModelSettings(name, path)]

    def _running(self) -> "_Ports":
        if self._ports is None:
            raise ConfigError("the server is not running: call start() first")
        return self._ports

    def _note_stop(self, grace: float) -> None:
        assert self._stop_wanted is not None
        if not self._stop_wanted.done():
            self._stop_wanted.set_result(grace)

    def _abandon(self) -> None:
        """Stop at once, if it came up at all."""
        with suppress(RuntimeError):  # the loop is closed
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._note_stop, 0.0)

    def _live(self, opened: "Future[_Ports]") -> None:
        """In a thread of its own; whoever waits for ``opened`` is told what went wrong."""
        try:
            asyncio.run(self._serve(opened))
        except BaseException as error:
            if opened.done():
                _LOG.exception("the server has ended")
            else:
                opened.set_exception(error)

    async def _serve(self, opened: "Future[_Ports]") -> None:
        """The server's life, on the event loop of its thread."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(exhaustion_handler())
        self._stop_wanted = self._loop.create_future()
        metrics = Metrics()
        metrics.set_build_info(__version__, tf.__version__)
        manager = Manager(self._options.manager, metrics)
        self._core = core = Core(
            manager,
            metrics,
            content=self._options.tensor_content,
            check_method=self._options.check_method,
        )
        server = self._grpc_server()
        health_service = health.aio.HealthServicer()
        runner: web.AppRunner | None = None
        try:
            await manager.configure(self._models)
            server.add_generic_rpc_handlers(service_handlers(core))
            health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
            _enable_reflection(server)
            port = self._open_port(server)
            await _tell_health(health_service, core.ready)
            await server.start()
            rest_port = None
            if self._wanted_rest_port is not None:
                runner = self._rest_runner(core, port)
                rest_port = await self._open_rest(runner)
        except BaseException as error:
            await server.stop(None)
            if runner is not None:
                await runner.cleanup()
            await manager.close()
            # The futures of requests are not asked for any more.
            known = ConfigError(error.message) if isinstance(error, RequestError) else error
            opened.set_exception(known)
            return
        opened.set_result(_Ports(port, rest_port))
        watchers = [
            asyncio.create_task(manager.watch()),
            asyncio.create_task(_follow_readiness(core, health_service)),
            asyncio.create_task(self._follow_config(manager)),
        ]
        grace = await self._stop_wanted
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        core.announce_end()
        await health_service.enter_graceful_shutdown()
        self._dropped = await core.drain(grace)
        if self._dropped:
            _LOG.warning("requests still in flight after %g s, dropped: %d", grace, self._dropped)
        await manager.close()
        if runner is not None:
            await runner.cleanup()
        await server.stop(_STREAM_GRACE)
        # Otherwise the end of the loop would cancel calls that are just ending, and gRPC log it.
        if ending := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(ending, timeout=_STREAM_GRACE)

    async def _follow_config(self, manager: Manager) -> None:
        """Serve what the model config file lists, whenever it changes."""
        pause, file = self._options.config_poll_seconds, self._options.model_config_file
        served, said = self._models, ""
        while file is not None and pause > 0:
            await asyncio.sleep(pause)
            try:
                wanted = await asyncio.to_thread(read_model_config, file)
                if wanted != served:
                    # What fails, such as a label for a version that is not loaded yet, is tried
                    # again each time.
                    await manager.configure(wanted)
                    served = wanted
                said = ""
            except (ConfigError, RequestError) as error:
                if str(error) != said:
                    said = str(error)
                    _LOG.error("%s: %s; tried again every %g s", file, error, pause)

    def _rest_runner(self, core: Core, grpc_port: int) -> web.AppRunner:
        rest = self._options.rest
        state = page_state(core, rest, f"{self._bound_host}:{grpc_port}")
        return rest_runner(rest_app(core, rest, page_routes(state)))

    async def _open_rest(self, runner: web.AppRunner) -> int:
        await runner.setup()
        host = self._bound_host.strip("[]")
        site = web.TCPSite(runner, host, self._wanted_rest_port, reuse_port=False)
        try:
            await site.start()
        except OSError as error:
            reason = _BIND_ERRORS.get(error.errno or 0) or str(error)
            raise ConfigError(
                f"cannot listen on {self._bound_host}:{self._wanted_rest_port}: {reason}"
            ) from error
        return int(runner.addresses[0][1])

    def _grpc_server(self) -> "GrpcServer | grpc.aio.Server":
        """Our own where it can do what is asked for: it costs a fraction of gRPC's."""
        if self._credentials is None and not self._options.channel_arguments:
            return GrpcServer(Limits(message_bytes=self._max_message_bytes))
        return grpc.aio.server(options=self._channel_options())

    def _open_port(self, server: "GrpcServer | grpc.aio.Server") -> int:
        if self._options.socket_path:
            _open_socket(server, self._options.socket_path)
        address = f"{self._bound_host}:{self._wanted_port}"
        try:
            if not isinstance(server, GrpcServer) and self._credentials is not None:
                return server.add_secure_port(address, self._credentials)
            return server.add_insecure_port(address)
        except RuntimeError as error:
            tls = "are the TLS key and certificate PEM files, and a pair?"
            reason = error if self._credentials is None else tls
            raise ConfigError(f"cannot listen on {address}: {reason}") from error

    def _channel_options(self) -> list[tuple[str, int | str]]:
        return [
            ("grpc.max_receive_message_length", self._max_message_bytes),
            ("grpc.max_send_message_length", UNLIMITED),
            # With it, a second server would share the port of the first without a word.
            ("grpc.so_reuseport", 0),
            *self._options.channel_arguments,
        ]


@dataclass(frozen=True, slots=True)
class _Ports:
    grpc: int
    rest: int | None


def _open_socket(server: GrpcServer | grpc.aio.Server, path: str) -> None:
    """Listen on a Unix socket; what a server that was killed left there is taken over."""
    reason = _who_has_socket(path)
    if not reason:
        try:
            server.add_insecure_port(f"unix:{path}")
            return
        except RuntimeError:
            reason = "is its folder there?"
    raise ConfigError(f"cannot listen on the socket {path}: {reason}")


def _who_has_socket(path: str) -> str:
    """Why a socket cannot be opened: gRPC would take it from whoever has it. "" if it is free."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
            return "another program listens there"
        except FileNotFoundError:
            return ""
        except ConnectionRefusedError:
            return "" if Path(path).is_socket() else "a file is there already"
        except (OSError, ValueError) as error:
            return str(error).lower()


def _enable_reflection(server: GrpcServer | grpc.aio.Server) -> None:
    for described in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        POOL.AddSerializedFile(described.serialized_pb)
    names = [PREDICTION_SERVICE, MODEL_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME]
    servicer = reflection.aio.ReflectionServicer(names, pool=POOL)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)


async def _tell_health(service: health.aio.HealthServicer, ready: bool) -> None:
    kinds = health_pb2.HealthCheckResponse
    for name in _HEALTH_NAMES:
        await service.set(name, kinds.SERVING if ready else kinds.NOT_SERVING)


async def _follow_readiness(core: Core, service: health.aio.HealthServicer) -> None:
    """Let the health service say what is so."""
    told = core.ready
    while True:
        await asyncio.sleep(_READINESS_POLL)
        if core.ready != told:
            told = core.ready
            await _tell_health(service, told)


def serve(
    base_path: str | PathLike[str] | None = None,
    *,
    model_name: str | None = None,
    host: str = "0.0.0.0",
    port: int = 8500,
    rest_api_port: int | None = None,
    batching: BatchingOptions | None = None,
    max_message_bytes: int = UNLIMITED,
    credentials: grpc.ServerCredentials | None = None,
    options: ServerOptions | None = None,
    grace: float = 10.0,
) -> None:
    """Serve models until SIGINT or SIGTERM, from the main thread; then return.

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
        rest_api_port=rest_api_port,
        batching=batching,
        max_message_bytes=max_message_bytes,
        credentials=credentials,
        options=options,
    )
    allow_many_files()
    # What TensorFlow's import made stays: collecting garbage after each swap of versions, which
    # holds everything up, need not look at it.
    gc.collect()
    gc.freeze()
    with _stop_signals() as signalled:
        server.start()
        _say(f"serving {server.served} on {host}:{server.port}")
        if rest_api_port is not None:
            _say(f"REST API and page on {server.url}")
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
