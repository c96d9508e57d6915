"""Devices, and several worker processes: that two equal one, and what happens when one is lost."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from clusters import PROGRAM, Workers, free_addresses, wait_until

from keras_cls.errors import ConfigError
from keras_cls.training import cluster
from keras_cls.training.cluster import (
    WorkerLostError,
    describe_strategy,
    lost_peers_named,
    make_strategy,
)


@pytest.fixture
def workers(tmp_path):
    started = Workers(tmp_path)
    yield started
    started.end()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The weights after all steps of one process that has the whole batch to itself."""
    folder = tmp_path_factory.mktemp("alone")
    environment = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
    subprocess.run([sys.executable, PROGRAM, "train", folder], env=environment, check=True)
    return weights(folder / "end0.npz")


def weights(path):
    with np.load(path) as archive:
        return dict(archive)


def difference(ones, others):
    assert ones.keys() == others.keys()
    return max(np.abs(ones[name].astype(float) - others[name]).max() for name in ones)


def steps(folder, index):
    path = folder / f"steps{index}.txt"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


# --- One process ------------------------------------------------------------------------------


def test_without_anything_special_it_is_the_default(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    strategy = make_strategy("auto")
    assert strategy is tf.distribute.get_strategy()
    assert describe_strategy(strategy) in ("1 CPU", "1 GPU")
    alone = cluster.Workers(strategy)
    assert (alone.index, alone.count, alone.is_chief) == (0, 1, True)
    assert alone.agreed("x") == "x"
    assert alone.gathered("ü") == ["ü"]
    assert alone.sum(np.arange(3)).tolist() == [0, 1, 2]
    assert not alone.any(False)
    alone.barrier("nothing to wait for")


def test_a_strategy_given_is_taken():
    given = tf.distribute.MirroredStrategy(["CPU:0"])
    assert make_strategy(given) is given
    assert describe_strategy(given) == "1 CPU"


def test_a_cluster_of_one_is_no_cluster(monkeypatch):
    monkeypatch.setenv(
        "TF_CONFIG", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}'
    )
    assert cluster.Workers(make_strategy("auto")).count == 1


