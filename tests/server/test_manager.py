"""What is served follows what is configured and lies in the folders: real folders, real models."""

import asyncio
import logging
import shutil
import time

import numpy as np
import pytest
from tiny_models import copy_slowly, save_tiny_model

from keras_cls.errors import ConfigError
from keras_cls.server.manager import Manager, ManagerOptions
from keras_cls.server.metrics import Metrics
from keras_cls.server.predict import PredictCall
from keras_cls.server.settings import All, Latest, ModelSettings, Specific
from keras_cls.server.status import Code, RequestError

POLL = 0.05


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Folders of models that multiply by 1 to 5, to be copied."""
    folder = tmp_path_factory.mktemp("tiny")
    return {factor: save_tiny_model(folder / str(factor), factor) for factor in range(1, 6)}


@pytest.fixture
def base(tmp_path):
    return tmp_path / "m"


def publish(source, target):
    """Copy beside the place, then move there."""
    beside = target.with_name(f"tmp-{target.name}")
    shutil.copytree(source, beside)
    beside.rename(target)


def managed(scenario, **options):
    """Run ``await scenario(manager)`` beside a manager that watches the folders."""

    async def main():
        manager = Manager(ManagerOptions(**{"poll_seconds": POLL, **options}), Metrics())
        watcher = asyncio.create_task(manager.watch())
        try:
            await asyncio.wait_for(scenario(manager), 60)
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
            await manager.close()

    asyncio.run(main())


async def until(condition, seconds=20):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def some_looks():
    await asyncio.sleep(8 * POLL)


def numbers(manager, name="m"):
    return sorted(manager.registry.served(name))


def state(manager, version, name="m"):
    found = manager.registry.status(name, version)
    return found.state.name if found else None


async def multiply(served, x=1.0, signature="serving_default"):
    chosen = served.model.signatures[signature]
    outputs = await served.batcher.run(PredictCall(chosen, {"x": np.float32([x])}, ("y",)))
    return float(outputs["y"][0])


async def answer(manager, version, name="m"):
    return await multiply(manager.registry.served(name)[version])


async def refusal(awaitable):
    with pytest.raises(RequestError) as caught:
        await awaitable
    return caught.value.code, caught.value.message


def metric(manager, line):
    """The number behind a line of the metrics' text; 0 where there is no such line."""
    for each in manager._metrics.text().decode().splitlines():
        if each.startswith(line + " "):
            return float(each.split()[-1])
    return 0


def failed_loads(manager, version):
    labels = f'model="m",version="{version}",outcome="failed"'
    return metric(manager, f"keras_cls_model_loads_total{{{labels}}}")


# --- which versions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Latest(), [4]),
        (Latest(2), [3, 4]),
        (All(), [1, 2, 3, 4]),
        (Specific((1, 3)), [1, 3]),
        (Specific((2, 9)), [2]),
    ],
)
def test_version_policies(versions, base, caplog, policy, expected):
    for number in (1, 2, 3, 4):
        publish(versions[number], base / str(number))

    async def scenario(manager):
        await manager.configure([ModelSettings("m", base, policy)])
        assert numbers(manager) == expected
        for number in expected:
            assert await answer(manager, number) == number
        await some_looks()
        assert numbers(manager) == expected

    managed(scenario)
    told = [r.getMessage() for r in caplog.records if "version 9" in r.getMessage()]
    assert len(told) == (9 in getattr(policy, "versions", ()))


def test_the_window_of_versions_moves_on(versions, base):
    publish(versions[1], base / "1")
    publish(versions[2], base / "2")

    async def scenario(manager):
        await manager.configure([ModelSettings("m", base, Latest(2))])
        publish(versions[3], base / "3")
        await until(lambda: numbers(manager) == [2, 3])
        await until(lambda: state(manager, 1) == "END")
        shutil.rmtree(base / "3")  # and back
        await until(lambda: numbers(manager) == [1, 2])

    managed(scenario)


def test_specific_versions_that_are_not_there_are_named(versions, base):
    publish(versions[1], base / "1")

    async def scenario(manager):
        models = [ModelSettings("m", base, Specific((2, 9)))]
        assert await refusal(manager.configure(models)) == (
            Code.UNKNOWN,
            f"1 servable(s) did not become available: m: {base}: none of the versions that are to "
            "be served is there: 2, 9",
        )

    managed(scenario)


