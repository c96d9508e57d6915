"""Networks over whole images: the same weights, the same numbers at every position."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from classifiers import small_classifier

from keras_cls.architectures import build_model
from keras_cls.classifier import Classifier
from keras_cls.errors import ConfigError
from keras_cls.evaluation.dense import DenseNetwork, at_size, check_dense
from keras_cls.preprocessing import Preprocessing


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "small", "large"),
    [
        ("lenet5", (32, 32, 1), (41, 36)),
        ("resnet20_cifar10", (32, 32, 3), (45, 38)),
        ("nin_cifar10", (32, 32, 3), (37, 48)),
        # Its poolings pad by the parity of the side, its first dense layer is a convolution.
        ("alexnet", (227, 227, 3), (256, 291)),
    ],
)
def test_published_networks_are_those_built_for_the_size(name, small, large):
    keras.utils.set_random_seed(0)
    model = build_model(name, 7, small)
    built = build_model(name, 7, (*large, small[2]))
    built.set_weights(model.get_weights())
    resized = at_size(model, *large)
    images = noise(2, *large, small[2])
    np.testing.assert_allclose(resized(images), built(images), atol=1e-5, rtol=1e-5)
    shared = {id(variable) for variable in model.variables}
    assert {id(variable) for variable in resized.trainable_variables} <= shared


def test_a_flattened_map_is_judged_at_every_position():
    model = small_classifier().model  # a convolution of stride 2, flattened, dense
    images = noise(3, 30, 26, 3)
    windows = [
        model(images[:, y : y + 24, x : x + 20]) for y in range(0, 8, 2) for x in range(0, 8, 2)
    ]
    found = at_size(model, 30, 26)(images)
    np.testing.assert_allclose(found, np.mean(windows, axis=0), atol=1e-5)


def test_several_dense_layers_behind_a_map():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((12, 10, 3)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(6, activation="tanh"),
            keras.layers.Dense(5),
        ]
    )
    images = noise(2, 14, 11, 3)
    windows = [model(images[:, y : y + 12, x : x + 10]) for y in range(3) for x in range(2)]
    np.testing.assert_allclose(at_size(model, 14, 11)(images), np.mean(windows, axis=0), atol=1e-5)


def test_probabilities_of_several_sizes():
    classifier = small_classifier()
    network = DenseNetwork(classifier)
    for size in [(24, 20), (40, 32), (24, 20)]:
        images = noise(2, *size, 3)
        logits = at_size(classifier.model, *size)(images)
        np.testing.assert_allclose(network.forward(images), tf.nn.softmax(logits), atol=1e-6)


def test_networks_that_cannot_are_refused_in_words():
    inputs = keras.Input((20, 20, 3))
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.Reshape((300, 4), name="folded")(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(x), name="odd")
    with pytest.raises(ConfigError, match=r"odd: .*folded \(Reshape\).*take crops=10"):
        check_dense(model, 30)

    inputs = keras.Input((20, 20, 3))
    x = keras.layers.Reshape((1200,))(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(x), name="folding")
    with pytest.raises(ConfigError, match="folding: crops='dense' cannot be"):
        check_dense(model, 30)

    with pytest.raises(ConfigError, match="takes images of 32 pixels and more"):
        check_dense(build_model("lenet5"), 16)
    # fc6 was built as a convolution over 6 x 6 positions; at this size there are 3 x 3.
    with pytest.raises(ConfigError, match=r"alexnet: .*does not take images of 131 x 131"):
        check_dense(build_model("alexnet", 7), 131)


def test_it_is_the_classifier_at_its_own_size():
    keras.utils.set_random_seed(0)
    model = build_model("resnet20_cifar10")
    classifier = Classifier(model, [str(n) for n in range(10)], Preprocessing(size=32, crop=1.0))
    images = noise(2, 32, 32, 3)
    np.testing.assert_allclose(
        DenseNetwork(classifier).forward(images), classifier.forward(images), atol=1e-6
    )
