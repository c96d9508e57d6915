"""An authority of our own, and what it vouches for."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

_EXTENSIONS = "subjectAltName=DNS:localhost,IP:127.0.0.1"


@dataclass(frozen=True)
class Pair:
    """A private key and a certificate, as PEM files."""

    key: Path
    certificate: Path

    @property
    def content(self) -> tuple[bytes, bytes]:
        return self.key.read_bytes(), self.certificate.read_bytes()


@dataclass(frozen=True)
class Certificates:
    """An authority and what it signed for a server and a client, and a stranger's of all that."""

    authority: Pair
    server: Pair
    client: Pair

    def server_credentials(self, *, mutual: bool = False) -> grpc.ServerCredentials:
        trusted = self.authority.certificate.read_bytes() if mutual else None
        return grpc.ssl_server_credentials([self.server.content], trusted, mutual)


def make_certificates(folder: Path) -> Certificates:
    """New ones, good for a day."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates with")
    folder.mkdir(exist_ok=True)
    authority = _pair(folder, "authority", "-addext", "basicConstraints=critical,CA:TRUE")
    signed = ("-CA", authority.certificate, "-CAkey", authority.key)
    return Certificates(
        authority,
        _pair(folder, "server", *signed, "-addext", _EXTENSIONS),
        _pair(folder, "client", *signed),
    )


def _pair(folder: Path, name: str, *options: str | Path) -> Pair:
    pair = Pair(folder / f"{name}.key", folder / f"{name}.pem")
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1")
    subprocess.run(
        [
            *("openssl", "req", "-x509", *new, "-subj", f"/CN={name}"),
            *("-keyout", pair.key, "-out", pair.certificate, *options),
        ],
        check=True,
        capture_output=True,
    )
    return pair
