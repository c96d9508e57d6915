"""The load generator, on a small server."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_models import save_test_model

from keras_cls.server.lifecycle import ModelServer
from serving.load_test import Plan, grpc_requests, main, percentile, rest_requests


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "shades"
    save_test_model(folder / "1")
    with ModelServer(folder, host="127.0.0.1", port=0, rest_api_port=0) as running:
        yield running


def run(server, *arguments, model="shades"):
    quick = ["--duration=0.4", "--warm-up=0.1", "--concurrency=3", f"--model={model}"]
    addresses = [f"--grpc={server.address}", f"--rest=127.0.0.1:{server.rest_port}"]
    return main([*addresses, *quick, *map(str, arguments)])


def test_both_ways(server, tmp_path, capsys):
    file = tmp_path / "results.json"
    assert run(server, "--images=2", f"--pid={os.getpid()}", f"--json={file}") == 0
    results = json.loads(file.read_text())
    assert [result["way"] for result in results] == ["grpc", "rest"]
    for result in results:
        assert result["errors"] == {}
        assert result["answered"] > 0
        assert 0 < result["p50_ms"] <= result["p90_ms"] <= result["p99_ms"]
        assert result["cpu_ms_per_request"] > 0
        assert result["requests_per_second"] == pytest.approx(
            result["answered"] / result["seconds"]
        )
        assert 0.4 <= result["seconds"] < 10
    printed = capsys.readouterr().out
    assert f"grpc {server.address}, 3 at once, 2 image(s) each" in printed
    assert "errors      none" in printed


def test_photos_take_turns(tmp_path):
    photos = [b"a", b"b", b"c"]
    bodies = [json.loads(body) for body in rest_requests(Plan("m", images=2), photos)]
    assert [len(body["instances"]) for body in bodies] == [2, 2, 2]
    firsts = [body["instances"][0]["b64"] for body in bodies]
    assert len(set(firsts)) == 3
    assert len(set(grpc_requests(Plan("m", images=2), photos))) == 3


def test_errors_are_counted_by_their_codes(server, capsys):
    assert run(server, model="nobody") == 1
    printed = capsys.readouterr().out
    assert "NOT_FOUND" in printed
    assert "HTTP 404" in printed
    assert "p50         -" in printed


def test_photos_that_are_none(server, tmp_path, capsys):
    (tmp_path / "photo.jpg").write_text("no photo")
    assert run(server, tmp_path / "photo.jpg") == 1
    assert "INVALID_ARGUMENT" in capsys.readouterr().out


def test_nobody_answers(capsys):
    arguments = ["--model=m", "--duration=0.1", "--warm-up=0", "--timeout=1"]
    assert main(["--grpc=127.0.0.1:1", "--rest=127.0.0.1:1", *arguments]) == 1
    printed = capsys.readouterr().out
    assert "UNAVAILABLE" in printed
    assert "NO ANSWER" in printed


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "--model"),
        (["--model=m"], "give --grpc=HOST:PORT, --rest=HOST:PORT, or both"),
        (["--model=m", "--grpc=a:1", "--concurrency=0"], "must be a whole number from 1 on"),
        (["--model=m", "--grpc=a:1", "--duration=nan"], "must be a number of seconds"),
        (["--model=m", "--grpc=a:1", "/nowhere/photo.jpg"], "/nowhere/photo.jpg"),
    ],
)
def test_arguments_that_make_no_sense(arguments, text, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert text in capsys.readouterr().err


def test_a_process_that_is_not_there(server, capsys):
    with pytest.raises(SystemExit) as caught:
        run(server, "--pid=4194305")
    assert caught.value.code == 2
    assert "4194305" in capsys.readouterr().err


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0, 1))
def test_a_percentile_is_one_of_the_values_and_covers_its_share(values, share):
    found = percentile(sorted(values), share) / 1e3
    assert min(abs(found - value) for value in values) < 1e-9
    assert sum(value <= found + 1e-9 for value in values) >= share * len(values) - 1e-6


def test_no_percentile_of_nothing():
    assert percentile([], 0.5) is None
