"""A model's twin in tf_keras gives the same, and its weights come back."""

import keras
import numpy as np
import pytest
import tf_keras
from small_networks import drawn, outputs, stir, trained

from keras_cls.architectures import list_models, model_spec
from keras_cls.compression import copy_back, twin_layer, twin_of
from keras_cls.compression import twin as twin_module
from keras_cls.errors import ExportError

layers = keras.layers


QUICK = {"lenet5", "googlenet", "resnet20_cifar10"}


def differences(model: keras.Model, images: np.ndarray) -> list[float]:
    """How far each output of the twin is away, as a share of the largest number."""
    return [
        float(np.abs(found - expected).max() / max(1, np.abs(expected).max()))
        for found, expected in zip(
            outputs(twin_of(model), images), outputs(model, images), strict=True
        )
    ]


def growths(model: keras.Model, images: np.ndarray) -> list[float]:
    """What becomes of the images' last bit: in deep networks with gates, drawn at random, a lot."""
    changed = outputs(model, np.nextafter(images, np.float32(9)))
    return [
        float(np.abs(found - expected).max() / max(1, np.abs(expected).max()))
        for found, expected in zip(changed, outputs(model, images), strict=True)
    ]


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in list_models()],
)
def test_the_twin_of_each_network_gives_the_same(name: str) -> None:
    heads = model_spec(name).aux_heads
    model, images = drawn(name, aux=bool(heads), count=2)
    twin = twin_of(model)
    assert len({layer.name for layer in twin.layers}) == len(twin.layers)
    assert {layer.dtype for layer in twin.layers} == {"float32"}
    found = differences(model, images)
    assert len(found) == 1 + len(heads)
    for difference, growth in zip(found, growths(model, images), strict=True):
        assert difference < max(1e-5, 10 * growth)
    count = sum(int(np.prod(weight.shape)) for weight in twin.trainable_weights)
    assert count == sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def made_of(*chain: layers.Layer, shape: tuple[int, ...] = (9, 9, 4)) -> keras.Model:
    inputs = keras.Input(shape, name="images")
    x = inputs
    for layer in chain:
        x = layer(x)
    return keras.Model(inputs, x, name="made")


ACTIVATIONS = sorted(twin_module.twin_layers.ACTIVATIONS)

PLAIN = [
    *[layers.Activation(name) for name in ACTIVATIONS],
    layers.ReLU(6.0, negative_slope=0.1, threshold=0.2),
    layers.LeakyReLU(0.17),
    layers.ELU(0.7),
    layers.PReLU(alpha_initializer="random_normal", shared_axes=(1, 2)),
    layers.Softmax(),
    layers.Conv2D(8, (1, 7), padding="same", activation="hard_sigmoid"),
    layers.Conv2D(8, 3, groups=2, dilation_rate=2),
    layers.Conv2D(8, 3, kernel_regularizer="l2", bias_constraint="max_norm", use_bias=True),
    layers.Conv2DTranspose(5, 3, 2, padding="same"),
    layers.DepthwiseConv2D(3, 2, padding="same", depth_multiplier=2),
    layers.SeparableConv2D(6, 3, depth_multiplier=2, activation="silu"),
    layers.Dense(5, activation="tanh", dtype="mixed_bfloat16"),
    layers.BatchNormalization(scale=False),
    layers.BatchNormalization(center=False, epsilon=1e-7),
    layers.Normalization(mean=[1.0, 2, 3, 4], variance=[1.0, 2, 3, 4]),
    layers.Normalization(axis=None, mean=1.0, variance=4.0),
    layers.Rescaling([1.0, 2, 3, 4], offset=0.5),
    layers.MaxPooling2D(3, 2, padding="same"),
    layers.AveragePooling2D(3, 2, padding="same"),
    layers.GlobalAveragePooling2D(keepdims=True),
    layers.GlobalMaxPooling2D(),
    layers.ZeroPadding2D(((1, 2), (3, 0))),
    layers.Cropping2D(((1, 2), (3, 0))),
    layers.Flatten(),
    layers.Reshape((27, -1)),
    layers.Permute((2, 1, 3)),
    layers.Dropout(0.3),
    layers.SpatialDropout2D(0.3),
    layers.GaussianNoise(0.3),
    layers.GaussianDropout(0.3),
    layers.ActivityRegularization(l2=0.1),
    layers.Identity(),
]


@pytest.mark.parametrize("layer", PLAIN, ids=lambda layer: layer.name)
def test_plain_layers_have_twins(layer: layers.Layer) -> None:
    bound = 0.02 if layer.compute_dtype == "bfloat16" else 1e-5
    model = made_of(type(layer).from_config(layer.get_config()))
    images = np.random.default_rng(0).normal(size=(2, 9, 9, 4)).astype("float32")
    stir(model)
    assert max(differences(model, images)) < bound
    copy_back(twin_of(model), model)


@pytest.mark.parametrize("kind", twin_module._MERGES, ids=lambda kind: kind.__name__)
def test_merges_have_twins(kind: type) -> None:
    inputs = keras.Input((9, 9, 4))
    model = keras.Model(inputs, kind()([inputs, layers.Conv2D(4, 1)(inputs)]))
    images = np.random.default_rng(0).normal(size=(2, 9, 9, 4)).astype("float32")
    assert max(differences(model, images)) < 1e-6


