"""TensorFlow Serving's REST API on an aiohttp application.

Routes, codes and texts are the original's. Beyond it there are limits on bodies (also on what a
compressed one inflates to), on nesting and on time, ``/healthz`` and ``/readyz``.
"""

import asyncio
import json
import logging
import math
import re
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import unquote_to_bytes

import numpy as np
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, PayloadEncodingError
from google.protobuf import json_format  # type: ignore[import-untyped]

from keras_cls.contract import SIGNATURE_DEFAULT
from keras_cls.contract.messages import (
    ClassificationRequest,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    Message,
    ModelSpec,
    RegressionRequest,
    SignatureDefMap,
)
from keras_cls.errors import ConfigError
from keras_cls.server.arguments import check_whole
from keras_cls.server.core import Core, Recorded
from keras_cls.server.json_answers import (
    write_classification_result,
    write_error,
    write_regression_result,
    write_tensors,
)
from keras_cls.server.json_document import MAX_DEPTH, parse_document, signature_name
from keras_cls.server.json_tensors import read_examples, read_tensors
from keras_cls.server.loading import ServableModel
from keras_cls.server.predict import call_with_arrays
from keras_cls.server.signatures import Signature
from keras_cls.server.status import Code, RequestError

_LOG = logging.getLogger(__name__)

Result = TypeVar("Result")

DEFAULT_MAX_BODY_BYTES = 64 << 20
_LARGEST_VERSION = (1 << 63) - 1
_INFLATED_IN_A_THREAD = 1 << 16
# More than that is read or written in a thread: it takes up to a quarter of a second a megabyte, in
# which nobody else would be answered, not even the probe of who would restart the server then.
_LARGE_BODY = 1 << 20
_MANY_VALUES = 1 << 17
# A connection may be silent for so long, between requests and in the middle of a request's head.
_IDLE_SECONDS = 75.0
# At the end all answers have been given; who is still sending a request will not get one.
_SHUTDOWN_SECONDS = 1.0
_GZIP = zlib.MAX_WBITS | 16
_VERSION = r"(?:/versions/(\d+)|/labels/([^/:]+))?"
_MODEL_CALL = re.compile(
    rf"/v1/models/([^/:]+){_VERSION}:(classify|regress|predict)", re.IGNORECASE | re.ASCII
)
_MODEL_QUESTION = re.compile(
    rf"/v1/models(?:/([^/:]+))?{_VERSION}(/metadata)?", re.IGNORECASE | re.ASCII
)
_WEB_ORIGIN = re.compile(r"https?://")
_CORS_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}
_NOT_FOUND_PAGE = (
    "<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n"
    "</BODY></HTML>\n"
)
_HTTP_STATUS = {
    Code.CANCELLED: 499,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}


@dataclass(frozen=True, slots=True)
class RestSettings:
    """How the REST API behaves.

    Attributes:
        timeout_in_ms: how long a request may take, first to arrive and then to be answered; 0 or
            less for ever.
        enable_cors: let pages of other origins ask, as ``--rest_api_enable_cors_support`` does.
        metrics_path: where the page for Prometheus is; None for none.
        max_body_bytes: the largest body, after it has been inflated if it came compressed.
        max_depth: how deeply lists and objects of a body may be nested, 1 to 64.
    """

    timeout_in_ms: int = 30_000
    enable_cors: bool = False
    metrics_path: str | None = None
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    max_depth: int = MAX_DEPTH

    def __post_init__(self) -> None:
        check_whole("timeout_in_ms", self.timeout_in_ms, -(1 << 63))
        check_whole("max_body_bytes", self.max_body_bytes, 1)
        check_whole("max_depth", self.max_depth, 1, MAX_DEPTH)
        if self.metrics_path is not None and not self.metrics_path.startswith("/"):
            raise ConfigError(f"metrics_path must begin with /, not be {self.metrics_path!r}")

    @property
    def seconds(self) -> float | None:
        """The timeout as asyncio takes it."""
        return self.timeout_in_ms / 1000 if self.timeout_in_ms > 0 else None


def rest_app(
    core: Core,
    settings: RestSettings | None = None,
    extra_routes: Iterable[web.AbstractRouteDef] = (),
) -> web.Application:
    """The application; :func:`rest_runner` knows how it must be run.

    Args:
        core: what answers; its coroutines are called on the application's event loop.
        settings: limits and options.
        extra_routes: other pages, which come before all that is here.
    """
    api = _RestApi(core, settings or RestSettings())
    app = web.Application()
    app.add_routes(extra_routes)
    app.router.add_get("/healthz", api.health)
    app.router.add_get("/readyz", api.readiness)
    if api.settings.metrics_path is not None:
        app.router.add_get(api.settings.metrics_path, api.metrics_page)
    app.router.add_route("*", "/{path:.*}", api.answer)
    return app


def rest_runner(app: web.Application) -> web.AppRunner:
    """How the application must be run.

    aiohttp would inflate bodies without a limit, and go on with what nobody waits for any more.
    """
    return web.AppRunner(
        app,
        logger=_HTTP_LOG,
        auto_decompress=False,
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=_IDLE_SECONDS,
        shutdown_timeout=_SHUTDOWN_SECONDS,
    )


