"""The layers of a Keras model in the order in which they are called."""

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
    calls: list[Call] = []
    _walk(model, None, "", calls, set())
    return tuple(calls)


def _ends(model: keras.Model) -> tuple[Any, Any]:
    """A model's only input and its only output."""
    try:
        inputs, outputs = model.inputs, model.outputs
    except (AttributeError, ValueError):
        inputs = outputs = None
    if inputs is None or outputs is None:
        raise ExportError(
            f"{model.name}: neither a functional model nor a sequential one that is built: only of "
            "these the order of the layers can be known"
        )
    for what, tensors in (("inputs", inputs), ("outputs", outputs)):
        if len(tensors) != 1:
            raise ExportError(f"{model.name}: expected one of {what}, found {len(tensors)}")
    return inputs[0], outputs[0]


def _walk(
    model: keras.Model, source: str | None, prefix: str, calls: list[Call], taken: set[str]
) -> str:
    """Append a model's calls; ``source`` stands for its input. Returns the name of the last one."""
    given, wanted = _ends(model)
    place: dict[Any, str] = {} if source is None else {step_of(given): source}
    for step in steps_to(wanted, beyond=tuple(place)):
        layer = step.operation
        if not isinstance(layer, keras.layers.Layer):
            raise ExportError(
                f"{prefix}{layer.name}: an operation of type {type(layer).__name__}, found where "
                "only layers can be: write it as a layer, such as keras.layers.Rescaling"
            )
        inputs = tuple(place[step_of(tensor)] for tensor in step.input_tensors)
        if isinstance(layer, keras.Model):
            place[step] = _walk(layer, inputs[0], f"{prefix}{layer.name}/", calls, taken)
            continue
        place[step] = name = _free(f"{prefix}{layer.name}", taken)
        calls.append(Call(name, layer, inputs))
    return place[step_of(wanted)]


def _free(name: str, taken: set[str]) -> str:
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found
