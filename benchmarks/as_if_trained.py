"""Random weights that behave as trained ones do where exports are held to what they come from."""

import keras
import numpy as np


def unsettle(model: keras.Model) -> None:
    """Give normalizations statistics that matter."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if hasattr(layer, "moving_mean"):
            layer.moving_mean.assign(rng.normal(size=layer.moving_mean.shape, scale=0.1))
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, layer.moving_variance.shape))


def calm_gates(model: keras.Model, images: np.ndarray) -> None:
    """Let the gates of squeeze-and-excitation stand between open and shut: deviate by 1 before the
    sigmoid, on images [N, H, W, C] as the model takes them.

    Maps of random weights grow from block to block, and so do the gates' inputs: thousands, of
    which the smallest difference opens or shuts a gate.
    """
    gates = [layer for layer in model.layers if layer.name.endswith("_expand")]
    if not gates:
        return
    inputs = keras.Model(model.input, [gate.input for gate in gates])(images, training=False)
    for gate, x in zip(gates, keras.tree.flatten(inputs), strict=True):
        kernel, bias = gate.get_weights()
        gate.set_weights([kernel / np.std(x.numpy() @ kernel[0, 0]), bias])
