"""Versions that appear in and disappear from a model's folder while it is served."""

import shutil
import threading

import grpc
import pytest

from serving.conformance.asking import configuration, until


@pytest.fixture
def visitor(server, folder, reload, scratch, put_version):
    """A model named visitor, served with its version 1; its folder."""
    put_version("1", scratch / "1")
    config = configuration(folder)
    config.model_config_list.config.add(
        name="visitor", base_path=str(scratch), model_platform="tensorflow"
    )
    reload(config)
    yield scratch


def states(server, *versions):
    """Of these; versions of other cases may be listed too, for what has ended stays."""
    found = server.states("visitor")
    return [found.get(version) for version in versions]


def test_a_new_version_takes_over_and_nobody_is_refused(server, visitor, put_version):
    answers, refusals, end = set(), [], threading.Event()

    def ask():
        while not end.is_set():
            try:
                answers.add(server.outputs(model="visitor", x=[0.0])["y"][0])
            except grpc.RpcError as error:
                refusals.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        put_version("2", visitor / "2")
        until(lambda: states(server, 1, 2) == ["END", "AVAILABLE"])
    finally:
        end.set()
        thread.join()
    assert refusals == []
    assert answers <= {1.0, 2.0}
    assert server.outputs(model="visitor", x=[0.0]) == {"y": [2.0]}


def test_a_broken_version_changes_nothing(server, visitor, put_version):
    put_version("broken", visitor / "2")
    until(lambda: server.states("visitor").get(2) == "END")
    assert server.states("visitor")[1] == "AVAILABLE"
    assert server.outputs(model="visitor", x=[0.0]) == {"y": [1.0]}
    put_version("3", visitor / "3")
    until(lambda: server.states("visitor").get(3) == "AVAILABLE")
    assert server.outputs(model="visitor", x=[0.0]) == {"y": [3.0]}


def test_back_to_an_older_version(server, visitor, put_version):
    put_version("2", visitor / "2")
    until(lambda: server.states("visitor").get(2) == "AVAILABLE")
    shutil.rmtree(visitor / "2")
    until(lambda: states(server, 1, 2) == ["AVAILABLE", "END"])
    assert server.outputs(model="visitor", x=[0.0]) == {"y": [1.0]}


@pytest.mark.differs(
    "a model whose folder is emptied keeps its version; the original unloads it "
    "(--servable_versions_always_present=false makes this server do so too)"
)
def test_an_emptied_folder(server, visitor, put_version):
    shutil.move(visitor / "1", visitor / "gone")
    if not server.embedded:
        until(lambda: states(server, 1) == ["END"])
        return
    # Version 2 comes later than the look at the empty folder; until then version 1 answers.
    with pytest.raises(AssertionError, match="not so"):
        until(lambda: server.states("visitor")[1] != "AVAILABLE", seconds=2)
    assert server.outputs(model="visitor", x=[0.0]) == {"y": [1.0]}


def test_a_folder_that_is_gone_keeps_its_version(server, visitor):
    away = visitor.with_name("away")
    visitor.rename(away)
    try:
        with pytest.raises(AssertionError, match="not so"):
            until(lambda: server.states("visitor")[1] != "AVAILABLE", seconds=2)
        assert server.outputs(model="visitor", x=[0.0]) == {"y": [1.0]}
    finally:
        away.rename(visitor)
