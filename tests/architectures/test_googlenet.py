"""GoogLeNet against Caffe's layers, wired as bvlc_googlenet/train_val.prototxt."""

import caffe
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cls.architectures import build_model


def bvlc_googlenet(model: keras.Model, x: np.ndarray) -> dict[str, np.ndarray]:
    layers = caffe.Layers(model)

    def module(x: np.ndarray, name: str) -> np.ndarray:
        name = f"inception_{name}"
        branches = [
            layers.conv(x, f"{name}_1x1"),
            layers.conv(layers.conv(x, f"{name}_3x3_reduce"), f"{name}_3x3", pad=1),
            layers.conv(layers.conv(x, f"{name}_5x5_reduce"), f"{name}_5x5", pad=2),
            layers.conv(caffe.pool(x, "MAX", 3, 1, pad=1), f"{name}_pool_proj"),
        ]
        return np.concatenate(branches, -1)

    def auxiliary(x: np.ndarray, name: str) -> np.ndarray:
        # Smaller maps than the window have no counterpart in Caffe.
        if min(x.shape[1:3]) >= 5:
            # Without the windows that would reach beyond the end.
            height, width = ((side - 2) // 3 * 3 + 2 for side in x.shape[1:3])
            x = caffe.pool(x[:, :height, :width], "AVE", 5, 3)
        else:
            x = x.mean((1, 2), keepdims=True)
        x = layers.inner_product(layers.conv(x, f"{name}_conv"), f"{name}_fc")
        return layers.inner_product(np.maximum(x, 0), f"{name}_classifier")

    x = layers.conv(x, "conv1_7x7_s2", stride=2, pad=3)
    x = caffe.lrn(caffe.pool(x, "MAX"))
    x = layers.conv(layers.conv(x, "conv2_3x3_reduce"), "conv2_3x3", pad=1)
    x = caffe.pool(caffe.lrn(x), "MAX")
    x = caffe.pool(module(module(x, "3a"), "3b"), "MAX")
    x = module(x, "4a")
    first = auxiliary(x, "loss1")
    x = module(module(module(x, "4b"), "4c"), "4d")
    second = auxiliary(x, "loss2")
    x = caffe.pool(module(x, "4e"), "MAX")
    x = module(module(x, "5a"), "5b").mean((1, 2), keepdims=True)
    logits = layers.inner_product(x, "logits")
    return {"logits": logits, "loss1_classifier": first, "loss2_classifier": second}


@pytest.mark.parametrize("size", [(224, 224), (97, 130), (40, 33)])
def test_equals_caffe(size: tuple[int, int]) -> None:
    model = build_model("googlenet", num_classes=20, input_shape=(*size, 3), aux=True)
    caffe.randomise_biases(model)
    batch = np.random.default_rng(1).normal(0, 60, (2, *size, 3)).astype("float32")
    outputs = model(batch)
    expected = bvlc_googlenet(model, batch)
    assert outputs.keys() == expected.keys()
    for name in expected:
        caffe.assert_close(outputs[name], expected[name])


def test_auxiliary_heads_have_the_published_size() -> None:
    model = build_model("googlenet", aux=True)
    counts = {
        head: sum(x.count_params() for x in model.layers if x.name.startswith(head))
        for head in ("loss1", "loss2")
    }
    assert counts == {"loss1": 3_188_840, "loss2": 3_190_888}
    assert model.count_params() == 13_378_280
    rates = {x.name: x.rate for x in model.layers if isinstance(x, keras.layers.Dropout)}
    assert rates == {"pool5_drop": 0.4, "loss1_drop_fc": 0.7, "loss2_drop_fc": 0.7}


def test_gradients_of_auxiliary_heads() -> None:
    model = build_model("googlenet", num_classes=5, input_shape=(64, 64, 3), aux=True)
    batch = np.random.default_rng(1).normal(0, 60, (4, 64, 64, 3)).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(batch, training=True)["loss1_classifier"][:, 0])
    variables = {v.path: v.value for v in model.trainable_variables}
    reached = {path for path, x in tape.gradient(loss, variables).items() if x is not None}
    modules = {path.split("/")[0] for path in reached}
    assert {"conv1_7x7_s2", "inception_4a_5x5", "loss1_conv", "loss1_classifier"} <= modules
    assert not {m for m in modules if m.startswith(("inception_4b", "loss2", "logits"))}


def test_heads_are_built_only_on_request() -> None:
    model = build_model("googlenet", num_classes=5, input_shape=(64, 64, 3))
    assert not [layer.name for layer in model.layers if layer.name.startswith("loss")]
