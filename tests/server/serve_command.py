"""``keras-cls serve`` as users run it, in a process of its own."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

COMMAND = (sys.executable, "-m", "keras_cls", "serve", "--host=127.0.0.1")


@dataclass(frozen=True)
class Served:
    """A server that answers; ``errors`` are the lines it wrote to standard error so far."""

    process: subprocess.Popen
    address: str
    rest_port: int | None
    errors: list[str]


def run_serve(*flags: str) -> subprocess.CompletedProcess:
    """The command, where it ends by itself."""
    return subprocess.run([*COMMAND, *flags], capture_output=True, text=True, timeout=120)


@contextmanager
def serve_command(*flags: str) -> Iterator[Served]:
    """The command, ready when entered; killed at the end if it is still there."""
    process = subprocess.Popen(
        [*COMMAND, "--port=0", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",  # TensorFlow quotes what it was sent
    )
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(process.stderr), daemon=True)
    reader.start()
    try:
        ready = process.stdout.readline()
        assert ready.startswith("serving "), "".join(errors)
        rest_port = None
        if any(flag.startswith("--rest_api_port") for flag in flags):
            rest_port = urlsplit(process.stdout.readline().split()[-1]).port
        yield Served(process, ready.split(" on ")[-1].strip(), rest_port, errors)
    finally:
        process.kill()
        process.wait()
        reader.join(5)
        process.stdout.close()
        process.stderr.close()
