"""TF-slim's own logits, for weights drawn by a rule and loaded from its checkpoints."""

import gzip
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from drawn_slim_weights import draw, draw_images

from keras_cls.architectures import model_spec
from keras_cls.errors import ConfigError
from keras_cls.weights import create_model, load_weights, provenance
from keras_cls.weights.tf_slim import SOURCE

FIXTURES = Path(__file__).parent / "fixtures"
# The name and the image size; the published sizes, with the auxiliary heads, take a minute each.
DEFAULT = {("inception_v3", "151x180")}
AVERAGE = "/ExponentialMovingAverage"


def fixture(name: str) -> dict:
    file = FIXTURES / f"slim-{name.removesuffix('_slim')}.json.gz"
    return json.loads(gzip.decompress(file.read_bytes()))


def drawn(name: str) -> dict[str, np.ndarray]:
    return {key: draw(key, tuple(shape)) for key, shape in fixture(name)["tensors"].items()}


def write(prefix: Path, tensors: Mapping[str, np.ndarray]) -> Path:
    """A bundle, as TensorFlow 1 has written it since 2017."""
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )
    return prefix


def shape_of(size: str) -> tuple[int, int, int]:
    height, width = map(int, size.split("x"))
    return height, width, 3


def assert_logits(found: keras.KerasTensor, expected: list[float]) -> None:
    """Equal; of slim's 1,001 without the first."""
    logits = found.numpy()[0]
    wanted = np.array(expected)[len(expected) - len(logits) :]
    bound = 1e-4 * max(1.0, np.abs(wanted).max())
    np.testing.assert_allclose(logits, wanted, atol=bound, rtol=0)


def cases():
    for name in SOURCE.releases:
        for size in fixture(name)["logits"]:
            marks = () if (name, size) in DEFAULT else pytest.mark.slow
            yield pytest.param(name, size, marks=marks)


@pytest.mark.parametrize(("name", "size"), cases())
def test_gives_the_logits_of_slim(name: str, size: str, tmp_path: Path) -> None:
    expected = fixture(name)
    checkpoint = write(tmp_path / "model.ckpt", drawn(name))
    aux = size in expected["aux_logits"]
    model = create_model(name, input_shape=shape_of(size), aux=aux, weights=checkpoint)
    out = model(draw_images(*shape_of(size)[:2]), training=False)
    spec = model_spec(name)
    assert_logits(out[spec.head] if aux else out, expected["logits"][size])
    if aux:
        assert_logits(out[spec.aux_heads[0]], expected["aux_logits"][size])


# --- Inception v3, at its smallest ----------------------------------------------------------------

SMALL = (75, 75, 3)


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    return drawn("inception_v3")


@pytest.fixture(scope="module")
def checkpoint(tensors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("slim") / "inception_v3.ckpt", tensors)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> keras.Model:
    return create_model("inception_v3", input_shape=SMALL, weights=checkpoint)


def changed(tensors: dict, tmp_path: Path, **replacement: dict) -> Path:
    return write(tmp_path / "changed.ckpt", {**tensors, **replacement})


def test_the_report_tells_all(model: keras.Model, checkpoint: Path, tensors: dict) -> None:
    report = load_weights(model, checkpoint)
    assert report.source == "tf-slim"
    assert report.fresh == ()
    assert set(report.used) | set(report.left_over) == set(tensors)
    assert all("/AuxLogits/" in key for key in report.left_over)
    assert set(report.filled.values()) == {1.0}
    assert all(path.endswith("/gamma") for path in report.filled)
    assert report.adapted == {
        "InceptionV3/Logits/Conv2d_1c_1x1/weights": "1x1 convolution made a dense layer, "
        "background class dropped",
        "InceptionV3/Logits/Conv2d_1c_1x1/biases": "background class dropped",
    }


def test_the_weights_bring_slims_preprocessing(model: keras.Model) -> None:
    found = provenance(model)
    assert found is not None and found.classes == "imagenet"
    rule = found.preprocessing
    assert (rule.resize, rule.crop, rule.mean, rule.std) == (
        "squash",
        0.875,
        (0.5,) * 3,
        (0.5,) * 3,
    )
    assert SOURCE.releases["vgg16"].preprocessing.frame == (256, 256)