@pytest.mark.parametrize("pause", [0, -1])
def test_without_polling_the_folder_is_looked_at_once(versions, base, pause):
    publish(versions[1], base / "1")

    async def scenario(manager):
        await manager.configure([ModelSettings("m", base)])
        publish(versions[2], base / "2")
        await some_looks()
        assert numbers(manager) == [1]

    managed(scenario, poll_seconds=pause)


# --- hot swap -----------------------------------------------------------------------------------


def test_the_new_version_is_there_before_the_old_one_goes(versions, base):
    publish(versions[1], base / "1")

    async def scenario(manager):
        await manager.configure([ModelSettings("m", base)])
        seen = set()

        async def watch():
            while True:
                seen.add(tuple(numbers(manager)))
                await asyncio.sleep(0)

        watcher = asyncio.create_task(watch())
        old = manager.registry.served("m")[1]
        with old.held():
            slow = asyncio.create_task(multiply(old, 0.5, "slowly"))
            publish(versions[2], base / "2")
            await until(lambda: numbers(manager) == [2])
            assert state(manager, 1) == "UNLOADING"
            assert await answer(manager, 2) == 2
            assert await slow == 0.5
            assert await multiply(old) == 1  # whoever holds it can go on asking it
            await some_looks()
            assert state(manager, 1) == "UNLOADING"
        await until(lambda: state(manager, 1) == "END")
        watcher.cancel()
        assert () not in seen
        code, _text = await refusal(multiply(old))
        assert code == Code.UNAVAILABLE

    managed(scenario)


def test_a_version_of_the_same_number_in_another_folder_takes_its_place(versions, base, tmp_path):
    publish(versions[1], base / "1")
    other = tmp_path / "other"
    other.mkdir()
    publish(versions[5], other / "1")

    async def scenario(manager):
        await manager.configure([ModelSettings("m", base)])
        old = manager.registry.served("m")[1]
        with old.held():
            await manager.configure([ModelSettings("m", other)])
            assert await answer(manager, 1) == 5
            assert await multiply(old) == 1
        await old.unused()
        await some_looks()
        assert (numbers(manager), state(manager, 1)) == ([1], "AVAILABLE")
        assert await answer(manager, 1) == 5

    managed(scenario)


# --- incomplete and broken versions -----------------------------------------------------------


INCOMPLETE = {
    "no shard": "variables/variables.data-00000-of-00001",
    "no index": "variables/variables.index",
    "an empty graph": "saved_model.pb",
}


@pytest.mark.parametrize("missing", INCOMPLETE.values(), ids=INCOMPLETE)
def test_an_incomplete_version_is_loaded_when_it_is_complete(versions, base, caplog, missing):
    publish(versions[1], base / "1")

    async def scenario(manager):
        await manager.configure([ModelSettings("m", base)])
        shutil.copytree(versions[2], base / "tmp")
        (base / "tmp" / missing).unlink()
        if missing == "saved_model.pb":
            (base / "tmp" / missing).touch()
        (base / "tmp").rename(base / "2")
        await some_looks()
        assert numbers(manager) == [1]
        assert (state(manager, 2), failed_loads(manager, 2)) == ("START", 0)
        shutil.copyfile(versions[2] / missing, base / "2" / missing)
        await until(lambda: numbers(manager) == [2])
        assert await answer(manager, 2) == 2

    managed(scenario)
    told = [r.getMessage() for r in caplog.records if "is not complete" in r.getMessage()]
    assert len(told) == 1  # once, not at every look


@pytest.mark.parametrize("order", [sorted, lambda paths: sorted(paths, reverse=True)])
def test_a_version_that_is_copied_slowly(versions, base, order):
    publish(versions[1], base / "1")

    async def scenario(manager):
        await manager.configure([ModelSettings("m", base)])
        copying = asyncio.create_task(
            asyncio.to_thread(copy_slowly, versions[2], base / "2", 0.03, order)
        )
        while not copying.done():
            assert numbers(manager) == [1]
            await asyncio.sleep(0.005)
        await until(lambda: numbers(manager) == [2])
        assert await answer(manager, 2) == 2
        assert failed_loads(manager, 2) == 0

    managed(scenario, poll_seconds=0.15)


def test_the_first_version_may_still_be_being_copied(versions, base):
    async def scenario(manager):
        copying = asyncio.create_task(asyncio.to_thread(copy_slowly, versions[2], base / "2", 0.02))
        await until(lambda: (base / "2" / "saved_model.pb").exists())
        await manager.configure([ModelSettings("m", base)])
        await copying
        assert await answer(manager, 2) == 2

    managed(scenario)


