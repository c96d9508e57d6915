"""What a client is told when it is made, checked once for all kinds of client."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Literal, get_args

import grpc

from keras_cls.errors import ConfigError

if TYPE_CHECKING:
    from keras_cls.preprocessing import Preprocessing

Decode = Literal["server", "client"]

_LARGEST_VERSION = (1 << 63) - 1
_LONGEST_TIMEOUT = 1e9  # thirty years; gRPC takes far longer ones for ones that have passed


@dataclass(frozen=True, slots=True)
class Settings:
    """The arguments of a client, as its docstring explains them.

    Raises:
        ConfigError: one of them makes no sense.
    """

    addresses: tuple[str, ...]
    model: str
    version: int | None
    timeout: float
    retries: int | None
    credentials: grpc.ChannelCredentials | None
    images_per_call: int
    max_message_bytes: int
    decode: Decode
    preprocessing: "Preprocessing | None"
    labels: Sequence[str] | None

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise ConfigError(
                'name the model: Client("localhost:8500", model="pets"); a server calls it by its '
                f"folder's name unless told otherwise. This is {self.model!r}"
            )
        if self.version is not None:
            check_whole("version", self.version, 0, _LARGEST_VERSION)
        if self.retries is not None:
            check_whole("retries", self.retries, 0)
        check_whole("images_per_call", self.images_per_call, 1)
        check_whole("max_message_bytes", self.max_message_bytes, 1)
        is_number = isinstance(self.timeout, Real) and not isinstance(self.timeout, bool)
        if not is_number or not 0 < self.timeout < math.inf:
            raise ConfigError(f"timeout must be a positive number of seconds, not {self.timeout!r}")
        object.__setattr__(self, "timeout", float(min(self.timeout, _LONGEST_TIMEOUT)))
        if not isinstance(self.credentials, grpc.ChannelCredentials | None):
            raise ConfigError("credentials must be made by grpc.ssl_channel_credentials")
        if self.decode not in get_args(Decode):
            raise ConfigError(f'decode must be "server" or "client", not {self.decode!r}')
        _check_for_decoding(self.decode, self.preprocessing, self.labels)


def check_whole(name: str, value: int, least: int, most: float = math.inf) -> None:
    """Refuse what is not a whole number from ``least`` to ``most`` (ConfigError)."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= value <= most:
        raise ConfigError(f"{name} must be a whole number of at least {least}, not {value!r}")


def _check_for_decoding(
    decode: Decode, preprocessing: "Preprocessing | None", labels: Sequence[str] | None
) -> None:
    for name, value in (("preprocessing", preprocessing), ("labels", labels)):
        if value is not None and decode == "server":
            raise ConfigError(f'{name} is for decode="client"; the server knows its own')
    if preprocessing is not None:
        from keras_cls.preprocessing import Preprocessing  # only who needs it waits for it

        if not isinstance(preprocessing, Preprocessing):
            raise ConfigError(
                f"preprocessing must be a keras_cls.Preprocessing, not {preprocessing!r}"
            )
    if labels is not None and (
        not isinstance(labels, list | tuple)
        or not labels
        or not all(isinstance(label, str) for label in labels)
    ):
        raise ConfigError(f"labels must be a list of strings, not {labels!r}")
