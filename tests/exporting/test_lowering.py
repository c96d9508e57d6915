"""Every network as a graph at inference, and folded, against Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks.as_if_trained import calm_gates
from keras_cls.architectures import list_models, model_spec
from keras_cls.errors import ExportError
from keras_cls.exporting import nodes
from keras_cls.exporting.float_network import run_in_float
from keras_cls.exporting.folding import fold
from keras_cls.exporting.lowering import lower
from keras_cls.weights import create_model

# One of each kind of unit; all of them, at their own size, are among the slow tests.
A_NETWORK_A_FAMILY = {
    "lenet5": 32,
    "alexnet": 67,
    "nin_cifar10": 32,
    "googlenet": 64,
    "se_bn_inception": 64,
    "inception_v3": 107,
    "resnet18": 64,
    "resnet50_v2": 64,
    "resnet20_cifar10": 32,
    "se_resnext50_32x4d": 64,
    "nasnet_mobile": 64,
    "airbench94_cifar10": 32,
}
QUICK = {"lenet5", "nin_cifar10", "googlenet", "resnet20_cifar10", "airbench94_cifar10"}


@pytest.fixture(autouse=True)
def the_same_weights_each_time() -> None:
    keras.utils.set_random_seed(0)


def enlivened(model: keras.Model) -> keras.Model:
    """With statistics and scales that matter, some of them negative."""
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(random.normal(0, 0.1, shape))
            layer.moving_variance.assign(random.uniform(0.5, 1.5, shape))
            layer.beta.assign(random.normal(0, 0.1, shape))
            if layer.scale:
                layer.gamma.assign(random.uniform(0.5, 1.5, shape) * random.choice([-1, 1], shape))
    return model


def images_for(model: keras.Model, count: int = 2) -> tf.Tensor:
    random = np.random.default_rng(1)
    return tf.constant(random.normal(size=(count, *model.input_shape[1:])), tf.float32)


def difference(graph: nodes.Graph, model: keras.Model, dtype: tf.DType = tf.float32) -> float:
    """The largest, as a share of the largest logit."""
    images = images_for(model)
    expected = model(images, training=False).numpy()
    found = tf.function(lambda x: run_in_float(graph, x, dtype))(images).numpy()
    assert found.dtype == np.float32 and found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def hold_to_keras(model: keras.Model) -> nodes.Graph:
    graph = lower(model)
    folded = fold(graph)
    assert difference(graph, model) < 3e-5
    assert difference(folded, model) < 3e-5
    assert folded.shapes()[folded.output.name] == model.output_shape[1:]
    return folded


@pytest.mark.parametrize(
    ("name", "side"),
    [
        pytest.param(name, side, marks=() if name in QUICK else pytest.mark.slow)
        for name, side in A_NETWORK_A_FAMILY.items()
    ],
)
def test_a_network_of_each_family_is_what_keras_computes(name: str, side: int) -> None:
    channels = model_spec(name).preprocessing.input_shape[-1]
    model = enlivened(create_model(name, 7, (side, side, channels)))
    folded = hold_to_keras(model)
    # Gates of random weights let rounding grow: Keras' own mixed_bfloat16 is 5 % off there.
    assert difference(folded, model, tf.bfloat16) < (0.15 if name.startswith("se_") else 0.03)
    kinds = {type(node) for node in folded}
    if name not in ("resnet50_v2", "airbench94_cifar10", "nasnet_mobile"):
        assert nodes.Affine not in kinds, "all normalizations went into convolutions"


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_every_network_at_its_own_size(name: str) -> None:
    model = enlivened(create_model(name))
    calm_gates(model, images_for(model).numpy())
    folded = hold_to_keras(model)
    assert sum(folded.multiply_adds().values()) == model_spec(name).multiply_adds


def functional(*layers: keras.layers.Layer, shape: tuple[int, ...] = (9, 11, 4)) -> keras.Model:
    x = inputs = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return enlivened(keras.Model(inputs, x))


def depthwise_with_relu() -> list[keras.layers.Layer]:
    """What TensorFlow's optimizer makes one step of: MobileNet's blocks."""
    return [
        keras.layers.DepthwiseConv2D(3, strides=2, use_bias=False),
        keras.layers.BatchNormalization(beta_initializer="ones"),
        keras.layers.ReLU(6.0),
    ]


@pytest.mark.parametrize(
    "layers",
    [
        [keras.layers.Conv2D(6, 3, 2, "same", dilation_rate=1, activation="relu6")],
        [keras.layers.Conv2D(6, (3, 2), padding="same", dilation_rate=2, groups=2)],
        [keras.layers.DepthwiseConv2D(3, 2, "same", depth_multiplier=2, activation="silu")],
        [keras.layers.DepthwiseConv2D(3), keras.layers.BatchNormalization()],
        [keras.layers.SeparableConv2D(5, 3, (2, 2), padding="same", depth_multiplier=2)],
        [keras.layers.Rescaling(0.5, 1.5), keras.layers.Conv2D(3, 3, padding="same")],
        [keras.layers.Rescaling([1, 2, 3, 4], 1), keras.layers.Conv2D(4, 3, groups=2)],
        [keras.layers.BatchNormalization(), keras.layers.DepthwiseConv2D(3, depth_multiplier=2)],
        [keras.layers.BatchNormalization(scale=False), keras.layers.Flatten()],
        [keras.layers.ZeroPadding2D(((1, 0), (2, 3))), keras.layers.Conv2D(3, 3, 2)],
        [keras.layers.ZeroPadding2D(((0, 1), (0, 1))), *depthwise_with_relu()],
        [keras.layers.ZeroPadding2D(1), keras.layers.MaxPooling2D(3, 2)],
        [keras.layers.Cropping2D(((1, 0), (2, 1))), keras.layers.AveragePooling2D(3, 2, "same")],
        [keras.layers.MaxPooling2D((2, 3), (3, 1), "same"), keras.layers.LeakyReLU(0.2)],
        [keras.layers.ReLU(6, 0.1), keras.layers.GlobalAveragePooling2D(keepdims=True)],
        [keras.layers.Normalization(mean=[1, 2, 3, 4], variance=[1, 4, 9, 16])],
        [keras.layers.Reshape((99, 4)), keras.layers.Dense(3, activation="gelu")],
        [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, activation="softmax")],
    ],
    ids=lambda layers: ", ".join(type(layer).__name__ for layer in layers),
)
def test_layers_of_every_setting(layers: list[keras.layers.Layer]) -> None:
    hold_to_keras(functional(*layers))


def test_what_zeros_lie_around_keeps_its_offset_before_it() -> None:
    """Shifted zeros would be no zeros."""
    padded = functional(
        keras.layers.BatchNormalization(), keras.layers.Conv2D(3, 3, padding="same")
    )
    assert any(isinstance(node, nodes.Affine) for node in hold_to_keras(padded))
    bare = functional(keras.layers.BatchNormalization(), keras.layers.Conv2D(3, 3))
    assert not any(isinstance(node, nodes.Affine) for node in hold_to_keras(bare))


def test_a_normalization_of_what_others_take_too_stays() -> None:
    inputs = keras.Input((5, 5, 3))
    x = keras.layers.Conv2D(4, 1, name="shared")(inputs)
    y = keras.layers.BatchNormalization(name="one_way")(x)
    folded = hold_to_keras(enlivened(keras.Model(inputs, keras.layers.Add()([x, y]))))
    assert isinstance(folded["one_way"], nodes.Affine)


def test_models_within_models_and_layers_that_are_called_twice() -> None:
    inner_inputs = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv")(inner_inputs)
    inner = keras.Model(inner_inputs, keras.layers.ReLU(name="relu")(x), name="inner")
    twice = keras.layers.Dense(4, name="twice")
    inputs = keras.Input((8, 8, 4))
    x = inner(twice(inner(inputs)))
    x = keras.Sequential([keras.layers.Dropout(0.5), twice], name="tail")(x)
    folded = hold_to_keras(keras.Model(inputs, x))
    names = [node.name for node in folded]
    assert "inner/conv" in names and "inner/conv_2" in names
    assert "twice" in names and "tail/twice" in names


def test_a_sequential_model() -> None:
    hold_to_keras(
        keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    )


class Custom(keras.layers.Conv2D):
    """A subclass may compute something else."""


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([Custom(3, 3, name="mine")], "mine: a layer of type Custom"),
        ([keras.layers.ReLU(threshold=1.0, name="mine")], "mine: a ReLU with a threshold"),
        ([keras.layers.Conv2D(3, 3, activation=lambda x: x, name="mine")], "mine: the activation"),
        ([keras.layers.BatchNormalization(axis=1, name="mine")], "mine: normalizes axis 1"),
        ([keras.layers.PReLU(name="mine")], "mine: a layer of type PReLU"),
    ],
)
def test_what_cannot_be_lowered_is_named(layers, message) -> None:
    with pytest.raises(ExportError, match=message):
        lower(functional(*layers))


def test_models_without_a_known_order_are_refused() -> None:
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ExportError, match="neither a functional model nor"):
        lower(Own())
    inputs = keras.Input((4, 4, 3))
    with pytest.raises(ExportError, match="operation of type"):
        lower(keras.Model(inputs, keras.ops.exp(inputs)))
    with pytest.raises(ExportError, match="expected one of outputs, found 2"):
        lower(keras.Model(inputs, [inputs, keras.layers.ReLU()(inputs)]))
    inputs = keras.Input((None, None, 3))
    with pytest.raises(ExportError, match="height and a width"):
        lower(keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs)))
