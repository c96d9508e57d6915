"""TensorFlow Serving's gRPC services: what each call does, and how a refusal is told."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias

import grpc
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from keras_cls.contract.messages import (
    MODEL_SERVICE,
    PREDICTION_SERVICE,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    Message,
    PredictRequest,
)
from keras_cls.server.predict import build_predict_response, read_predict_request
from keras_cls.server.registry import Registry
from keras_cls.server.status import Code, RequestError

_LOG = logging.getLogger(__name__)
_MAX_ERROR_CHARACTERS = 1024
_SIGNATURE_DEF = "signature_def"
_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}

Answer: TypeAlias = Callable[[Message, float], Awaitable[Message]]


class Services:
    """The calls of PredictionService and ModelService on a registry of models.

    Once :meth:`drain` has been called, new predictions are refused with UNAVAILABLE while those
    already begun go on; questions about the server's state are answered to the end.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._in_flight = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def drain(self, grace: float) -> int:
        """Refuse new predictions; wait at most ``grace`` seconds for those in flight.

        Returns:
            How many are still in flight.
        """
        self._draining = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace)
        return self._in_flight

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """What ``grpc.aio.Server.add_generic_rpc_handlers`` takes."""
        prediction_methods = {
            "Predict": _unary(PredictRequest, self._counted(self.predict)),
            "GetModelMetadata": _unary(GetModelMetadataRequest, self.get_model_metadata),
        }
        model_methods = {"GetModelStatus": _unary(GetModelStatusRequest, self.get_model_status)}
        return (
            grpc.method_handlers_generic_handler(PREDICTION_SERVICE, prediction_methods),
            grpc.method_handlers_generic_handler(MODEL_SERVICE, model_methods),
        )

    async def predict(self, request: Message, deadline: float) -> Message:
        """``PredictRequest`` to ``PredictResponse``."""
        _require_model_spec(request)
        served = self._registry.find(request.model_spec)
        call = read_predict_request(request, served.model.signatures)
        outputs = await served.batcher.run(call, deadline)
        return build_predict_response(request, served.model.version, call, outputs)

    async def get_model_metadata(self, request: Message, _deadline: float) -> Message:
        """``GetModelMetadataRequest`` to ``GetModelMetadataResponse``: the signatures."""
        _require_model_spec(request)
        if not request.metadata_field:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                "GetModelMetadataRequest must specify at least one metadata_field",
            )
        for name in request.metadata_field:
            if name != _SIGNATURE_DEF:
                raise RequestError(Code.INVALID_ARGUMENT, f"Metadata field {name} is not supported")
        model = self._registry.find(request.model_spec).model
        response = GetModelMetadataResponse()
        response.model_spec.name = model.name
        response.model_spec.version.value = model.version
        response.metadata[_SIGNATURE_DEF].Pack(model.signature_defs)
        return response

    async def get_model_status(self, request: Message, _deadline: float) -> Message:
        """``GetModelStatusRequest`` to ``GetModelStatusResponse``."""
        _require_model_spec(request)
        response = GetModelStatusResponse()
        for version, state in self._registry.states(request.model_spec).items():
            entry = response.model_version_status.add(version=version, state=int(state))
            entry.status.SetInParent()  # error code OK, no message
        return response

    def _counted(self, answer: Answer) -> Answer:
        """Refuse when draining; count what is in flight otherwise."""

        async def counted(request: Message, deadline: float) -> Message:
            if self._draining:
                raise RequestError(Code.UNAVAILABLE, "The server is shutting down")
            self._in_flight += 1
            self._idle.clear()
            try:
                return await answer(request, deadline)
            finally:
                self._in_flight -= 1
                if not self._in_flight:
                    self._idle.set()

        return counted


def _require_model_spec(request: Message) -> None:
    if not request.HasField("model_spec"):
        raise RequestError(Code.INVALID_ARGUMENT, "Missing ModelSpec")


def _unary(request_type: Message, answer: Answer) -> grpc.RpcMethodHandler:
    """A gRPC method that parses its own request, so that garbage is the sender's fault."""

    async def handle(payload: bytes, context: grpc.aio.ServicerContext) -> bytes:
        remaining = context.time_remaining()
        deadline = math.inf if remaining is None else time.monotonic() + remaining
        try:
            response = await answer(_parse(request_type, payload), deadline)
            return response.SerializeToString()
        except RequestError as error:
            refusal = error
        except Exception as error:
            _LOG.exception("%s failed", request_type.DESCRIPTOR.full_name)
            refusal = RequestError(Code.INTERNAL, f"{type(error).__name__}: {error}")
        await context.abort(_GRPC_CODES[refusal.code], _truncated(refusal.message))
        raise AssertionError("abort raises")

    return grpc.unary_unary_rpc_method_handler(handle)


def _parse(request_type: Message, payload: bytes) -> Message:
    try:
        return request_type.FromString(payload)
    except DecodeError as error:
        name = request_type.DESCRIPTOR.full_name
        raise RequestError(Code.INVALID_ARGUMENT, f"the request is no {name} message") from error


def _truncated(message: str) -> str:
    if len(message) <= _MAX_ERROR_CHARACTERS:
        return message
    return message[:_MAX_ERROR_CHARACTERS] + "...TRUNCATED"
