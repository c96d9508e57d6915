import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_cls.errors import ConfigError
from keras_cls.training.tf_config import Cluster, read_cluster


def read(config):
    text = config if isinstance(config, str) else json.dumps(config)
    return read_cluster({"TF_CONFIG": text})


def config(cluster=None, kind="worker", index=0):
    cluster = {"worker": ["a:1", "b:2"]} if cluster is None else cluster
    return {"cluster": cluster, "task": {"type": kind, "index": index}}


@pytest.mark.parametrize("text", ["", " ", "{}", '{"cluster": {}}', '{"environment": "cloud"}'])
def test_no_cluster_named(text):
    assert read(text) is None
    assert read_cluster({}) is None


def test_workers():
    assert read(config(index=1)) == Cluster(("a:1", "b:2"), 1)
    assert read(config(index="1")) == Cluster(("a:1", "b:2"), 1)  # as shells write it
    first = read(config())
    assert (first.count, first.is_chief) == (2, True)
    assert not read(config(index=1)).is_chief


def test_a_chief_comes_first():
    cluster = {"worker": ["a:1", "b:2"], "chief": ["[::1]:3"]}
    assert read(config(cluster, "chief")) == Cluster(("[::1]:3", "a:1", "b:2"), 0)
    assert read(config(cluster, "worker", 1)) == Cluster(("[::1]:3", "a:1", "b:2"), 2)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("{", "TF_CONFIG: not valid JSON"),
        ("[" * 100_000, "TF_CONFIG: not valid JSON"),
        ([], r"TF_CONFIG: expected a JSON object, found \[\]"),
        ({"cluster": ["a:1"]}, "TF_CONFIG.cluster: expected a JSON object"),
        ({"cluster": {"worker": ["a:1"]}}, 'TF_CONFIG.task: expected .*"index": 0}, found nothing'),
        ({"cluster": {"worker": ["a:1"]}, "task": 1}, "TF_CONFIG.task: expected a JSON object"),
        (config({"worker": []}), r"TF_CONFIG.cluster.worker: expected a list .*, found \[\]"),
        (config({"worker": {"0": "a:1"}}), "TF_CONFIG.cluster.worker: expected a list"),
        (config({"worker": ["a"]}), r"cluster.worker\[0\]: expected host:port, .*, found 'a'"),
        (config({"worker": ["a:1", "b:0"]}), r"cluster.worker\[1\]: expected host:port"),
        (config({"worker": ["a:65536"]}), r"worker\[0\]: expected host:port"),
        (config({"worker": ["grpc://a:1"]}), r"worker\[0\]: expected host:port"),
        (config({"worker": ["::1:2"]}), r"worker\[0\]: expected host:port"),
        (config({"worker": [":2"]}), r"worker\[0\]: expected host:port"),
        (config({"worker": [3]}), r"worker\[0\]: expected host:port, .*, found 3"),
        (
            config({"worker": ["a:1", "a:1"]}),
            r"worker\[1\]: expected an address of its own, found 'a:1', as TF_CONFIG.cluster.wor",
        ),
        (config({"chief": ["a:1", "b:1"]}, "chief"), "cluster.chief: expected one address"),
        (config({"worker": ["a:1"], "ps": ["b:1"]}), "TF_CONFIG.cluster: 'ps' is not supported"),
        (config({"worker": ["a:1"], "evaluator": ["b:1"]}), "'evaluator' is not supported"),
        (config(kind="ps"), "TF_CONFIG.task.type: 'ps' is not supported: there are no parameter"),
        (config(kind="evaluator"), "TF_CONFIG.task.type: 'evaluator' is not supported"),
        (config({"gpu": ["a:1"]}), "TF_CONFIG.cluster: expected 'worker' or 'chief', found 'gpu'"),
        (config(kind="chief"), "TF_CONFIG.task.type: expected one of the cluster's types, worker"),
        (config(kind=None), "TF_CONFIG.task.type: expected 'worker' or 'chief', found None"),
        (config(kind=["worker"]), "TF_CONFIG.task.type: expected 'worker' or 'chief'"),
        (config(index=2), "TF_CONFIG.task.index: expected a whole number from 0 to 1, found 2"),
        (config(index=-1), "task.index: expected .*, found -1"),
        (config(index=True), "task.index: expected .*, found True"),
        (config(index=0.0), "task.index: expected .*, found 0.0"),
        (config(index=None), "task.index: expected .*, found None"),
        (config(index="²"), "task.index: expected"),
        ({"cluster": {"worker": ["a:1"]}, "task": {}}, "TF_CONFIG.task.type: expected"),
    ],
)
def test_what_is_wrong_is_named(found, message):
    with pytest.raises(ConfigError, match=message):
        read(found)


_ADDRESSES = st.lists(
    st.tuples(st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True), st.integers(1, 65535)),
    min_size=1,
    max_size=8,
    unique=True,
).map(lambda pairs: [f"{host}:{port}" for host, port in pairs])


@given(addresses=_ADDRESSES, chief=st.booleans(), data=st.data())
def test_each_worker_finds_its_place(addresses, chief, data):
    index = data.draw(st.integers(0, len(addresses) - 1))
    cluster = {"worker": addresses[1:], "chief": addresses[:1]} if chief else {"worker": addresses}
    cluster = {name: tasks for name, tasks in cluster.items() if tasks}
    kind = "chief" if chief and index == 0 else "worker"
    own = index - 1 if chief and index else index
    assert read(config(cluster, kind, own)) == Cluster(tuple(addresses), index)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["cluster", "task", "worker", "chief", "type", "index", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_JSON | st.builds(lambda a, b: {"cluster": a, "task": b}, _JSON, _JSON))
def test_nothing_but_config_errors(found):
    try:
        cluster = read(found)
    except ConfigError as error:
        assert str(error).startswith("TF_CONFIG")
    else:
        assert cluster is None or 0 <= cluster.index < cluster.count


@given(st.text(max_size=30))
def test_no_text_breaks_it(text):
    try:
        read(text)
    except ConfigError as error:
        assert str(error).startswith("TF_CONFIG")
