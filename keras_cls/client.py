"""Ask a prediction service, ours or TensorFlow Serving, about images. Needs no TensorFlow."""

import itertools
import math
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from numbers import Integral, Real
from os import PathLike, fspath
from types import TracebackType

import grpc
import numpy as np

from keras_cls.contract import (
    INPUT_IMAGE_BYTES,
    OUTPUT_CLASSES,
    OUTPUT_PROBABILITIES,
    OUTPUT_SCORES,
    SIGNATURE_DEFAULT,
    SIGNATURE_PROBABILITIES,
    Prediction,
)
from keras_cls.contract.messages import (
    MODEL_SERVICE,
    PREDICTION_SERVICE,
    GetModelStatusRequest,
    GetModelStatusResponse,
    Message,
    ModelVersionStatus,
    PredictRequest,
    PredictResponse,
)
from keras_cls.contract.tensors import TensorError, decode_tensor, encode_tensor
from keras_cls.errors import ConfigError, ImageError, ServingError
from keras_cls.images import ImageSource, each_image, encode_for_graph, encode_png

_UNLIMITED = (1 << 31) - 1
_LARGEST_VERSION = (1 << 63) - 1
_LONGEST_TIMEOUT = 1e9  # thirty years; gRPC takes far longer ones for ones that have passed
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0
_LAST_TRY = 0.1  # the share of the timeout that is left for the last call
# Without a port, gRPC would dial 443; with a scheme, it would look for a host of that name.
_ADDRESS = re.compile(
    r"unix(-abstract)?:.+|(dns:(//[^/]*/)?)?(\[[^\s\[\]/]+\]|[^\s\[\]/:]+):(?P<port>[0-9]{1,5})"
)
_TOO_MANY_IMAGES = "is larger than maximum input batch size"


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """An image on its way: what the caller gave, what messages call it, the bytes to send."""

    source: ImageSource
    name: str
    encoded: bytes


