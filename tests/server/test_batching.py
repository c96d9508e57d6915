"""What is merged, what waits, what is refused, and who pays for a bad request.

The Batcher is run on plain Python functions that stand where the model does; the last tests go
through a real server.
"""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from serving_models import refusal, request_for, stubs_for

from keras_cls.contract import METHOD_PREDICT
from keras_cls.errors import ConfigError
from keras_cls.server import BatchingOptions, ModelServer
from keras_cls.server.batching import Batcher
from keras_cls.server.predict import PredictCall
from keras_cls.server.signatures import Signature, TensorSpec
from keras_cls.server.status import Code, RequestError

FLOAT = 1
SIGNATURE = Signature(
    name="double",
    method=METHOD_PREDICT,
    inputs={"x": TensorSpec("x:0", FLOAT, (None, None))},
    outputs={"y": TensorSpec("y:0", FLOAT, (None, None))},
    defaults={},
)


class Doubler:
    """Doubles its input, refuses negative numbers, and can be held up."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.seen: list[float] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, signature, inputs, outputs):
        x = inputs["x"]
        self.rows.append(len(x))
        self.go.wait(10)
        self.seen.extend(x[:, 0].tolist())
        if (x < 0).any():
            raise RequestError(Code.INVALID_ARGUMENT, "negative")
        return {"y": x * 2}


def call(*rows, width=1):
    x = np.repeat(np.array(rows, np.float32)[:, None], width, axis=1)
    return PredictCall(SIGNATURE, {"x": x}, ("y",))


async def settle():
    """Let the loop and the worker threads do what they can."""
    await asyncio.sleep(0.05)


def with_batcher(scenario, **options):
    """Run a scenario on a Batcher with one worker; its Doubler is held up at first."""

    async def main():
        model = Doubler()
        model.go.clear()
        batcher = Batcher(model, BatchingOptions(**{"num_batch_threads": 1, **options}))
        try:
            return await asyncio.wait_for(scenario(batcher, model), 20)
        finally:
            model.go.set()
            batcher.close()

    return asyncio.run(main())


def begin(batcher, *calls, **arguments):
    return [asyncio.ensure_future(batcher.run(one, **arguments)) for one in calls]


def test_what_gathers_while_the_worker_is_busy_is_run_together():
    async def scenario(batcher, model):
        first = begin(batcher, call(1))
        await settle()
        others = begin(batcher, *(call(n, n + 10) for n in range(2, 7)))
        await settle()
        model.go.set()
        results = await asyncio.gather(*first, *others)
        assert model.rows == [1, 10]
        assert results[0]["y"].tolist() == [[2]]
        assert [r["y"][:, 0].tolist() for r in results[1:]] == [
            [2 * n, 2 * (n + 10)] for n in range(2, 7)
        ]

    with_batcher(scenario)


def test_no_run_is_larger_than_allowed_and_large_requests_are_run_in_parts():
    async def scenario(batcher, model):
        model.go.set()
        (big,) = await asyncio.gather(*begin(batcher, call(*range(11))))
        assert big["y"][:, 0].tolist() == [2 * n for n in range(11)]
        assert model.rows == [4, 4, 3]
        with pytest.raises(RequestError, match="Task size 21 is larger than maximum") as caught:
            await batcher.run(call(*range(21)))
        assert caught.value.code is Code.INVALID_ARGUMENT

    with_batcher(scenario, max_execution_batch_size=4, max_batch_size=20)


def test_a_bad_request_fails_alone():
    async def scenario(batcher, model):
        blocker = begin(batcher, call(1))
        await settle()
        others = begin(batcher, call(2), call(-1), call(3, 4))
        await settle()
        model.go.set()
        good, bad, better = await asyncio.gather(*others, return_exceptions=True)
        assert isinstance(bad, RequestError)
        assert bad.message == "negative"
        assert good["y"].tolist() == [[4]]
        assert better["y"].tolist() == [[6], [8]]
        assert model.rows == [1, 4, 1, 1, 2]
        await asyncio.gather(*blocker)

    with_batcher(scenario)


def test_unequal_shapes_do_not_disturb_each_other():
    async def scenario(batcher, model):
        blocker = begin(batcher, call(1))
        await settle()
        others = begin(batcher, call(2), call(3, width=5), call(4), call(5, 6, width=5))
        await settle()
        model.go.set()
        results = await asyncio.gather(*others)
        assert [r["y"].shape for r in results] == [(1, 1), (1, 5), (1, 1), (2, 5)]
        assert model.rows == [1, 2, 3]
        await asyncio.gather(*blocker)

    with_batcher(scenario)


def test_a_full_queue_refuses_in_the_original_s_words():
    async def scenario(batcher, model):
        waiting = begin(batcher, call(1))
        await settle()
        waiting += begin(batcher, *(call(n) for n in range(2, 6)))
        await settle()
        with pytest.raises(RequestError) as caught:
            await batcher.run(call(9))
        assert caught.value.code is Code.UNAVAILABLE
        assert caught.value.message == (
            "The batch scheduling queue to which this task was submitted is full; currently 2 "
            "batches enqueued and max_enqueued_batches is 2"
        )
        model.go.set()
        assert len(await asyncio.gather(*waiting)) == 5

    with_batcher(scenario, max_execution_batch_size=2, max_enqueued_batches=2)


def test_nothing_is_run_for_those_who_have_gone_or_came_too_late():
    async def scenario(batcher, model):
        blocker = begin(batcher, call(1))
        await settle()
        (gone,) = begin(batcher, call(2))
        (late,) = begin(batcher, call(3), deadline=time.monotonic() + 0.1)
        (patient,) = begin(batcher, call(4), deadline=time.monotonic() + 10)
        await settle()
        gone.cancel()
        await asyncio.sleep(0.1)
        model.go.set()
        with pytest.raises(RequestError) as caught:
            await late
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert caught.value.message == ("Run() timeout exceeded while waiting in batching queue")
        assert (await patient)["y"].tolist() == [[8]]
        assert model.seen == [1, 4]
        await asyncio.gather(*blocker)

    with_batcher(scenario)


def test_those_who_have_gone_do_not_fill_the_queue():
    async def scenario(batcher, model):
        blocker = begin(batcher, call(1))
        await settle()
        for _ in range(5):
            gone = begin(batcher, call(2), call(3))
            await settle()
            for task in gone:
                task.cancel()
            await settle()
        model.go.set()
        await asyncio.gather(*blocker)
        assert model.seen == [1]

    with_batcher(scenario, max_execution_batch_size=1, max_enqueued_batches=2)


def test_a_batch_can_wait_for_company():
    async def scenario(batcher, model):
        model.go.set()
        first = begin(batcher, call(1))
        await asyncio.sleep(0.05)
        second = begin(batcher, call(2))
        await asyncio.gather(*first, *second)
        assert model.rows == [2]
        start = time.monotonic()
        await asyncio.gather(*begin(batcher, call(1, 2, 3, 4)))  # full: does not wait
        assert time.monotonic() - start < 0.9
        start = time.monotonic()
        await batcher.run(call(1))  # alone: waits to the end
        assert time.monotonic() - start > 0.9

    with_batcher(scenario, max_execution_batch_size=4, batch_timeout_micros=1_000_000)


def test_outputs_without_a_row_for_each_input_row_are_not_cut_up():
    def total(signature, inputs, outputs):
        time.sleep(0.02)
        return {"y": inputs["x"].sum(keepdims=True)}

    async def main():
        batcher = Batcher(total, BatchingOptions(num_batch_threads=1))
        results = await asyncio.gather(*begin(batcher, call(1), call(2), call(3)))
        batcher.close()
        return [result["y"].item() for result in results]

    assert asyncio.run(main()) == [1, 2, 3]


def test_a_bug_in_the_model_s_run_does_not_kill_the_worker(caplog):
    async def main():
        def broken(signature, inputs, outputs):
            raise ZeroDivisionError("oops")

        batcher = Batcher(broken, BatchingOptions(num_batch_threads=1))
        for _ in range(2):
            with pytest.raises(RequestError, match="ZeroDivisionError: oops") as caught:
                await batcher.run(call(1))
            assert caught.value.code is Code.INTERNAL
        batcher.close()

    asyncio.run(main())
    assert "oops" in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        *({"max_batch_size": 0}, {"num_batch_threads": 0}, {"batch_timeout_micros": -1}),
        *({"max_batch_size": "9"}, {"num_batch_threads": 1.5}, {"max_enqueued_batches": True}),
    ],
)
def test_options_that_make_no_sense(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        BatchingOptions(**options)


# Through a real server.


def divide(stubs, value, timeout=10):
    response = stubs.prediction.Predict(
        request_for("divide", x=np.float32([value])), timeout=timeout
    )
    return response.outputs["quotient"].float_val[0], response.outputs["batch_rows"].int_val[0]


def test_concurrent_clients_are_batched_and_a_bad_one_fails_alone(base_path):
    """Both workers are held up by a slow signature, so that the requests gather."""
    options = BatchingOptions(num_batch_threads=1)
    with ModelServer(base_path, host="127.0.0.1", port=0, batching=options) as server:
        stubs = stubs_for(server.address)
        with ThreadPoolExecutor(32) as pool:
            holding = pool.submit(
                stubs.prediction.Predict, request_for("wait", seconds=np.float64([0.7]))
            )
            time.sleep(0.2)
            good = [pool.submit(divide, stubs, n) for n in range(1, 9)]
            answers = [one.result() for one in good]
            assert [round(1 / quotient) for quotient, _ in answers] == list(range(1, 9))
            assert {rows for _, rows in answers} == {8}
            holding.result()

            holding = pool.submit(
                stubs.prediction.Predict, request_for("wait", seconds=np.float64([0.7]))
            )
            time.sleep(0.2)
            mixed = [pool.submit(divide, stubs, n) for n in (1, 0, 2)]
            assert mixed[0].result() == (1, 1)
            assert mixed[2].result() == (0.5, 1)
            with pytest.raises(grpc.RpcError, match="division by zero"):
                mixed[1].result()
            holding.result()
        stubs.channel.close()


def test_a_deadline_passes_in_the_queue_and_a_full_queue_is_unavailable(base_path):
    options = BatchingOptions(
        num_batch_threads=1, max_execution_batch_size=1, max_enqueued_batches=1
    )
    with ModelServer(base_path, host="127.0.0.1", port=0, batching=options) as server:
        stubs = stubs_for(server.address)
        request = request_for("divide", x=np.float32([1]))
        with ThreadPoolExecutor(4) as pool:
            holding = pool.submit(
                stubs.prediction.Predict, request_for("wait", seconds=np.float64([1.0]))
            )
            time.sleep(0.2)
            late = pool.submit(refusal, stubs, request, 0.4)
            time.sleep(0.1)
            code, text = refusal(stubs, request)
            assert code == "UNAVAILABLE"
            assert "max_enqueued_batches is 1" in text
            # Either the client's own clock or the server's says so first.
            assert late.result()[0] in ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
            assert not holding.done()
            holding.result()
            assert divide(stubs, 4) == (0.25, 1)
        stubs.channel.close()


def test_shapes_that_differ_are_not_mixed(stubs):
    requests = [
        request_for("pair", a=np.ones((1, width), np.float32), b=np.float32([0]))
        for width in [1, 2, 3] * 8
    ]
    with ThreadPoolExecutor(24) as pool:
        totals = [
            response.outputs["total"].float_val[0]
            for response in pool.map(stubs.prediction.Predict, requests)
        ]
    assert totals == [1, 2, 3] * 8
