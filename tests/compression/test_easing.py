"""Dropout falls with the weights that are left before it."""

import keras
import numpy as np
import pytest
import tf_keras

from keras_cls.classifier import Classifier
from keras_cls.compression import twin_layers
from keras_cls.compression.easing import ease_dropout, found_sparsity
from keras_cls.compression.pruning import planned_sparsity
from keras_cls.compression.settings import Pruning
from keras_cls.compression.twin import twin_of
from keras_cls.compression.twin_trainee import TwinTrainee
from keras_cls.preprocessing import Preprocessing

layers = keras.layers


def network() -> keras.Model:
    inputs = x = keras.Input((8, 8, 3))
    x = layers.Dropout(0.2, name="of_images")(x)
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(x)
    x = layers.SpatialDropout2D(0.4, name="of_maps")(x)
    side = layers.Conv2D(8, 1, name="side")(x)
    x = layers.Dropout(0.3, name="of_sums")(layers.Add()([x, side]))
    x = layers.Flatten()(x)
    x = layers.Dense(16, name="fc")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dropout(0.5, name="of_fc")(x)
    return keras.Model(inputs, layers.Dense(4, name="logits")(x), name="net")


def rates(twin: tf_keras.Model) -> dict[str, float]:
    return {layer.name: layer.rate for layer in twin.layers if hasattr(layer, "rate")}


def test_rates_fall_with_the_root_of_what_is_left_before_them():
    twin = twin_of(network())
    ease_dropout(twin, {"conv": 0.75, "side": 0.99, "fc": 0.96})
    expected = {"of_images": 0.2, "of_maps": 0.4 / 2, "of_sums": 0.3, "of_fc": 0.5 / 5}
    assert rates(twin) == pytest.approx(expected)


def test_branches_are_dropped_as_often_as_before():
    model = network()
    twin = twin_of(model)
    drop = twin_layers.DropPath(0.5)
    deeper = tf_keras.Model(twin.inputs, drop(twin.outputs[0]))
    ease_dropout(deeper, {"logits": 0.75})
    assert drop.rate == 0.5


def test_a_layer_that_is_called_twice_is_eased_once():
    inputs = x = tf_keras.Input((8,))
    drop = tf_keras.layers.Dropout(0.5)
    for name in ("first", "second"):
        x = drop(tf_keras.layers.Dense(8, name=name)(x))
    twin = tf_keras.Model(inputs, x)
    ease_dropout(twin, {"first": 0.75, "second": 0.96})
    assert drop.rate == pytest.approx(0.25)


def test_a_depthwise_layer_is_as_dense_as_ever():
    inputs = tf_keras.Input((8, 8, 3))
    x = tf_keras.layers.Conv2D(8, 1, name="conv")(inputs)
    drop = tf_keras.layers.Dropout(0.5)
    twin = tf_keras.Model(inputs, drop(tf_keras.layers.DepthwiseConv2D(3)(x)))
    ease_dropout(twin, {"conv": 0.75})
    assert drop.rate == 0.5


def test_zeros_that_are_there_are_found():
    model = network()
    model.get_layer("fc").kernel.assign(np.zeros((288, 16)))
    found = found_sparsity(twin_of(model))
    assert found == {"conv": 0, "side": 0, "fc": 1, "logits": 0}


def test_what_is_planned_for_each_layer():
    twin = twin_of(network())
    plan = planned_sparsity(twin, Pruning(0.5, by_layer={"fc": 0.9}))
    assert plan == {"conv": 0.5, "side": 0.5, "fc": 0.9, "logits": 0.5}
    fours = planned_sparsity(twin, Pruning(0.0, two_of_four=True))
    assert fours == {"side": 0.5, "fc": 0.5, "logits": 0.5}  # the images have three channels


def test_a_trainee_drops_less_and_its_classifier_as_before():
    rule = Preprocessing(size=(8, 8))
    classifier = Classifier(network(), list("abcd"), rule)
    trainee = TwinTrainee(classifier, Pruning(0.75), steps=2, learning_rate=0.1)
    assert rates(trainee.network)["of_fc"] == pytest.approx(0.25)
    trainee.hand_over()
    assert classifier.model.get_layer("of_fc").rate == 0.5


def test_zeros_of_before_count_where_no_more_are_asked_for():
    classifier = Classifier(network(), list("abcd"), Preprocessing(size=(8, 8)))
    kernel = classifier.model.get_layer("fc").kernel
    kernel.assign(kernel.numpy() * (np.arange(288) % 4 == 0)[:, None])
    pruning = Pruning(0.5, by_layer={"fc": 0})
    trainee = TwinTrainee(classifier, pruning, steps=2, learning_rate=0.1)
    assert rates(trainee.network)["of_fc"] == pytest.approx(0.25)
