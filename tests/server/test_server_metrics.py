"""Names, labels and limits are the original's; nothing is lost, and nothing grows without end."""

import math
import threading
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from keras_cls.server.metrics import (
    LATENCY_LIMITS,
    OTHER,
    QUEUE_LIMITS,
    ROW_LIMITS,
    STATES,
    Histogram,
    Metrics,
    quantile,
)

TIMES = st.floats(0, 1e11, allow_nan=False)


def samples(metrics):
    """The values in the text, by name and labels."""
    text = metrics.text().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(metrics, name, **labels):
    return samples(metrics)[name, tuple(sorted(labels.items()))]


def lines(metrics, start):
    return [line for line in metrics.text().decode().splitlines() if line.startswith(start)]


def busy():
    metrics = Metrics()
    metrics.count_request("pets", 3, "serving_default", "OK")
    metrics.count_request("pets", 4, "probabilities", "OK")
    metrics.count_request("pets", 4, "", "OK", in_original=False)
    metrics.count_request("", None, "", "NOT_FOUND")
    metrics.observe_latency("pets", 3, "serving_default", "Predict", "REST", 1500)
    metrics.observe_latency("pets", 4, "probabilities", "Predict", "REST", 18)
    metrics.observe_run("pets", 3, "serving_default", 1200, 8)
    metrics.observe_run("pets", 3, "classify", 900, 2, api="Classify")
    metrics.observe_queue("pets", 3, "serving_default", 90)
    metrics.observe_examples("pets", 5)
    metrics.observe_warmup("/models/pets/3", "OK", 2e6)
    return metrics


def test_the_original_s_names_and_labels_are_kept():
    metrics = busy()
    name = ":tensorflow:serving:"
    assert lines(metrics, f"{name}request_count") == [
        f'{name}request_count{{model_name="pets",status="OK"}} 2',
        f'{name}request_count{{model_name="",status="NOT_FOUND"}} 1',
    ]
    latency = {"model_name": "pets", "API": "Predict", "entrypoint": "REST"}
    assert value(metrics, f"{name}request_latency_count", **latency) == 2
    assert value(metrics, f"{name}request_latency_sum", **latency) == 1518
    assert value(metrics, f"{name}request_latency_bucket", **latency, le="18") == 1
    assert value(metrics, f"{name}request_latency_bucket", **latency, le="1102") == 1
    assert value(metrics, f"{name}request_latency_bucket", **latency, le="1983.59") == 2
    runtime = {"model_name": "pets", "API": "Classify", "runtime": "TF1"}
    assert value(metrics, f"{name}runtime_latency_sum", **runtime) == 900
    queuing = f"{name}batching_session:queuing_latency"
    pool = {"thread_pool_name": "model_server_batch_threads"}
    assert value(metrics, f"{queuing}_bucket", **pool, le="100") == 1
    assert lines(metrics, f"{name}batching_session:wrapped_run_count") == [
        f"{name}batching_session:wrapped_run_count 2"
    ]
    assert value(metrics, f"{name}request_example_counts_bucket", model="pets", le="4") == 0
    assert value(metrics, f"{name}request_example_counts_bucket", model="pets", le="8") == 1
    assert value(metrics, f"{name}request_example_count_total", model="pets") == 5
    warmup = {"model_path": "/models/pets/3", "status": "OK"}
    assert value(metrics, f"{name}model_warmup_latency_sum", **warmup) == 2e6


def test_the_types_are_the_original_s():
    kinds = dict(line.split()[2:] for line in lines(busy(), "# TYPE :"))
    start = ":tensorflow:serving:"
    counters = {"request_count", "batching_session:wrapped_run_count"}
    counters.add("request_example_count_total")
    assert {name for name, kind in kinds.items() if kind == "counter"} == {
        start + name for name in counters
    }
    assert {name.removeprefix(start) for name, kind in kinds.items() if kind == "histogram"} == {
        *("request_latency", "runtime_latency", "batching_session:queuing_latency"),
        *("request_example_counts", "model_warmup_latency"),
    }


