"""ResNet: the paper's v1 against keras.applications, both strides against NumPy."""

from functools import partial

import keras
import pytest
from residual import assert_gives, forward, of_keras_applications, randomise, weights_of

from keras_cls.architectures import build_model

ODD = (97, 75)


def name_in_keras(ours: str) -> str:
    """conv3_2_conv1_bn -> conv3_block2_1_bn; a shortcut is number 0 there."""
    kind = "bn" if ours.endswith("_bn") else "conv"
    stage, *rest = ours.removesuffix("_bn").split("_")
    if not rest:
        return f"{stage}_{kind}"
    unit, convolution = rest
    number = 0 if convolution == "shortcut" else convolution.removeprefix("conv")
    return f"{stage}_block{unit}_{number}_{kind}"


@pytest.mark.parametrize(
    ("name", "reference", "size"),
    [
        ("resnet50_v1", keras.applications.ResNet50, (160, 128)),
        ("resnet50_v1", keras.applications.ResNet50, ODD),
        pytest.param("resnet101_v1", keras.applications.ResNet101, ODD, marks=pytest.mark.slow),
        pytest.param("resnet152_v1", keras.applications.ResNet152, ODD, marks=pytest.mark.slow),
    ],
)
def test_equals_keras_applications(name: str, reference, size: tuple[int, int]) -> None:
    reference = of_keras_applications(reference, size)
    model = build_model(name, 50, (*size, 3))
    model.get_layer("logits").set_weights(reference.get_layer("predictions").get_weights())
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            kernel, bias = reference.get_layer(name_in_keras(layer.name)).get_weights()
            layer.set_weights([kernel])
            normalization = name_in_keras(f"{layer.name}_bn")
            gamma, beta, mean, variance = reference.get_layer(normalization).get_weights()
            # Without a bias of its own, the convolution's is taken off the moving mean.
            model.get_layer(f"{layer.name}_bn").set_weights([gamma, beta, mean - bias, variance])
    assert_gives(model, partial(reference, training=False))


@pytest.mark.parametrize(
    ("name", "strided"),
    [
        ("resnet18", 1),
        ("resnet50", 2),
        pytest.param("resnet34", 1, marks=pytest.mark.slow),
        pytest.param("resnet50_v1", 1, marks=pytest.mark.slow),
        pytest.param("resnet101", 2, marks=pytest.mark.slow),
        pytest.param("resnet152", 2, marks=pytest.mark.slow),
    ],
)
def test_equals_numpy(name: str, strided: int) -> None:
    model = build_model(name, 50, (*ODD, 3))
    randomise(model, seed=0)
    assert_gives(model, partial(forward, weights_of(model), strided=strided, pool="centred"))
