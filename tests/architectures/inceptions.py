"""What the tests of the Inception networks share: weights as after training, carried over."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import keras
import numpy as np

from keras_cls.architectures import model_spec


def settle(model: keras.Model, seed: int) -> None:
    """Biases and scales as after training, and the statistics of noise that passes through.

    With statistics out of the air the biases of so many layers would drown the images.
    """
    random = np.random.default_rng(seed)
    ranges = {"bias": (-0.5, 0.5), "beta": (-0.5, 0.5), "gamma": (0.5, 1.5)}
    for variable in model.variables:
        if variable.name in ranges:
            variable.assign(random.uniform(*ranges[variable.name], variable.shape))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(random.normal(size=(8, *model.input_shape[1:])).astype("f4"), training=True)


def assert_gives(model: keras.Model, forward: Callable[[np.ndarray], np.ndarray]) -> None:
    """The model's logits are those of ``forward`` on random images, which it tells apart."""
    images = np.random.default_rng(2).normal(size=(2, *model.input_shape[1:])).astype("f4")
    expected = np.asarray(forward(images))
    logits = model(images, training=False).numpy()
    assert np.abs(expected[0] - expected[1]).max() > 0.1 * np.abs(expected).max() > 0
    assert np.abs(logits - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


@contextmanager
def double_precision() -> Iterator[None]:
    """Networks built within compute in float64: round-off grows a thousandfold in the deepest."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def carry_over(reference: keras.Model, model: keras.Model, names_there: dict[str, str]) -> None:
    """Set the model's weights from one whose layers mostly bear numbers, in order of creation.

    ``names_there`` holds our names and theirs of the convolutions that do bear a name there.
    """
    ours = convolutions(model)
    numbered = [name for name in ours if name not in names_there]
    for kind, suffix in (("conv2d", ""), ("batch_normalization", "_bn")):
        theirs = _numbered(reference, kind)
        for name, layer in zip(numbered, theirs, strict=True):
            _set(model.get_layer(name + suffix), layer)
    for name, there in names_there.items():
        _set(model.get_layer(name), reference.get_layer(there))
        if f"{name}_bn" in [layer.name for layer in model.layers]:
            _set(model.get_layer(f"{name}_bn"), reference.get_layer(f"{there}_bn"))
    _set(model.get_layer("logits"), reference.get_layer("predictions"))


def convolutions(model: keras.Model) -> list[str]:
    """The names of the convolutions, in the order of the parts and of the branches in them."""
    parts = [name for name, _ in model_spec(model.name).parts]

    def place(name: str) -> tuple[int, list[str]]:
        part = next(i for i, part in enumerate(parts) if f"{name}_".startswith(f"{part}_"))
        return part, re.split("_", name)

    names = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    return sorted(names, key=place)


def _numbered(model: keras.Model, kind: str) -> list[keras.layers.Layer]:
    numbers = {
        int(match[1] or 0): layer
        for layer in model.layers
        if (match := re.fullmatch(rf"{kind}(?:_(\d+))?", layer.name))
    }
    return [numbers[number] for number in sorted(numbers)]


def _set(ours: keras.layers.Layer, theirs: keras.layers.Layer) -> None:
    weights = theirs.get_weights()
    if isinstance(theirs, keras.layers.BatchNormalization) and not theirs.scale:
        weights = [np.ones_like(weights[0]), *weights]
    ours.set_weights(weights)