def test_what_the_original_lacks_is_told_by_version_and_signature():
    metrics = busy()
    served = {"model": "pets", "version": "3", "signature": "serving_default"}
    assert value(metrics, "keras_cls_requests_total", **served, status="OK") == 1
    assert value(metrics, "keras_cls_request_seconds_sum", **served) == pytest.approx(0.0015)
    assert value(metrics, "keras_cls_request_seconds_bucket", **served, le="0.00198359") == 1
    assert value(metrics, "keras_cls_run_seconds_count", **served) == 1
    assert value(metrics, "keras_cls_queue_seconds_sum", **served) == pytest.approx(9e-5)
    assert value(metrics, "keras_cls_batch_rows_sum", **served) == 8
    unknown = {"model": "", "version": "", "signature": ""}
    assert value(metrics, "keras_cls_requests_total", **unknown, status="NOT_FOUND") == 1


def test_gauges_and_loads():
    metrics = Metrics()
    assert value(metrics, "keras_cls_ready") == 0
    metrics.set_ready(True)
    metrics.set_build_info("0.1.0", "2.21.0")
    metrics.set_state("pets", 3, "LOADING")
    metrics.set_state("pets", 3, "AVAILABLE")
    metrics.set_queue_depth("pets", 3, 7)
    metrics.count_load("pets", 3, "loaded")
    metrics.count_load("pets", 4, "failed")
    metrics.count_load("pets", 4, "failed")
    assert value(metrics, "keras_cls_ready") == 1
    assert value(metrics, "keras_cls_build_info", version="0.1.0", tensorflow="2.21.0") == 1
    states = {
        name: value(metrics, "keras_cls_model_state", model="pets", version="3", state=name)
        for name in STATES
    }
    assert states == {**dict.fromkeys(STATES, 0), "AVAILABLE": 1}
    assert value(metrics, "keras_cls_queue_depth", model="pets", version="3") == 7
    loads = {"model": "pets", "version": "4", "outcome": "failed"}
    assert value(metrics, "keras_cls_model_loads_total", **loads) == 2
    with pytest.raises(ValueError, match="'READY' is none of the states START"):
        metrics.set_state("pets", 3, "READY")


def test_the_process_is_told_of_too():
    assert b"\nprocess_cpu_seconds_total " in Metrics().text()


def test_limits_are_the_original_s():
    for limits, scale, growth, count in (
        (LATENCY_LIMITS, 10, 1.8, 33),
        (QUEUE_LIMITS, 100, 1.2, 52),
        (ROW_LIMITS, 1, 2, 15),
    ):
        assert limits == pytest.approx([scale * growth**n for n in range(count)], rel=1e-5)
        assert [float(f"{limit:g}") for limit in limits] == list(limits)
    metrics = Metrics()
    metrics.observe_latency("m", 1, "s", "Predict", "GRPC", 1)
    buckets = lines(metrics, ":tensorflow:serving:request_latency_bucket")
    texts = [line.split('le="')[1].split('"')[0] for line in buckets]
    assert texts[:6] == ["10", "18", "32.4", "58.32", "104.976", "188.957"]
    assert texts[-2:] == ["1.47476e+09", "+Inf"]
    assert len(texts) == 34


@given(st.lists(TIMES | st.sampled_from(LATENCY_LIMITS)))
def test_latencies_are_counted_as_by_hand(times):
    metrics = Metrics()
    for time in times:
        metrics.observe_latency("m", 1, "s", "Predict", "GRPC", time)
    if not times:
        assert lines(metrics, ":tensorflow:serving:request_latency") == []
        return
    found = samples(metrics)
    labels = {"model_name": "m", "API": "Predict", "entrypoint": "GRPC"}
    for limit in (*LATENCY_LIMITS, math.inf):
        text = "+Inf" if limit == math.inf else f"{limit:g}"
        key = tuple(sorted({**labels, "le": text}.items()))
        expected = sum(time <= limit for time in times)
        assert found[":tensorflow:serving:request_latency_bucket", key] == expected
    assert value(metrics, ":tensorflow:serving:request_latency_sum", **labels) == pytest.approx(
        math.fsum(times)
    )
    assert metrics.value("/tensorflow/serving/request_latency") == len(times)


