"""ResNet against keras.applications, an independent implementation of the paper's v1."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from keras_cls.architectures import count_multiply_adds, model_spec
from keras_cls.architectures.resnet import BOTTLENECK_OF_THE_PAPER, resnet


def randomise(model: keras.Model, seed: int) -> None:
    """Biases, scales and statistics as after training: none is zero or one."""
    random = np.random.default_rng(seed)
    ranges = {"bias": (-0.5, 0.5), "beta": (-0.5, 0.5), "gamma": (0.5, 1.5)}
    ranges |= {"moving_mean": (-0.5, 0.5), "moving_variance": (0.5, 2.0)}
    for variable in model.variables:
        if variable.name in ranges:
            variable.assign(random.uniform(*ranges[variable.name], variable.shape))


def name_in_keras(ours: str) -> str:
    """conv3_2_conv1_bn -> conv3_block2_1_bn; a shortcut is number 0 there."""
    kind = "bn" if ours.endswith("_bn") else "conv"
    stage, *rest = ours.removesuffix("_bn").split("_")
    if not rest:
        return f"{stage}_{kind}"
    unit, convolution = rest
    number = 0 if convolution == "shortcut" else convolution.removeprefix("conv")
    return f"{stage}_block{unit}_{number}_{kind}"


@pytest.mark.parametrize("size", [(160, 128), (97, 75)])
def test_equals_keras_applications(size: tuple[int, int]) -> None:
    reference = keras.applications.ResNet50(
        weights=None, input_shape=(*size, 3), classes=50, classifier_activation=None
    )
    randomise(reference, seed=1)
    for layer in reference.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.epsilon = 1e-5  # 1.001e-5 there

    spec = replace(model_spec("resnet50"), unit=BOTTLENECK_OF_THE_PAPER)
    images = keras.Input((*size, 3))
    model = keras.Model(images, resnet(images, spec, 50).logits)
    model.get_layer("logits").set_weights(reference.get_layer("predictions").get_weights())
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            kernel, bias = reference.get_layer(name_in_keras(layer.name)).get_weights()
            layer.set_weights([kernel])
            normalization = name_in_keras(f"{layer.name}_bn")
            gamma, beta, mean, variance = reference.get_layer(normalization).get_weights()
            # Without a bias of its own, the convolution's is taken off the moving mean.
            model.get_layer(f"{layer.name}_bn").set_weights([gamma, beta, mean - bias, variance])

    batch = np.random.default_rng(2).normal(size=(2, *size, 3)).astype("float32")
    expected = reference(batch, training=False).numpy()
    logits = model(batch, training=False).numpy()
    assert np.abs(expected).max() > 1e-2
    assert np.abs(logits - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


def test_the_stride_costs_six_percent() -> None:
    spec = replace(model_spec("resnet50"), unit=BOTTLENECK_OF_THE_PAPER)
    images = keras.Input(spec.input_shape)
    model = keras.Model(images, resnet(images, spec, 1000).logits)
    assert count_multiply_adds(model) / 1e9 == pytest.approx(3.858, abs=5e-4)