def _is_our_concern(record: logging.LogRecord) -> bool:
    """aiohttp logs the stack for each request that is no HTTP, although it answers it with 400."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_HTTP_LOG = logging.getLogger(f"{__name__}.http")
_HTTP_LOG.addFilter(_is_our_concern)


class _HttpError(Exception):
    """A refusal for which gRPC has no code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class _RestApi:
    core: Core
    settings: RestSettings
    # One thread: what is read takes up to twenty times the room of its body.
    _large: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, "keras_cls-json")
    )

    async def health(self, _request: web.Request) -> web.Response:
        """Whether the process answers at all."""
        return web.Response(text="ok\n")

    async def readiness(self, _request: web.Request) -> web.Response:
        """Whether models can be asked."""
        if self.core.ready:
            return web.Response(text="ready\n")
        return web.Response(status=503, text="not ready\n")

    async def metrics_page(self, _request: web.Request) -> web.Response:
        """The page for Prometheus."""
        content_type = "text/plain; version=0.0.4; charset=utf-8"
        return web.Response(body=self.core.metrics_text(), headers={"Content-Type": content_type})

    async def answer(self, request: web.Request) -> web.Response:
        """All other paths: the API's, and those that nobody knows."""
        if not request.rel_url.raw_path.lower().startswith("/v1/"):
            return web.Response(status=404, text=_NOT_FOUND_PAGE, content_type="text/html")
        headers = {"Content-Type": "application/json"}
        if self.settings.enable_cors:
            headers |= _CORS_HEADERS
        status, body = await self._answer_or_refuse(request)
        return web.Response(status=status, body=body, headers=headers)

    async def _answer_or_refuse(self, request: web.Request) -> tuple[int, bytes]:
        try:
            return 200, await self._answer_api(request)
        except RequestError as error:
            return _HTTP_STATUS.get(error.code, 500), write_error(error.message)
        except _HttpError as refusal:
            return refusal.status, write_error(refusal.message)
        except Exception as error:
            _LOG.exception("%s %s failed", request.method, request.rel_url.raw_path)
            return 500, write_error(f"{type(error).__name__}: {error}")

    async def _answer_api(self, request: web.Request) -> bytes:
        path = request.rel_url.raw_path
        if request.method == "OPTIONS" and self.settings.enable_cors:
            if not _WEB_ORIGIN.match(request.headers.get("Origin", "")):
                raise RequestError(
                    Code.FAILED_PRECONDITION, "Origin header is missing in CORS preflight"
                )
            return b""
        if request.method == "POST" and (found := _MODEL_CALL.fullmatch(path)):
            spec = _model_spec(*found.groups()[:3])
            return await self._call(found[4].lower(), spec, request)
        if request.method == "GET" and (found := _MODEL_QUESTION.fullmatch(path)):
            if not found[1]:
                raise RequestError(Code.INVALID_ARGUMENT, "Missing model name in request.")
            spec = _model_spec(*found.groups()[:3])
            return await (self._metadata(spec) if found[4] else self._status(spec))
        raise RequestError(
            Code.INVALID_ARGUMENT,
            f"Malformed request: {request.method} {request.rel_url.raw_path_qs}",
        )

    async def _call(self, api: str, spec: Message, request: web.Request) -> bytes:
        """Classify, regress or predict, in time."""
        answers: dict[str, Callable[[Message, bytes, float, Recorded], Awaitable[bytes]]] = {
            "predict": self._predict,
            "classify": self._classify,
            "regress": self._regress,
        }
        seconds = self.settings.seconds
        try:
            async with asyncio.timeout(seconds):
                body = await _read_body(request, self.settings.max_body_bytes)
        except TimeoutError as error:
            raise _HttpError(
                408, f"The request's body did not arrive within {self.settings.timeout_in_ms} ms"
            ) from error
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        with self.core.recorded(api.capitalize(), "REST") as record:
            try:
                async with asyncio.timeout(seconds):
                    return await answers[api](spec, body, deadline, record)
            except TimeoutError as error:
                raise RequestError(
                    Code.DEADLINE_EXCEEDED, "Timed out waiting for notification"
                ) from error

    async def _predict(
        self, spec: Message, body: bytes, deadline: float, record: Recorded
    ) -> bytes:
        is_large = len(body) > _LARGE_BODY
        document = await self._done(is_large, parse_document, body, self.settings.max_depth)
        name = signature_name(document) or SIGNATURE_DEFAULT
        with self.core.serving(spec) as served:
            record.means(served.model)
            signature = _find_signature(served.model, name)
            record.means(served.model, name)
            layout, arrays = await self._done(is_large, read_tensors, document, signature.inputs)
            call = call_with_arrays(signature, arrays)
            del document  # it may be large, and the run may take long
            outputs = await self.core.run(served, call, deadline)
        wanted = {alias: outputs[alias] for alias in call.outputs}
        return await self._done(_values(wanted) > _MANY_VALUES, write_tensors, wanted, layout)

    async def _classify(
        self, spec: Message, body: bytes, deadline: float, record: Recorded
    ) -> bytes:
        request = ClassificationRequest(model_spec=spec)
        await self._done(len(body) > _LARGE_BODY, self._read_examples, body, request)
        response = await self.core.classify(request, deadline, record)
        return write_classification_result(response.result)

    async def _regress(
        self, spec: Message, body: bytes, deadline: float, record: Recorded
    ) -> bytes:
        request = RegressionRequest(model_spec=spec)
        await self._done(len(body) > _LARGE_BODY, self._read_examples, body, request)
        response = await self.core.regress(request, deadline, record)
        return write_regression_result(response.result)

    def _read_examples(self, body: bytes, request: Message) -> None:
        document = parse_document(body, self.settings.max_depth)
        request.model_spec.signature_name = signature_name(document)
        read_examples(document, request)

    async def _done(
        self, is_large: bool, work: Callable[..., Result], *arguments: object
    ) -> Result:
        """What comes of some work, which is done at once unless it is large."""
        if not is_large:
            return work(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._large, work, *arguments)

    async def _status(self, spec: Message) -> bytes:
        request = GetModelStatusRequest(model_spec=spec)
        return _message_text(await self.core.get_model_status(request, math.inf))

    async def _metadata(self, spec: Message) -> bytes:
        request = GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
        response = await self.core.get_model_metadata(request, math.inf)
        signatures = SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return b'{\n"model_spec":%b,\n"metadata": {"signature_def": %b}\n}\n' % (
            _message_text(response.model_spec),
            _message_text(signatures),
        )


