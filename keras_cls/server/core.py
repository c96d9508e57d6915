"""What each call does, whatever protocol it came by.

A call is refused with a :class:`RequestError`, which gRPC and REST put into their own words. All
coroutines belong to one event loop. A deadline is on the clock of ``time.monotonic``, ``math.inf``
for none.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

from keras_cls.contract.messages import (
    ClassificationResponse,
    GetModelMetadataResponse,
    GetModelStatusResponse,
    Message,
    RegressionResponse,
    ReloadConfigResponse,
)
from keras_cls.errors import ConfigError
from keras_cls.server.batching import Arrays
from keras_cls.server.inference import (
    check_tasks,
    classification_call,
    classification_result,
    find_signature,
    multi_inference_response,
    read_examples,
    regression_call,
    regression_result,
    task_calls,
)
from keras_cls.server.loading import ServableModel
from keras_cls.server.manager import Manager
from keras_cls.server.metrics import Metrics
from keras_cls.server.predict import PredictCall, build_predict_response, read_predict_request
from keras_cls.server.registry import ModelState, Registry, ServedModel
from keras_cls.server.settings import model_settings
from keras_cls.server.status import Code, RequestError

_SIGNATURE_DEF = "signature_def"
_MULTI_INFERENCE = "MultiInference"


class Recorded:
    """Counts and times a request from its arrival to its answer, as a context.

    Who finds out which version and signature it means tells it (:meth:`means`).
    """

    __slots__ = ("_api", "_entrypoint", "_metrics", "_model", "_signature", "_start", "_version")

    def __init__(self, metrics: Metrics, api: str, entrypoint: str) -> None:
        self._metrics = metrics
        self._api = api
        self._entrypoint = entrypoint
        self._model = ""
        self._version: int | None = None
        self._signature = ""
        self._start = time.perf_counter()

    def means(self, model: ServableModel, signature: str = "") -> None:
        """The request is for this model, and this signature of it."""
        self._model, self._version, self._signature = model.name, model.version, signature

    def __enter__(self) -> "Recorded":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        named = (self._model, self._version, self._signature)
        counted = self._api != _MULTI_INFERENCE
        self._metrics.count_request(*named, _status_name(error), in_original=counted)
        if error is None:
            microseconds = (time.perf_counter() - self._start) * 1e6
            self._metrics.observe_latency(*named, self._api, self._entrypoint, microseconds)


def _status_name(error: BaseException | None) -> str:
    if error is None:
        return "OK"
    if isinstance(error, RequestError):
        return error.code.name
    cancelled = isinstance(error, asyncio.CancelledError)
    return Code.CANCELLED.name if cancelled else Code.INTERNAL.name


class Core:
    """The calls of PredictionService and ModelService on the models of a server.

    Once :meth:`drain` has been called, new predictions are refused with UNAVAILABLE while those
    already begun go on; questions about the server's state are answered to the end.
    """

    def __init__(
        self,
        manager: Manager,
        metrics: Metrics,
        *,
        content: bool = False,
        check_method: bool = False,
    ) -> None:
        """Args:
        manager: loads and unloads the models.
        metrics: counts.
        content: answer Predict with ``tensor_content`` in place of typed fields.
        check_method: Classify and Regress want signatures that say they do that.
        """
        self.manager = manager
        self.registry: Registry = manager.registry
        self.metrics = metrics
        self.draining = False
        self._content = content
        self._check_method = check_method
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def ready(self) -> bool:
        """Whether every configured model has a version that answers, and new requests do too."""
        return not self.draining and self.manager.all_available

    def announce_end(self) -> None:
        """Say of all versions that they are being unloaded."""
        for name in self.registry.names():
            for version in self.registry.served(name):
                self.registry.set_state(name, version, ModelState.UNLOADING)

    async def drain(self, grace: float) -> int:
        """Refuse new predictions; wait at most ``grace`` seconds for those in flight.

        Returns:
            How many are still in flight.
        """
        self.draining = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace)
        return self._in_flight

    def recorded(self, api: str, entrypoint: str) -> Recorded:
        """What counts and times a request.

        Args:
            api: ``Predict``, ``Classify``, ``Regress`` or ``MultiInference``.
            entrypoint: ``GRPC`` or ``REST``.
        """
        return Recorded(self.metrics, api, entrypoint)

    @contextmanager
    def serving(self, spec: Message) -> Iterator[ServedModel]:
        """The version that a ``ModelSpec`` means; it is not unloaded within.

        Raises:
            RequestError: UNAVAILABLE while draining, and as :meth:`Registry.find`.
        """
        if self.draining:
            raise RequestError(Code.UNAVAILABLE, "The server is shutting down")
        with self.registry.find(spec).held() as served:
            self._in_flight += 1
            self._idle.clear()
            try:
                yield served
            finally:
                self._in_flight -= 1
                if not self._in_flight:
                    self._idle.set()

    async def run(self, served: ServedModel, call: PredictCall, deadline: float) -> Arrays:
        """A checked call, through the model's queue.

        Raises:
            RequestError: as :meth:`Batcher.run`.
        """
        return await served.batcher.run(call, deadline)

    async def predict(self, request: Message, deadline: float, record: Recorded) -> Message:
        """``PredictRequest`` to ``PredictResponse``."""
        _require_model_spec(request)
        with self.serving(request.model_spec) as served:
            record.means(served.model)
            call = read_predict_request(request, served.model.signatures)
            record.means(served.model, call.signature.name)
            outputs = await served.batcher.run(call, deadline)
            return build_predict_response(
                request, served.model.version, call, outputs, content=self._content
            )

    async def classify(self, request: Message, deadline: float, record: Recorded) -> Message:
        """``ClassificationRequest`` to ``ClassificationResponse``."""
        made = (classification_call, classification_result)
        return await self._on_examples(request, deadline, record, *made, ClassificationResponse())

    async def regress(self, request: Message, deadline: float, record: Recorded) -> Message:
        """``RegressionRequest`` to ``RegressionResponse``."""
        made = (regression_call, regression_result)
        return await self._on_examples(request, deadline, record, *made, RegressionResponse())

    async def multi_inference(self, request: Message, deadline: float, record: Recorded) -> Message:
        """``MultiInferenceRequest`` to ``MultiInferenceResponse``."""
        spec = check_tasks(request)
        with self.serving(spec) as served:
            record.means(served.model)
            examples = read_examples(request.input)
            calls = task_calls(
                request, served.model.signatures, examples, check_method=self._check_method
            )
            outputs = await asyncio.gather(*(served.batcher.run(call, deadline) for call in calls))
            self.metrics.observe_examples(served.model.name, len(examples))
            return multi_inference_response(request, served.model.version, outputs, len(examples))

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
        model = self.registry.find(request.model_spec).model
        response = GetModelMetadataResponse()
        response.model_spec.name = model.name
        response.model_spec.version.value = model.version
        response.metadata[_SIGNATURE_DEF].Pack(model.signature_defs)
        return response

    async def get_model_status(self, request: Message, _deadline: float) -> Message:
        """``GetModelStatusRequest`` to ``GetModelStatusResponse``."""
        _require_model_spec(request)
        response = GetModelStatusResponse()
        for version, status in self.registry.statuses(request.model_spec).items():
            entry = response.model_version_status.add(version=version, state=int(status.state))
            entry.status.SetInParent()  # error code OK, no message
            if status.error is not None:
                entry.status.error_code = int(status.error.code)
                entry.status.error_message = status.error.message
        return response

    async def reload_config(self, request: Message, _deadline: float) -> Message:
        """``ReloadConfigRequest`` to ``ReloadConfigResponse``: these models and no others."""
        try:
            models = model_settings(request.config)
        except ConfigError as error:
            raise RequestError(Code.INVALID_ARGUMENT, str(error)) from error
        names = list(dict.fromkeys(request.metric_names))
        before = self.metrics.values(names)
        # What has been begun is brought to its end, whether or not the caller waits for it.
        await asyncio.shield(self.manager.configure(models))
        response = ReloadConfigResponse()
        response.status.SetInParent()
        for name, value, earlier in zip(names, self.metrics.values(names), before, strict=True):
            response.metric.add(name=name, int64_value_increase=value - earlier)
        return response

    def metrics_text(self) -> bytes:
        """All figures as Prometheus reads them."""
        for name in self.registry.names():
            for version, served in self.registry.served(name).items():
                self.metrics.set_queue_depth(name, version, served.batcher.waiting)
        self.metrics.set_ready(self.ready)
        return self.metrics.text()

    async def _on_examples(
        self,
        request: Message,
        deadline: float,
        record: Recorded,
        to_call: Callable[..., PredictCall],
        to_result: Callable[[Arrays, int], Message],
        response: Message,
    ) -> Message:
        _require_model_spec(request)
        with self.serving(request.model_spec) as served:
            record.means(served.model)
            signature = find_signature(served.model.signatures, request.model_spec.signature_name)
            record.means(served.model, signature.name)
            examples = read_examples(request.input)
            call = to_call(signature, examples, check_method=self._check_method)
            outputs = await served.batcher.run(call, deadline)
            response.result.CopyFrom(to_result(outputs, len(examples)))
            response.model_spec.name = served.model.name
            response.model_spec.version.value = served.model.version
            response.model_spec.signature_name = signature.name
            self.metrics.observe_examples(served.model.name, len(examples))
            return response


def _require_model_spec(request: Message) -> None:
    if not request.HasField("model_spec"):
        raise RequestError(Code.INVALID_ARGUMENT, "Missing ModelSpec")