@given(st.lists(TIMES, min_size=1), st.floats(0.01, 1))
def test_an_estimate_lies_in_the_right_bucket(times, share):
    histogram = Histogram(LATENCY_LIMITS)
    for time in times:
        histogram.add(time)
    estimate = quantile(dict(enumerate(histogram.counts)), LATENCY_LIMITS, share)
    exact = sorted(times)[max(math.ceil(share * len(times)) - 1, 0)]
    assert bisect_left(LATENCY_LIMITS, estimate) == min(
        bisect_left(LATENCY_LIMITS, exact), len(LATENCY_LIMITS) - 1
    )


def test_the_estimate_of_nothing():
    assert quantile({}, LATENCY_LIMITS, 0.5) is None


@given(st.text(), st.text(), st.text())
def test_any_name_can_be_read_back(model, signature, path):
    metrics = Metrics()
    metrics.count_request(model, 1, signature, "OK")
    metrics.observe_warmup(path, "OK", 5)
    served = {"model": model, "version": "1", "signature": signature, "status": "OK"}
    assert value(metrics, "keras_cls_requests_total", **served) == 1
    name = ":tensorflow:serving:model_warmup_latency_count"
    assert value(metrics, name, model_path=path, status="OK") == 1


def test_a_path_that_is_no_text():
    metrics = Metrics()
    metrics.observe_warmup("/models/\udcff", "OK", 5)
    name = ":tensorflow:serving:model_warmup_latency_count"
    assert value(metrics, name, model_path="/models/?", status="OK") == 1


def test_the_total_of_a_counter_is_found_by_either_name():
    metrics = busy()
    assert metrics.value(":tensorflow:serving:request_count") == 3
    assert metrics.value("/tensorflow/serving/request_count") == 3
    assert metrics.value("/tensorflow/serving/batching_session/wrapped_run_count") == 2
    assert metrics.value("/tensorflow/serving/model_warmup_latency") == 1
    assert metrics.value("/tensorflow/serving/unheard_of") == 0


def test_threads_lose_no_count():
    metrics = Metrics()
    threads, times = 8, 2000

    def work(number):
        for _ in range(times):
            metrics.count_request("m", number % 2, "s", "OK")
            metrics.observe_latency("m", number % 2, "s", "Predict", "GRPC", 100)
            metrics.observe_run("m", number % 2, "s", 100, 3)
            metrics.observe_queue("m", number % 2, "s", 100)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):  # readers do not disturb
        metrics.text()
        metrics.snapshot()
    for worker in workers:
        worker.join()
    for name in (
        *("request_count", "request_latency", "runtime_latency"),
        *("batching_session:queuing_latency", "batching_session:wrapped_run_count"),
    ):
        assert metrics.value(f":tensorflow:serving:{name}") == threads * times
    assert metrics.snapshot()["total"]["rows"] == 3 * threads * times


def test_there_are_only_so_many_series():
    metrics = Metrics(most_series=10)
    for number in range(50):
        metrics.count_request(f"m{number}", 1, "s", "OK")
        metrics.observe_latency(f"m{number}", 1, "s", "Predict", "GRPC", 5)
        metrics.observe_run(f"m{number}", 1, "s", 5, 1)
        metrics.observe_queue(f"m{number}", 1, "s", 5)
        metrics.observe_examples(f"m{number}", 1)
        metrics.observe_warmup(f"/m{number}", "OK", 5)
        metrics.count_load(f"m{number}", 1, "loaded")
        metrics.set_state(f"m{number}", 1, "AVAILABLE")
        metrics.set_queue_depth(f"m{number}", 1, 1)
    counts = samples(metrics)
    for name in {name for name, _ in counts if not name.startswith("process")}:
        if not name.endswith("_bucket"):
            assert sum(found == name for found, _ in counts) <= 11 * len(STATES)
    assert value(metrics, ":tensorflow:serving:request_count_total", model_name=OTHER, status="OK")
    others = {"model": OTHER, "version": OTHER, "signature": OTHER}
    assert value(metrics, "keras_cls_requests_total", **others, status="OK") == 40
    assert value(metrics, ":tensorflow:serving:request_example_count_total", model=OTHER) == 40
    assert metrics.value(":tensorflow:serving:request_count") == 50
    assert len(metrics.snapshot()["series"]) == 11