class Client(AbstractContextManager["Client"]):
    """A connection to one model of a prediction service.

    It may be used from several threads. The connection is made on the first call and mended by
    itself; :meth:`close` ends it.
    """

    def __init__(
        self,
        address: str = "localhost:8500",
        model: str = "",
        *,
        version: int | None = None,
        timeout: float = 10.0,
        retries: int | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        images_per_call: int = 32,
        max_message_bytes: int = 16 << 20,
    ) -> None:
        """Nothing is sent yet.

        Args:
            address: the gRPC service: ``HOST:PORT``, such as ``localhost:8500`` or
                ``[::1]:8500``; also ``dns:///HOST:PORT`` and ``unix:PATH``.
            model: the name that the service knows the model by.
            version: a version of the model; by default the service's latest.
            timeout: seconds for each call, its retries included; there is always an end. A long
                list of images takes several calls.
            retries: how often, at most, a call is repeated while the service is unavailable: not
                there yet, restarting, or overloaded. None: until the timeout. Pauses grow from
                0.2 s, twice as long each time.
            credentials: TLS, from ``grpc.ssl_channel_credentials``; without it, plain text.
            images_per_call: the most images in one call.
            max_message_bytes: the most bytes of images in one call.

        Raises:
            ConfigError: arguments that make no sense.
        """
        _check_address(address)
        if not isinstance(model, str) or not model:
            raise ConfigError(
                'name the model: Client("localhost:8500", model="pets"); a server calls it by its '
                f"folder's name unless told otherwise. This is {model!r}"
            )
        if version is not None:
            _check_whole("version", version, 0, _LARGEST_VERSION)
        if retries is not None:
            _check_whole("retries", retries, 0)
        _check_whole("images_per_call", images_per_call, 1)
        _check_whole("max_message_bytes", max_message_bytes, 1)
        is_number = isinstance(timeout, Real) and not isinstance(timeout, bool)
        if not is_number or not 0 < timeout < math.inf:
            raise ConfigError(f"timeout must be a positive number of seconds, not {timeout!r}")
        if not isinstance(credentials, grpc.ChannelCredentials | None):
            raise ConfigError("credentials must be made by grpc.ssl_channel_credentials")
        self.address = address
        self.model = model
        self.version = version
        self._timeout = float(min(timeout, _LONGEST_TIMEOUT))
        self._retries = retries
        self._images_per_call = images_per_call
        self._max_message_bytes = max_message_bytes
        options = [
            ("grpc.max_send_message_length", _UNLIMITED),
            ("grpc.max_receive_message_length", _UNLIMITED),
            # Retries are ours; let a lost connection be tried again as soon as they come.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        self._channel = (
            grpc.secure_channel(address, credentials, options)
            if credentials is not None
            else grpc.insecure_channel(address, options)
        )
        self._predict = self._channel.unary_unary(
            f"/{PREDICTION_SERVICE}/Predict",
            request_serializer=PredictRequest.SerializeToString,
            response_deserializer=PredictResponse.FromString,
        )
        self._get_status = self._channel.unary_unary(
            f"/{MODEL_SERVICE}/GetModelStatus",
            request_serializer=GetModelStatusRequest.SerializeToString,
            response_deserializer=GetModelStatusResponse.FromString,
        )

    def classify(self, images: ImageSource | Iterable[ImageSource]) -> list[list[Prediction]]:
        """The best classes for each image, best first.

        Args:
            images: a path, encoded bytes, a PIL image or an array ``[H, W, C]`` of uint8, or any
                number of them. One image is answered like a list of one.

        Raises:
            ConfigError: the client is closed.
            ImageError: an image cannot be read, or is larger than ``max_message_bytes``.
            ServingError: the service refused, or could not be reached.
        """
        predictions: list[list[Prediction]] = []
        for chunk in self._chunks(images):
            classes, scores = self._ask(SIGNATURE_DEFAULT, chunk, (OUTPUT_CLASSES, OUTPUT_SCORES))
            if classes.shape != scores.shape:
                raise _unexpected(f"classes of shape {classes.shape}, scores {scores.shape}")
            predictions.extend(
                [
                    Prediction(_text(label), None, float(score))
                    for label, score in zip(row_classes, row_scores, strict=True)
                ]
                for row_classes, row_scores in zip(classes, scores, strict=True)
            )
        return predictions

    def probabilities(self, images: ImageSource | Iterable[ImageSource]) -> np.ndarray:
        """The probability of every class for each image: float32 ``[N, C]``.

        Args:
            images: as for :meth:`classify`; one at least.

        Raises:
            ConfigError: there are no images, so the number of classes cannot be known; or the
                client is closed.
            ImageError: as :meth:`classify`.
            ServingError: as :meth:`classify`.
        """
        parts = [
            self._ask(SIGNATURE_PROBABILITIES, chunk, (OUTPUT_PROBABILITIES,))[0]
            for chunk in self._chunks(images)
        ]
        if not parts:
            raise ConfigError("probabilities() needs one image at least")
        return np.concatenate(parts).astype(np.float32, copy=False)

    def status(self) -> dict[int, str]:
        """The state of each version of the model, such as ``{1: "END", 2: "AVAILABLE"}``.

        Raises:
            ConfigError: the client is closed.
            ServingError: the service does not know the model, or could not be reached.
        """
        request = GetModelStatusRequest()
        self._name_model(request)
        response = self._call(self._get_status, request)
        return {
            entry.version: ModelVersionStatus.State.Name(entry.state)
            for entry in response.model_version_status
        }

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _chunks(self, images: ImageSource | Iterable[ImageSource]) -> Iterator[list[_Outgoing]]:
        """Encoded images, as many together as go into one call; read as they are needed."""
        chunk: list[_Outgoing] = []
        size = 0
        for number, image in enumerate(each_image(images)):
            name = fspath(image) if isinstance(image, str | PathLike) else f"image {number}"
            encoded = self._fitting(encode_for_graph(image, name=name), name)
            full = len(chunk) == self._images_per_call
            if full or size + len(encoded) > self._max_message_bytes:
                yield chunk
                chunk, size = [], 0
            chunk.append(_Outgoing(image, name, encoded))
            size += len(encoded)
        if chunk:
            yield chunk

    def _fitting(self, encoded: bytes, name: str) -> bytes:
        if len(encoded) > self._max_message_bytes:
            raise ImageError(
                name,
                f"its {len(encoded):,} bytes do not fit into one message of "
                f"{self._max_message_bytes:,} (max_message_bytes)",
            )
        return encoded

    def _ask(
        self, signature: str, chunk: list[_Outgoing], outputs: tuple[str, ...]
    ) -> list[np.ndarray]:
        """Arrays with a row for each image of the chunk."""
        try:
            return self._predicted(signature, [image.encoded for image in chunk], outputs)
        except ServingError as error:
            refused = error.code == grpc.StatusCode.INVALID_ARGUMENT.name
            if not refused or _TOO_MANY_IMAGES in str(error):
                raise
        if len(chunk) > 1:  # one bad image fails them all; the service cannot say which it is
            parts = [self._ask(signature, [image], outputs) for image in chunk]
            return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        # TensorFlow refuses some damaged files that Pillow still reads. Decoded here, the image may
        # pass, and a file that nobody can read is named. Refused again, it is not the image.
        (image,) = chunk
        decoded = self._fitting(encode_png(image.source, name=image.name), image.name)
        return self._predicted(signature, [decoded], outputs)

    def _predicted(
        self, signature: str, images: list[bytes], outputs: tuple[str, ...]
    ) -> list[np.ndarray]:
        """One Predict call; the arrays have a row for each image."""
        request = PredictRequest()
        self._name_model(request)
        request.model_spec.signature_name = signature
        rows = np.empty(len(images), dtype=object)
        rows[:] = images
        request.inputs[INPUT_IMAGE_BYTES].CopyFrom(encode_tensor(rows))
        request.output_filter.extend(outputs)
        response = self._call(self._predict, request)
        arrays = []
        for alias in outputs:
            if alias not in response.outputs:
                raise _unexpected(f"no output {alias!r}")
            try:
                array = decode_tensor(response.outputs[alias])
            except TensorError as error:
                raise _unexpected(f"{alias}: {error}") from error
            if array.ndim != 2 or len(array) != len(images):
                raise _unexpected(f"{alias} of shape {array.shape} for {len(images)} images")
            arrays.append(array)
        return arrays

    def _name_model(self, request: Message) -> None:
        request.model_spec.name = self.model
        if self.version is not None:
            request.model_spec.version.value = self.version

    def _call(self, method: Callable[..., Message], request: Message) -> Message:
        """Call, and call again while the service is unavailable and there is time."""
        deadline = time.monotonic() + self._timeout
        for attempt in itertools.count():
            try:
                return method(request, timeout=max(deadline - time.monotonic(), 0.001))
            except ValueError as error:  # gRPC's way to say it
                raise ConfigError("the client is closed") from error
            except grpc.RpcError as error:
                left = deadline - _LAST_TRY * self._timeout - time.monotonic()
                is_unavailable = error.code() is grpc.StatusCode.UNAVAILABLE
                if not is_unavailable or attempt == self._retries or left <= 0:
                    raise self._serving_error(error) from error
            time.sleep(min(_pause_before_retry(attempt), left))
        raise AssertionError("the loop returns or raises")

    def _serving_error(self, error: grpc.RpcError) -> ServingError:
        code, details = error.code(), error.details()
        message = f"{self.address}: {code.name}: {details}"
        advice = self._advice(code, details)
        return ServingError(f"{message} ({advice})" if advice else message, code.name)

    def _advice(self, code: grpc.StatusCode, details: str) -> str:
        if code is grpc.StatusCode.UNAVAILABLE:
            return f"is the server running at {self.address}, and not overloaded?"
        if code is grpc.StatusCode.NOT_FOUND:
            version = "" if self.version is None else f", version {self.version}"
            return f"does the server have a model named {self.model!r}{version}?"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"no answer within {self._timeout:g} seconds; timeout= allows more"
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return "this is not a TensorFlow Serving API; is it the gRPC port?"
        if _TOO_MANY_IMAGES in details:
            return "images_per_call= sends fewer at once"
        if code is grpc.StatusCode.FAILED_PRECONDITION:
            return "is the model exported by keras_cls? Its signatures are needed"
        return ""


def _pause_before_retry(attempt: int) -> float:
    """Twice as long each time, and spread, so that many clients do not come back at once."""
    doubled = _FIRST_PAUSE * 2 ** min(attempt, 10)
    return min(doubled, _LONGEST_PAUSE) * random.uniform(0.5, 1.0)


def _check_address(address: object) -> None:
    found = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    if found is None or not 0 < int(found["port"] or 1) <= 65535:
        raise ConfigError(f"address must be HOST:PORT, such as localhost:8500; this is {address!r}")


def _check_whole(name: str, value: int, least: int, most: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= value <= most:
        raise ConfigError(f"{name} must be a whole number of at least {least}, not {value!r}")


def _text(label: object) -> str:
    return label.decode(errors="replace") if isinstance(label, bytes) else str(label)


def _unexpected(what: str) -> ServingError:
    return ServingError(
        f"the service's answer does not follow the SavedModel contract: {what}", "INTERNAL"
    )
