"""The way through a functional model, by what Keras notes of every tensor.

Keras has no public name for it; this is the one place that uses its private ones. A *step* is one
call of an operation, mostly of a layer: it has ``operation``, ``input_tensors`` and ``outputs``.
"""

from collections.abc import Collection
from typing import Any


def step_of(tensor: Any) -> Any:
    """The step that gave a Keras tensor."""
    operation, index, _ = tensor._keras_history
    return operation._inbound_nodes[index]


def first_inputs(operation: Any) -> list[Any]:
    """The Keras tensors that an operation takes where it is called first; none if it never is."""
    return [tensor for step in operation._inbound_nodes[:1] for tensor in step.input_tensors]


def steps_to(tensor: Any, beyond: Collection[Any] = ()) -> list[Any]:
    """Every step that a Keras tensor depends on, each behind those that it takes from.

    Args:
        tensor: such as a model's output.
        beyond: steps to stop at; they are left out.
    """
    order: list[Any] = []
    seen = set(beyond)
    waiting = [(step_of(tensor), False)]
    while waiting:
        step, ready = waiting.pop()
        if ready:
            order.append(step)
        elif step not in seen:
            seen.add(step)
            waiting.append((step, True))
            waiting.extend((step_of(each), False) for each in reversed(step.input_tensors))
    return order