def test_the_single_file_of_2016(
    model: keras.Model, checkpoint: Path, tensors: dict, tmp_path: Path
) -> None:
    file = tmp_path / "inception_v3.ckpt"
    tf.raw_ops.Save(filename=str(file), tensor_names=list(tensors), data=list(tensors.values()))
    expected = model.get_weights()
    load_weights(model, file)
    for found, wanted in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.slow
def test_averages_of_a_training_are_taken(
    model: keras.Model, tensors: dict, checkpoint: Path, tmp_path: Path
) -> None:
    load_weights(model, checkpoint)
    expected = model.get_weights()
    training: dict = {"global_step": np.array(5000, np.int64)}
    for key, tensor in tensors.items():
        training[key] = tensor + 1
        training[key + AVERAGE] = tensor
        training[f"{key}/RMSProp"] = training[f"{key}/RMSProp_1"] = np.zeros_like(tensor)
    report = load_weights(model, write(tmp_path / "model.ckpt-5000", training))
    for found, wanted in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert all(key.endswith(AVERAGE) for key in report.used)
    assert set(report.adapted) == set(report.used)
    assert all("moving average of the training" in said for said in report.adapted.values())
    assert "InceptionV3/Conv2d_1a_3x3/weights" in report.left_over


def test_other_classes_get_a_fresh_head(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "keras_cls"):
        create_model("inception_v3", 5, SMALL, weights=checkpoint)
    assert "logits/kernel, logits/bias of inception_v3 start fresh" in caplog.text


def test_a_head_of_ones_own_has_no_background(tensors: dict, tmp_path: Path) -> None:
    """Slim's fine-tuning counts a dataset's own classes alone."""
    head = "InceptionV3/Logits/Conv2d_1c_1x1"
    kernel, bias = draw(f"{head}/weights", (1, 1, 2048, 5)), draw(f"{head}/biases", (5,))
    file = changed(tensors, tmp_path, **{f"{head}/weights": kernel, f"{head}/biases": bias})
    found = create_model("inception_v3", 5, SMALL, weights=file).get_layer("logits")
    np.testing.assert_array_equal(found.kernel, kernel[0, 0])
    np.testing.assert_array_equal(found.bias, bias)


@pytest.mark.slow
def test_features_need_no_head(checkpoint: Path) -> None:
    create_model("inception_v3", None, SMALL, features=True, weights=checkpoint)


@pytest.mark.slow
def test_grey_images_adapt_the_stem(checkpoint: Path, tensors: dict) -> None:
    grey = create_model("inception_v3", None, (75, 75, 1), weights=checkpoint)
    stem = tensors["InceptionV3/Conv2d_1a_3x3/weights"]
    np.testing.assert_allclose(
        grey.get_layer("Conv2d_1a_3x3").kernel, stem.sum(axis=2, keepdims=True), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"InceptionV3/Conv2d_9z_3x3/weights": np.zeros(1, np.float32)}, "has no place in"),
        (
            {"InceptionV3/Conv2d_1a_3x3/BatchNorm/beta": np.zeros(31, np.float32)},
            "InceptionV3/Conv2d_1a_3x3/BatchNorm/beta: expected shape (32,), found (31,)",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    model: keras.Model, tensors: dict, change: dict, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_weights(model, changed(tensors, tmp_path, **change))
    assert expected in str(caught.value)


def test_what_is_missing_is_named(model: keras.Model, tensors: dict, tmp_path: Path) -> None:
    key = "InceptionV3/Mixed_5c/Branch_1/Conv_1_0c_5x5/weights"
    rest = {name: tensor for name, tensor in tensors.items() if name != key}
    with pytest.raises(ConfigError, match=f"{key} is missing"):
        load_weights(model, write(tmp_path / "less.ckpt", rest))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bn_inception", "separable 7x7"),
        ("googlenet", "3x3 kernels"),
        ("alexnet", "single tower"),
        ("resnet50", "last unit"),
        ("resnet152_v2", "last unit"),
    ],
)
def test_other_networks_of_the_same_name_are_refused(
    name: str, reason: str, checkpoint: Path
) -> None:
    for weights in ("tf-slim", checkpoint):
        with pytest.raises(ConfigError, match=reason):
            create_model(name, weights=weights)


def test_every_release_of_imagenet_has_an_address() -> None:
    for release in SOURCE.releases.values():
        assert release.classes is None or release.url.endswith(".tar.gz")
    assert SOURCE.releases.keys().isdisjoint(SOURCE.refused)
