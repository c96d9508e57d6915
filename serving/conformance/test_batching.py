"""What becomes of requests that arrive together; the numbers are those of models.py.

Requests that wait keep all threads of batching busy, so that what is sent meanwhile waits in a
queue. On a server that others use at the same time these cases mean nothing.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest
import tensorflow as tf

from serving.conformance.asking import SECONDS, refusal, request_for
from serving.conformance.models import (
    BATCH_THREADS,
    MAX_BATCH_SIZE,
    MAX_ENQUEUED_BATCHES,
)

BUSY = 0.6
"""Seconds for which the threads are kept busy."""


def waiting(server, model="numbers", rows=MAX_BATCH_SIZE, seconds=BUSY):
    """A full batch, which does not wait for company."""
    request = request_for("wait", model, seconds=tf.make_tensor_proto([seconds] * rows, tf.float64))
    return server.prediction.Predict.future(request, timeout=SECONDS)


@contextmanager
def busy(server, model="numbers", threads=BATCH_THREADS):
    """Within it, all threads of a model's batching have something to do."""
    futures = []
    for _ in range(threads):
        futures.append(waiting(server, model))
        time.sleep(0.05)
    yield
    for future in futures:
        future.result()


def outcome(future):
    try:
        response = future.result()
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return {alias: tf.make_ndarray(t).tolist() for alias, t in response.outputs.items()}


def together(server, *requests):
    """The outcomes of requests that are sent while the server is busy."""
    with busy(server):
        futures = [server.prediction.Predict.future(each, timeout=SECONDS) for each in requests]
        return [outcome(future) for future in futures]


def test_a_batch_is_filled_up_to_an_allowed_size(server):
    assert server.outputs("sum_of_row", x=[[1.0, 2.0]] * 3) == {"y": [3.0] * 3, "rows": [4] * 3}
    assert server.outputs("sum_of_row", x=[[1.0]] * 5) == {"y": [1.0] * 5, "rows": [8] * 5}


def test_requests_that_wait_are_run_together(server):
    requests = [request_for("sum_of_row", x=[[float(n)]] * 2) for n in range(3)]
    found = together(server, *requests)
    assert [each["y"] for each in found] == [[float(n)] * 2 for n in range(3)]
    assert all(each["rows"] == [8, 8] for each in found)  # 6, filled up


def test_too_large_a_request(server):
    request = request_for(x=[1.0] * (MAX_BATCH_SIZE + 1))
    assert refusal(server.prediction.Predict, request) == (
        "INVALID_ARGUMENT",
        "Task size 9 is larger than maximum input batch size 8",
    )


def test_inputs_with_unequal_numbers_of_rows(server):
    request = request_for("add", a=[1.0, 2.0], b=[1.0])
    assert refusal(server.prediction.Predict, request) == (
        "INVALID_ARGUMENT",
        "Batching Run() input tensors must have equal 0th-dimension size",
    )


def test_a_full_queue(server):
    with busy(server):
        queued = []
        for _ in range(MAX_ENQUEUED_BATCHES):
            queued.append(waiting(server, seconds=0.01))
            time.sleep(0.05)
        code, text = outcome(waiting(server, seconds=0.01))
        assert code == "UNAVAILABLE"
        assert text == (
            "The batch scheduling queue to which this task was submitted is full; currently "
            f"{MAX_ENQUEUED_BATCHES} batches enqueued and max_enqueued_batches is "
            f"{MAX_ENQUEUED_BATCHES}"
        )
        # Other signatures have queues of their own.
        assert server.outputs(x=[0.0]) == {"y": [1.0]}
    for future in queued:
        future.result()


@pytest.mark.differs(
    "a request that makes its batch fail fails alone; in the original it fails all of the batch"
)
def test_a_bad_request_in_a_batch(server):
    good, bad = request_for("divide", x=[2.0]), request_for("divide", x=[0.0])
    first, second, third = together(server, good, bad, good)
    assert second[0] == "INVALID_ARGUMENT"
    if server.embedded:
        assert first == third == {"quotient": [0.5]}
    else:
        assert first == second == third


@pytest.mark.differs(
    "requests whose rows have other shapes are run apart; in the original they fail each other "
    "unless they are padded"
)
def test_rows_of_several_shapes(server):
    requests = [request_for("sum_of_row", x=[[1.0] * length]) for length in (2, 3)]
    found = together(server, *requests)
    if server.embedded:
        assert [each["y"] for each in found] == [[2.0], [3.0]]
        return
    for code, text in found:
        assert code == "FAILED_PRECONDITION"
        assert "from different tasks have different shapes and padding is turned off" in text


def test_rows_of_several_shapes_padded(server):
    """By this version's own batching_params.pbtxt."""
    with busy(server, "padded", threads=1):
        futures = [
            server.prediction.Predict.future(request_for(model="padded", x=[row]), timeout=SECONDS)
            for row in ([1.0, 2.0], [1.0, 2.0, 3.0])
        ]
        first, second = map(outcome, futures)
    assert second == {"y": [6.0], "rows": [2]}
    assert first == {"y": [4.0], "rows": [2]}  # 1, 2 and, in the place of the third, 1 again


def test_an_output_filter_has_its_own_queue(server):
    requests = [
        request_for("two_outputs", outputs=outputs, x=[3.0])
        for outputs in (["square"], ["double"], [])
    ]
    assert together(server, *requests) == [
        {"square": [9.0]},
        {"double": [6.0]},
        {"double": [6.0], "square": [9.0]},
    ]


def test_many_threads_of_one_client(server):
    with ThreadPoolExecutor(8) as pool:
        numbers = [float(n) for n in range(40)]
        found = list(pool.map(lambda n: server.outputs(x=[n])["y"][0], numbers))
    assert found == [n / 2 + 1 for n in numbers]