def test_two_logical_devices_are_described():
    code = (
        "import tensorflow as tf\n"
        "from keras_cls.training.cluster import describe_strategy\n"
        "cpu = tf.config.list_physical_devices('CPU')[0]\n"
        "two = [tf.config.LogicalDeviceConfiguration()] * 2\n"
        "tf.config.set_logical_device_configuration(cpu, two)\n"
        "print(describe_strategy(tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "2 CPUs"


@pytest.mark.parametrize("choice", ["mirrored", 3, None])
def test_another_choice_is_refused(choice):
    with pytest.raises(ConfigError, match="strategy must be 'auto'"):
        make_strategy(choice)


def test_a_tpu_that_does_not_answer_is_named(monkeypatch):
    (nobody,) = free_addresses(1)
    monkeypatch.setenv("TPU_NAME", f"grpc://{nobody}")
    with pytest.raises(ConfigError, match=rf"TPU \(TPU_NAME\).*nothing listens at {nobody}"):
        make_strategy("auto")


def test_a_cluster_comes_before_anything_else(monkeypatch):
    """Here TensorFlow has made tensors long ago."""
    tf.constant(0)
    one, other = free_addresses(2)
    config = {"cluster": {"worker": [one, other]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(ConfigError, match="call train before anything else"):
        make_strategy("auto")


def test_only_what_a_lost_worker_causes_is_named_so():
    lost = "Graph execution error:\n\nCollective ops is aborted by: Socket closed"
    named = pytest.raises(WorkerLostError, match=r"worker is gone \(Socket closed\).*goes on")
    with named, lost_peers_named():
        raise tf.errors.UnavailableError(None, None, lost)
    with pytest.raises(tf.errors.UnavailableError), lost_peers_named():
        raise tf.errors.UnavailableError(None, None, "the data service is not there")
    with pytest.raises(tf.errors.InvalidArgumentError), lost_peers_named():
        raise tf.errors.InvalidArgumentError(None, None, "Collective ops is aborted by: shapes")


# --- Two processes ----------------------------------------------------------------------------


def test_two_workers_equal_one_process(workers, tmp_path, undisturbed):
    addresses = free_addresses(2)
    both = [workers.start(["train", tmp_path], addresses, index) for index in (0, 1)]
    assert [worker.wait() for worker in both] == [0, 0], both[0].output() + both[1].output()
    ends = [weights(tmp_path / f"end{index}.npz") for index in (0, 1)]
    assert difference(ends[0], ends[1]) == 0
    assert difference(ends[0], undisturbed) < 1e-5


@pytest.mark.slow
def test_workers_talk_and_notice_that_they_disagree(workers, tmp_path):
    addresses = free_addresses(2)
    both = [workers.start(["talk", tmp_path], addresses, index) for index in (0, 1)]
    assert [worker.wait() for worker in both] == [1, 1], both[0].output() + both[1].output()
    for index in (0, 1):
        answers = json.loads((tmp_path / f"talk{index}.json").read_text())
        assert answers == {
            "again": True,
            "description": "2 workers, 1 CPU each",
            "index": index,
            "chief": index == 0,
            "stopped": [True],  # SIGTERM is the program's, not TensorFlow's
            "any": [False, True],
            "gathered": ["", "ü"],
            "agreed": 7,
            **{
                dtype: [[[3, 2**21 + 2]], dtype, [1, 2]]
                for dtype in ("int32", "int64", "float32", "float64")
            },
        }
        assert "ConfigError: the seed: worker 1 sees 'seed 1', the chief sees 'seed 0'. All" in (
            both[index].output()
        )


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (0, "worker 1 ({1}) did not come within 3 s; start all 2 workers"),
        pytest.param(1, "the chief, {0}, did not answer within 3 s", marks=pytest.mark.slow),
    ],
)
def test_a_worker_that_does_not_come_is_named(workers, tmp_path, index, message):
    addresses = free_addresses(2)
    alone = workers.start(["wait", tmp_path], addresses, index)
    assert alone.wait() == 75
    assert f"WorkerLostError: {message.format(*addresses)}" in alone.output()


def test_a_port_that_is_taken_is_named(workers, tmp_path):
    import socket

    (other,) = free_addresses(1)
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        mine = f"127.0.0.1:{taken.getsockname()[1]}"
        alone = workers.start(["wait", tmp_path], [other, mine], 1)
        assert alone.wait() == 1
    assert f"ConfigError: TF_CONFIG: worker 1 cannot listen at {mine}" in alone.output()


def lose_one(workers, folder, victim, *, whole):
    """Kill one of two supervised workers in the middle, start it again; returns both."""
    addresses = free_addresses(2)
    command = ["train", folder, "--supervised", "--pause", 0.2]
    both = [workers.start(command, addresses, index) for index in (0, 1)]
    wait_until(lambda: len(steps(folder, 0)) >= 10 and len(steps(folder, 1)) >= 10)
    if whole:
        both[victim].kill()
        both[victim] = workers.start(command, addresses, victim)
    else:
        both[victim].kill_child()
    return both


@pytest.mark.parametrize(
    ("victim", "whole"),
    [
        (1, True),
        pytest.param(0, True, marks=pytest.mark.slow),
        pytest.param(0, False, marks=pytest.mark.slow),
        pytest.param(1, False, marks=pytest.mark.slow),
    ],
    ids=["worker", "chief", "chief's child", "worker's child"],
)
def test_after_a_worker_is_lost_both_go_on(workers, tmp_path, undisturbed, victim, whole):
    both = lose_one(workers, tmp_path, victim, whole=whole)
    assert [worker.wait() for worker in both] == [0, 0], both[0].output() + both[1].output()
    for index in (0, 1):
        done = steps(tmp_path, index)
        assert done[:10] == list(range(10))
        first = next(i for i in range(1, len(done)) if done[i] <= done[i - 1])
        assert done[first] % 4 == 0, "did not go on from a checkpoint"
        assert done[first] >= 8, "began anew"
        assert done[first:] == list(range(done[first], 24))
        assert difference(weights(tmp_path / f"end{index}.npz"), undisturbed) < 1e-5
    assert "WorkerLostError: another worker is gone" in both[1 - victim].output()


@pytest.mark.slow
def test_a_worker_that_comes_late_is_waited_for(workers, tmp_path, undisturbed):
    import time

    addresses = free_addresses(2)
    for first in (0, 1):
        folder = tmp_path / str(first)
        folder.mkdir()
        both = {first: workers.start(["train", folder], addresses, first)}
        time.sleep(15)
        both[1 - first] = workers.start(["train", folder], addresses, 1 - first)
        assert [worker.wait() for worker in both.values()] == [0, 0]
        assert difference(weights(folder / "end0.npz"), undisturbed) < 1e-5
