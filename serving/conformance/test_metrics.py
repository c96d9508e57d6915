"""The page for Prometheus."""

import re

import pytest

from serving.conformance.asking import (
    METRICS_PATH,
    SECONDS,
    classification,
    refusal,
    request_for,
    tasks,
)

COUNT = ":tensorflow:serving:request_count"
_SAMPLE = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*(\{.*\})? [-+0-9.eEInfNa]+")
BUCKETS = [f"{10 * 1.8**step:g}" for step in range(33)]


def test_the_page_is_prometheus_text(server):
    server.outputs(x=[1.0])
    lines = [line for line in server.metrics().splitlines() if line and line[0] != "#"]
    assert lines
    assert [line for line in lines if not _SAMPLE.fullmatch(line)] == []


def test_the_original_names(server):
    server.outputs(x=[1.0])
    server.prediction.Classify(classification("classify", 1.0), timeout=SECONDS)
    names = set(re.findall(r"^(:tensorflow:serving:[\w:]+)", server.metrics(), re.MULTILINE))
    assert names >= {
        COUNT,
        ":tensorflow:serving:request_latency_bucket",
        ":tensorflow:serving:request_latency_count",
        ":tensorflow:serving:request_latency_sum",
        ":tensorflow:serving:runtime_latency_bucket",
        ":tensorflow:serving:request_example_counts_bucket",
        ":tensorflow:serving:batching_session:queuing_latency_bucket",
        ":tensorflow:serving:batching_session:wrapped_run_count",
    }


@pytest.mark.parametrize("entrypoint", ["GRPC", "REST"])
def test_requests_are_counted_and_timed(server, entrypoint):
    labels = {"model_name": "numbers", "API": "Predict", "entrypoint": entrypoint}
    latency = ":tensorflow:serving:request_latency_count"

    def figures():
        answered = server.counter(COUNT, model_name="numbers", status="OK")
        return answered, server.counter(latency, **labels)

    before = figures()
    if entrypoint == "GRPC":
        server.outputs(x=[1.0])
    else:
        assert server.rest("numbers:predict", {"instances": [1.0]}).status == 200
    assert [new - old for new, old in zip(figures(), before, strict=True)] == [1, 1]


def test_refusals_are_counted_by_their_codes(server):
    def refused():
        return server.counter(COUNT, model_name="numbers", status="INVALID_ARGUMENT")

    before = refused()
    refusal(server.prediction.Predict, request_for("divide", x=[0.0]))
    assert refused() == before + 1


def test_the_buckets_of_latencies(server):
    server.outputs(x=[1.0])
    line = r'^:tensorflow:serving:request_latency_bucket\{model_name="numbers",API="Predict",'
    line += r'entrypoint="GRPC",le="([^"]+)"\}'
    found = re.findall(line, server.metrics(), re.MULTILINE)
    assert found == [*BUCKETS, "+Inf"]


def test_multi_inference_is_not_counted(server):
    before = server.counter(COUNT)
    request = tasks(("classify", "classify"), ("regress", "regress"))
    server.prediction.MultiInference(request, timeout=SECONDS)
    assert server.counter(COUNT) == before


@pytest.mark.differs(
    "labels of metrics are what is served; the original puts the model's name of any request there"
)
def test_the_name_of_an_unknown_model(server):
    refusal(server.prediction.Predict, request_for(model="never heard of", x=[1.0]))
    assert ("never heard of" in server.metrics()) != server.embedded


def test_the_page_is_where_the_file_says(server):
    assert server.http("GET", METRICS_PATH).headers["Content-Type"].startswith("text/plain")


@pytest.mark.embedded_only
def test_metrics_that_the_original_lacks(server):
    server.outputs(x=[1.0])
    page = server.metrics()
    for sample in (
        'keras_cls_requests_total{model="numbers",version="1",signature="serving_default",',
        'keras_cls_model_state{model="numbers",version="1",state="AVAILABLE"} 1',
        'keras_cls_queue_depth{model="numbers",version="1"} 0',
        "keras_cls_ready 1",
        "keras_cls_build_info{",
    ):
        assert sample in page


@pytest.mark.embedded_only
@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_pages_for_probes(server, path):
    assert server.http("GET", path).status == 200
