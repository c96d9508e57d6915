"""A call that is repeated while services are unavailable, as steps for somebody to carry out.

A generator of steps hands out a :class:`Send` or a :class:`Pause`, and is given the response, or
the ``grpc.RpcError``, that came of it. So one and the same code runs on threads and on event loops.
"""

import itertools
import random
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import grpc

from keras_cls.client.settings import Settings
from keras_cls.contract.messages import (
    MODEL_SERVICE,
    PREDICTION_SERVICE,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    Message,
    PredictRequest,
    PredictResponse,
)
from keras_cls.errors import ServingError

TOO_MANY_IMAGES = "is larger than maximum input batch size"
"""What TensorFlow Serving says, and our server too, of more rows than one batch may have."""

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0
_LAST_TRY = 0.1  # the share of the timeout that is left for the last call


@dataclass(frozen=True, slots=True)
class Method:
    """A remote procedure: its path, and the classes of its messages."""

    path: str
    request: Any
    response: Any


PREDICT = Method(f"/{PREDICTION_SERVICE}/Predict", PredictRequest, PredictResponse)
GET_METADATA = Method(
    f"/{PREDICTION_SERVICE}/GetModelMetadata", GetModelMetadataRequest, GetModelMetadataResponse
)
GET_STATUS = Method(
    f"/{MODEL_SERVICE}/GetModelStatus", GetModelStatusRequest, GetModelStatusResponse
)
METHODS = (PREDICT, GET_METADATA, GET_STATUS)


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request to the address of that place in the list, and wait for the response."""

    place: int
    method: Method
    request: Message
    timeout: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait."""

    seconds: float


Result = TypeVar("Result")
Steps: TypeAlias = Generator[Send | Pause, Any, Result]


def call(method: Method, request: Message, settings: Settings, first: int) -> Steps[Message]:
    """Call, and call again while there is time and no service is available.

    All addresses are tried, one after the other, before a pause is made; they count as one try.

    Args:
        method: what to call.
        request: with what.
        settings: whom to call, how often and for how long.
        first: the place of the address to begin with.

    Raises:
        ServingError: a service refused, or none could be reached.
    """
    deadline = time.monotonic() + settings.timeout
    count = len(settings.addresses)
    for attempt in itertools.count():
        for turn in range(count):
            place = (first + turn) % count
            try:
                return (yield Send(place, method, request, max(deadline - time.monotonic(), 0.001)))
            except grpc.RpcError as error:
                left = deadline - _LAST_TRY * settings.timeout - time.monotonic()
                is_last = turn == count - 1 and attempt == settings.retries
                is_unavailable = error.code() is grpc.StatusCode.UNAVAILABLE
                if not is_unavailable or is_last or left <= 0:
                    raise _serving_error(error, settings.addresses[place], settings) from error
        yield Pause(min(pause_before_retry(attempt), left))
    raise AssertionError("the loop returns or raises")


def pause_before_retry(attempt: int) -> float:
    """Seconds: twice as long each time, and spread, so that not all clients come back at once."""
    doubled = _FIRST_PAUSE * 2 ** min(attempt, 10)
    return min(doubled, _LONGEST_PAUSE) * random.uniform(0.5, 1.0)


def _serving_error(error: grpc.RpcError, address: str, settings: Settings) -> ServingError:
    code, details = error.code(), error.details() or ""
    message = f"{address}: {code.name}: {details}"
    advice = _advice(code, details, settings)
    return ServingError(f"{message} ({advice})" if advice else message, code.name)


def _advice(code: grpc.StatusCode, details: str, settings: Settings) -> str:
    if code is grpc.StatusCode.UNAVAILABLE:
        where = " or ".join(settings.addresses)
        return f"is the server running at {where}, and not overloaded?"
    if code is grpc.StatusCode.NOT_FOUND:
        version = "" if settings.version is None else f", version {settings.version}"
        return f"does the server have a model named {settings.model!r}{version}?"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {settings.timeout:g} seconds; timeout= allows more"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return "this is not a TensorFlow Serving API; is it the gRPC port?"
    if TOO_MANY_IMAGES in details:
        return "images_per_call= sends fewer at once"
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        return "is the model exported by keras_cls? Its signatures are needed"
    return ""
