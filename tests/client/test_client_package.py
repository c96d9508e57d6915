"""What the client needs, and what it shares a process with."""

import subprocess
import sys
from pathlib import Path

import pytest
from shades import encoded

import keras_cls
from keras_cls.client import AsyncClient, Client

ROOT = Path(keras_cls.__file__).parents[1]
MODULES = {
    "keras_cls",
    *(
        f"keras_cls.client{name}"
        for name in (
            *("", ".addresses", ".asynchronous", ".blocking", ".channels", ".conversation"),
            *(".requests", ".retrying", ".settings"),
        )
    ),
    *(f"keras_cls.contract{name}" for name in ("", ".messages", ".protos", ".tensors")),
    "keras_cls.errors",
    "keras_cls.images",
    "keras_cls.lazy",
    "keras_cls.version",
}


def run_python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_public_places():
    assert keras_cls.Client is Client
    assert keras_cls.AsyncClient is AsyncClient


CALLS = {
    "Client": (
        "with keras_cls.Client({arguments}) as client:\n    answer = client.{method}({path!r})"
    ),
    "AsyncClient": (
        "import asyncio\n"
        "async def ask():\n"
        "    async with keras_cls.AsyncClient({arguments}) as client:\n"
        "        return await client.{method}({path!r})\n"
        "answer = asyncio.run(ask())"
    ),
}


@pytest.mark.parametrize("decode", ["server", "client"])
@pytest.mark.parametrize("kind", CALLS)
def test_no_client_needs_tensorflow(server, tmp_path, kind, decode):
    """In a fresh interpreter, after a real call; of this package, only the contract and images."""
    path = tmp_path / "dark.png"
    path.write_bytes(encoded(0))
    call = CALLS[kind].format(
        arguments=f"{server.address!r}, model='shades', decode={decode!r}",
        method="probabilities",
        path=str(path),
    )
    out = run_python(f"""
import sys
for missing in ("tensorflow", "keras", "tensorflow_serving"):
    sys.modules[missing] = None
import keras_cls
{call}
assert answer.argmax() == 0, answer
print(*sorted(name for name in sys.modules if name.startswith("keras_cls")))
""")
    extra = {"keras_cls.client.decoding", "keras_cls.preprocessing"} if decode == "client" else {}
    assert set(out.split()) == MODULES | set(extra)
