"""VGG against keras.applications, and its dense evaluation."""

import caffe
import keras
import numpy as np
import pytest

from keras_cls.architectures import build_model

REFERENCES = {"vgg16": keras.applications.VGG16, "vgg19": keras.applications.VGG19}


def name_in_keras(ours: str) -> str:
    """conv3_2 -> block3_conv2, fc6 -> fc1."""
    if ours.startswith("conv"):
        block, number = ours.removeprefix("conv").split("_")
        return f"block{block}_conv{number}"
    return {"fc6": "fc1", "fc7": "fc2", "logits": "predictions"}[ours]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vgg16", (96, 64)),
        ("vgg16", (97, 75)),
        ("vgg19", (75, 97)),
        pytest.param("vgg16", (224, 224), marks=pytest.mark.slow),
    ],
)
def test_equals_keras_applications(name: str, size: tuple[int, int]) -> None:
    reference = REFERENCES[name](
        weights=None, input_shape=(*size, 3), classes=50, classifier_activation=None
    )
    model = build_model(name, num_classes=50, input_shape=(*size, 3))
    caffe.randomise_biases(reference)
    for layer in model.layers:
        if layer.weights:
            kernel, bias = reference.get_layer(name_in_keras(layer.name)).get_weights()
            # Glorot's weights halve the signal's energy at each rectifier.
            reference.get_layer(name_in_keras(layer.name)).set_weights([1.4 * kernel, bias])
            layer.set_weights([1.4 * kernel.reshape(layer.kernel.shape), bias])

    batch = np.random.default_rng(2).normal(size=(2, *size, 3)).astype("float32")
    caffe.assert_close(model(batch), reference(batch).numpy())


@pytest.mark.slow
def test_larger_images_are_evaluated_densely() -> None:
    model = build_model("vgg16", num_classes=10, input_shape=(256, 224, 3))
    caffe.randomise_biases(model)

    def classify(maps: np.ndarray) -> np.ndarray:
        for name in ("fc6", "fc7", "fc7_pool", "logits"):
            maps = model.get_layer(name)(maps)
        return maps.numpy()

    maps = np.random.default_rng(3).uniform(size=(2, 8, 7, 512)).astype("float32")
    # Two positions of the 7x7 kernel; their class scores are averaged.
    caffe.assert_close(classify(maps), (classify(maps[:, :7]) + classify(maps[:, 1:])) / 2)


def test_has_the_papers_dropout() -> None:
    model = build_model("vgg16", num_classes=3, input_shape=(32, 32, 3))
    dropouts = {x.name: x.rate for x in model.layers if isinstance(x, keras.layers.Dropout)}
    assert dropouts == {"drop6": 0.5, "drop7": 0.5}
