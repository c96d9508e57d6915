"""Where the services are."""

import re
from collections.abc import Sequence

from keras_cls.errors import ConfigError

# Without a port, gRPC would dial 443; with a scheme, it would look for a host of that name.
_ADDRESS = re.compile(
    r"unix(-abstract)?:.+|(dns:(//[^/]*/)?)?(\[[^\s\[\]/]+\]|[^\s\[\]/:]+):(?P<port>[0-9]{1,5})"
)


def parse_addresses(address: str | Sequence[str]) -> tuple[str, ...]:
    """The addresses that are meant, one at least, in their order.

    Args:
        address: one address, several with commas between them, or a list of single ones.

    Raises:
        ConfigError: something is not ``HOST:PORT``, ``dns:///HOST:PORT`` or ``unix:PATH``.
    """
    if isinstance(address, str):
        found = [part.strip() for part in address.split(",")]
    elif isinstance(address, list | tuple) and address:
        found = list(address)
    else:
        raise ConfigError(_refusal(address))
    for each in found:
        if not _is_address(each):
            raise ConfigError(_refusal(each, "" if len(found) == 1 else f", in {address!r}"))
    return tuple(found)


def _is_address(text: object) -> bool:
    match = _ADDRESS.fullmatch(text) if isinstance(text, str) else None
    return match is not None and 0 < int(match["port"] or 1) <= 65535


def _refusal(found: object, where: str = "") -> str:
    return f"address must be HOST:PORT, such as localhost:8500; this is {found!r}{where}"