def test_nested_models_and_layers_called_twice() -> None:
    shared = layers.Conv2D(4, 3, padding="same", name="shared conv")
    inner = keras.Sequential(
        [layers.Input((9, 9, 4)), shared, layers.ReLU(name="relu")], name="in ner"
    )
    inputs = keras.Input((9, 9, 4))
    x = shared(inner(inputs))
    model = keras.Model(inputs, [layers.Flatten()(x), layers.ReLU(name="relu")(x)])
    images = np.random.default_rng(0).normal(size=(2, 9, 9, 4)).astype("float32")
    assert len(differences(model, images)) == 2
    assert max(differences(model, images)) < 1e-6
    twin = twin_of(model)
    assert sum(isinstance(layer, tf_keras.layers.Conv2D) for layer in twin.layers) == 1
    trained(tf_keras.Model(twin.inputs, twin.outputs[0]), images)
    copy_back(twin, model)
    assert max(differences(model, images)) < 1e-6


@pytest.mark.parametrize(
    ("name", "aux"), [("resnet20_cifar10", False), ("googlenet", True), ("nin_cifar10", False)]
)
def test_what_the_twin_learns_comes_back_exactly(name: str, aux: bool) -> None:
    model, images = drawn(name, aux)
    twin = trained(twin_of(model), images)
    before = model.get_weights()
    copy_back(twin, model)
    assert sum(np.any(a != b) for a, b in zip(before, model.get_weights(), strict=True)) > 9
    back = twin_of(model)
    for found, expected in zip(back.weights, twin.weights, strict=True):
        assert found.name == expected.name
        np.testing.assert_array_equal(found.numpy(), expected.numpy())


def test_frozen_layers_stay_frozen() -> None:
    model, images = drawn("resnet20_cifar10")
    for layer in model.layers[:-1]:
        layer.trainable = False
    before = model.get_weights()
    copy_back(trained(twin_of(model), images), model)
    changed = [np.any(a != b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert sum(changed) == 2  # the last layer's


class Strange(layers.Layer):
    """Something of a user's."""

    def __init__(self, factor: float = 2.0, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def build(self, shape: tuple) -> None:
        self.shift = self.add_weight(shape=(shape[-1],), name="shift", initializer="ones")

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x * self.factor + self.shift


class StrangeTwin(tf_keras.layers.Layer):
    def __init__(self, factor: float, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def build(self, shape: tuple) -> None:
        self.shift = self.add_weight("shift", (shape[-1],))

    def call(self, x: object) -> object:
        return x * self.factor + self.shift


def test_an_unknown_layer_is_named_and_can_be_made_known(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made_of(Strange(name="odd_one"))
    with pytest.raises(ExportError, match=r"odd_one.*Strange.*compression\.twin_layer"):
        twin_of(model)
    monkeypatch.setattr(twin_module, "_RULES", dict(twin_module._RULES))
    twin_layer(Strange)(lambda layer, name: StrangeTwin(layer.factor, name=name))
    assert max(differences(model, np.ones((2, 9, 9, 4), "float32"))) == 0


def test_a_twin_with_other_variables_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twin_module, "_RULES", dict(twin_module._RULES))
    twin_layer(Strange)(lambda layer, name: tf_keras.layers.Identity(name=name))
    with pytest.raises(ExportError, match=r"odd_one.*shift.*Identity"):
        twin_of(made_of(Strange(name="odd_one")))


def test_settings_without_a_twin_are_refused() -> None:
    def mine(x: keras.KerasTensor) -> keras.KerasTensor:
        return x

    with pytest.raises(ExportError, match=r"conv: .*the activation mine"):
        twin_of(made_of(layers.Conv2D(3, 3, activation=mine, name="conv")))
    with pytest.raises(ExportError, match="norm"):
        twin_of(made_of(layers.BatchNormalization(renorm=True, name="norm")))


def test_only_functional_models_have_twins() -> None:
    class Subclassed(keras.Model):
        def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
            return x

    with pytest.raises(ExportError, match="neither a functional model"):
        twin_of(Subclassed())
    inputs = [keras.Input((4,)), keras.Input((4,))]
    with pytest.raises(ExportError, match="expected one of inputs, found 2"):
        twin_of(keras.Model(inputs, layers.Add()(inputs)))


def test_another_models_twin_is_refused_and_nothing_is_copied() -> None:
    model = made_of(layers.Conv2D(3, 3, name="first"), layers.Conv2D(3, 3, name="second"))
    other = made_of(layers.Conv2D(3, 3, name="first"), layers.Conv2D(4, 3, name="second"))
    before = model.get_weights()
    with pytest.raises(ExportError, match=r"second: kernel: expected shape \[3, 3, 3, 3\]"):
        copy_back(twin_of(other), model)
    with pytest.raises(ExportError, match="second: kernel: not in the twin"):
        copy_back(twin_of(made_of(layers.Conv2D(3, 3, name="first"))), model)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
