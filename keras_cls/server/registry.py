"""Which models there are, in which versions and states, and which one a request means."""

from dataclasses import dataclass
from enum import IntEnum

from keras_cls.contract.messages import Message
from keras_cls.server.batching import Batcher
from keras_cls.server.loading import LoadedModel
from keras_cls.server.status import Code, RequestError


class ModelState(IntEnum):
    """The life of a version, with the numbers of ``ModelVersionStatus.State``."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that is loaded, and the queue before it."""

    model: LoadedModel
    batcher: Batcher


class Registry:
    """The models of one server."""

    def __init__(self) -> None:
        self._served: dict[str, dict[int, ServedModel]] = {}
        self._states: dict[str, dict[int, ModelState]] = {}

    def add(self, served: ServedModel) -> None:
        """Make a loaded model available."""
        model = served.model
        self._served.setdefault(model.name, {})[model.version] = served
        self.set_state(model.name, model.version, ModelState.AVAILABLE)

    def set_state(self, name: str, version: int, state: ModelState) -> None:
        """Note what happens to a version; it need not be loaded."""
        self._states.setdefault(name, {})[version] = state

    def find(self, spec: Message) -> ServedModel:
        """The model that a ``ModelSpec`` means: the version it names, else the latest.

        Raises:
            RequestError: INVALID_ARGUMENT without a name or with an unknown label, NOT_FOUND for
                a model or version that is not served.
        """
        if not spec.name:
            raise RequestError(Code.INVALID_ARGUMENT, "ModelSpec has no name specified.")
        choice = spec.WhichOneof("version_choice")
        if choice == "version_label":
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"Unrecognized servable version label: {spec.version_label}",
            )
        versions = self._served.get(spec.name, {})
        if choice == "version":
            wanted = f"Specific({spec.name}, {spec.version.value})"
            served = versions.get(spec.version.value)
        else:
            wanted = f"Latest({spec.name})"
            served = versions[max(versions)] if versions else None
        if served is None:
            raise RequestError(Code.NOT_FOUND, f"Servable not found for request: {wanted}")
        return served

    def states(self, spec: Message) -> dict[int, ModelState]:
        """The state of the version that a ``ModelSpec`` names, else of all; labels are ignored.

        Raises:
            RequestError: NOT_FOUND.
        """
        states = self._states.get(spec.name, {})
        if spec.WhichOneof("version_choice") == "version":
            number = spec.version.value
            if number not in states:
                raise RequestError(
                    Code.NOT_FOUND, f"Could not find version {number} of model {spec.name}"
                )
            return {number: states[number]}
        if not states:
            raise RequestError(Code.NOT_FOUND, f"Could not find any versions of model {spec.name}")
        return dict(sorted(states.items()))
