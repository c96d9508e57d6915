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
from hypothesis import given, settings
from hypothesis import strategies as st
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


def test_rows_are_counted_before_they_are_looked_at():
    """Of a message that declares millions, none is."""
    seen = []

    async def main():
        options = BatchingOptions(max_batch_size=8, max_execution_batch_size=8)
        batcher = Batcher(Doubler(), options, check=lambda call: seen.append(call) or 0)
        try:
            with pytest.raises(RequestError, match="Task size 9 is larger than maximum"):
                await batcher.run(call(*range(9)))
            assert not seen
            await batcher.run(call(1))
            assert len(seen) == 1
        finally:
            batcher.close()

    asyncio.run(main())


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
        await batcher.run(call(1))  # alone: waits to the end
        assert time.monotonic() - start > 0.9

    with_batcher(scenario, max_execution_batch_size=4, batch_timeout_micros=1_000_000)


def test_a_full_batch_does_not_wait():
    async def scenario(batcher, model):
        model.go.set()
        start = time.monotonic()
        await asyncio.gather(*begin(batcher, call(1, 2, 3, 4)))
        assert time.monotonic() - start < 30

    with_batcher(scenario, max_execution_batch_size=4, batch_timeout_micros=60_000_000)


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


def test_batches_are_filled_up_to_an_allowed_size():
    async def scenario(batcher, model):
        blocker = begin(batcher, call(1))
        await settle()
        others = begin(batcher, call(2, 3), call(4), call(5, 6))
        await settle()
        model.go.set()
        results = await asyncio.gather(*others)
        assert [r["y"][:, 0].tolist() for r in results] == [[4, 6], [8], [10, 12]]
        assert model.rows == [2, 8]  # the lone one, too
        assert model.seen == [1, 1, 2, 3, 4, 5, 6, 5, 5, 5]  # the last task's first row
        await asyncio.gather(*blocker)
        (parts,) = await asyncio.gather(*begin(batcher, call(*range(11))))
        assert parts["y"][:, 0].tolist() == [2 * n for n in range(11)]
        assert sorted(model.rows[2:]) == [4, 8]

    with_batcher(scenario, max_execution_batch_size=8, allowed_batch_sizes=(2, 4, 8))


def test_a_bad_request_fails_alone_where_batches_are_filled_up():
    async def scenario(batcher, model):
        blocker = begin(batcher, call(1))
        await settle()
        others = begin(batcher, call(-1), call(2, 3, 4))
        await settle()
        model.go.set()
        bad, good = await asyncio.gather(*others, return_exceptions=True)
        assert isinstance(bad, RequestError)
        assert good["y"][:, 0].tolist() == [4, 6, 8]
        assert model.rows == [1, 4, 1, 4]
        await asyncio.gather(*blocker)

    with_batcher(scenario, max_execution_batch_size=4, allowed_batch_sizes=(1, 4))


def test_what_cannot_be_cut_up_is_not_filled_up():
    def total(signature, inputs, outputs):
        return {"y": inputs["x"].sum(keepdims=True)}

    async def main():
        options = BatchingOptions(max_execution_batch_size=4, allowed_batch_sizes=(4,))
        batcher = Batcher(total, options)
        results = await asyncio.gather(*begin(batcher, call(1, 2), call(3)))
        batcher.close()
        return [result["y"].item() for result in results]

    assert asyncio.run(main()) == [3, 3]


PAIR = Signature(
    name="pair",
    method=METHOD_PREDICT,
    inputs={
        "a": TensorSpec("a:0", FLOAT, (None, None, None)),
        "b": TensorSpec("b:0", 7, (None, None)),
    },
    outputs={"a": TensorSpec("c:0", FLOAT, None), "b": TensorSpec("d:0", 7, None)},
    defaults={},
)


def pair_call(a, b):
    strings = np.empty((len(b), len(b[0])), dtype=object)
    strings[:] = b
    return PredictCall(PAIR, {"a": np.array(a, np.float32), "b": strings}, ("a", "b"))


def test_inputs_of_unequal_shapes_are_filled_up_where_that_is_wanted():
    async def main():
        go, batches = threading.Event(), []

        def echo(signature, inputs, outputs):
            go.wait(10)
            batches.append(len(inputs["b"]))
            return dict(inputs)

        options = BatchingOptions(
            num_batch_threads=1,
            max_execution_batch_size=6,
            allowed_batch_sizes=(1, 6),
            pad_variable_length_inputs=True,
        )
        batcher = Batcher(echo, options)
        blocker = begin(batcher, pair_call([[[0]]], [[b"x"]]))
        await settle()
        calls = [
            pair_call([[[1, 2]]], [[b"p", b"q"]]),
            pair_call([[[3], [4]], [[5], [6]]], [[b"r\0"], [b"s"]]),
            pair_call([[[7]]], [[]]),  # has nothing to be filled up with
        ]
        waiting = begin(batcher, *calls)
        await settle()
        go.set()
        first, second, third = await asyncio.gather(*waiting)
        await asyncio.gather(*blocker)
        batcher.close()
        assert batches == [1, 6, 1]
        assert first["a"].tolist() == [[[1, 2], [1, 1]]]
        assert first["b"].tolist() == [[b"p", b"q"]]
        assert second["a"].tolist() == [[[3, 3], [4, 3]], [[5, 3], [6, 3]]]
        assert second["b"].tolist() == [[b"r\0", b"r\0"], [b"s", b"r\0"]]
        assert third["a"].tolist() == [[[7]]]
        assert third["b"].shape == (1, 0)

    asyncio.run(main())


