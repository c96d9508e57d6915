"""keras.applications' networks with drawn weights, saved in every format, against ours."""

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import h5py
import keras
import numpy as np
import pytest
from keras import applications

from keras_cls.architectures import build_model
from keras_cls.errors import ConfigError
from keras_cls.preprocessing import normalize
from keras_cls.weights import create_model, load_weights, provenance
from keras_cls.weights.keras_applications import MORE_EPSILON, SOURCE, Plus

ENDINGS = (".h5", ".weights.h5", ".keras")


@dataclass(frozen=True)
class Case:
    """A network of theirs; ``gain`` of the kernels and of the stem's keeps logits within reach."""

    ours: str
    build: Callable[..., keras.Model]
    room: ModuleType
    size: tuple[int, int]
    gain: float = 2.0
    stem: float = 1.0

    @property
    def shape(self) -> tuple[int, int, int]:
        return (*self.size, 3)

    def network(self, **arguments: object) -> keras.Model:
        model = self.build(
            weights=None, input_shape=self.shape, classifier_activation=None, **arguments
        )
        draw(model, self.gain, self.stem)
        return model


A = applications
CASES = (
    Case("resnet50_v1", A.ResNet50, A.resnet, (64, 64), 0.7, 1 / 60),
    Case("resnet50_v2", A.ResNet50V2, A.resnet_v2, (63, 70), 0.7),
    Case("inception_v3", A.InceptionV3, A.inception_v3, (80, 97)),
    Case("nasnet_mobile", A.NASNetMobile, A.nasnet, (64, 64), 0.7),
    Case("vgg16", A.VGG16, A.vgg16, (64, 33), 2.0, 1 / 60),
    Case("vgg19", A.VGG19, A.vgg19, (32, 65), 2.0, 1 / 60),
    Case("resnet101_v1", A.ResNet101, A.resnet, (65, 64), 0.5, 1 / 60),
    Case("resnet152_v1", A.ResNet152, A.resnet, (33, 47), 0.5, 1 / 60),
    Case("resnet101_v2", A.ResNet101V2, A.resnet_v2, (64, 64), 0.5),
    Case("resnet152_v2", A.ResNet152V2, A.resnet_v2, (33, 47), 0.5),
    Case("inception_resnet_v2", A.InceptionResNetV2, A.inception_resnet_v2, (75, 96)),
    Case("nasnet_large", A.NASNetLarge, A.nasnet, (64, 64), 0.5),
    Case("vgg16", A.VGG16, A.vgg16, (224, 224), 2.0, 1 / 60),
    Case("nasnet_mobile", A.NASNetMobile, A.nasnet, (224, 224), 0.7),
    Case("nasnet_mobile", A.NASNetMobile, A.nasnet, (97, 97), 0.7),
    Case("resnet50_v1", A.ResNet50, A.resnet, (224, 224), 0.7, 1 / 60),
)
QUICK = (CASES[0], CASES[2])
INCEPTION, NASNET = CASES[2:4]


def draw(model: keras.Model, gain: float, stem: float) -> None:
    """Every variable away from where it starts, so that each of them counts in the logits."""
    random = np.random.default_rng(0)
    for number, variable in enumerate(model.variables):
        shape = tuple(variable.shape)
        if "kernel" in variable.name:
            depthwise = variable.name == "depthwise_kernel"
            fan_in = np.prod(shape[:2] if depthwise else shape[:-1])
            value = random.normal(size=shape) * np.sqrt(gain / fan_in)
            value *= stem if number == 0 else 1
        elif variable.name in ("gamma", "moving_variance"):
            value = random.uniform(0.5, 1.5, shape)
        else:
            value = random.normal(scale=0.3, size=shape)
        variable.assign(value)


def save(model: keras.Model, path: Path) -> Path:
    (model.save_weights if path.name.endswith(".weights.h5") else model.save)(path)
    return path


def photo(case: Case) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (1, *case.shape)).astype(np.uint8)


def theirs(case: Case, model: keras.Model) -> np.ndarray:
    images = case.room.preprocess_input(photo(case).astype(np.float32))
    return keras.ops.convert_to_numpy(model(images, training=False))


def ours(case: Case, model: keras.Model) -> dict[str, np.ndarray] | np.ndarray:
    """From the same photo, by the rule that the weights brought along."""
    images = normalize(photo(case), provenance(model).preprocessing)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(images, training=False))


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert 0.1 < np.abs(expected).max() < 1e4
    bound = 1e-4 * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, atol=bound, rtol=0)


