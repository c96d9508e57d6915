"""What the tests of the residual networks share: weights as after training, and a second opinion.

The second opinion is a forward pass written out in NumPy, float64, for every network that adds a
shortcut to normalized convolutions. It reads the numbers of units, groups and gates off the shapes
and names of the weights; where the stride is and how the first map is pooled must be told.
"""

from collections.abc import Callable
from itertools import count, takewhile
from typing import Literal

import keras
import numpy as np

Weights = dict[str, np.ndarray]


def of_keras_applications(
    application: Callable[..., keras.Model], size: tuple[int, int]
) -> keras.Model:
    """A ResNet of keras.applications for 50 classes, as after training, with our epsilon."""
    reference = application(
        weights=None, input_shape=(*size, 3), classes=50, classifier_activation=None
    )
    randomise(reference, seed=1)
    for layer in reference.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.epsilon = 1e-5  # 1.001e-5 there
    return reference


def randomise(model: keras.Model, seed: int) -> None:
    """Biases, scales and statistics as after training: none is zero or one.

    The variances keep the sums of a hundred units small: rounding is all that is left of a gate's
    input, if it is large.
    """
    random = np.random.default_rng(seed)
    ranges = {"bias": (-0.5, 0.5), "beta": (-0.5, 0.5), "gamma": (0.5, 1.5)}
    ranges |= {"moving_mean": (-0.5, 0.5), "moving_variance": (1.0, 4.0)}
    for variable in model.variables:
        if variable.name in ranges:
            variable.assign(random.uniform(*ranges[variable.name], variable.shape))


def assert_gives(model: keras.Model, forward: Callable[[np.ndarray], np.ndarray]) -> None:
    """The model's logits are those of ``forward`` on random images."""
    # A pale and a harsh image of white noise: random statistics would drown the difference of two
    # of the usual contrast.
    contrast = np.reshape((10, 40), (2, 1, 1, 1))
    images = np.random.default_rng(2).normal(size=(2, *model.input_shape[1:])) * contrast
    images = images.astype("f4")
    expected = np.asarray(forward(images))
    logits = model(images, training=False).numpy()
    assert np.abs(expected[0] - expected[1]).max() > 1e-2 * np.abs(expected).max() > 0
    assert np.abs(logits - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


def weights_of(model: keras.Model) -> Weights:
    return {v.path: keras.ops.convert_to_numpy(v).astype("f8") for v in model.variables}


def forward(
    w: Weights, images: np.ndarray, strided: int, pool: Literal["centred", "rounded up"]
) -> np.ndarray:
    """Images [N, H, W, C] -> logits; ``strided`` is the convolution that halves, from 1."""
    x = images.astype("f8")
    stem = ["conv1"] if "conv1/kernel" in w else ["conv1_1", "conv1_2", "conv1_3"]
    for number, name in enumerate(stem):
        x = relu(conv_bn(w, name, x, 2 if number == 0 else 1))
    x = max_pool(x, pool)
    for stage in (2, 3, 4, 5):
        names = (f"conv{stage}_{number}" for number in count(1))
        for name in takewhile(lambda name: f"{name}_conv1/kernel" in w, names):
            stride = 2 if stage > 2 and name.endswith("_1") else 1
            x = unit(w, name, x, stride, strided)
    return x.mean((1, 2)) @ w["logits/kernel"] + w["logits/bias"]


def unit(w: Weights, name: str, x: np.ndarray, stride: int, strided: int) -> np.ndarray:
    convolutions = 3 if f"{name}_conv3/kernel" in w else 2
    y = x
    for number in range(1, convolutions + 1):
        y = conv_bn(w, f"{name}_conv{number}", y, stride if number == strided else 1)
        if number < convolutions:
            y = relu(y)
    if f"{name}_se_reduce/kernel" in w:
        gate = relu(
            y.mean((1, 2)) @ w[f"{name}_se_reduce/kernel"][0, 0] + w[f"{name}_se_reduce/bias"]
        )
        gate = gate @ w[f"{name}_se_expand/kernel"][0, 0] + w[f"{name}_se_expand/bias"]
        y = y / (1 + np.exp(-gate))[:, None, None]
    if f"{name}_shortcut/kernel" in w:
        x = conv_bn(w, f"{name}_shortcut", x, stride)
    return relu(x + y)


def conv_bn(w: Weights, name: str, x: np.ndarray, stride: int) -> np.ndarray:
    x = conv(x, w[f"{name}/kernel"], stride)
    mean, variance = w[f"{name}_bn/moving_mean"], w[f"{name}_bn/moving_variance"]
    return (x - mean) / np.sqrt(variance + 1e-5) * w[f"{name}_bn/gamma"] + w[f"{name}_bn/beta"]


def conv(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """Padded equally on every side; each group of filters sees its own share of the channels."""
    side, _, seen, filters = kernel.shape
    groups = x.shape[-1] // seen
    height, width = x.shape[1:3]
    x = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
    convolved = []
    for group in range(groups):
        channels = slice(group * seen, (group + 1) * seen)
        mine = slice(group * filters // groups, (group + 1) * filters // groups)
        convolved.append(
            sum(
                x[:, i : i + height : stride, j : j + width : stride, channels]
                @ kernel[i, j, :, mine]
                for i in range(side)
                for j in range(side)
            )
        )
    return np.concatenate(convolved, -1)


def max_pool(x: np.ndarray, kind: Literal["centred", "rounded up"]) -> np.ndarray:
    """3x3 windows, two pixels apart, cut off at the edges: around the even pixels, or from them."""
    before = 1 if kind == "centred" else 0

    def starts(side: int) -> range:
        # Torch's sizes: floor((n + 2 - 3) / 2) + 1 with one pixel of padding, and
        # ceil((n - 3) / 2) + 1 without.
        windows = (side - 1) // 2 + 1 if kind == "centred" else -(-(side - 3) // 2) + 1
        return range(-before, 2 * windows - before, 2)

    return np.stack(
        [
            np.stack(
                [
                    x[:, max(i, 0) : i + 3, max(j, 0) : j + 3].max((1, 2))
                    for j in starts(x.shape[2])
                ],
                1,
            )
            for i in starts(x.shape[1])
        ],
        1,
    )


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)
