"""Sockets to listen on, for addresses as gRPC writes them."""

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

_BACKLOG = 1024
_WILDCARDS = ("0.0.0.0", "::")


def listen(address: str) -> tuple[list[socket.socket], int]:
    """Sockets that listen on ``HOST:PORT``, ``[HOST]:PORT`` or ``unix:PATH``, and their port.

    As in gRPC, a host that stands for all addresses means those of IPv4 and IPv6, and of several
    addresses that a name has, those are taken that can be had.

    Raises:
        RuntimeError: there is none.
    """
    try:
        if address.startswith("unix:"):
            return [_listen_unix(address.removeprefix("unix:"))], 0
        host, _, port = address.rpartition(":")
        return _listen_tcp(host.removeprefix("[").removesuffix("]"), int(port))
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise RuntimeError(f"Failed to bind to address {address}: {reason}") from error


def _listen_tcp(host: str, port: int) -> tuple[list[socket.socket], int]:
    if host in _WILDCARDS:
        return _listen_everywhere(port)
    found: list[socket.socket] = []
    refusal: OSError | None = None
    places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, _, _, _, place in dict.fromkeys(places):
        try:
            # The first one that is to have any port decides for all.
            with_port = (place[0], port, *place[2:])
            listening = _tcp_socket(family, with_port)
        except OSError as error:
            refusal = error
            continue
        port = listening.getsockname()[1]
        found.append(listening)
    if not found:
        raise refusal or OSError(f"{host} has no address")
    return found, port


def _listen_everywhere(port: int) -> tuple[list[socket.socket], int]:
    listening = None
    if socket.has_dualstack_ipv6():
        try:
            listening = _tcp_socket(socket.AF_INET6, ("::", port), both=True)
        except OSError as error:
            if isinstance(error, PermissionError) or error.errno == errno.EADDRINUSE:
                raise
    if listening is None:
        listening = _tcp_socket(socket.AF_INET, ("0.0.0.0", port))
    return [listening], listening.getsockname()[1]


def _tcp_socket(family: int, place: tuple[Any, ...], *, both: bool = False) -> socket.socket:
    return socket.create_server(
        place, family=family, backlog=_BACKLOG, reuse_port=False, dualstack_ipv6=both
    )


def _listen_unix(path: str) -> socket.socket:
    """What a server that was killed left there is taken over."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(Path(path).stat().st_mode):
            Path(path).unlink()
    listening = socket.socket(socket.AF_UNIX)
    try:
        listening.bind(path)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def peer_name(connection: socket.socket) -> str:
    """The other side, as gRPC writes it."""
    place = connection.getpeername()
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return "unix:"
    host, port = place[:2]
    if host.startswith("::ffff:") and "." in host:
        host = host.removeprefix("::ffff:")
    return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"
