"""The layers of a Keras model in the order in which they are called."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_cls.architectures.walking import step_of, steps_to
from keras_cls.errors import ExportError


@dataclass(frozen=True, eq=False)
class Call:
    """A layer that is called once.

    Attributes:
        name: the layer's, for its second call and so on with a number, and within a model within
            the model with that one's name before it; no two are the same.
        layer: the layer.
        inputs: the names of the calls whose outputs it takes, in its own order.
    """

    name: str
    layer: keras.layers.Layer
    inputs: tuple[str, ...]


def calls_of(model: keras.Model) -> tuple[Call, ...]:
    """Every call that a functional model's one output depends on; the last gives the output.

    Models within the model are looked into. The input is a call of its InputLayer.

    Raises:
        ExportError: the model is not functional, or has several inputs or outputs; or a step of it
            is no layer.
    """
    calls, outputs = calls_to_outputs(model)
    _expect_one(model, "outputs", outputs)
    return calls


def calls_to_outputs(model: keras.Model) -> tuple[tuple[Call, ...], tuple[str, ...]]:
    """The same for any number of outputs, and the names of the calls that give them.

    The outputs are in the order of ``model.outputs``.

    Raises:
        ExportError: as :func:`calls_of`, but for the number of outputs of the model itself.
    """
    calls: list[Call] = []
    outputs = _walk(model, None, "", calls, set())
    return tuple(calls), outputs


def _ends(model: keras.Model) -> tuple[Any, list[Any]]:
    """A model's only input and its outputs."""
    try:
        inputs, outputs = model.inputs, model.outputs
    except (AttributeError, ValueError):
        inputs = outputs = None
    if inputs is None or outputs is None:
        raise ExportError(
            f"{model.name}: neither a functional model nor a sequential one that is built: only of "
            "these the order of the layers can be known"
        )
    _expect_one(model, "inputs", inputs)
    return inputs[0], outputs


def _expect_one(model: keras.Model, what: str, found: Sequence[Any]) -> None:
    if len(found) != 1:
        raise ExportError(f"{model.name}: expected one of {what}, found {len(found)}")


def _walk(
    model: keras.Model, source: str | None, prefix: str, calls: list[Call], taken: set[str]
) -> tuple[str, ...]:
    """Append a model's calls; ``source`` stands for its input. Returns the outputs' names."""
    given, wanted = _ends(model)
    place: dict[Any, str] = {} if source is None else {step_of(given): source}
    for tensor in wanted:
        _walk_to(tensor, place, prefix, calls, taken)
    return tuple(place[step_of(tensor)] for tensor in wanted)


def _walk_to(
    wanted: Any, place: dict[Any, str], prefix: str, calls: list[Call], taken: set[str]
) -> None:
    """Append the calls that a tensor depends on and that have no ``place`` yet; they get one."""
    for step in steps_to(wanted, beyond=tuple(place)):
        layer = step.operation
        if not isinstance(layer, keras.layers.Layer):
            raise ExportError(
                f"{prefix}{layer.name}: an operation of type {type(layer).__name__}, found where "
                "only layers can be: write it as a layer, such as keras.layers.Rescaling"
            )
        inputs = tuple(place[step_of(tensor)] for tensor in step.input_tensors)
        if isinstance(layer, keras.Model):
            ends = _walk(layer, inputs[0], f"{prefix}{layer.name}/", calls, taken)
            _expect_one(layer, "outputs", ends)
            place[step] = ends[0]
            continue
        place[step] = name = free_name(f"{prefix}{layer.name}", taken)
        calls.append(Call(name, layer, inputs))


def free_name(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken; it is taken then."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found
