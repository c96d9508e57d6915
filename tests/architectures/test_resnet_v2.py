"""ResNet v2 against keras.applications, where the release's wiring comes from."""

from functools import partial

import keras
import pytest
from residual import assert_gives, of_keras_applications

from keras_cls.architectures import build_model

ODD = (97, 75)


def name_in_keras(ours: str) -> str:
    """conv3_2_conv1_bn -> conv3_block2_1_bn; a shortcut is number 0 there."""
    renamed = {"conv1": "conv1_conv", "postnorm_bn": "post_bn", "logits": "predictions"}
    if ours in renamed:
        return renamed[ours]
    stage, unit, layer = ours.split("_", 2)
    if layer != "preact_bn":
        convolution, _, normalization = layer.partition("_")
        number = 0 if convolution == "shortcut" else convolution.removeprefix("conv")
        layer = f"{number}_{normalization or 'conv'}"
    return f"{stage}_block{unit}_{layer}"


@pytest.mark.parametrize(
    ("name", "reference", "size"),
    [
        ("resnet50_v2", keras.applications.ResNet50V2, (160, 128)),
        ("resnet50_v2", keras.applications.ResNet50V2, ODD),
        pytest.param("resnet101_v2", keras.applications.ResNet101V2, ODD, marks=pytest.mark.slow),
        pytest.param("resnet152_v2", keras.applications.ResNet152V2, ODD, marks=pytest.mark.slow),
    ],
)
def test_equals_keras_applications(name: str, reference, size: tuple[int, int]) -> None:
    reference = of_keras_applications(reference, size)
    model = build_model(name, 50, (*size, 3))
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(reference.get_layer(name_in_keras(layer.name)).get_weights())
    assert_gives(model, partial(reference, training=False))


def test_feature_maps_are_normalized_and_rectified() -> None:
    model = build_model("resnet50_v2", features=True)
    names = [tensor._keras_history.operation.name for tensor in model.outputs]
    assert names == [
        "conv1",
        "conv2_3_preact_relu",
        "conv3_4_preact_relu",
        "conv4_6_preact_relu",
        "postnorm_relu",
    ]
