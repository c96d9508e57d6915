"""The cluster that TF_CONFIG describes: which worker processes there are, and which is this one.

``TF_CONFIG`` is TensorFlow's environment variable for it, a JSON object::

    {"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}

The workers train one network together. The first one, or the one of type ``chief``, also writes the
run folder. Needs no TensorFlow.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from keras_cls.errors import ConfigError

VARIABLE = "TF_CONFIG"

_TYPES = ("chief", "worker")
_REFUSED = {
    "ps": "there are no parameter servers here, each machine is a worker",
    "evaluator": "the workers evaluate by themselves",
    "master": "its name today is 'chief'",
}


@dataclass(frozen=True)
class Cluster:
    """The workers of a cluster.

    Attributes:
        addresses: ``host:port`` of each worker, the chief first.
        index: which of them this process is.
    """

    addresses: tuple[str, ...]
    index: int

    @property
    def count(self) -> int:
        """How many workers there are."""
        return len(self.addresses)

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes."""
        return self.index == 0


def read_cluster(environ: Mapping[str, str]) -> Cluster | None:
    """The cluster that ``TF_CONFIG`` names, or None where it is not set or names none.

    Raises:
        ConfigError: it is malformed; the message names the field.
    """
    text = environ.get(VARIABLE, "").strip()
    if not text:
        return None
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{VARIABLE}: not valid JSON: {error}") from error
    config = _object(config, VARIABLE)
    if not config.get("cluster"):
        return None
    jobs = _jobs(config["cluster"])
    if "task" not in config:
        _refuse(f"{VARIABLE}.task", 'such as {"type": "worker", "index": 0}', "nothing")
    kind, index = _task(config["task"], jobs)
    return Cluster(
        addresses=tuple(address for name in _TYPES for address in jobs.get(name, ())),
        index=index if kind == _TYPES[0] else index + len(jobs.get(_TYPES[0], ())),
    )


def _jobs(cluster: Any) -> dict[str, list[str]]:
    """The addresses of each type."""
    where = f"{VARIABLE}.cluster"
    seen: dict[str, str] = {}
    jobs = _object(cluster, where)
    for name, addresses in jobs.items():
        _checked_type(name, where)
        if not isinstance(addresses, list) or not addresses:
            _refuse(f"{where}.{name}", 'a list of addresses, such as ["a:2222"]', addresses)
        for number, address in enumerate(addresses):
            place = f"{where}.{name}[{number}]"
            _check_address(address, place)
            if address in seen:
                _refuse(place, "an address of its own", f"{address!r}, as {seen[address]}")
            seen[address] = place
    if len(jobs.get("chief", ())) > 1:
        _refuse(f"{where}.chief", "one address", jobs["chief"])
    return jobs


def _task(task: Any, jobs: Mapping[str, list[str]]) -> tuple[str, int]:
    """Type and index of this process."""
    where = f"{VARIABLE}.task"
    task = _object(task, where)
    kind, index = task.get("type"), task.get("index")
    _checked_type(kind, f"{where}.type")
    if kind not in jobs:
        _refuse(f"{where}.type", f"one of the cluster's types, {', '.join(sorted(jobs))}", kind)
    if isinstance(index, str) and index.isascii() and index.isdecimal() and len(index) < 10:
        index = int(index)  # as shells write it
    last = len(jobs[kind]) - 1
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index <= last:
        _refuse(f"{where}.index", f"a whole number from 0 to {last}", index)
    return kind, index


def _checked_type(name: Any, where: str) -> None:
    if isinstance(name, str) and name in _REFUSED:
        raise ConfigError(f"{where}: {name!r} is not supported: {_REFUSED[name]}")
    if name not in _TYPES:
        _refuse(where, "'worker' or 'chief'", name)


def _check_address(address: Any, where: str) -> None:
    host, _, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    bare = host.startswith("[") == host.endswith("]") and (":" not in host or host[0] == "[")
    if (
        not host
        or not bare
        or any(character.isspace() or character in "/@" for character in host)
        or not (port.isascii() and port.isdecimal() and len(port) < 6 and 0 < int(port) < 65536)
    ):
        _refuse(where, "host:port, such as '10.0.0.1:2222'", address)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(where, "a JSON object", value)
    return value


def _refuse(where: str, expected: str, found: Any) -> NoReturn:
    shown = found if isinstance(found, str) and found.startswith(("'", "nothing")) else repr(found)
    raise ConfigError(f"{where}: expected {expected}, found {shown[:200]}")
