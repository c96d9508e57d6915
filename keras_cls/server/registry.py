"""Which models there are, in which versions and states, and which one a request means."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum

from keras_cls.contract.messages import Message
from keras_cls.server.batching import Batcher
from keras_cls.server.loading import ServableModel
from keras_cls.server.status import Code, RequestError


class ModelState(IntEnum):
    """The life of a version, with the numbers of ``ModelVersionStatus.State``."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """Where a version is in its life, and what went wrong in it."""

    state: ModelState
    error: RequestError | None = None


@dataclass(slots=True, eq=False)
class ServedModel:
    """A model that is loaded, the queue before it, and how many requests hold it."""

    model: ServableModel
    batcher: Batcher
    _holders: int = 0
    _unused: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._unused.set()

    @contextmanager
    def held(self) -> Iterator["ServedModel"]:
        """Within it the model is not unloaded."""
        self._holders += 1
        self._unused.clear()
        try:
            yield self
        finally:
            self._holders -= 1
            if not self._holders:
                self._unused.set()

    async def unused(self) -> None:
        """Return when no request holds it any more."""
        await self._unused.wait()


@dataclass(slots=True)
class _Entry:
    served: dict[int, ServedModel] = field(default_factory=dict)
    statuses: dict[int, VersionStatus] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)


class Registry:
    """The models of one server. All methods belong to one event loop."""

    def __init__(self) -> None:
        self._models: dict[str, _Entry] = {}

    def names(self) -> list[str]:
        """All models that are or were configured."""
        return sorted(self._models)

    def configure(self, name: str, labels: Mapping[str, int]) -> None:
        """Know a model by name, and what its labels mean from now on."""
        self._entry(name).labels = dict(labels)

    def labels(self, name: str) -> Mapping[str, int]:
        """What the labels of a model mean."""
        return self._entry(name).labels

    def add(self, served: ServedModel) -> None:
        """Make a loaded model available."""
        model = served.model
        self._entry(model.name).served[model.version] = served
        self.set_state(model.name, model.version, ModelState.AVAILABLE)

    def withdraw(self, name: str, version: int) -> ServedModel:
        """Let no new request find a version; those that hold it go on."""
        self.set_state(name, version, ModelState.UNLOADING)
        return self._entry(name).served.pop(version)

    def set_state(
        self, name: str, version: int, state: ModelState, error: RequestError | None = None
    ) -> None:
        """Note what happens to a version; it need not be loaded."""
        self._entry(name).statuses[version] = VersionStatus(state, error)

    def served(self, name: str) -> Mapping[int, ServedModel]:
        """The versions of a model that answer."""
        entry = self._models.get(name)
        return entry.served if entry else {}

    def all_statuses(self, name: str) -> dict[int, VersionStatus]:
        """Where all versions of a model are in their lives, oldest first."""
        entry = self._models.get(name)
        return dict(sorted(entry.statuses.items())) if entry else {}

    def status(self, name: str, version: int) -> VersionStatus | None:
        """Where a version is in its life; None for one that was never seen."""
        entry = self._models.get(name)
        return entry.statuses.get(version) if entry else None

    def find(self, spec: Message) -> ServedModel:
        """The model that a ``ModelSpec`` means: its version, its label's, else the latest.

        Raises:
            RequestError: INVALID_ARGUMENT without a name or with an unknown label, NOT_FOUND for
                a model or version that is not served.
        """
        name = spec.name
        if not name:
            raise RequestError(Code.INVALID_ARGUMENT, "ModelSpec has no name specified.")
        entry = self._models.get(name)
        choice = spec.WhichOneof("version_choice")
        if choice is None:
            versions = entry.served if entry else {}
            if not versions:
                raise _not_found(f"Latest({name})")
            return versions[max(versions)]
        number = spec.version.value if choice == "version" else _labelled(entry, spec.version_label)
        served = entry.served.get(number) if entry else None
        if served is None:
            raise _not_found(f"Specific({name}, {number})")
        return served

    def statuses(self, spec: Message) -> dict[int, VersionStatus]:
        """The status of the version that a ``ModelSpec`` names, else of all; labels are ignored.

        Raises:
            RequestError: NOT_FOUND.
        """
        statuses = self.all_statuses(spec.name)
        if spec.WhichOneof("version_choice") == "version":
            number = spec.version.value
            if number not in statuses:
                raise RequestError(
                    Code.NOT_FOUND, f"Could not find version {number} of model {spec.name}"
                )
            return {number: statuses[number]}
        if not statuses:
            raise RequestError(Code.NOT_FOUND, f"Could not find any versions of model {spec.name}")
        return statuses

    def _entry(self, name: str) -> _Entry:
        return self._models.setdefault(name, _Entry())


def _labelled(entry: _Entry | None, label: str) -> int:
    if entry is None or label not in entry.labels:
        raise RequestError(Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
    return entry.labels[label]


def _not_found(wanted: str) -> RequestError:
    return RequestError(Code.NOT_FOUND, f"Servable not found for request: {wanted}")