def test_a_start_takes_in_what_was_written_just_now(versions, base):
    """Beside a version at rest; but one that stays incomplete does not hold up the start."""
    publish(versions[1], base / "1")
    time.sleep(2.1)  # a file's time of change cannot be set back
    publish(versions[2], base / "2")
    shutil.copytree(versions[3], base / "3")
    (base / "3" / "variables" / "variables.index").unlink()

    async def scenario(manager):
        await manager.configure([ModelSettings("m", base, All())])
        assert numbers(manager) == [1, 2]

    managed(scenario, poll_seconds=30)  # it would be waited for for minutes


def test_what_is_never_completed_is_given_up_in_words(versions, base):
    shutil.copytree(versions[1], base / "1")
    (base / "1" / "variables" / "variables.index").unlink()

    async def scenario(manager):
        code, text = await refusal(manager.configure([ModelSettings("m", base)]))
        assert code == Code.UNKNOWN
        assert text == (
            "1 servable(s) did not become available: m: "
            f"{base / '1' / 'variables' / 'variables.index'} is not there"
        )

    managed(scenario)


def test_a_version_that_vanishes_before_it_is_complete(versions, base):
    publish(versions[1], base / "1")

    async def scenario(manager):
        await manager.configure([ModelSettings("m", base)])
        (base / "2").mkdir()
        (base / "2" / "saved_model.pb").touch()
        await until(lambda: state(manager, 2) == "START")
        shutil.rmtree(base / "2")
        await until(lambda: state(manager, 2) == "END")
        assert numbers(manager) == [1]

    managed(scenario)


def test_a_broken_version_leaves_the_old_one_and_shows(versions, base):
    publish(versions[1], base / "1")

    async def scenario(manager):
        await manager.configure([ModelSettings("m", base)])
        shutil.copytree(versions[2], base / "tmp")
        (base / "tmp" / "saved_model.pb").write_bytes(b"garbage")
        (base / "tmp").rename(base / "2")
        await until(lambda: failed_loads(manager, 2) == 1)
        await some_looks()
        assert numbers(manager) == [1]
        assert await answer(manager, 1) == 1
        status = manager.registry.status("m", 2)
        assert (status.state.name, status.error.code) == ("END", Code.INTERNAL)
        assert str(base / "2") in status.error.message
        assert metric(manager, 'keras_cls_model_state{model="m",version="2",state="END"}') == 1
        assert failed_loads(manager, 2) == 1  # not tried again while nothing changes
        shutil.copyfile(versions[2] / "saved_model.pb", base / "2" / "saved_model.pb")
        await until(lambda: numbers(manager) == [2])
        assert await answer(manager, 2) == 2
        assert manager.registry.status("m", 2).error is None

    managed(scenario)


def test_loading_is_tried_again_so_often_and_no_more(versions, base):
    publish(versions[1], base / "1")

    async def scenario(manager):
        await manager.configure([ModelSettings("m", base)])
        (base / "2").mkdir()
        (base / "2" / "saved_model.pb").write_bytes(b"garbage")
        await until(lambda: failed_loads(manager, 2) == 3)
        await some_looks()
        assert failed_loads(manager, 2) == 3

    managed(scenario, max_load_retries=2, load_retry_seconds=0.01)


@pytest.mark.parametrize("keep", [True, False])
def test_a_folder_that_is_emptied(versions, base, caplog, keep):
    publish(versions[1], base / "1")

    async def scenario(manager):
        await manager.configure([ModelSettings("m", base)])
        shutil.rmtree(base / "1")
        if keep:
            await some_looks()
            assert await answer(manager, 1) == 1
            assert manager.all_available
        else:
            await until(lambda: state(manager, 1) == "END")
            assert numbers(manager) == []
            assert not manager.all_available
        publish(versions[2], base / "2")
        await until(lambda: numbers(manager) == [2])

    managed(scenario, keep_last_version=keep)
    told = [r.getMessage() for r in caplog.records if "what is served stays" in r.getMessage()]
    assert len(told) == keep


