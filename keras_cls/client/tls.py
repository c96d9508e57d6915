"""TLS from files, checked here: gRPC would say of a bad one that no server can be reached."""

import ssl
from os import PathLike
from pathlib import Path

import grpc

from keras_cls.errors import ConfigError


def read_credentials(
    ca: str | PathLike[str] | None = None,
    certificate: str | PathLike[str] | None = None,
    key: str | PathLike[str] | None = None,
) -> grpc.ChannelCredentials | None:
    """The credentials of a client, from PEM files.

    Args:
        ca: certificates of who may vouch for the server; by default those that gRPC brings.
        certificate: the client's own, for servers that ask for one; with those between it and the
            authority, if there are any.
        key: its private key, not encrypted.

    Returns:
        What ``Client(credentials=...)`` takes; None, for plain text, where no file is given.

    Raises:
        ConfigError: a file is missing or not what it should be, or certificate and key are no pair.
    """
    if (certificate is None) != (key is None):
        raise ConfigError("a TLS certificate and its key go together: give both or neither")
    if ca is None and certificate is None:
        return None
    ca_bytes, certificate_bytes, key_bytes = (
        None if file is None else _read(file) for file in (ca, certificate, key)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        try:
            context.load_verify_locations(cafile=ca)
        except ssl.SSLError as error:
            raise ConfigError(f"{ca}: no certificates in PEM format") from error
    if certificate is not None and key is not None:
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except ssl.SSLError as error:
            raise ConfigError(
                f"{certificate} and {key} must be a certificate and its private key, not "
                f"encrypted, in PEM format ({error.reason or error})"
            ) from error
    return grpc.ssl_channel_credentials(ca_bytes, key_bytes, certificate_bytes)


def _read(file: str | PathLike[str]) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: {(error.strerror or str(error)).lower()}") from error


def _no_password() -> bytes:
    return b""  # else OpenSSL would ask at the terminal
