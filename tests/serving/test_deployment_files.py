"""The files of serving/: whether our readers take them, and whether their metrics exist."""

import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from keras_cls.server.flags import FLAGS
from keras_cls.server.metrics import Metrics
from keras_cls.server.settings import (
    MONITORING_PATH,
    Latest,
    read_batching_parameters,
    read_model_config,
    read_monitoring_config,
)
from serving.conformance.models import IMAGE

SERVING = Path(__file__).resolve().parents[2] / "serving"
COMPOSE = SERVING / "compose.yaml"
DASHBOARD = SERVING / "grafana/dashboards/serving.json"
ALERTS = SERVING / "prometheus/alerts.yml"
YAML_FILES = sorted([*SERVING.rglob("*.yml"), *SERVING.rglob("*.yaml")])
DOCKERFILES = ["Dockerfile", "Dockerfile.embedded"]

_KNOWN_INSTRUCTIONS = {
    *("FROM", "RUN", "COPY", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK"),
    *("ENTRYPOINT", "CMD"),
}
_METRIC = re.compile(r"(?<![\w:])(:tensorflow:[\w:]+|keras_cls_\w+|process_\w+)(?:\{([^}]*)\})?")
_GROUPING = re.compile(r"by \(([^)]*)\)")
# Prometheus itself adds them.
_ADDED_LABELS = {"instance", "job", "le"}


def exported():
    """The labels of every metric that the embedded server exports, by its name."""
    metrics = Metrics()
    metrics.count_request("pets", 1, "serving_default", "OK")
    metrics.observe_latency("pets", 1, "serving_default", "Predict", "GRPC", 5)
    metrics.observe_run("pets", 1, "serving_default", 5, 1)
    metrics.observe_queue("pets", 1, "serving_default", 5)
    metrics.observe_examples("pets", 1)
    metrics.observe_warmup("/models/pets/1", "OK", 5)
    metrics.count_load("pets", 1, "loaded")
    metrics.set_queue_depth("pets", 1, 0)
    metrics.set_state("pets", 1, "AVAILABLE")
    metrics.set_build_info("1", "2")
    found = {}
    for line in metrics.text().decode().splitlines():
        if sample := re.match(r"([\w:]+)(?:\{(.*)\})? ", line):
            labels = re.findall(r'(\w+)="', sample[2] or "")
            found.setdefault(sample[1], set()).update(labels)
    return found


def expressions():
    board = json.loads(DASHBOARD.read_text())
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    found += re.findall(r"label_values\((\S+),", json.dumps(board["templating"]))
    # An expression goes on until the next key of its alert.
    alerts = re.findall(r"expr: (.*?)\n +(?:for|labels):", ALERTS.read_text(), re.DOTALL)
    return found + alerts


def test_every_metric_and_label_is_exported():
    known = exported()
    assert len(expressions()) >= 30
    for expression in expressions():
        names = _METRIC.findall(expression)
        labels = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", "".join(pairs for _, pairs in names)))
        for grouped in _GROUPING.findall(expression):
            labels |= {label.strip() for label in grouped.split(",")}
        for name, _ in names:
            assert name in known, expression
            assert labels - _ADDED_LABELS <= known[name], expression
        assert names or expression.startswith("up{"), expression


def test_the_dashboard_is_one_that_grafana_can_provision():
    board = json.loads(DASHBOARD.read_text())
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in board["panels"])
    sources = (SERVING / "grafana/provisioning/datasources/prometheus.yml").read_text()
    used = {panel["datasource"]["uid"] for panel in board["panels"] if "datasource" in panel}
    assert used == {re.search(r"uid: (\w+)", sources)[1]}


def test_our_readers_take_the_configuration():
    (model,) = read_model_config(SERVING / "config/models.config")
    assert (model.name, str(model.base_path), model.policy) == ("pets", "/models/pets", Latest(2))
    batching = read_batching_parameters(SERVING / "config/batching.config")
    assert (batching.max_batch_size, batching.max_execution_batch_size) == (256, 32)
    # The largest request that is taken has room in the queue.
    assert batching.max_enqueued_batches * 32 >= batching.max_batch_size
    path = read_monitoring_config(SERVING / "config/monitoring.config")
    assert path == MONITORING_PATH
    assert f"metrics_path: {path}" in (SERVING / "prometheus/prometheus.yml").read_text()


@pytest.mark.parametrize("file", YAML_FILES, ids=lambda file: file.name)
def test_yaml_can_be_read(file):
    assert isinstance(yaml.safe_load(file.read_text()), dict)


def test_compose_is_taken_by_docker():
    if shutil.which("docker") is None:
        pytest.skip("there is no docker command here")
    # Newer files than `docker stack` knows: these keys are of Compose alone.
    text = re.sub(r"(?m)^name: .*\n|^    profiles: .*\n|^  restart: .*\n", "", COMPOSE.read_text())
    done = subprocess.run(
        ["docker", "stack", "config", "--compose-file=-"],
        input=text,
        capture_output=True,
        text=True,
        cwd=SERVING,
    )
    assert done.returncode == 0, done.stderr
    for service in ("original", "embedded", "prometheus", "grafana"):
        assert f"\n  {service}:\n" in done.stdout


def test_files_that_compose_mounts_are_there():
    mounted = re.findall(r"- (\./\S+?):/", COMPOSE.read_text())
    assert len(mounted) >= 4
    for path in mounted:
        assert (SERVING / path).exists(), path


def instructions(name):
    """The instructions of a Dockerfile, each with what follows it."""
    text = re.sub(r"(?m)^#.*\n", "", (SERVING / name).read_text()).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfiles(name):
    found = instructions(name)
    assert [key for key, _ in found if key not in _KNOWN_INSTRUCTIONS] == []
    assert found[0][0] == "FROM"
    for key, rest in found:
        if key == "FROM":
            image, _, tag = rest.split()[0].partition(":")
            assert re.match(r"\d+\.\d+", tag), f"{image} is not pinned"
    users = [rest for key, rest in found if key == "USER"]
    assert users == ["10001:10001"]
    assert sum(key == "HEALTHCHECK" for key, _ in found) == 1
    root = SERVING if name == "Dockerfile" else SERVING.parent
    for key, rest in found:
        if key == "COPY" and "--from" not in rest:
            sources = [word for word in rest.split() if not word.startswith("--")][:-1]
            for source in sources:
                assert (root / source).exists(), source


def test_both_images_get_the_same_arguments_which_our_server_knows():
    original, embedded = (json.loads(dict(instructions(name))["CMD"]) for name in DOCKERFILES)
    assert original == embedded
    known = {flag.name for flag in FLAGS}
    for argument in original:
        assert argument.removeprefix("--").partition("=")[0] in known, argument
    assert dict(instructions("Dockerfile"))["FROM"] == IMAGE


@pytest.mark.parametrize("name", DOCKERFILES)
def test_health_checks_tell_a_server_from_none(name):
    """The commands themselves, on the port of a small server that knows the pages they ask for."""
    rest = dict(instructions(name))["HEALTHCHECK"]
    command = json.loads(rest.partition("CMD ")[2])
    page = "/readyz" if name == "Dockerfile.embedded" else "/v1/models/pets/metadata"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        command = [word.replace("8501", str(port)) for word in command]
        command[0] = sys.executable if command[0] == "python" else command[0]
        for status, wanted in (("200 OK", True), ("404 Not Found", False)):
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            connection, _ = listening.accept()
            with connection:
                asked = connection.recv(4096).decode()
                assert asked.startswith(f"GET {page} HTTP/1.")
                connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
            assert (process.wait(10) == 0) is wanted
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode != 0
