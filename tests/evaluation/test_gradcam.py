import keras
import numpy as np
import pytest
from classifiers import small_classifier

from keras_cls.architectures import build_model, list_models, model_spec
from keras_cls.classifier import Classifier
from keras_cls.errors import ConfigError
from keras_cls.evaluation.gradcam import GradCam, grad_cam, overlay
from keras_cls.preprocessing import Preprocessing

# The cheapest network of each family.
FAMILIES = {
    spec.family: spec.name
    for spec in sorted(map(model_spec, list_models()), key=lambda spec: -spec.multiply_adds)
}
QUICK = {"lenet5", "nin_cifar10", "resnet20_cifar10", "resnet18", "bn_inception"}


def pooled_classifier(channels=3, size=(16, 12), maps=6, classes=4, pool=True) -> Classifier:
    """A strided convolution, the mean over the map, and a dense layer: Grad-CAM in closed form."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((*size, channels))
    x = keras.layers.Conv2D(maps, 4, strides=4, activation="relu", name="map")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x) if pool else keras.layers.Flatten()(x)
    model = keras.Model(inputs, keras.layers.Dense(classes, name="logits")(x), name="pooled")
    mode = {1: "grayscale", 3: "rgb", 4: "rgba"}[channels]
    rule = Preprocessing(size=size, mean=0.5, std=0.25, color_mode=mode)
    return Classifier(model, [f"class {i}" for i in range(classes)], rule)


def pictures(classifier: Classifier, count=1, seed=0) -> np.ndarray:
    shape = (count, *classifier.input_size, classifier.preprocessing.image_channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def enlarged(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, pixel centres at half integers: the columns, then the rows."""

    def along(values, length):
        centres = (np.arange(length) + 0.5) * len(values) / length - 0.5
        return np.stack(
            [
                np.interp(centres, np.arange(len(values)), column)
                for column in values.reshape(len(values), -1).T
            ],
            axis=1,
        )

    return along(along(heat, size[0]).T, size[1]).T


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_with_a_pooled_map_it_is_the_weighted_sum_of_the_map(channels):
    classifier = pooled_classifier(channels)
    pixels = pictures(classifier)[0]
    kernel, bias = classifier.model.get_layer("map").get_weights()
    dense, _ = classifier.model.get_layer("logits").get_weights()

    image = pixels[..., :3] @ [0.299, 0.587, 0.114] if channels == 1 else pixels
    image = (image.reshape(*classifier.input_size, channels) / 255 - 0.5) / 0.25
    blocks = image.reshape(4, 4, 3, 4, channels).transpose(0, 2, 1, 3, 4)
    map_ = np.maximum(np.einsum("ijabc,abcm->ijm", blocks, kernel) + bias, 0)
    for class_index in range(4):
        # The mean's gradient is the same everywhere: the dense layer's weights / (4 * 3).
        expected = enlarged(np.maximum(map_ @ dense[:, class_index], 0), classifier.input_size)
        expected = expected / expected.max() if expected.max() > 0 else expected
        found = grad_cam(classifier, pixels, class_index)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_without_pooling_the_gradients_are_averaged_over_the_map():
    classifier = pooled_classifier(pool=False)
    pixels = pictures(classifier)[0]
    dense, _ = classifier.model.get_layer("logits").get_weights()
    model = keras.Model(classifier.model.inputs, classifier.model.get_layer("map").output)
    map_ = model.predict((pixels[None] / 255 - 0.5) / 0.25, verbose=0)[0]
    weights = dense[:, 2].reshape(4, 3, 6).mean(axis=(0, 1))
    expected = enlarged(np.maximum(map_ @ weights, 0), classifier.input_size)
    np.testing.assert_allclose(
        grad_cam(classifier, pixels, 2), expected / expected.max(), atol=1e-5
    )


def test_each_image_of_a_batch_is_explained_for_its_own_class():
    classifier = pooled_classifier()
    pixels, classes = pictures(classifier, 5), [3, 0, 1, 1, 2]
    found = GradCam(classifier).heat(pixels, classes)
    for image, class_index, heat in zip(pixels, classes, found, strict=True):
        np.testing.assert_allclose(heat, grad_cam(classifier, image, class_index), atol=1e-6)


def test_the_heat_lies_on_what_speaks_for_the_class():
    classifier = pooled_classifier()
    kernel = np.zeros((4, 4, 3, 6), np.float32)
    kernel[..., 0, 0] = 1 / 16  # the first map is red's
    classifier.model.get_layer("map").set_weights([kernel, np.zeros(6, np.float32)])
    dense = np.zeros((6, 4), np.float32)
    dense[0] = [1, -1, 0, 0]
    classifier.model.get_layer("logits").set_weights([dense, np.zeros(4, np.float32)])
    image = np.zeros((16, 12, 3), np.uint8)
    image[8:12, 4:8, 0] = 255
    heat = grad_cam(classifier, image, 0)
    assert np.unravel_index(heat.argmax(), heat.shape) in [(9, 5), (9, 6), (10, 5), (10, 6)]
    assert heat.max() == 1 and heat[:4].max() == 0
    for silent in (1, 2):  # what speaks against a class, or is nothing to it, is no heat
        assert not grad_cam(classifier, image, silent).any()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in sorted(FAMILIES.values())
    ],
)
def test_one_network_of_each_family(name):
    spec = model_spec(name)
    model = build_model(name, 5)
    mode = {1: "grayscale", 3: "rgb"}[spec.input_shape[2]]
    rule = Preprocessing(size=spec.input_shape[:2], color_mode=mode, mean=0.5, std=0.5)
    classifier = Classifier(model, list("abcde"), rule)
    cam = GradCam(classifier)
    pixels = pictures(classifier, 2)
    heat = cam.heat(pixels, [1, 4])
    assert heat.shape == (2, *spec.input_shape[:2])
    assert np.isfinite(heat).all() and heat.min() >= 0
    assert set(heat.max(axis=(1, 2)).tolist()) <= {0.0, 1.0}
    height, width = model.get_layer(cam.layer).output.shape[1:3]
    assert min(height, width) > 1
    keras.backend.clear_session()


