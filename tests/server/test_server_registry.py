"""Which model a request means, and who holds it."""

import asyncio
from types import SimpleNamespace

import pytest

from keras_cls.contract.messages import ModelSpec
from keras_cls.server.registry import ModelState, Registry, ServedModel
from keras_cls.server.status import Code, RequestError


def served(name, version):
    return ServedModel(SimpleNamespace(name=name, version=version), batcher=None)


def registry_of(*versions, labels=None):
    registry = Registry()
    registry.configure("m", labels or {})
    for version in versions:
        registry.add(served("m", version))
    return registry


def spec(name="m", **choice):
    found = ModelSpec(name=name)
    if "version" in choice:
        found.version.value = choice["version"]
    if "label" in choice:
        found.version_label = choice["label"]
    return found


def refused(function, *arguments):
    with pytest.raises(RequestError) as caught:
        function(*arguments)
    return caught.value.code, caught.value.message


def test_versions_labels_and_the_latest():
    registry = registry_of(3, 1, 2, labels={"stable": 1, "gone": 9})
    assert registry.find(spec()).model.version == 3
    assert registry.find(spec(version=2)).model.version == 2
    assert registry.find(spec(label="stable")).model.version == 1
    assert refused(registry.find, spec(version=4)) == (
        Code.NOT_FOUND,
        "Servable not found for request: Specific(m, 4)",
    )
    assert refused(registry.find, spec(label="gone")) == (
        Code.NOT_FOUND,
        "Servable not found for request: Specific(m, 9)",
    )
    for label in ("unknown", ""):
        assert refused(registry.find, spec(label=label)) == (
            Code.INVALID_ARGUMENT,
            f"Unrecognized servable version label: {label}",
        )


@pytest.mark.parametrize(
    ("wanted", "code", "text"),
    [
        (spec(""), Code.INVALID_ARGUMENT, "ModelSpec has no name specified."),
        (spec("x"), Code.NOT_FOUND, "Servable not found for request: Latest(x)"),
        (spec("x", version=0), Code.NOT_FOUND, "Servable not found for request: Specific(x, 0)"),
        (spec("x", label="a"), Code.INVALID_ARGUMENT, "Unrecognized servable version label: a"),
    ],
)
def test_models_that_are_not_there(wanted, code, text):
    assert refused(registry_of(1).find, wanted) == (code, text)


def test_asking_adds_no_model():
    registry = registry_of(1)
    for wanted in (spec("x"), spec("y", version=1), spec("z", label="a")):
        refused(registry.find, wanted)
        if wanted.WhichOneof("version_choice") != "version_label":
            refused(registry.statuses, wanted)
    assert registry.names() == ["m"]
    assert registry.served("x") == {}
    assert registry.all_statuses("x") == {}
    assert registry.status("x", 1) is None


def test_states_stay_listed():
    registry = registry_of(1, 2)
    error = RequestError(Code.INTERNAL, "no")
    registry.set_state("m", 3, ModelState.END, error)
    registry.withdraw("m", 1)
    registry.set_state("m", 1, ModelState.END)
    states = registry.statuses(spec(label="ignored"))
    assert [(v, s.state.name, s.error) for v, s in states.items()] == [
        (1, "END", None),
        (2, "AVAILABLE", None),
        (3, "END", error),
    ]
    assert list(registry.statuses(spec(version=2))) == [2]
    assert refused(registry.statuses, spec(version=4)) == (
        Code.NOT_FOUND,
        "Could not find version 4 of model m",
    )
    assert refused(registry.statuses, spec("x")) == (
        Code.NOT_FOUND,
        "Could not find any versions of model x",
    )


def test_a_version_is_unused_when_nobody_holds_it():
    async def scenario():
        model = served("m", 1)
        await asyncio.wait_for(model.unused(), 1)
        with model.held(), model.held() as held:
            assert held is model
            waiting = asyncio.ensure_future(model.unused())
            await asyncio.sleep(0.01)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 1)
        with pytest.raises(ZeroDivisionError), model.held():
            raise ZeroDivisionError
        await asyncio.wait_for(model.unused(), 1)

    asyncio.run(scenario())