@dataclass(frozen=True)
class Saved:
    case: Case
    folder: Path
    model: keras.Model
    logits: np.ndarray

    def file(self, ending: str) -> Path:
        path = self.folder / f"network{ending}"
        return path if path.exists() else save(self.model, path)


def name_of(case: object) -> str:
    return f"{case.ours}-{case.size[0]}x{case.size[1]}" if isinstance(case, Case) else str(case)


@pytest.fixture(scope="module")
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    case = request.param
    # The numbers of unnamed layers are not always those of a fresh process.
    keras.layers.Conv2D(1, 1), keras.layers.BatchNormalization()
    model = case.network()
    return Saved(case, tmp_path_factory.mktemp(case.ours), model, theirs(case, model))


def marked(cases: Iterable[Case], *quick: Case) -> list:
    return [
        pytest.param(case, id=name_of(case), marks=() if case in quick else pytest.mark.slow)
        for case in cases
    ]


@pytest.mark.parametrize("saved", marked(CASES, QUICK[0]), indirect=True)
def test_gives_their_logits(saved: Saved) -> None:
    model = build_model(saved.case.ours, input_shape=saved.case.shape)
    for ending in ENDINGS if saved.case not in QUICK or saved.case is INCEPTION else ENDINGS[:2]:
        for variable in model.variables:
            variable.assign(np.ones(variable.shape))
        report = load_weights(model, saved.file(ending))
        assert report.source == "keras-applications"
        assert len(report.used) == len(saved.model.weights)
        assert report.left_over == report.fresh == ()
        if "resnet" in saved.case.ours and "inception" not in saved.case.ours:
            assert "+1e-08" in report.adapted.values()
        assert_close(ours(saved.case, model), saved.logits)


ONE_EACH = tuple({case.ours: case for case in reversed(CASES)}.values())


@pytest.mark.parametrize("case", marked(ONE_EACH, INCEPTION))
def test_files_without_a_head_give_features(case: Case, tmp_path: Path) -> None:
    network = case.network(include_top=False)
    model = build_model(case.ours, input_shape=case.shape, features=True)
    for ending in ENDINGS[:2]:
        path = save(network, tmp_path / f"network{ending}")
        load_weights(model, path)
        assert provenance(model).classes is None
        found = list(ours(case, model).values())[-1]
        if "nasnet" in case.ours:  # theirs ends in the ReLU that ours has behind the last cell
            found = np.maximum(found, 0)
        assert_close(found, theirs(case, network))
        path.unlink()


# --- Heads ----------------------------------------------------------------------------------------

quick = pytest.mark.parametrize("saved", [INCEPTION], ids=name_of, indirect=True)


@quick
def test_a_head_of_other_classes_starts_fresh(
    saved: Saved, caplog: pytest.LogCaptureFixture
) -> None:
    model = build_model("inception_v3", 10, saved.case.shape)
    with caplog.at_level(logging.WARNING, logger="keras_cls"):
        report = load_weights(model, saved.file(".weights.h5"))
    assert report.fresh == ("logits/kernel", "logits/bias")
    assert report.left_over == ("predictions/0", "predictions/1")
    assert "logits/kernel, logits/bias of inception_v3 start fresh" in caplog.text
    assert provenance(model).classes is None


@quick
def test_features_leave_the_head_of_the_file(
    saved: Saved, caplog: pytest.LogCaptureFixture
) -> None:
    model = build_model("inception_v3", input_shape=saved.case.shape, features=True)
    path = saved.file(".h5")
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="keras_cls"):
        report = load_weights(model, path)
    assert not caplog.records
    assert report.left_over == ("predictions/kernel", "predictions/bias")