shapes = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6
)


@settings(max_examples=60, deadline=None)
@given(
    shapes,
    st.sets(st.integers(1, 6)).map(lambda sizes: tuple(sorted({*sizes, 7}))),
    st.booleans(),
    st.booleans(),
)
def test_whatever_is_merged_everyone_gets_his_own_rows(shapes, sizes, restrict, pad):
    signature = Signature(
        name="echo",
        method=METHOD_PREDICT,
        inputs={"x": TensorSpec("x:0", FLOAT, (None, None, None))},
        outputs={"x": TensorSpec("y:0", FLOAT, (None, None, None))},
        defaults={},
    )
    allowed = sizes if restrict else ()
    ran = []

    def echo(signature, inputs, outputs):
        ran.append(len(inputs["x"]))
        return {"x": inputs["x"]}

    async def main():
        options = BatchingOptions(
            num_batch_threads=1,
            max_execution_batch_size=7,
            allowed_batch_sizes=allowed,
            pad_variable_length_inputs=pad,
        )
        batcher = Batcher(echo, options)
        arrays = [
            np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 100 * place
            for place, shape in enumerate(shapes)
        ]
        calls = [PredictCall(signature, {"x": array}, ("x",)) for array in arrays]
        results = await asyncio.gather(*begin(batcher, *calls))
        batcher.close()
        return arrays, [result["x"] for result in results]

    arrays, results = asyncio.run(main())
    for array, result in zip(arrays, results, strict=True):
        if not pad:
            assert result.shape == array.shape
        inside = tuple(slice(size) for size in array.shape)
        assert np.array_equal(result[inside], array)
        filled = np.ones(result.shape, bool)
        filled[inside] = False
        assert len(result) == len(array)
        assert array.size == 0 or (result[filled] == array.flat[0]).all()
    assert not restrict or set(ran) <= set(allowed)


def test_without_splitting_a_large_request_is_refused():
    async def scenario(batcher, model):
        model.go.set()
        with pytest.raises(RequestError) as caught:
            await batcher.run(call(*range(5)))
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert caught.value.message == ("Task size 5 is larger than maximum input batch size 4")
        assert len((await batcher.run(call(*range(4))))["y"]) == 4
        assert model.rows == [4]

    with_batcher(
        scenario,
        max_batch_size=4,
        max_execution_batch_size=4,
        enable_large_batch_splitting=False,
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"allowed_batch_sizes": [32]}, "allowed_batch_sizes must be a tuple"),
        ({"allowed_batch_sizes": (0, 32)}, "allowed_batch_sizes must be a whole number of at"),
        ({"allowed_batch_sizes": (4, 4, 32)}, r"must be ascending, not \[4, 4, 32\]"),
        ({"allowed_batch_sizes": (8, 4, 32)}, "must be ascending"),
        (
            {"allowed_batch_sizes": (8, 16)},
            "Last entry in allowed_batch_sizes must match max_execution_batch_size; "
            "last entry was 16; expected 32",
        ),
        (
            {
                "allowed_batch_sizes": (8,),
                "max_batch_size": 9,
                "max_execution_batch_size": 9,
                "enable_large_batch_splitting": False,
            },
            "must match max_batch_size; last entry was 8; expected 9",
        ),
        (
            {"enable_large_batch_splitting": False},
            "max_execution_batch_size 32 and max_batch_size 1000 must be the same without",
        ),
        ({"enable_large_batch_splitting": 1}, "enable_large_batch_splitting must be True or F"),
        ({"pad_variable_length_inputs": None}, "pad_variable_length_inputs must be True or"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_each_other(options, words):
    with pytest.raises(ConfigError, match=words):
        BatchingOptions(**options)


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


def test_callers_who_are_expected_are_waited_for():
    """Those who ask again as soon as they are answered go through together, soon."""

    async def scenario(batcher, model):
        model.go.set()

        async def caller(pause):
            for _ in range(20):
                await asyncio.sleep(pause)
                await batcher.run(call(1))

        await asyncio.gather(*(caller(0.0002 * n) for n in range(8)))
        assert np.mean(model.rows) >= 3  # of eight; the slower ones are among themselves at last

    with_batcher(scenario, max_execution_batch_size=32)


def test_who_is_expected_and_does_not_come_is_not_waited_for_for_long():
    async def scenario(batcher, model):
        model.go.set()
        await asyncio.gather(*begin(batcher, *(call(n) for n in range(30))))
        for _ in range(30):  # of the thirty, one comes back
            await batcher.run(call(1))
        assert round(batcher._expected_rows) == 1

    with_batcher(scenario, max_execution_batch_size=32)


def test_a_timeout_of_none_or_a_number():
    assert BatchingOptions().batch_timeout_micros is None
    assert BatchingOptions(batch_timeout_micros=0).batch_timeout_micros == 0
