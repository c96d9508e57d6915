"""Network in network against Caffe's layers, wired as the authors' files in the Caffe zoo."""

import caffe
import keras
import numpy as np
import pytest

from keras_cls.architectures import build_model, model_spec


def nin_imagenet(model: keras.Model, x: np.ndarray) -> np.ndarray:
    layers = caffe.Layers(model)
    x = layers.conv(x, "conv1", stride=4)
    x = layers.conv(layers.conv(x, "cccp1"), "cccp2")
    x = layers.conv(caffe.pool(x, "MAX"), "conv2", pad=2)
    x = layers.conv(layers.conv(x, "cccp3"), "cccp4")
    x = layers.conv(caffe.pool(x, "MAX"), "conv3", pad=1)
    x = layers.conv(layers.conv(x, "cccp5"), "cccp6")
    x = layers.conv(caffe.pool(x, "MAX"), "conv4", pad=1)
    return layers.conv(layers.conv(x, "cccp7"), "cccp8").mean((1, 2))


def nin_cifar10(model: keras.Model, x: np.ndarray) -> np.ndarray:
    layers = caffe.Layers(model)
    x = layers.conv(x, "conv1", pad=2)
    x = layers.conv(layers.conv(x, "cccp1"), "cccp2")
    x = layers.conv(caffe.pool(x, "MAX"), "conv2", pad=2)
    x = layers.conv(layers.conv(x, "cccp3"), "cccp4")
    x = layers.conv(caffe.pool(x, "AVE"), "conv3", pad=1)
    return layers.conv(layers.conv(x, "cccp5"), "cccp6").mean((1, 2))


@pytest.mark.parametrize(
    ("name", "reference", "size"),
    [
        ("nin", nin_imagenet, (224, 224)),
        ("nin", nin_imagenet, (131, 100)),
        ("nin_cifar10", nin_cifar10, (32, 32)),
        ("nin_cifar10", nin_cifar10, (33, 40)),
    ],
)
def test_equals_caffe(name: str, reference, size: tuple[int, int]) -> None:
    model = build_model(name, input_shape=(*size, 3))
    caffe.randomise_biases(model)
    batch = np.random.default_rng(1).normal(0, 200, (2, *size, 3)).astype("float32")
    caffe.assert_close(model(batch), reference(model, batch))


@pytest.mark.parametrize("name", ["nin", "nin_cifar10"])
def test_the_head_is_a_convolution_with_the_classes_last(name: str) -> None:
    head = build_model(name, num_classes=7).get_layer(model_spec(name).head)
    assert isinstance(head, keras.layers.Conv2D)
    assert head.kernel.shape[-1] == head.bias.shape[0] == 7


def test_logits_stay_float32_in_mixed_precision() -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_model("nin_cifar10")
    finally:
        keras.config.set_dtype_policy(before)
    assert model.output.dtype == model.get_layer("cccp6").output.dtype == "float32"
    assert model.get_layer("cccp5").output.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("name", "after"), [("nin", {"drop3"}), ("nin_cifar10", {"drop1", "drop2"})]
)
def test_drops_between_blocks(name: str, after: set[str]) -> None:
    dropouts = [x for x in build_model(name).layers if isinstance(x, keras.layers.Dropout)]
    assert {x.name for x in dropouts} == after
    assert {x.rate for x in dropouts} == {0.5}
