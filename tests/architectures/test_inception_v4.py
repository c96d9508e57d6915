"""Inception v4 against the paper's figures, written out again on TensorFlow's operations."""

import numpy as np
import pytest
import tensorflow as tf
from inceptions import assert_gives, double_precision, settle

from keras_cls.architectures import build_model


class Figures:
    """A forward pass with a model's weights; each method is a figure of the paper."""

    def __init__(self, model) -> None:
        self.weights = {v.path: tf.cast(v.value, "float64") for v in model.variables}

    def conv(self, x, name, padding="SAME", stride=1):
        w = self.weights
        x = tf.nn.conv2d(x, w[f"{name}/kernel"], stride, padding)
        return tf.nn.relu(
            tf.nn.batch_normalization(
                x,
                w[f"{name}_bn/moving_mean"],
                w[f"{name}_bn/moving_variance"],
                w[f"{name}_bn/beta"],
                w[f"{name}_bn/gamma"],
                1e-3,
            )
        )

    def chain(self, x, branch, *names):
        for name in names:
            x = self.conv(x, f"{branch}_Conv2d_{name}")
        return x

    def halved(self, x, branch):
        return self.conv(x, f"{branch}_Conv2d_1a_3x3", "VALID", 2)

    def pooled(self, x, branch):
        x = tf.nn.avg_pool2d(x, 3, 1, "SAME")
        return self.conv(x, f"{branch}_Conv2d_0b_1x1")

    def maximum(self, x):
        return tf.nn.max_pool2d(x, 3, 2, "VALID")

    def stem(self, x):
        x = self.conv(x, "Conv2d_1a_3x3", "VALID", 2)
        x = self.conv(x, "Conv2d_2a_3x3", "VALID")
        x = self.conv(x, "Conv2d_2b_3x3")
        x = tf.concat([self.maximum(x), self.halved(x, "Mixed_3a_Branch_1")], -1)
        left = self.chain(x, "Mixed_4a_Branch_0", "0a_1x1")
        left = self.conv(left, "Mixed_4a_Branch_0_Conv2d_1a_3x3", "VALID")
        right = self.chain(x, "Mixed_4a_Branch_1", "0a_1x1", "0b_1x7", "0c_7x1")
        right = self.conv(right, "Mixed_4a_Branch_1_Conv2d_1a_3x3", "VALID")
        x = tf.concat([left, right], -1)
        return tf.concat([self.halved(x, "Mixed_5a_Branch_0"), self.maximum(x)], -1)

    def inception_a(self, x, name):
        return tf.concat(
            [
                self.chain(x, f"{name}_Branch_0", "0a_1x1"),
                self.chain(x, f"{name}_Branch_1", "0a_1x1", "0b_3x3"),
                self.chain(x, f"{name}_Branch_2", "0a_1x1", "0b_3x3", "0c_3x3"),
                self.pooled(x, f"{name}_Branch_3"),
            ],
            -1,
        )

    def reduction_a(self, x):
        right = self.chain(x, "Mixed_6a_Branch_1", "0a_1x1", "0b_3x3")
        return tf.concat(
            [
                self.halved(x, "Mixed_6a_Branch_0"),
                self.halved(right, "Mixed_6a_Branch_1"),
                self.maximum(x),
            ],
            -1,
        )

    def inception_b(self, x, name):
        long = ("0a_1x1", "0b_7x1", "0c_1x7", "0d_7x1", "0e_1x7")
        return tf.concat(
            [
                self.chain(x, f"{name}_Branch_0", "0a_1x1"),
                self.chain(x, f"{name}_Branch_1", "0a_1x1", "0b_1x7", "0c_7x1"),
                self.chain(x, f"{name}_Branch_2", *long),
                self.pooled(x, f"{name}_Branch_3"),
            ],
            -1,
        )

    def reduction_b(self, x):
        left = self.chain(x, "Mixed_7a_Branch_0", "0a_1x1")
        right = self.chain(x, "Mixed_7a_Branch_1", "0a_1x1", "0b_1x7", "0c_7x1")
        return tf.concat(
            [
                self.halved(left, "Mixed_7a_Branch_0"),
                self.halved(right, "Mixed_7a_Branch_1"),
                self.maximum(x),
            ],
            -1,
        )

    def inception_c(self, x, name):
        short = self.chain(x, f"{name}_Branch_1", "0a_1x1")
        long = self.chain(x, f"{name}_Branch_2", "0a_1x1", "0b_3x1", "0c_1x3")
        return tf.concat(
            [
                self.chain(x, f"{name}_Branch_0", "0a_1x1"),
                self.chain(short, f"{name}_Branch_1", "0b_1x3"),
                self.chain(short, f"{name}_Branch_1", "0c_3x1"),
                self.chain(long, f"{name}_Branch_2", "0d_1x3"),
                self.chain(long, f"{name}_Branch_2", "0e_3x1"),
                self.pooled(x, f"{name}_Branch_3"),
            ],
            -1,
        )

    def network(self, images):
        x = self.stem(tf.cast(images, "float64"))
        for letter in "bcde":
            x = self.inception_a(x, f"Mixed_5{letter}")
        x = self.reduction_a(x)
        for letter in "bcdefgh":
            x = self.inception_b(x, f"Mixed_6{letter}")
        x = self.reduction_b(x)
        for letter in "bcd":
            x = self.inception_c(x, f"Mixed_7{letter}")
        x = tf.reduce_mean(x, (1, 2))
        return x @ self.weights["logits/kernel"] + self.weights["logits/bias"]


@pytest.mark.slow
def test_equals_the_figures() -> None:
    with double_precision():
        model = build_model("inception_v4", 50, (139, 107, 3))
        settle(model, seed=1)
        assert_gives(model, Figures(model).network)


@pytest.mark.slow
def test_auxiliary_head_has_the_releases_parameters() -> None:
    model = build_model("inception_v4", aux=True)
    heads = [layer for layer in model.layers if layer.name.startswith("AuxLogits")]
    # TF-slim's 3,358,568, and a scale of each normalized channel.
    assert sum(int(np.prod(w.shape)) for layer in heads for w in layer.trainable_weights) == (
        3_358_568 + 128 + 768
    )
    tapped = model.get_layer("AuxLogits_AvgPool_1a_5x5")
    assert tapped.input is model.get_layer("Mixed_6h").output
