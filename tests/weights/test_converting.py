"""Our weights written under timm's names: tensor for tensor what timm would have written."""

from pathlib import Path

import keras
import numpy as np
import pytest
from torch_fixtures import read_fixture

from keras_cls.classifier import Classifier
from keras_cls.cli import main
from keras_cls.errors import ConfigError
from keras_cls.weights import create_model
from keras_cls.weights.converting import convert, converted
from keras_cls.weights.formats import safetensors
from keras_cls.weights.timm import SOURCE


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "resnet18" else pytest.mark.slow)
        for name in SOURCE.releases
    ],
)
def test_what_timm_wrote_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    drawn = read_fixture("timm", SOURCE.releases[name].name).draw()
    file = tmp_path / "timm.safetensors"
    safetensors.write(file, drawn)
    model = create_model(name, weights=file)
    written = safetensors.read(convert(model, tmp_path / "ours.safetensors")).tensors
    assert set(written) == set(drawn)
    for key, tensor in drawn.items():
        assert written[key].dtype == tensor.dtype, key
        np.testing.assert_array_equal(written[key], tensor, err_msg=key)


@pytest.fixture(scope="module")
def grey() -> keras.Model:
    """A ResNet-18 for three classes of grey images."""
    return create_model("resnet18", num_classes=3, input_shape=(32, 32, 1))


def test_other_classes_and_channels_keep_their_shapes(grey: keras.Model, tmp_path: Path) -> None:
    tensors = safetensors.read(convert(grey, tmp_path / "grey.safetensors")).tensors
    assert tensors["conv1.weight"].shape == (64, 1, 7, 7)
    assert tensors["fc.weight"].shape == (3, 512)
    again = create_model(
        "resnet18", num_classes=3, input_shape=(32, 32, 1), weights=tmp_path / "grey.safetensors"
    )
    for old, new in zip(grey.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
def test_auxiliary_heads_are_left_out() -> None:
    model = create_model("inception_v4", num_classes=2, input_shape=(75, 75, 3), aux=True)
    assert set(converted(model, SOURCE)) == set(read_fixture("timm", "inception_v4").shapes)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("lenet5", {}, "lenet5 cannot become a network of timm: it does not have it"),
        ("lenet5", {}, "Those that can: inception_resnet_v2, inception_v3_torch, inception_v4, "),
        ("resnet50_v1", {"input_shape": (32, 32, 3)}, "stride on the 3x3 convolutions"),
        ("resnet18", {"input_shape": (32, 32, 3), "features": True}, "expected features=False"),
        ("inception_v3", {"input_shape": (75, 75, 3)}, "as inception_v3_torch does here"),
        ("vgg16", {"input_shape": (32, 32, 3)}, "its fc6 reads a map of (1, 1)"),
    ],
)
def test_other_networks_are_refused(
    name: str, arguments: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        convert(create_model(name, **arguments), tmp_path / "file.safetensors")
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_other_arguments_are_refused(grey: keras.Model, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected timm, found 'caffe'"):
        convert(grey, tmp_path / "file.safetensors", to="caffe")
    with pytest.raises(ConfigError, match=r"ends in \.safetensors"):
        convert(grey, tmp_path / "file.pth")
    with pytest.raises(ConfigError, match="expected a network, found str"):
        convert("resnet18", tmp_path / "file.safetensors")


def test_command_converts_a_classifier(
    grey: keras.Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = Classifier(grey, ["a", "b", "c"]).save(tmp_path / "letters")
    file = tmp_path / "letters.safetensors"
    assert main(["weights", "convert", str(folder), "--to", str(file)]) == 0
    said = capfd.readouterr().out
    assert "timm.create_model('resnet18', num_classes=3, in_chans=1, checkpoint_path=" in said
    expected = converted(grey, SOURCE)
    found = safetensors.read(file).tensors
    assert set(found) == set(expected)
    for key, tensor in expected.items():
        np.testing.assert_array_equal(found[key], tensor)


def test_command_converts_a_file_of_weights(tmp_path: Path) -> None:
    drawn = read_fixture("timm", "resnet18").draw()
    theirs, ours = tmp_path / "theirs.npz", tmp_path / "ours.safetensors"
    np.savez(theirs, **drawn)
    command = ["weights", "convert", "resnet18", "--weights", str(theirs), "--to", str(ours)]
    assert main(command) == 0
    assert set(safetensors.read(ours).tensors) == set(drawn)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--to", "file.safetensors"], "nowhere: no such folder"),
        (["resnet18", "--weights", "no.npz", "--to", "file.safetensors"], "no.npz: weights:"),
        (["resnet19", "--weights", "no.npz", "--to", "file.safetensors"], "no network 'resnet19'"),
    ],
)
def test_command_says_what_was_wrong(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "convert", *arguments]) == 1
    said = capfd.readouterr().err
    assert message in said
    assert "Traceback" not in said