def test_a_named_layer():
    classifier = small_classifier()
    pixels = pictures(classifier)[0]
    assert GradCam(classifier).layer == "conv1_relu"
    assert grad_cam(classifier, pixels, 1, layer="conv1").shape == (24, 20)
    with pytest.raises(ConfigError, match=r"'flatten'.*conv1, conv1_bn, conv1_relu"):
        grad_cam(classifier, pixels, 1, layer="flatten")
    with pytest.raises(ConfigError, match="'conv9'"):
        grad_cam(classifier, pixels, 1, layer="conv9")


def test_layers_used_in_other_graphs_and_nested_models():
    classifier = small_classifier()
    pixels = pictures(classifier)[0]
    before = grad_cam(classifier, pixels, 1)
    other = keras.Input((48, 40, 3))
    classifier.model.get_layer("conv1")(other)
    np.testing.assert_array_equal(grad_cam(classifier, pixels, 1), before)

    body = keras.Model(classifier.model.inputs, classifier.model.get_layer("conv1_relu").output)
    images = keras.Input((24, 20, 3))
    head = [classifier.model.get_layer(name) for name in ("flatten", "logits")]
    nested = Classifier(
        keras.Model(images, head[1](head[0](body(images)))),
        classifier.labels,
        classifier.preprocessing,
    )
    np.testing.assert_allclose(grad_cam(nested, pixels, 1), before, atol=1e-6)
    in_line = Classifier(
        keras.Sequential([keras.Input((24, 20, 3)), *classifier.model.layers[1:]]),
        classifier.labels,
        classifier.preprocessing,
    )
    np.testing.assert_allclose(grad_cam(in_line, pixels, 1), before, atol=1e-6)


def test_frozen_layers_and_a_mixed_precision():
    classifier = small_classifier()
    pixels = pictures(classifier)[0]
    before = grad_cam(classifier, pixels, 1)
    classifier.model.trainable = False
    np.testing.assert_allclose(grad_cam(classifier, pixels, 1), before, atol=1e-6)

    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = pooled_classifier()
    finally:
        keras.config.set_dtype_policy("float32")
    assert mixed.model.get_layer("map").compute_dtype == "bfloat16"
    pixels = pictures(mixed)[0]
    exact = grad_cam(pooled_classifier(), pixels, 1)
    np.testing.assert_allclose(grad_cam(mixed, pixels, 1), exact, atol=0.05)


def test_a_network_without_a_map_is_refused():
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(x), name="flat")
    rule = Preprocessing(size=8, color_mode="grayscale", mean=0.5, std=0.5)
    with pytest.raises(ConfigError, match="flat: Grad-CAM needs a feature map"):
        GradCam(Classifier(model, ["a", "b"], rule))


@pytest.mark.parametrize(
    ("pixels", "classes", "message"),
    [
        (np.zeros((2, 16, 12, 4), np.uint8), [0, 1], r"\[N, 16, 12, 3\]"),
        (np.zeros((16, 12, 3), np.uint8), [0], r"found \[16, 12, 3\]"),
        (np.zeros((2, 16, 12, 3), np.uint8), [0], "each of the 2 images"),
        (np.zeros((1, 16, 12, 3), np.uint8), [0.5], "float64"),
        (np.zeros((1, 16, 12, 3), np.uint8), [4], r"class 4 does not exist; expected 0\.\.3"),
        (np.zeros((1, 16, 12, 3), np.uint8), [-1], "class -1"),
    ],
)
def test_what_does_not_fit_is_refused(pixels, classes, message):
    with pytest.raises(ConfigError, match=message):
        GradCam(pooled_classifier()).heat(pixels, classes)


def test_the_overlay_shows_the_picture_where_there_is_no_heat():
    image = pictures(pooled_classifier())[0]
    heat = np.zeros((16, 12))
    np.testing.assert_array_equal(overlay(image, heat), image)
    heat[3, 4] = 1
    shown = overlay(image, heat)
    assert shown.dtype == np.uint8 and shown.shape == (16, 12, 3)
    assert (shown != image).any(axis=-1).sum() == 1
    rgba = np.concatenate([image, image[..., :1]], axis=-1)
    np.testing.assert_array_equal(overlay(rgba, heat), shown)