@quick
def test_a_missing_head_is_refused_or_fresh(
    saved: Saved, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    last_map = saved.model.get_layer("mixed10").output
    path = save(keras.Model(saved.model.input, last_map), tmp_path / "headless.weights.h5")
    with pytest.raises(ConfigError) as caught:
        create_model("inception_v3", input_shape=INCEPTION.shape, weights=path)
    missing = "predictions/0 is missing (expected (2048, 1000), for logits/kernel)"
    assert missing in str(caught.value)
    assert "features=True" in str(caught.value)
    with caplog.at_level(logging.WARNING, logger="keras_cls"):
        create_model("inception_v3", 7, INCEPTION.shape, weights=path)
    assert "logits/kernel, logits/bias of inception_v3 start fresh" in caplog.text


# --- What the transforms do -----------------------------------------------------------------------


@quick
def test_a_missing_scale_is_one(saved: Saved) -> None:
    model = build_model("inception_v3", input_shape=saved.case.shape, features=True)
    report = load_weights(model, saved.file(".weights.h5"))
    assert len(report.filled) == 94
    assert set(report.filled.values()) == {1.0}
    assert all(path.endswith("_bn/gamma") for path in report.filled)


@pytest.mark.slow
@pytest.mark.parametrize("network", [NASNET], ids=name_of)
def test_the_published_nasnets_call_one_side_otherwise(network: Case, tmp_path: Path) -> None:
    model = network.network()
    with h5py.File(tmp_path / "network.h5", "w") as file:
        write_earlier(file, model, lambda name: name.replace("reduction_right1", "reduction_1"))
    found = create_model(network.ours, input_shape=network.shape, weights=tmp_path / "network.h5")
    assert_close(ours(network, found), theirs(network, model))


def write_earlier(file: h5py.File, model: keras.Model, rename: Callable[[str], str]) -> None:
    """The layout of Keras 2's save_weights, with names as TensorFlow 1 gave them."""
    file.attrs["layer_names"] = [rename(layer.name).encode() for layer in model.layers]
    file.attrs["keras_version"] = b"2.0.8"
    file.attrs["backend"] = b"tensorflow"
    for layer in model.layers:
        group = file.create_group(rename(layer.name))
        weights = {f"scope/{rename(layer.name)}/{v.name}:0": v.numpy() for v in layer.weights}
        group.attrs["weight_names"] = [name.encode() for name in weights]
        for name, value in weights.items():
            group[name] = value


def test_the_other_epsilon_is_not_lost() -> None:
    maps = np.random.default_rng(2).normal(size=(1, 2, 2, 4)).astype(np.float32)
    variance = np.array([0, 1e-8, 1e-5, 1], np.float32)
    theirs = keras.layers.BatchNormalization(epsilon=1.001e-5)
    ours = keras.layers.BatchNormalization(epsilon=1e-5)
    for layer in (theirs, ours):
        layer.build(maps.shape)
    theirs.moving_variance.assign(variance)
    ours.moving_variance.assign(Plus(MORE_EPSILON)(variance))
    np.testing.assert_allclose(ours(maps), theirs(maps), rtol=1e-6)


# --- What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".h5", ".weights.h5"])
@pytest.mark.parametrize("saved", CASES[:1], ids=name_of, indirect=True)
def test_the_stride_on_the_3x3_is_another_network(saved: Saved, ending: str) -> None:
    with pytest.raises(ConfigError, match="resnet50_v1 is that network"):
        create_model("resnet50", input_shape=saved.case.shape, weights=saved.file(ending))


@quick
def test_auxiliary_heads_are_not_among_them(saved: Saved) -> None:
    with pytest.raises(ConfigError, match=r"AuxLogits\S* is missing"):
        create_model(
            "inception_v3", input_shape=saved.case.shape, aux=True, weights=saved.file(".h5")
        )


@quick
def test_another_networks_file_is_refused(saved: Saved) -> None:
    for ending, message in (
        (".weights.h5", "expected weights of resnet50_v1, found inception_v3's"),
        (".h5", "expected weights of resnet50_v1, found inception_v3's"),
    ):
        with pytest.raises(ConfigError, match=message):
            create_model("resnet50_v1", input_shape=(32, 32, 3), weights=saved.file(ending))


def test_endless_numbers_are_no_layers(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "network.h5", "w") as file:
        name = f"conv2d_{'9' * 5000}"
        file.attrs["layer_names"] = [name.encode()]
        file.create_group(name).attrs["weight_names"] = [b"kernel:0"]
        file[name]["kernel:0"] = np.zeros(3)
    with pytest.raises(ConfigError, match="conv2d/kernel is missing"):
        create_model("inception_v3", input_shape=(75, 75, 3), weights=tmp_path / "network.h5")


# --- Releases -------------------------------------------------------------------------------------


def test_colours_are_theirs() -> None:
    image = np.array([[[255, 128, 0]]], np.uint8)
    for case in CASES[:4]:
        expected = case.room.preprocess_input(image.astype(np.float32))
        found = normalize(image, SOURCE.releases[case.ours].preprocessing).numpy()
        found = found[..., ::-1] if case.ours == "resnet50_v1" else found
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_addresses_are_theirs() -> None:
    room = Path(A.__path__[0]).parent / "src" / "applications"
    known = "".join(re.sub(r'"\s*"', "", path.read_text()) for path in room.glob("*.py"))
    for release in SOURCE.releases.values():
        folder, _, file = release.url.rpartition("/")
        assert f"{folder}/" in known
        # ResNets' names are put together from the network's and the rest.
        assert file.removeprefix(release.name if "resnet/" in release.url else "") in known
