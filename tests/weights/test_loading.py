"""Weights files: what is loaded, and what is refused without touching the network."""

import logging
import os
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_cls.errors import ConfigError
from keras_cls.weights import create_model, load_weights, provenance

FORMATS = (".npz", ".h5", ".weights.h5", ".keras")
IMAGES = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")


def pytorch_tensors(model: keras.Model) -> dict[str, np.ndarray]:
    """A CIFAR network's weights as akamaster's PyTorch module would save them."""
    names = {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
    names |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    tensors = {}
    for layer in filter(lambda layer: layer.weights, model.layers):
        module = layer.name.replace("logits", "linear")
        if module.endswith("_bn"):
            module = "bn".join(module.removesuffix("_bn").rsplit("conv", 1))
        if "_" in module:
            stage, unit, number = module.split("_")
            module = f"layer{int(stage.removeprefix('conv')) - 1}.{int(unit) - 1}.{number}"
        for variable in layer.weights:
            value = keras.ops.convert_to_numpy(variable)
            value = np.moveaxis(value, (3, 2), (0, 1)) if value.ndim == 4 else value.T
            tensors[f"{module}.{names[variable.name]}"] = value
        if layer.name.endswith("_bn"):
            tensors[f"{module}.num_batches_tracked"] = np.array(7)
    return tensors


@pytest.fixture(scope="module")
def trained() -> keras.Model:
    """A ResNet-20 with every variable away from its initial value."""
    model = create_model("resnet20_cifar10")
    random = np.random.default_rng(1)
    for variable in model.variables:
        if variable.name != "kernel":
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
    return model


@pytest.fixture(scope="module")
def files(trained: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Its weights in every format; .keras and .h5 hold an optimizer's state as well."""
    folder = tmp_path_factory.mktemp("weights")
    paths = {ending: folder / f"trained{ending}" for ending in FORMATS}
    np.savez(paths[".npz"], **pytorch_tensors(trained))
    trained.save_weights(paths[".weights.h5"])
    compiled = keras.models.clone_model(trained)
    compiled.set_weights(trained.get_weights())
    compiled.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    compiled.optimizer.build(compiled.trainable_variables)
    compiled.save(paths[".keras"])
    compiled.save(paths[".h5"])
    return paths


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("kind", [str, Path])
def test_every_format_gives_the_same_logits(
    ending: str, kind: type, trained: keras.Model, files: dict[str, Path]
) -> None:
    model = create_model("resnet20_cifar10", weights=kind(files[ending]))
    np.testing.assert_array_equal(model(IMAGES).numpy(), trained(IMAGES).numpy())


def test_report_says_what_became_of_every_tensor(files: dict[str, Path]) -> None:
    report = load_weights(create_model("resnet20_cifar10"), files[".npz"])
    assert (report.file, report.source) == (str(files[".npz"]), "akamaster")
    assert len(report.used) == 19 + 19 * 4 + 2
    assert len(report.adapted) == 20
    assert set(report.adapted.values()) == {"axes reordered"}
    assert report.filled == {}
    assert {name.rsplit(".", 1)[1] for name in report.left_over} == {"num_batches_tracked"}
    assert report.fresh == ()
    for ending in FORMATS[1:]:
        report = load_weights(create_model("resnet20_cifar10"), files[ending])
        assert report.source == "keras_cls"
        assert (report.adapted, report.left_over) == ({}, ())


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("num_classes", [7, 64])  # 64: the kernel is square then
def test_another_number_of_classes_gets_a_fresh_head(
    ending: str,
    num_classes: int,
    trained: keras.Model,
    files: dict[str, Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="keras_cls"):
        model = create_model("resnet20_cifar10", num_classes=num_classes, weights=files[ending])
    assert "logits/kernel, logits/bias of resnet20_cifar10 start fresh" in caplog.text
    assert model.output_shape == (None, num_classes)
    body = {v.path: v for v in trained.variables if not v.path.startswith("logits/")}
    for variable in model.variables:
        if variable.path in body:
            np.testing.assert_array_equal(variable.numpy(), body[variable.path].numpy())


@pytest.mark.parametrize("ending", FORMATS)
def test_features_leave_the_head_without_a_warning(
    ending: str,
    trained: keras.Model,
    files: dict[str, Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="keras_cls"):
        model = create_model("resnet20_cifar10", features=True, weights=files[ending])
    assert not caplog.records
    expected = keras.Model(trained.input, trained.get_layer("conv4_3_relu").output)(IMAGES)
    np.testing.assert_array_equal(model(IMAGES)["conv4_x"].numpy(), expected.numpy())


def refused(weights: object, name: str = "resnet20_cifar10", **arguments: object) -> str:
    with pytest.raises(ConfigError) as caught:
        create_model(name, weights=weights, **arguments)
    return str(caught.value)


def change(tensors: dict[str, np.ndarray], key: str, value: object) -> None:
    tensors[key] = value


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.pop("layer3.1.bn2.bias"), "layer3.1.bn2.bias is missing (expected (64,)"),
        (lambda t: t.pop("linear.bias"), "linear.bias is missing"),
        (lambda t: change(t, "extra.weight", np.zeros(3)), "extra.weight (3,) has no place"),
        (
            lambda t: change(t, "conv1.weight", np.zeros((16, 3, 5, 5))),
            "conv1.weight: expected shape (16, 3, 3, 3), found (16, 3, 5, 5)",
        ),
        (lambda t: change(t, "bn1.bias", np.zeros(())), "bn1.bias: expected shape (16,), found ()"),
        (lambda t: change(t, "bn1.bias", np.zeros(16, int)), "bn1.bias: expected floating-point"),
        (lambda t: change(t, "bn1.bias", np.full(16, np.nan)), "bn1.bias: expected finite"),
        (  # 128 features are no other number of classes
            lambda t: change(t, "linear.weight", np.zeros((10, 128))),
            "linear.weight: expected shape (10, 64), found (10, 128)",
        ),
        (lambda t: change(t, "linear.bias", np.zeros(9)), "linear.bias: expected shape (10,)"),
    ],
)
def test_a_tensor_that_does_not_fit_changes_nothing(
    spoil: object, message: str, trained: keras.Model, tmp_path: Path
) -> None:
    tensors = pytorch_tensors(trained)
    spoil(tensors)
    np.savez(tmp_path / "spoilt.npz", **tensors)
    model = create_model("resnet20_cifar10")
    before = model.get_weights()
    with pytest.raises(ConfigError) as caught:
        load_weights(model, tmp_path / "spoilt.npz")
    assert message in str(caught.value)
    assert "spoilt.npz" in str(caught.value)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("ending", FORMATS)
def test_a_grey_image_gives_the_logits_that_it_gave_on_three_channels(
    ending: str, trained: keras.Model, files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="keras_cls"):
        model = create_model("resnet20_cifar10", input_shape=(32, 32, 1), weights=files[ending])
    assert "3 input channels made 1" in caplog.text
    assert provenance(model).preprocessing.color_mode == "grayscale"
    grey = IMAGES[..., :1]
    expected = trained(grey.repeat(3, -1)).numpy()
    np.testing.assert_allclose(model(grey), expected, atol=1e-4 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("ending", FORMATS)
def test_a_fourth_channel_repeats_the_first(
    ending: str, trained: keras.Model, files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="keras_cls"):
        model = create_model("resnet20_cifar10", input_shape=(32, 32, 4), weights=files[ending])
    assert "3 input channels made 4" in caplog.text
    assert provenance(model).preprocessing.color_mode == "rgba"
    kernel, found = (m.get_layer("conv1").kernel.numpy() for m in (trained, model))
    np.testing.assert_allclose(found, kernel[:, :, [0, 1, 2, 0]] * 0.75, rtol=1e-6)


@pytest.mark.parametrize("ending", FORMATS[1:])
def test_a_grey_stem_becomes_one_for_colours(ending: str, tmp_path: Path) -> None:
    grey = create_model("resnet20_cifar10", input_shape=(32, 32, 1))
    path = tmp_path / f"grey{ending}"
    (grey.save_weights if ending == ".weights.h5" else grey.save)(path)
    model = create_model("resnet20_cifar10", weights=path)
    images = IMAGES[..., :1]
    np.testing.assert_allclose(model(images.repeat(3, -1)), grey(images), atol=1e-4)


def test_a_stem_is_adapted_and_the_head_fresh_at_once(files: dict[str, Path]) -> None:
    model = create_model("resnet20_cifar10", 5, (32, 32, 1))
    report = load_weights(model, files[".weights.h5"])
    assert report.fresh == ("logits/kernel", "logits/bias")
    assert report.adapted == {"conv1/0": "3 input channels made 1"}


def test_another_networks_weights_are_refused(files: dict[str, Path]) -> None:
    assert "layer1.3.conv1.weight is missing" in refused(files[".npz"], "resnet32_cifar10")
    assert "no weights in .npz are known for lenet5" in refused(files[".npz"], "lenet5")
    # The same tensors by name and shape, but shortcuts between them.
    for ending in FORMATS[1:]:
        message = refused(files[ending], "plain20_cifar10")
        assert "expected weights of plain20_cifar10, found resnet20_cifar10's" in message


def test_paths_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    assert "there is no source 'imagenet'" in refused("imagenet")
    assert "expected a path, a source's name or None, found 5" in refused(5)
    assert "expected a file, found nothing" in refused(tmp_path / "missing.npz")
    (tmp_path / "folder.keras").mkdir()
    assert "expected a file, found a folder" in refused(tmp_path / "folder.keras")
    (tmp_path / "weights.onnx").write_bytes(b"\x80\x04N.")
    message = refused(tmp_path / "weights.onnx")
    assert "expected a name ending in" in message
    assert all(ending in message for ending in FORMATS)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("damage", ["empty", "truncated", "noise", "hole"])
def test_damaged_files_are_refused(
    ending: str, damage: str, files: dict[str, Path], tmp_path: Path
) -> None:
    content = files[ending].read_bytes()
    hole = 1000 if ending.endswith(".h5") else len(content) // 2
    spoilt = {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "noise": np.random.default_rng(0).bytes(5000),
        # HDF5's numbers bear no checksum: there, only the structure at the beginning tells.
        "hole": content[:hole] + b"\xff" * 5000 + content[hole + 5000 :],
    }[damage]
    path = tmp_path / f"spoilt{ending}"
    path.write_bytes(spoilt)
    assert str(path) in refused(path)


class Bomb:
    def __reduce__(self) -> tuple:
        return os.abort, ()


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "bomb.npz", **{"conv1.weight": np.array([Bomb()], dtype=object)})
    assert "allow_pickle=False" in refused(tmp_path / "bomb.npz")
    np.array([Bomb()], dtype=object).dump(tmp_path / "dumped.npz")
    assert "damaged, or not a .npz file" in refused(tmp_path / "dumped.npz")
    with (tmp_path / "single.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    assert "found one array" in refused(tmp_path / "single.npz")
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "readme.txt is no array" in refused(tmp_path / "text.npz")
