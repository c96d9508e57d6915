"""The conformance cases, held against the embedded server: each in a process of its own."""

import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from serving.conformance.models import commands, main, server_arguments, write_models

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("conformance") / "models"
    write_models(path)
    return path


def free_ports(number):
    """Ports that were free a moment ago: the address of REST has to be known beforehand."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def ports(folder):
    """Of gRPC and REST of the embedded server, which serves the folder."""
    grpc_port, rest_port = free_ports(2)
    arguments = server_arguments(folder, grpc_port, rest_port)
    process = subprocess.Popen(
        [sys.executable, "-m", "keras_cls", "serve", "--host=127.0.0.1", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=REPOSITORY,
    )
    try:
        assert process.stdout.readline().startswith("serving "), "the server did not start"
        yield grpc_port, rest_port
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def run_suite(ports, *arguments):
    grpc_port, rest_port = ports
    return subprocess.run(
        [
            *(sys.executable, "-m", "serving.conformance", "-p", "no:warnings"),
            *(f"--grpc=127.0.0.1:{grpc_port}", f"--rest=127.0.0.1:{rest_port}", *arguments),
        ],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )


def test_the_embedded_server_holds_to_the_behaviour(folder, ports):
    done = run_suite(ports, "--server=embedded", f"--base-path={folder}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout.splitlines()[-1]
    assert "NOT as described" not in done.stdout
    assert done.stdout.count("embedded server as described: ") >= 7


@pytest.mark.slow
def test_without_the_folder_the_cases_that_write_are_skipped(ports):
    done = run_suite(ports, "--server=embedded", "-k", "hot_swap or an_unknown_label")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"1 passed, 5 skipped", done.stdout)
    assert "needs --base-path" in done.stdout


@pytest.mark.slow
def test_taken_for_the_original_it_differs_where_it_should(ports):
    done = run_suite(ports, "--server=original", "-m", "differs")
    assert done.returncode == 1
    assert "original server NOT as described: a request that makes its batch fail" in done.stdout


def test_the_commands_differ_in_the_program_only(folder, capsys):
    original, embedded, suite = commands(folder)
    assert original[:2] == ["docker", "run"]
    assert embedded[:2] == ["keras-cls", "serve"]
    assert original[-len(embedded) + 2 :] == embedded[2:]
    assert f"--base-path={folder}" in suite
    assert main([str(folder)]) == 1
    assert "is not empty: name a new folder" in capsys.readouterr().err


def test_it_prints_the_commands(tmp_path, capsys):
    assert main([str(tmp_path / "new")]) == 0
    printed = [line.strip() for line in capsys.readouterr().out.splitlines()]
    original, embedded, _ = map(shlex.join, commands(tmp_path / "new"))
    assert {original, embedded} <= set(printed)
