"""A functional tf_keras model again, with other layers in the places of its own.

``tf_keras.models.clone_model`` replaces a layer by one other; here it may be several, and no weight
is copied. This is the one place that uses tf_keras' private names for a model's steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tf_keras

from keras_cls.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Step:
    """A layer's call: what it was called with, and the one tensor that it gave."""

    layer: tf_keras.layers.Layer
    arguments: Any
    output: Any

    @property
    def taken(self) -> list[Any]:
        """The tensors that it was called with, however many; an input's is None."""
        return self.arguments if isinstance(self.arguments, list) else [self.arguments]


def steps_of(model: tf_keras.Model) -> list[Step]:
    """A model's steps, each behind those that it takes from; its inputs are steps too.

    Raises:
        ConfigError: the model is not functional.
    """
    if not isinstance(model, tf_keras.Model) or not getattr(model, "_is_graph_network", False):
        raise ConfigError(
            f"{getattr(model, 'name', model)!s}: expected a functional tf_keras model, such as "
            f"twin_of() makes; found a {type(model).__name__}"
        )
    return [
        Step(node.layer, node.call_args[0] if node.call_args else None, node.outputs)
        for depth in sorted(model._nodes_by_depth, reverse=True)
        for node in model._nodes_by_depth[depth]
    ]


def rebuilt(
    model: tf_keras.Model,
    replacements: Callable[[tf_keras.layers.Layer], Sequence[tf_keras.layers.Layer]],
) -> tf_keras.Model:
    """The model with a chain of layers for each of its own, in the same graph.

    Args:
        model: functional.
        replacements: layer -> the layers in its place, first to last; it is asked once a layer.
            Those for an input follow it, which is made anew.
    """
    made: dict[int, Any] = {}
    chains: dict[int, Sequence[tf_keras.layers.Layer]] = {}
    inputs = []
    for step in steps_of(model):
        key = id(step.layer)
        if key not in chains:
            chains[key] = [
                layer
                for layer in replacements(step.layer)
                if not isinstance(layer, tf_keras.layers.InputLayer)
            ]
        if step.arguments is None:
            tensor = tf_keras.Input(step.output.shape[1:], name=step.layer.name)
            inputs.append(tensor)
        elif isinstance(step.arguments, list):
            tensor = [made[id(each)] for each in step.arguments]
        else:
            tensor = made[id(step.arguments)]
        for layer in chains[key]:
            tensor = layer(tensor)
        made[id(step.output)] = tensor
    outputs = [made[id(tensor)] for tensor in model.outputs]
    return tf_keras.Model(inputs, outputs if len(outputs) > 1 else outputs[0], name=model.name)