@pytest.mark.parametrize("keep", [True, False])
def test_a_folder_that_vanishes_is_an_accident(versions, base, caplog, keep):
    publish(versions[1], base / "1")

    async def scenario(manager):
        await manager.configure([ModelSettings("m", base)])
        shutil.rmtree(base)
        await some_looks()
        assert await answer(manager, 1) == 1
        base.mkdir()
        publish(versions[2], base / "2")
        await until(lambda: numbers(manager) == [2])

    managed(scenario, keep_last_version=keep)
    told = [r.getMessage() for r in caplog.records if "no such file" in r.getMessage()]
    assert len(told) == 1


# --- configurations -----------------------------------------------------------------------------


def test_a_configuration_replaces_the_one_before(versions, tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
        publish(versions[1], tmp_path / name / "1")

    def models(names):
        return [ModelSettings(name, tmp_path / name) for name in names]

    async def scenario(manager):
        await manager.configure(models("ab"))
        kept = manager.registry.served("b")[1]
        await manager.configure(models("bc"))
        assert numbers(manager, "a") == []
        assert manager.registry.served("b")[1] is kept
        assert await answer(manager, 1, "c") == 1
        await until(lambda: state(manager, 1, "a") == "END")
        await some_looks()
        assert numbers(manager, "a") == []
        assert manager.all_available
        await manager.configure(models("a"))
        assert numbers(manager, "a") == [1]
        await manager.configure([])
        assert numbers(manager, "a") == []
        assert manager.all_available  # nothing is configured

    managed(scenario)


def test_a_model_that_cannot_be_served_does_not_keep_the_others(versions, tmp_path):
    (tmp_path / "a").mkdir()
    publish(versions[1], tmp_path / "a" / "1")

    async def scenario(manager):
        models = [ModelSettings("a", tmp_path / "a"), ModelSettings("b", tmp_path / "b")]
        code, text = await refusal(manager.configure(models))
        assert code == Code.UNKNOWN
        assert text.startswith(
            f"1 servable(s) did not become available: b: {tmp_path / 'b'}: no such file"
        )
        assert await answer(manager, 1, "a") == 1
        assert not manager.all_available
        (tmp_path / "b").mkdir()
        publish(versions[2], tmp_path / "b" / "7")
        await until(lambda: manager.all_available)
        assert await answer(manager, 7, "b") == 2

    managed(scenario)


@pytest.mark.parametrize("allowed", [False, True])
def test_labels(versions, base, allowed):
    publish(versions[1], base / "1")
    publish(versions[2], base / "2")

    def model(**labels):
        return [ModelSettings("m", base, All(), labels)]

    async def scenario(manager):
        await manager.configure(model(stable=1))
        assert manager.registry.labels("m") == {"stable": 1}
        await manager.configure(model(stable=2, canary=1))
        assert manager.registry.labels("m") == {"stable": 2, "canary": 1}
        refused = (
            Code.FAILED_PRECONDITION,
            "Request to assign label to version 9 of model m, which is not currently available "
            "for inference",
        )
        # A label that is in use never goes to a version that is not there.
        assert await refusal(manager.configure(model(stable=9))) == refused
        assert manager.registry.labels("m") == {"stable": 2, "canary": 1}
        if allowed:
            await manager.configure(model(stable=2, new=9))
            assert manager.registry.labels("m") == {"stable": 2, "new": 9}
        else:
            assert await refusal(manager.configure(model(stable=2, new=9))) == refused
            assert manager.registry.labels("m") == {"stable": 2, "canary": 1}

    managed(scenario, allow_labels_for_unavailable=allowed)


@pytest.mark.parametrize("allowed", [False, True])
def test_a_label_may_stay_on_a_version_that_has_gone(versions, base, allowed):
    """So that a configuration in which nothing else is wrong can be changed."""
    publish(versions[1], base / "1")
    models = [ModelSettings("m", base, Latest(), {"stable": 1})]

    async def scenario(manager):
        await manager.configure(models)
        publish(versions[2], base / "2")
        await until(lambda: numbers(manager) == [2])
        if allowed:
            await manager.configure(models)
        else:
            code, _ = await refusal(manager.configure(models))
            assert code == Code.FAILED_PRECONDITION
        assert manager.registry.labels("m") == {"stable": 1}

    managed(scenario, allow_labels_for_unavailable=allowed)


def test_labels_may_be_moved_anywhere_where_that_is_wanted(versions, base):
    publish(versions[1], base / "1")

    async def scenario(manager):
        await manager.configure([ModelSettings("m", base, Latest(), {"stable": 1})])
        await manager.configure([ModelSettings("m", base, Latest(), {"stable": 9})])
        assert manager.registry.labels("m") == {"stable": 9}

    managed(scenario, allow_any_labels=True)


@pytest.mark.parametrize("allowed", [False, True])
def test_labels_of_the_first_configuration(versions, base, allowed):
    publish(versions[1], base / "1")
    models = [ModelSettings("m", base, Latest(), {"stable": 1, "next": 2})]

    async def scenario(manager):
        if allowed:
            await manager.configure(models)
            publish(versions[2], base / "2")
            await until(lambda: numbers(manager) == [2])
        else:
            code, text = await refusal(manager.configure(models))
            assert (code, "version 2 of model m" in text) == (Code.FAILED_PRECONDITION, True)

    managed(scenario, allow_labels_for_unavailable=allowed)


def test_a_version_s_own_batching(versions, base):
    publish(versions[1], base / "1")
    (base / "1" / "batching_params.pbtxt").write_text("max_batch_size { value: 2 }")

    def scenario_for(own):
        async def scenario(manager):
            await manager.configure([ModelSettings("m", base)])
            served = manager.registry.served("m")[1]
            signature = served.model.signatures["serving_default"]
            call = PredictCall(signature, {"x": np.ones(3, np.float32)}, ("y",))
            if own:
                code, text = await refusal(served.batcher.run(call))
                assert code == Code.INVALID_ARGUMENT
                assert text == "Task size 3 is larger than maximum input batch size 2"
            else:
                assert (await served.batcher.run(call))["y"].tolist() == [1, 1, 1]

        return scenario

    managed(scenario_for(True), per_model_batching=True)
    managed(scenario_for(False))


def test_wrong_batching_of_a_version_fails_its_load(versions, base):
    publish(versions[1], base / "1")
    (base / "1" / "batching_params.pbtxt").write_text("max_batch_size { value: none }")

    async def scenario(manager):
        code, text = await refusal(manager.configure([ModelSettings("m", base)]))
        assert (code, "batching_params.pbtxt:1:" in text) == (Code.UNKNOWN, True)

    managed(scenario, per_model_batching=True)


# --- the end ------------------------------------------------------------------------------------


def test_at_the_end_those_who_wait_for_a_departing_version_are_told(versions, base):
    publish(versions[1], base / "1")
    outcome = []

    async def ask_long(served):
        with served.held():
            try:
                await multiply(served, 3.0, "slowly")
            except RequestError as error:
                outcome.append((error.code, error.message))

    async def scenario(manager):
        await manager.configure([ModelSettings("m", base)])
        outcome.append(asyncio.create_task(ask_long(manager.registry.served("m")[1])))
        await asyncio.sleep(0.1)
        publish(versions[2], base / "2")
        await until(lambda: numbers(manager) == [2])
        assert state(manager, 1) == "UNLOADING"

    async def main():
        manager = Manager(ManagerOptions(poll_seconds=POLL), Metrics())
        watcher = asyncio.create_task(manager.watch())
        await scenario(manager)
        watcher.cancel()
        await manager.close()
        await asyncio.wait_for(outcome.pop(0), 1)
        assert outcome == [(Code.UNAVAILABLE, "The server is shutting down")]
        assert state(manager, 1) == "END"

    asyncio.run(main())


@pytest.mark.parametrize(
    "options",
    [
        *({"max_load_retries": -1}, {"load_threads": 0}, {"load_threads": -1}),
        *({"load_retry_seconds": -1}, {"load_retry_seconds": float("nan")}),
        *({"warmup_iterations": -1}, {"max_image_pixels": 0}),
    ],
    ids=str,
)
def test_options_that_make_no_sense(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        ManagerOptions(**options)


def test_a_surprise_at_a_look_is_logged_and_not_the_last_look(versions, base, caplog, monkeypatch):
    """Whatever a disk may come up with."""
    publish(versions[1], base / "1")

    async def scenario(manager):
        await manager.configure([ModelSettings("m", base)])
        with monkeypatch.context() as patch:
            patch.setattr("keras_cls.server.manager.offered_versions", lambda *_, **__: 1 / 0)
            await some_looks()
        publish(versions[2], base / "2")
        await until(lambda: numbers(manager) == [2])

    with caplog.at_level(logging.ERROR):
        managed(scenario)
    assert "looking at the models' folders failed" in caplog.text