def test_versions_that_have_ended_make_room_and_no_sum_shrinks():
    metrics = Metrics(most_series=10)
    for version in range(1, 101):
        metrics.set_state("m", version, "AVAILABLE")
        metrics.set_queue_depth("m", version, 1)
        metrics.count_request("m", version, "s", "OK")
        metrics.observe_latency("m", version, "s", "Predict", "GRPC", 5)
        metrics.observe_run("m", version, "s", 5, 2)
        metrics.observe_queue("m", version, "s", 5)
        if version > 1:
            metrics.set_state("m", version - 1, "END")
    now = {"model": "m", "version": "100", "signature": "s"}
    ended = {"model": "m", "version": "", "signature": "s"}
    assert value(metrics, "keras_cls_requests_total", **now, status="OK") == 1
    assert value(metrics, "keras_cls_requests_total", **ended, status="OK") == 99
    assert value(metrics, "keras_cls_request_seconds_count", **ended) == 99
    assert metrics.value(":tensorflow:serving:request_latency") == 100
    assert metrics.snapshot()["total"]["rows"] == 200
    assert metrics.snapshot()["queue_depths"] == [{"model": "m", "version": "100", "depth": 1}]
    state = {"model": "m", "version": "100", "state": "AVAILABLE"}
    assert value(metrics, "keras_cls_model_state", **state) == 1


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_the_snapshot_tells_the_last_two_minutes_by_second():
    clock = Clock()
    metrics = Metrics(clock=clock)
    for second in range(200):
        clock.now = 1000.5 + second
        for _ in range(second % 3):
            metrics.count_request("m", 1, "s", "OK")
            metrics.observe_latency("m", 1, "s", "Predict", "GRPC", 1000 * (1 + second % 3))
    metrics.count_request("m", 1, "s", "UNAVAILABLE")
    clock.now = 1200
    snapshot = metrics.snapshot()
    (series,) = snapshot["series"]
    assert (series["model"], series["version"], series["signature"]) == ("m", "1", "s")
    assert series["requests"] == sum(second % 3 for second in range(200)) + 1
    assert series["errors"] == 1
    assert series["recent"]["requests"][:-1] == [second % 3 for second in range(80, 199)]
    assert series["recent"]["errors"] == [0] * 119 + [1]
    for second, p50, p99 in zip(
        range(80, 200), series["recent"]["p50_ms"], series["recent"]["p99_ms"], strict=True
    ):
        expected = 1 + second % 3 if second % 3 else None
        assert p50 == (expected and pytest.approx(expected, rel=0.16))
        assert p99 == (expected and pytest.approx(expected, rel=0.16))
    assert snapshot["total"]["recent"] == series["recent"]
    assert sum(series["histogram"]) == series["requests"] - 1
    assert len(series["histogram"]) == len(snapshot["limits_ms"]) + 1
    assert snapshot["limits_ms"][0] == 0.01
    assert series["p50_ms"] <= series["p90_ms"] <= series["p99_ms"]
    clock.now = 2000
    assert metrics.snapshot()["total"]["recent"] is None
    assert Metrics().snapshot()["total"]["p50_ms"] is None


def test_the_snapshot_is_in_order():
    metrics = Metrics(most_series=4)
    for model, version in (("b", 1), ("a", 10), ("a", 2), ("a", None), ("c", 1)):
        metrics.count_request(model, version, "s", "OK")
    found = [(one["model"], one["version"]) for one in metrics.snapshot()["series"]]
    assert found == [("a", None), ("a", "2"), ("a", "10"), ("b", "1"), (OTHER, OTHER)]
