"""Networks at random: branches, sums, joins and pools over maps of one size."""

import keras
import numpy as np
from hypothesis import strategies as st

from keras_cls.architectures.layers import LocalResponseNormalization

KINDS = [
    "conv1",
    "conv3",
    "depthwise",
    "grouped",
    "norm",
    "relu",
    "relu6",
    "silu",
    "lrn",
    "gate",
    "max",
    "mean",
    "add",
    "join",
]


@st.composite
def networks(draw: st.DrawFn) -> keras.Model:
    """A functional model of 8 x 8 images onto 5 logits, its statistics away from zero and one."""
    seed = draw(st.integers(0, 2**16))
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 3), name="images")
    maps = [keras.layers.Conv2D(16, 3, padding="same")(inputs)]
    for kind in draw(st.lists(st.sampled_from(KINDS), min_size=2, max_size=10)):
        first, second = (maps[-1 - draw(st.integers(0, min(3, len(maps) - 1)))] for _ in range(2))
        maps.append(_made(kind, first, second))
    ends = [maps[-1], maps[draw(st.integers(0, len(maps) - 1))]]
    x = keras.layers.Concatenate()(ends)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(5)(x))
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(random.normal(size=16, scale=0.3))
            layer.moving_variance.assign(random.uniform(0.5, 1.5, 16))
            layer.beta.assign(random.normal(size=16, scale=0.3))
    return model


def _made(kind: str, first: keras.KerasTensor, second: keras.KerasTensor) -> keras.KerasTensor:
    layers = keras.layers
    if kind == "add":
        return layers.Add()([first, second])
    if kind == "join":
        return layers.Conv2D(16, 1)(layers.Concatenate()([first, second]))
    if kind == "gate":
        gate = layers.Dense(16, activation="sigmoid")(layers.GlobalAveragePooling2D()(first))
        return layers.Multiply()([gate, second])
    made = {
        "conv1": lambda: layers.Conv2D(16, 1),
        "conv3": lambda: layers.Conv2D(16, 3, padding="same", activation="relu"),
        "depthwise": lambda: layers.DepthwiseConv2D(3, padding="same"),
        "grouped": lambda: layers.Conv2D(16, 3, padding="same", groups=4),
        "norm": lambda: layers.BatchNormalization(),
        "relu": lambda: layers.ReLU(),
        "relu6": lambda: layers.ReLU(6.0),
        "silu": lambda: layers.Activation("silu"),
        "lrn": lambda: LocalResponseNormalization(),
        "max": lambda: layers.MaxPooling2D(3, 1, padding="same"),
        "mean": lambda: layers.AveragePooling2D(3, 1, padding="same"),
    }
    return made[kind]()(first)
