"""AlexNet against Caffe's layers, wired as bvlc_alexnet/train_val.prototxt."""

import caffe
import keras
import numpy as np
import pytest

from keras_cls.architectures import build_model


def bvlc_alexnet(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """The release's wiring with the paper's k = 2 and alpha, not divided by n."""
    layers = caffe.Layers(model)
    paper = {"k": 2, "alpha": 5 * 1e-4}
    x = caffe.lrn(layers.conv(x, "conv1", stride=4), **paper)
    x = layers.conv(caffe.pool(x, "MAX"), "conv2", pad=2, group=2)
    x = layers.conv(caffe.pool(caffe.lrn(x, **paper), "MAX"), "conv3", pad=1)
    x = layers.conv(x, "conv4", pad=1, group=2)
    x = caffe.pool(layers.conv(x, "conv5", pad=1, group=2), "MAX")
    for name in ("fc6", "fc7"):
        x = np.maximum(layers.inner_product(x, name), 0)
    return layers.inner_product(x, "logits")


@pytest.mark.parametrize("size", [(227, 227), (148, 131)])
def test_equals_caffe(size: tuple[int, int]) -> None:
    model = build_model("alexnet", num_classes=20, input_shape=(*size, 3))
    caffe.randomise_biases(model)
    random = np.random.default_rng(1)
    for name in ("conv2", "conv3", "conv4", "conv5", "fc6", "fc7"):
        # Larger than at the start, so that differences show in the logits.
        kernel, bias = model.get_layer(name).get_weights()
        scale = np.sqrt(2 / np.prod(kernel.shape[:-1]))
        model.get_layer(name).set_weights([random.normal(0, scale, kernel.shape), bias])
    # Pixels as they come, for the normalization to have something to do.
    batch = random.normal(0, 60, (2, *size, 3)).astype("float32")
    caffe.assert_close(model(batch), bvlc_alexnet(model, batch))


def test_starts_as_the_paper_says() -> None:
    model = build_model("alexnet", num_classes=7, input_shape=(67, 67, 3))
    for name in ("conv2", "conv4", "conv5", "fc6", "fc7"):
        assert (model.get_layer(name).bias.numpy() == 1).all()
    for name in ("conv1", "conv3", "logits"):
        assert (model.get_layer(name).bias.numpy() == 0).all()
    assert model.get_layer("conv3").kernel.numpy().std() == pytest.approx(0.01, rel=0.01)
    rates = [x.rate for x in model.layers if isinstance(x, keras.layers.Dropout)]
    assert rates == [0.5, 0.5]