def _find_signature(model: ServableModel, name: str) -> Signature:
    signature = model.signatures.get(name)
    if signature is not None and signature.inputs:
        return signature
    if name in model.signature_defs.signature_def:
        message = f"Failed to get input map for signature: {name}"
    else:
        message = f'Serving signature name: "{name}" not found in signature def'
    raise RequestError(Code.INVALID_ARGUMENT, message)


def _values(outputs: Mapping[str, np.ndarray]) -> int:
    return sum(array.size for array in outputs.values())


def _model_spec(name: str, version: str | None, label: str | None) -> Message:
    """The ``ModelSpec`` that a path means."""
    spec = ModelSpec(name=_decoded(name, "model name"))
    if version is not None:
        digits = version.lstrip("0") or "0"
        if len(digits) > len(str(_LARGEST_VERSION)) or int(digits) > _LARGEST_VERSION:
            raise RequestError(
                Code.INVALID_ARGUMENT, f"Failed to convert version: {version} to numeric."
            )
        spec.version.value = int(digits)
    if label is not None:
        spec.version_label = _decoded(label, "model version label")
    return spec


def _decoded(argument: str, what: str) -> str:
    try:
        return unquote_to_bytes(argument).decode()
    except UnicodeDecodeError as error:
        raise RequestError(Code.INVALID_ARGUMENT, f"Failed to decode {what}:{argument}") from error


def _message_text(message: Message) -> bytes:
    """A message as protobuf's JSON, with the fields' own names and those of no value."""
    fields = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return (json.dumps(fields, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace")


async def _read_body(request: web.Request, limit: int) -> bytes:
    """The request's body, inflated.

    Raises:
        RequestError: INVALID_ARGUMENT: it is no gzip although its header says so, or it cannot be
            read.
        _HttpError: it is too large, before or after inflating, or compressed in another way.
    """
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity") and "gzip" not in encoding:
        raise _HttpError(
            415, f"Content-Encoding {encoding} is not supported: send the body as it is, or in gzip"
        )
    body = bytearray()
    try:
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > limit:
                raise _too_large(limit)
    except (web.RequestPayloadError, PayloadEncodingError) as error:
        raise RequestError(
            Code.INVALID_ARGUMENT, f"The request's body cannot be read: {error}"
        ) from error
    if "gzip" not in encoding:
        return bytes(body)
    if len(body) < _INFLATED_IN_A_THREAD:
        return _inflate(body, limit)
    return await asyncio.to_thread(_inflate, body, limit)


def _inflate(compressed: bytes | bytearray, limit: int) -> bytes:
    """Undo gzip; never more than ``limit`` bytes come into being."""
    inflater = zlib.decompressobj(_GZIP)
    try:
        body = inflater.decompress(compressed, limit + 1)
    except zlib.error as error:
        raise RequestError(
            Code.INVALID_ARGUMENT,
            f"The request's body is no gzip, as its Content-Encoding says: {error}",
        ) from error
    if len(body) > limit:
        raise _too_large(limit)
    if not inflater.eof or inflater.unused_data:
        where = "goes on behind its end" if inflater.eof else "ends early"
        raise RequestError(Code.INVALID_ARGUMENT, f"The gzip of the request's body {where}")
    return body


def _too_large(limit: int) -> _HttpError:
    return _HttpError(
        413, f"The request's body is larger than {limit} bytes, the most that this server takes"
    )
