"""Inception-ResNet v2 against keras.applications; what sets the three networks apart."""

from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
from inceptions import assert_gives, carry_over, double_precision, settle

from keras_cls.architectures import build_model, model_spec
from keras_cls.architectures.inception_resnet import Residual
from keras_cls.architectures.inception_v2_v3 import Conv

NAMES_IN_KERAS = {
    "Conv2d_7b_1x1": "conv_7b",
    "Block8_Conv2d_1x1": "block8_10_conv",
    **{f"Repeat_block35_{n}_Conv2d_1x1": f"block35_{n}_conv" for n in range(1, 11)},
    **{f"Repeat_1_block17_{n}_Conv2d_1x1": f"block17_{n}_conv" for n in range(1, 21)},
    **{f"Repeat_2_block8_{n}_Conv2d_1x1": f"block8_{n}_conv" for n in range(1, 10)},
}


@pytest.mark.slow
@pytest.mark.parametrize("size", [(128, 128), (139, 107)])
def test_v2_equals_keras_applications(size: tuple[int, int]) -> None:
    reference = keras.applications.InceptionResNetV2(
        weights=None, input_shape=(*size, 3), classes=50, classifier_activation=None
    )
    settle(reference, seed=1)
    model = build_model("inception_resnet_v2", 50, (*size, 3))
    carry_over(reference, model, NAMES_IN_KERAS)
    assert_gives(model, partial(reference, training=False))


def test_auxiliary_head_has_the_releases_parameters() -> None:
    model = build_model("inception_resnet_v2", input_shape=(299, 299, 3), aux=True)
    assert list(model.output) == ["logits", "AuxLogits"]
    aux = [v for v in model.trainable_variables if v.path.startswith("AuxLogits")]
    # TF-slim's 3,366,760, and a scale of each normalized channel.
    assert sum(int(np.prod(v.shape)) for v in aux) == 3_366_760 + 128 + 768


@pytest.mark.parametrize("rectified", [True, False])
def test_residual_is_scaled_and_added(rectified: bool) -> None:
    branches = ((Conv(2, 1),), (Conv(3, 1), Conv(4, (1, 3))))
    x = keras.Input((5, 6, 7))
    block = Residual(branches, scale=0.25, rectified=rectified)
    model = keras.Model(x, block(x, "block"))
    settle(model, seed=1)
    images = np.random.default_rng(0).normal(size=(2, 5, 6, 7)).astype("f4")
    mixed = keras.Model(x, model.get_layer("block_mixed").output)(images)
    kernel, bias = model.get_layer("block_Conv2d_1x1").get_weights()
    expected = images + 0.25 * (mixed.numpy() @ kernel[0, 0] + bias)
    expected = np.maximum(expected, 0) if rectified else expected
    assert mixed.shape[-1] == 2 + 4
    np.testing.assert_allclose(model(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("inception_resnet_v1", (5, 10, 5)),
        ("inception_resnet_v2_paper", (5, 10, 5)),
        ("inception_resnet_v2", (10, 20, 9)),
    ],
)
def test_blocks_have_their_scales(name: str, blocks: tuple[int, int, int]) -> None:
    parts = dict(model_spec(name).parts)
    residuals = {name: part for name, part in parts.items() if isinstance(part, Residual)}
    expected = {
        f"{repeat}_{number}": (scale, True)
        for repeat, scale, times in zip(
            ("Repeat_block35", "Repeat_1_block17", "Repeat_2_block8"),
            (0.17, 0.10, 0.20),
            blocks,
            strict=True,
        )
        for number in range(1, times + 1)
    }
    if name == "inception_resnet_v2":
        expected["Block8"] = (1.0, False)
    found = {name: (block.scale, block.rectified) for name, block in residuals.items()}
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inception_resnet_v1", "inception_resnet_v2_paper"])
def test_the_papers_networks_mix_as_the_figures(name: str) -> None:
    """From the first reduction of the grid on, written out again on TensorFlow's operations."""
    with double_precision():
        model = build_model(name, 5, (139, 107, 3))
        settle(model, seed=1)
    weights = {v.path: tf.cast(v.value, "float64") for v in model.variables}
    before = keras.Model(model.input, model.get_layer("Repeat_block35_5_relu").output)

    def conv(x, layer, padding="SAME", stride=1):
        x = tf.nn.conv2d(x, weights[f"{layer}/kernel"], stride, padding)
        mean, variance, beta, gamma = (
            weights[f"{layer}_bn/{part}"]
            for part in ("moving_mean", "moving_variance", "beta", "gamma")
        )
        return tf.nn.relu(tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-3))

    def chain(x, branch, *names):
        for part in names:
            x = conv(x, f"{branch}_Conv2d_{part}")
        return x

    def halved(x, branch):
        return conv(x, f"{branch}_Conv2d_1a_3x3", "VALID", 2)

    def reduction_a(x):
        right = chain(x, "Mixed_6a_Branch_1", "0a_1x1", "0b_3x3")
        branches = [halved(x, "Mixed_6a_Branch_0"), halved(right, "Mixed_6a_Branch_1")]
        return tf.concat([*branches, tf.nn.max_pool2d(x, 3, 2, "VALID")], -1)

    def block(x, block, scale, *long):
        branches = [chain(x, f"{block}_Branch_0", "0a_1x1"), chain(x, f"{block}_Branch_1", *long)]
        up = tf.nn.conv2d(tf.concat(branches, -1), weights[f"{block}_Conv2d_1x1/kernel"], 1, "SAME")
        return tf.nn.relu(x + scale * (up + weights[f"{block}_Conv2d_1x1/bias"]))

    def reduction_b(x):
        branches = [
            halved(chain(x, f"Mixed_7a_Branch_{number}", *names), f"Mixed_7a_Branch_{number}")
            for number, names in enumerate((("0a_1x1",), ("0a_1x1",), ("0a_1x1", "0b_3x3")))
        ]
        return tf.concat([*branches, tf.nn.max_pool2d(x, 3, 2, "VALID")], -1)

    def network(x):
        x = reduction_a(before(x))
        for number in range(1, 11):
            name = f"Repeat_1_block17_{number}"
            x = block(x, name, 0.10, "0a_1x1", "0b_1x7", "0c_7x1")
        x = reduction_b(x)
        for number in range(1, 6):
            x = block(x, f"Repeat_2_block8_{number}", 0.20, "0a_1x1", "0b_1x3", "0c_3x1")
        return tf.reduce_mean(x, (1, 2)) @ weights["logits/kernel"] + weights["logits/bias"]

    with double_precision():
        assert_gives(model, network)
