"""What Keras saved of this project's networks: every family, with and without its heads."""

from pathlib import Path

import keras
import numpy as np
import pytest

from keras_cls.architectures import build_model, list_models, model_spec
from keras_cls.errors import ConfigError
from keras_cls.weights import load_weights
from keras_cls.weights.own import SOURCE

# One a family that is built in a moment.
QUICK = ("alexnet", "lenet5", "nin_cifar10", "resnet20_cifar10")
# Networks of one family have the same layers in front of and behind the last feature map.
ONE_A_FAMILY = {model_spec(name).family: name for name in reversed(list_models())}


def smallest(name: str, **arguments: object) -> keras.Model:
    spec = model_spec(name)
    return build_model(
        name, input_shape=(*spec.min_size, spec.input_shape[-1]), num_classes=5, **arguments
    )


def layers(model: keras.Model) -> set[str]:
    return {layer.name for layer in model.layers if layer.weights}


def draw(model: keras.Model) -> keras.Model:
    """Variables that all count: what starts at zero or one does not."""
    random = np.random.default_rng(0)
    for variable in model.weights:
        if "kernel" not in variable.name:
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
    return model


def save(model: keras.Model, path: Path) -> Path:
    (model.save_weights if path.name.endswith(".weights.h5") else model.save)(path)
    return path


def values(model: keras.Model) -> dict[str, np.ndarray]:
    return {variable.path: variable.numpy() for variable in model.weights}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for path, value in found.items():
        np.testing.assert_array_equal(value, expected[path])


def test_every_network_is_among_them() -> None:
    assert set(SOURCE.releases) == set(list_models())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in sorted({*ONE_A_FAMILY.values(), *QUICK})
    ],
)
def test_features_and_auxiliary_heads_are_told_by_name(name: str, tmp_path: Path) -> None:
    release = SOURCE.releases[name]
    whole = draw(smallest(name))
    features = smallest(name, features=True)
    top = layers(whole) - layers(features)
    assert {layer for layer in layers(whole) if f"{layer}/".startswith(release.top)} == top
    path = save(whole, tmp_path / "network.weights.h5")
    report = load_weights(features, path)
    assert {key.rpartition("/")[0] for key in report.left_over} == top
    assert not report.fresh
    assert_same(values(features), values(whole))


AUXILIARY = [name for name in list_models() if model_spec(name).aux_heads]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "googlenet" else pytest.mark.slow)
        for name in AUXILIARY
        if name not in ("nasnet_large", "pnasnet5_large")
    ],
)
def test_auxiliary_heads_are_left_out_unless_asked_for(name: str, tmp_path: Path) -> None:
    trained, bare = draw(smallest(name, aux=True)), smallest(name)
    heads = layers(trained) - layers(bare)
    release = SOURCE.releases[name]
    assert {layer for layer in layers(trained) if layer.startswith(release.aux)} == heads
    for ending in (".weights.h5", ".h5"):
        path = save(trained, tmp_path / f"network{ending}")
        report = load_weights(bare, path)
        assert {key.rpartition("/")[0] for key in report.left_over} == heads
        assert_same(values(bare), values(trained))
    again = smallest(name, aux=True)
    assert load_weights(again, path).left_over == ()
    assert_same(values(again), values(trained))
    # And a file without them does not do for a network with them.
    path = save(bare, tmp_path / "bare.weights.h5")
    with pytest.raises(ConfigError, match=rf"{min(heads)}/0 is missing|and \d+ more"):
        load_weights(again, path)


@pytest.mark.parametrize("ending", [".h5", ".weights.h5", ".keras"])
def test_networks_that_differ_in_no_tensor_are_told_apart(ending: str, tmp_path: Path) -> None:
    """Strides and shortcuts leave no trace in the tensors; the network's name does."""
    path = save(smallest("resnet20_cifar10"), tmp_path / f"network{ending}")
    with pytest.raises(ConfigError, match="expected weights of plain20_cifar10, found resnet20"):
        load_weights(smallest("plain20_cifar10"), path)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".h5", ".weights.h5"])
def test_the_two_resnets_are_told_apart(ending: str, tmp_path: Path) -> None:
    """keras.applications calls resnet50 what is resnet50_v1 here."""
    path = save(smallest("resnet50"), tmp_path / f"network{ending}")
    with pytest.raises(ConfigError, match="expected weights of resnet50_v1, found resnet50's"):
        load_weights(smallest("resnet50_v1"), path)
    path = save(smallest("resnet50_v1"), tmp_path / f"network_v1{ending}")
    with pytest.raises(ConfigError, match="expected weights of resnet50, found resnet50_v1's"):
        load_weights(smallest("resnet50"), path)
