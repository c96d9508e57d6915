"""TensorFlow Serving's gRPC services on :class:`Core`, and how a refusal is told."""

import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import grpc
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from keras_cls.contract.messages import (
    MODEL_SERVICE,
    PREDICTION_SERVICE,
    ClassificationRequest,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    Message,
    MultiInferenceRequest,
    PredictRequest,
    RegressionRequest,
    ReloadConfigRequest,
)
from keras_cls.server.core import Core, Recorded
from keras_cls.server.status import Code, RequestError

_LOG = logging.getLogger(__name__)
_MAX_ERROR_BYTES = 1024
_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}

Answer: TypeAlias = Callable[[Message, float], Awaitable[Message]]
Prediction: TypeAlias = Callable[[Message, float, Recorded], Awaitable[Message]]


def service_handlers(core: Core) -> tuple[grpc.GenericRpcHandler, ...]:
    """What ``grpc.aio.Server.add_generic_rpc_handlers`` takes."""

    def prediction(request_type: Message, api: str, answer: Prediction) -> grpc.RpcMethodHandler:
        async def recorded(request: Message, deadline: float) -> Message:
            with core.recorded(api, "GRPC") as record:
                return await answer(request, deadline, record)

        return _unary(request_type, recorded)

    prediction_methods = {
        "Predict": prediction(PredictRequest, "Predict", core.predict),
        "Classify": prediction(ClassificationRequest, "Classify", core.classify),
        "Regress": prediction(RegressionRequest, "Regress", core.regress),
        "MultiInference": prediction(MultiInferenceRequest, "MultiInference", core.multi_inference),
        "GetModelMetadata": _unary(GetModelMetadataRequest, core.get_model_metadata),
    }
    model_methods = {
        "GetModelStatus": _unary(GetModelStatusRequest, core.get_model_status),
        "HandleReloadConfigRequest": _unary(ReloadConfigRequest, core.reload_config),
    }
    return (
        grpc.method_handlers_generic_handler(PREDICTION_SERVICE, prediction_methods),
        grpc.method_handlers_generic_handler(MODEL_SERVICE, model_methods),
    )


def _unary(request_type: Message, answer: Answer) -> grpc.RpcMethodHandler:
    """A gRPC method that parses its own request, so that garbage is the sender's fault."""

    async def handle(payload: bytes, context: grpc.aio.ServicerContext) -> bytes:
        remaining = context.time_remaining()
        deadline = math.inf if remaining is None else time.monotonic() + remaining
        try:
            response = await answer(_parse(request_type, payload), deadline)
            return response.SerializeToString()
        except RequestError as error:
            code, message = error.code, error.message
        except Exception as error:
            _LOG.exception("%s failed", request_type.DESCRIPTOR.full_name)
            code, message = Code.INTERNAL, f"{type(error).__name__}: {error}"
        # gRPC keeps what abort raises, with this frame, until Python looks for cycles: without
        # this, refused requests would pile up.
        del payload
        await context.abort(_GRPC_CODES[code], _truncated(message))
        raise AssertionError("abort raises")

    return grpc.unary_unary_rpc_method_handler(handle)


def _parse(request_type: Message, payload: bytes) -> Message:
    try:
        return request_type.FromString(payload)
    except DecodeError as error:
        name = request_type.DESCRIPTOR.full_name
        raise RequestError(Code.INVALID_ARGUMENT, f"the request is no {name} message") from error


def _truncated(message: str) -> str:
    """As the original counts: longer ones, in bytes, would not fit into gRPC's metadata."""
    encoded = message.encode(errors="replace")
    if len(encoded) <= _MAX_ERROR_BYTES:
        return encoded.decode()
    return encoded[:_MAX_ERROR_BYTES].decode(errors="ignore") + "...TRUNCATED"
