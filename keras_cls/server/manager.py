"""Brings what is served in line with what is configured and lies in the folders.

A new version is loaded before the old one goes, and an old one goes when no request holds it any
more. What cannot be loaded is tried again a few times, and at once when its files change; until
then the old version stays.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from keras_cls.contract import MODEL_FILE
from keras_cls.errors import ConfigError
from keras_cls.server.arguments import check_seconds, check_whole
from keras_cls.server.batching import Batcher, BatchingOptions
from keras_cls.server.image_sizes import DEFAULT_MAX_IMAGE_PIXELS, image_check
from keras_cls.server.lite_loading import LiteModel
from keras_cls.server.loading import (
    LoadedModel,
    LoadOptions,
    ServableModel,
    VersionFolder,
    has_lite_model,
)
from keras_cls.server.metrics import Metrics
from keras_cls.server.registry import ModelState, Registry, ServedModel
from keras_cls.server.settings import (
    ModelSettings,
    Specific,
    VersionPolicy,
    read_version_batching,
)
from keras_cls.server.signatures import Signature
from keras_cls.server.sources import Fingerprint, Offer, offered_versions
from keras_cls.server.status import Code, RequestError
from keras_cls.server.warmup import warm_up

_LOG = logging.getLogger(__name__)
_SETTLE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class ManagerOptions:
    """How models are found, loaded and replaced.

    Attributes:
        poll_seconds: between two looks at the folders; 0 to look once, below 0 never.
        max_load_retries: how often a version that cannot be loaded is tried again.
        load_retry_seconds: between two tries.
        load_threads: versions that are loaded at the same time.
        keep_last_version: a model whose folder is emptied keeps the versions it has.
        allow_labels_for_unavailable: a new label may name a version that is not loaded yet, and
            one that is in use may stay where it is.
        allow_any_labels: one that is in use may move to such a version as well.
        prefer_lite: take ``model.tflite`` where a version has one.
        per_model_batching: a version's ``batching_params.pbtxt`` goes before ``batching``.
        warmup_iterations: how often each warm-up request is run; 0 for no warm-up.
        max_image_pixels: of an encoded image in a request, all its frames together.
        batching: how requests are gathered.
        load: how models are loaded.
    """

    poll_seconds: float = 1.0
    max_load_retries: int = 5
    load_retry_seconds: float = 60.0
    load_threads: int = 4
    keep_last_version: bool = True
    allow_labels_for_unavailable: bool = False
    allow_any_labels: bool = False
    prefer_lite: bool = False
    per_model_batching: bool = False
    warmup_iterations: int = 1
    max_image_pixels: int = DEFAULT_MAX_IMAGE_PIXELS
    batching: BatchingOptions = BatchingOptions()
    load: LoadOptions = LoadOptions()

    def __post_init__(self) -> None:
        check_whole("max_load_retries", self.max_load_retries, 0)
        check_seconds("load_retry_seconds", self.load_retry_seconds)
        check_whole("load_threads", self.load_threads, 1)
        check_whole("warmup_iterations", self.warmup_iterations, 0)
        check_whole("max_image_pixels", self.max_image_pixels, 1)


@dataclass(slots=True)
class _Failure:
    fingerprint: Fingerprint
    tries: int
    next_try: float


class Manager:
    """The models of one server and their versions. All methods belong to one event loop."""

    def __init__(self, options: ManagerOptions, metrics: Metrics) -> None:
        self.registry = Registry()
        self._options = options
        self._metrics = metrics
        self._models: dict[str, ModelSettings] = {}
        self._failures: dict[tuple[str, int], _Failure] = {}
        self._last_seen: dict[tuple[str, int], Fingerprint] = {}
        self._said: dict[str, str] = {}
        self._loaders = ThreadPoolExecutor(options.load_threads, "keras_cls-load")
        self._busy = asyncio.Lock()
        self._departures: dict[asyncio.Task[None], ServedModel] = {}

    @property
    def all_available(self) -> bool:
        """Whether every configured model has a version that answers."""
        return all(self.registry.served(name) for name in self._models)

    async def configure(self, models: Sequence[ModelSettings]) -> None:
        """Serve these models and no others; return when each has a version that answers.

        Raises:
            RequestError: FAILED_PRECONDITION for a label that names a version which is not there,
                UNKNOWN where a model has no version that can be loaded. The others are served, and
                what failed is tried again.
        """
        async with self._busy:
            first = not self._models
            if not first:
                self._check_labels(models)
            gone = set(self._models) - {model.name for model in models}
            self._models = {model.name: model for model in models}
            for model in models:
                self.registry.configure(model.name, model.labels)
            for name in gone:
                self.registry.configure(name, {})
                self._unload(name, list(self.registry.served(name)))
            problems = await asyncio.gather(*(self._bring_up(model) for model in models))
            missing = {
                name: problem
                for name, problem in zip(self._models, problems, strict=True)
                if not self.registry.served(name)
            }
            if missing:
                raise RequestError(
                    Code.UNKNOWN,
                    f"{len(missing)} servable(s) did not become available: "
                    + "; ".join(f"{name}: {problem}" for name, problem in missing.items()),
                )
            if first:
                self._check_labels(models)

    async def watch(self) -> None:
        """Look at the folders again and again, for as long as the options want."""
        pause = self._options.poll_seconds
        while pause > 0:
            await asyncio.sleep(pause)
            async with self._busy:
                models = list(self._models.values())
                found = await asyncio.gather(
                    *(self._reconcile(model) for model in models), return_exceptions=True
                )
            for error in found:
                if isinstance(error, Exception):
                    _LOG.error("looking at the models' folders failed", exc_info=error)

    async def close(self) -> None:
        """Unload everything; requests that are still waiting are refused with UNAVAILABLE."""
        leaving = list(self._departures.values())
        for task in self._departures:
            task.cancel()
        for name in self.registry.names():
            for version in list(self.registry.served(name)):
                leaving.append(self.registry.withdraw(name, version))
        for served in leaving:
            served.batcher.close()
            await self._close_model(served)
        self._loaders.shutdown(wait=False, cancel_futures=True)

    def _check_labels(self, models: Iterable[ModelSettings]) -> None:
        for model in models:
            known = self.registry.labels(model.name)
            for label, version in model.labels.items():
                if version in self.registry.served(model.name) or self._options.allow_any_labels:
                    continue
                moves = known.get(label, version) != version
                if self._options.allow_labels_for_unavailable and not moves:
                    continue
                raise RequestError(
                    Code.FAILED_PRECONDITION,
                    f"Request to assign label to version {version} of model {model.name}, which "
                    "is not currently available for inference",
                )

    async def _bring_up(self, model: ModelSettings) -> str:
        """Load a model's versions; what is still being written is waited for a little.

        Returns:
            Why it has none, in words; "" where it has.
        """
        patience = max(self._options.poll_seconds, 1.0) * 5
        end = time.monotonic() + patience
        looks = 0
        while True:
            looks += 1
            problem, settled = await self._reconcile(model)
            served = self.registry.served(model.name).values()
            # Those of another folder, configured before, are to be replaced. A version that was
            # written just now is at rest on the second look; what is not need not be waited for.
            here = any(each.model.path.parent == model.base_path for each in served)
            if here and (settled or looks > 1):
                return ""
            if settled or time.monotonic() > end:
                return "" if served else problem
            await asyncio.sleep(_SETTLE_SECONDS)

    async def _reconcile(self, model: ModelSettings) -> tuple[str, bool]:
        """Load what is to be served and is not, unload what is served and is not to be.

        Returns:
            What is wrong, in words; and whether another look at the same files would say the same.
        """
        name = model.name
        loop = asyncio.get_running_loop()
        try:
            offers = await loop.run_in_executor(
                None, lambda: offered_versions(model, lite=self._options.prefer_lite)
            )
        except ConfigError as error:
            self._say_once(name, f"{error}; what is served stays")
            return str(error), True
        wanted = {offer.folder.number for offer in offers}
        self._forget_what_is_gone(name, wanted)
        if not offers:
            served = self.registry.served(name)
            problem = f"{model.base_path}: {_what_is_not_there(model.policy)}"
            if not served or self._options.keep_last_version:
                self._say_once(name, problem + ("; what is served stays" if served else ""))
                return problem, True
        settled = True
        problems = []
        for offer in offers:
            number = offer.folder.number
            served_already = self.registry.served(name).get(number)
            if served_already is not None and served_already.model.path == offer.folder.path:
                continue
            if not self._is_complete(name, offer):
                settled = False
                problems.append(offer.missing or f"{offer.folder.path} is being written")
            elif self._is_due(name, offer):
                problems.append(await self._load(name, offer))
        now = self.registry.served(name)
        if not offers or wanted & set(now):
            self._unload(name, [number for number in now if number not in wanted])
        problems = [problem for problem in problems if problem]
        if isinstance(model.policy, Specific) and (gone := set(model.policy.versions) - wanted):
            absent = f"{model.base_path}: version {min(gone)} is to be served and is not there"
            self._say_once(name, absent)
        elif not problems:
            self._said.pop(name, None)
        return "; ".join(problems), settled

    def _forget_what_is_gone(self, name: str, wanted: set[int]) -> None:
        """Versions that went before they could be loaded."""
        for known in (self._last_seen, self._failures):
            for key in [key for key in known if key[0] == name and key[1] not in wanted]:
                del known[key]
        for version, status in self.registry.all_statuses(name).items():
            if status.state is ModelState.START and version not in wanted:
                self._set_state(name, version, ModelState.END)

    def _is_complete(self, name: str, offer: Offer) -> bool:
        key = (name, offer.folder.number)
        same = offer.at_rest or self._last_seen.get(key) == offer.fingerprint
        self._last_seen[key] = offer.fingerprint
        if same and not offer.missing:
            return True
        if self.registry.status(*key) is None:
            self._set_state(*key, ModelState.START)
        if same:
            self._say_once(name, f"version {offer.folder.number} is not complete: {offer.missing}")
        return False

    def _is_due(self, name: str, offer: Offer) -> bool:
        failure = self._failures.get((name, offer.folder.number))
        if failure is None or failure.fingerprint != offer.fingerprint:
            return True
        tried_out = failure.tries > self._options.max_load_retries
        return not tried_out and time.monotonic() >= failure.next_try

    async def _load(self, name: str, offer: Offer) -> str:
        """Load a version and make it available; what went wrong, in words, or ""."""
        number = offer.folder.number
        key = (name, number)
        self._set_state(*key, ModelState.LOADING)
        loop = asyncio.get_running_loop()
        try:
            model, batching = await loop.run_in_executor(
                self._loaders, self._loaded_and_warm, name, offer.folder
            )
        except Exception as error:
            if not isinstance(error, ConfigError):
                _LOG.exception("loading %s version %d failed", name, number)
            known = self._failures.get(key)
            same = known is not None and known.fingerprint == offer.fingerprint
            tries = known.tries + 1 if known and same else 1
            again = time.monotonic() + self._options.load_retry_seconds
            self._failures[key] = _Failure(offer.fingerprint, tries, again)
            self._metrics.count_load(name, number, "failed")
            self._set_state(*key, ModelState.END, RequestError(Code.INTERNAL, str(error)))
            _LOG.error("model %s version %d cannot be loaded: %s", name, number, error)
            return str(error)
        self._failures.pop(key, None)
        self._metrics.count_load(name, number, "loaded")
        previous = self.registry.served(name).get(number)
        self.registry.add(ServedModel(model, self._batcher(model, batching)))
        if previous is not None:  # from another folder
            self._let_go(previous)
        self._metrics.set_state(name, number, ModelState.AVAILABLE.name)
        _LOG.info("model %s version %d is available", name, number)
        return ""

    def _loaded_and_warm(
        self, name: str, folder: VersionFolder
    ) -> tuple[ServableModel, BatchingOptions]:
        """In a thread of its own."""
        options = self._options
        batching = options.batching
        if options.per_model_batching:
            batching = read_version_batching(folder.path) or batching
        model: ServableModel
        if options.prefer_lite and has_lite_model(folder.path):
            model = LiteModel(name, folder)
        else:
            model = LoadedModel(name, folder, options.load)
        try:
            if options.warmup_iterations:
                self._warm_up(model)
        except BaseException:
            model.close()
            raise
        return model, batching

    def _warm_up(self, model: ServableModel) -> None:
        start = time.perf_counter()
        status = "INTERNAL"
        try:
            warm_up(model, self._options.warmup_iterations)
            status = "OK"
        finally:
            elapsed = (time.perf_counter() - start) * 1e6
            self._metrics.observe_warmup(str(model.path), status, elapsed)

    def _batcher(self, model: ServableModel, batching: BatchingOptions) -> Batcher:
        metrics, name, version = self._metrics, model.name, model.version

        def run(
            signature: Signature, inputs: Mapping[str, np.ndarray], outputs: tuple[str, ...]
        ) -> dict[str, np.ndarray]:
            start = time.perf_counter()
            found = model.run(signature, inputs, outputs)
            microseconds = (time.perf_counter() - start) * 1e6
            rows = next((len(array) for array in inputs.values() if array.ndim), 1)
            metrics.observe_run(name, version, signature.name, microseconds, rows)
            return found

        def waited(signature: Signature, seconds: float) -> None:
            metrics.observe_queue(name, version, signature.name, seconds * 1e6)

        check = image_check(model.signatures, self._options.max_image_pixels)
        return Batcher(run, batching, waited, check, model.alone)

    def _unload(self, name: str, versions: Iterable[int]) -> None:
        """Let versions go when no request holds them; returns at once."""
        for version in versions:
            served = self.registry.withdraw(name, version)
            self._metrics.set_state(name, version, ModelState.UNLOADING.name)
            self._let_go(served)

    def _let_go(self, served: ServedModel) -> None:
        task = asyncio.get_running_loop().create_task(self._depart(served))
        self._departures[task] = served
        task.add_done_callback(lambda ended: self._departures.pop(ended, None))

    async def _depart(self, served: ServedModel) -> None:
        await served.unused()
        served.batcher.close()
        await self._close_model(served)
        _LOG.info("model %s version %d is unloaded", served.model.name, served.model.version)

    async def _close_model(self, served: ServedModel) -> None:
        def close() -> None:
            served.model.close()
            gc.collect()  # A graph's Python objects hold each other.

        await asyncio.get_running_loop().run_in_executor(None, close)
        model = served.model
        # It may have been loaded again meanwhile.
        if model.version not in self.registry.served(model.name):
            self._set_state(model.name, model.version, ModelState.END)

    def _set_state(
        self, name: str, version: int, state: ModelState, error: RequestError | None = None
    ) -> None:
        self.registry.set_state(name, version, state, error)
        self._metrics.set_state(name, version, state.name)

    def _say_once(self, name: str, sentence: str) -> None:
        if self._said.get(name) != sentence:
            self._said[name] = sentence
            _LOG.warning("model %s: %s", name, sentence)


def _what_is_not_there(policy: VersionPolicy) -> str:
    if isinstance(policy, Specific):
        numbers = ", ".join(map(str, policy.versions))
        return f"none of the versions that are to be served is there: {numbers}"
    return f"no version to serve, that is, no NUMBER/{MODEL_FILE}"
