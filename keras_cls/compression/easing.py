"""Less dropout for a network of fewer weights.

Dropout is tuned to what a dense network could learn by heart. Of a sparse one that capacity is gone
already, and at the old rate it would no longer fit its images.
"""

from collections.abc import Mapping

import numpy as np
import tf_keras

from keras_cls.compression import twin_layers
from keras_cls.compression.rebuilding import steps_of

# What derives from it is something else: DropPath drops branches.
_DROPS = (tf_keras.layers.Dropout, tf_keras.layers.SpatialDropout2D)


def ease_dropout(twin: tf_keras.Model, sparsity: Mapping[str, float]) -> None:
    """Lower each dropout's rate with the weights that are left in the layer before it.

    ``rate * sqrt(weights left / weights)``, of the layer whose output is dropped (Han, Pool, Tran
    and Dally, arXiv:1506.02626, equation 2). The rate is changed in place.

    Args:
        twin: functional.
        sparsity: the share of zeros that layers have, or will have, by name; none for others.
    """
    left: dict[int, float] = {}
    eased: dict[int, float] = {}
    drops = {}
    for step in steps_of(twin):
        # Behind a joint there is no one layer whose weights would count.
        found = left.get(id(step.taken[0]), 1.0) if len(step.taken) == 1 else 1.0
        if _weighs(step.layer):
            found = 1 - sparsity.get(step.layer.name, 0.0)
        left[id(step.output)] = found
        if type(step.layer) in _DROPS:
            drops[id(step.layer)] = step.layer
            # Of one that is called in several places, the most.
            eased[id(step.layer)] = max(found, eased.get(id(step.layer), 0.0))
    for key, layer in drops.items():
        layer.rate *= float(np.sqrt(eased[key]))


def _weighs(layer: tf_keras.layers.Layer) -> bool:
    """Whether it has weights of its own, beyond those that normalize."""
    return bool(layer.weights) and not isinstance(layer, tf_keras.layers.BatchNormalization)


def found_sparsity(twin: tf_keras.Model) -> dict[str, float]:
    """The share of zeros that kernels have, by layer."""
    kernels = {layer.name: twin_layers.kernel_of(layer) for layer in twin.layers}
    return {
        name: float(np.mean(kernel.numpy() == 0))
        for name, kernel in kernels.items()
        if kernel is not None
    }
