"""Files of weights over a real socket: fetched once, checked, and refused in words."""

import hashlib
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from keras_cls.architectures import model_spec
from keras_cls.errors import ConfigError
from keras_cls.weights import downloading
from keras_cls.weights.source import Release, Source

CONTENT = bytes(range(256)) * 40_000  # ten megabytes: a large file, many pieces
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """What the address says happens."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        kind = self.path.split("/")[1]
        if kind == "missing":
            self.send_error(404)
        elif kind == "moved":
            self.send_response(302)
            self.send_header("Location", "/good/net-1a2b.pth")
            self.end_headers()
        elif kind == "nonsense":
            self.wfile.write(b"this is no HTTP\r\n\r\n")
        else:
            self.send_response(200)
            if kind != "endless":
                self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            if kind == "silent":
                self.server.stop.wait()
                return
            if kind == "slow":
                self.server.both.wait(timeout=150)
            self.wfile.write(CONTENT[: len(CONTENT) // 2] if kind == "short" else CONTENT)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    server.stop = threading.Event()
    server.both = threading.Barrier(2)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.stop.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("KERAS_CLS_CACHE", str(folder))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    return folder


SOURCE = Source(
    name="library",
    about="a library",
    endings=(".pth", ".npz"),
    releases={},
    origins=lambda model, file: {},
)


def release(server: http.server.ThreadingHTTPServer, path: str, sha256: str | None) -> Release:
    return Release(
        name="net",
        preprocessing=model_spec("resnet50").preprocessing,
        head=("fc.",),
        url=f"http://127.0.0.1:{server.server_address[1]}/{path}",
        sha256=sha256,
    )


def refused(wanted: Release) -> str:
    with pytest.raises(ConfigError) as caught:
        downloading.fetch(SOURCE, wanted)
    return str(caught.value)


def files(cache: Path) -> list[str]:
    return [str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize("sha256", [SHA256, SHA256[:8], SHA256[:8].upper(), None])
@pytest.mark.parametrize(
    "path", ["good/net-1a2b.pth", "moved/net-1a2b.pth", "endless/net-1a2b.pth"]
)
def test_a_file_is_fetched_once(
    path: str, sha256: str | None, server: http.server.ThreadingHTTPServer, cache: Path
) -> None:
    wanted = release(server, path, sha256)
    found = downloading.fetch(SOURCE, wanted)
    assert found == cache / "library" / "net-1a2b.pth"
    assert found.read_bytes() == CONTENT
    asked = len(server.asked)
    assert downloading.fetch(SOURCE, wanted) == found
    assert len(server.asked) == asked
    assert files(cache) == ["library/net-1a2b.pth"]


def test_it_is_used_without_a_server(cache: Path) -> None:
    (cache / "library").mkdir(parents=True)
    (cache / "library" / "net.pth").write_bytes(CONTENT)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/net.pth"
    wanted = Release(
        name="net",
        preprocessing=model_spec("resnet50").preprocessing,
        head=(),
        url=address,
        sha256=SHA256[:8],
    )
    assert downloading.fetch(SOURCE, wanted).read_bytes() == CONTENT
    said = refused(replace(wanted, sha256="00000000"))
    assert f"library: net: {address}: no connection (" in said
    assert "Download net.pth (SHA-256 00000000...) in another way" in said
    assert said.endswith(f"put it at {cache / 'library' / 'net.pth'}")


@pytest.mark.parametrize(
    ("path", "sha256", "reason"),
    [
        ("missing/net.pth", None, "HTTP status 404 (Not Found)"),
        ("short/net.pth", None, f"it ended after {len(CONTENT) // 2} of {len(CONTENT)} bytes"),
        (
            "good/net.pth",
            "abcd1234",
            "expected a file whose SHA-256 begins with abcd1234, received",
        ),
        ("nonsense/net.pth", None, "this is no HTTP"),
        ("silent/net.pth", None, "nothing arrived for"),
    ],
)
def test_failures_say_where_to_put_the_file(
    path: str,
    sha256: str | None,
    reason: str,
    server: http.server.ThreadingHTTPServer,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(downloading, "_SILENCE", 5 if "silent" not in path else 0.5)
    wanted = release(server, path, sha256)
    said = refused(wanted)
    assert reason in said
    assert f"weights: library: net: {wanted.url}: " in said
    assert "Download net.pth" in said
    assert said.endswith(f"put it at {cache / 'library' / 'net.pth'}")
    assert files(cache) == []


def test_a_wrong_file_in_the_cache_is_replaced(
    server: http.server.ThreadingHTTPServer, cache: Path
) -> None:
    path = cache / "library" / "net.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"old")
    assert downloading.fetch(SOURCE, release(server, "good/net.pth", SHA256[:8])) == path
    assert path.read_bytes() == CONTENT


def test_names_that_would_not_tell_releases_apart(
    server: http.server.ThreadingHTTPServer, cache: Path
) -> None:
    found = downloading.fetch(SOURCE, release(server, "good/model.safetensors?download=1", None))
    assert found == cache / "library" / "net-model.safetensors"


def test_without_an_address(server: http.server.ThreadingHTTPServer, cache: Path) -> None:
    wanted = replace(release(server, "", SHA256[:8]), url=None)
    path = cache / "library" / "net.pth"
    said = refused(wanted)
    assert f"library: net: it is not published as a single file. Put the file at {path}" in said
    path.parent.mkdir(parents=True)
    path.write_bytes(b"wrong")
    assert f"has another checksum than SHA-256 {SHA256[:8]}" in refused(wanted)
    path.write_bytes(CONTENT)
    assert downloading.fetch(SOURCE, wanted) == path
    assert server.asked == []


def test_a_cache_that_cannot_be_written(
    server: http.server.ThreadingHTTPServer, cache: Path
) -> None:
    cache.write_text("a file, no folder")
    said = refused(release(server, "good/net.pth", None))
    assert str(cache) in said and "put it at" in said


CHILD = """
import sys
from keras_cls.weights import downloading
from keras_cls.weights.source import Release, Source
source = Source(name="library", about="", endings=(".pth",), releases={}, origins=lambda m, f: {})
release = Release(name="net", preprocessing=None, head=(), url=sys.argv[1], sha256=sys.argv[2])
print(downloading.fetch(source, release))
"""


@pytest.mark.slow
def test_two_processes_fetch_the_same_file(
    server: http.server.ThreadingHTTPServer, cache: Path
) -> None:
    """The server answers only when both have asked."""
    wanted = release(server, "slow/net.pth", SHA256)
    assert wanted.url is not None
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, wanted.url, SHA256],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        for _ in range(2)
    ]
    for process in processes:
        out, error = process.communicate(timeout=180)
        assert process.returncode == 0, error
        assert out.strip() == str(cache / "library" / "net.pth")
    assert len(server.asked) == 2
    assert files(cache) == ["library/net.pth"]
    assert (cache / "library" / "net.pth").read_bytes() == CONTENT


def test_a_killed_process_leaves_no_half_file(
    server: http.server.ThreadingHTTPServer, cache: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, release(server, "silent/net.pth", None).url, ""],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    deadline = time.monotonic() + 60
    while not files(cache) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not (cache / "library" / "net.pth").exists()
    assert downloading.fetch(SOURCE, release(server, "good/net.pth", SHA256)).is_file()


def test_the_platforms_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KERAS_CLS_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    folders = {}
    for platform in ("linux", "darwin", "win32"):
        monkeypatch.setattr(sys, "platform", platform)
        folders[platform] = downloading.cache_folder()
    assert folders == {
        "linux": tmp_path / "xdg" / "keras_cls" / "weights",
        "darwin": tmp_path / "Library" / "Caches" / "keras_cls" / "weights",
        "win32": tmp_path / "local" / "keras_cls" / "weights",
    }
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert downloading.cache_folder() == tmp_path / ".cache" / "keras_cls" / "weights"
    monkeypatch.setenv("KERAS_CLS_CACHE", "~/mine")
    assert downloading.cache_folder() == tmp_path / "mine"
