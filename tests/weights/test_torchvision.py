"""torchvision's own logits, for weights drawn by a rule and loaded from a file."""

from pathlib import Path

import keras
import numpy as np
import pytest
from torch_fixtures import (
    Fixture,
    assert_gives_the_logits,
    assert_same_logits,
    cases,
    images,
    read_fixture,
)

from keras_cls.errors import ConfigError
from keras_cls.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from keras_cls.weights import _pytorch, create_model, load_weights
from keras_cls.weights.torchvision import SOURCE, inception_v3_module, resnet_module

DEFAULT = {("resnet18", (97, 130))}


@pytest.mark.parametrize(("name", "fixture", "size"), cases(SOURCE, DEFAULT))
def test_gives_the_logits_of_the_source(
    name: str, fixture: Fixture, size: tuple[int, int], tmp_path: Path
) -> None:
    file = tmp_path / f"{name}.npz"
    np.savez(file, **fixture.draw())
    assert_gives_the_logits(SOURCE, name, fixture, size, file)


@pytest.mark.slow
def test_the_auxiliary_head_gives_the_logits_of_the_source(tmp_path: Path) -> None:
    fixture = read_fixture("torchvision", "inception_v3")
    file = tmp_path / "inception_v3.npz"
    np.savez(file, **fixture.draw())
    model = create_model("inception_v3", aux=True, weights=file)
    assert model.name == "inception_v3_torch"
    found = model(images(299, 299), training=False)
    assert_same_logits(found["logits"], fixture.logits[299, 299])
    assert_same_logits(found["AuxLogits"], fixture.auxiliary_logits[299, 299])


def test_weights_of_another_wiring_are_not_loaded_into_this_one(tmp_path: Path) -> None:
    file = tmp_path / "inception_v3.npz"
    np.savez(file, **read_fixture("torchvision", "inception_v3").draw())
    with pytest.raises(ConfigError, match="are inception_v3_torch's here: build that"):
        load_weights(create_model("inception_v3", input_shape=(75, 75, 3)), file)


def test_a_dense_layer_over_a_flattened_map_is_a_convolution() -> None:
    random = np.random.default_rng(0)
    weight = random.normal(size=(5, 4 * 2 * 3)).astype("float32")  # units, C * H * W
    x = random.normal(size=(4, 2, 3)).astype("float32")
    kernel = keras.Variable(np.zeros((2, 3, 4, 5)), name="kernel")
    origin = _pytorch.dense_origin("classifier.0", kernel)
    assert origin.shape_in_file(kernel.shape) == weight.shape
    found = origin.values({"classifier.0.weight": weight}, kernel.shape)
    expected = weight @ x.ravel()
    np.testing.assert_allclose(np.einsum("hwcu,chw->u", found, x), expected, rtol=1e-5)


def test_images_are_prepared_as_by_its_transforms() -> None:
    for name, release in SOURCE.releases.items():
        rule = release.preprocessing
        if name.startswith("inception_v3"):  # whose network scales on to -1..1 itself
            assert (rule.size, rule.frame) == ((299, 299), (342, 342))
            assert (rule.mean, rule.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
            continue
        assert (rule.size, rule.frame, rule.resize) == ((224, 224), (256, 256), "shorter")
        assert (rule.interpolation, rule.mean, rule.std) == (
            "bilinear",
            IMAGENET_MEAN,
            IMAGENET_STD,
        )


def test_files_bear_the_beginning_of_their_checksum() -> None:
    for release in SOURCE.releases.values():
        assert release.url is not None
        assert release.sha256 is not None
        assert len(bytes.fromhex(release.sha256)) == 4
        assert release.url.endswith(f"-{release.sha256}.pth")


@pytest.mark.parametrize("name", ["alexnet", "googlenet"])
def test_another_networks_file_is_refused_in_words(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.npz"
    np.savez(file, **read_fixture("torchvision", name).draw())
    with pytest.raises(ConfigError) as caught:
        create_model(name, weights=file)
    assert str(file) in str(caught.value)
    assert f"torchvision: {SOURCE.refused[name]}" in str(caught.value)


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ("alexnet", "64, 192, 384, 256 and 256"),
        ("googlenet", "3x3 convolutions where the paper has 5x5"),
        ("resnext101_32x4d", "32x8d and 64x4d only"),
        ("resnet50_v1", "Its weights are resnet50's here"),
        ("vgg16", "vgg16_bn"),
    ],
)
def test_says_why_a_network_is_another(network: str, says: str) -> None:
    assert says in SOURCE.refused[network]


@pytest.mark.parametrize(
    ("layer", "module"),
    [
        ("Conv2d_3b_1x1_bn", "Conv2d_3b_1x1.bn"),
        ("Mixed_5b_Branch_1_Conv2d_0b_5x5", "Mixed_5b.branch5x5_2.conv"),
        ("Mixed_6a_Branch_1_Conv2d_1a_3x3_bn", "Mixed_6a.branch3x3dbl_3.bn"),
        ("Mixed_7c_Branch_2_Conv2d_0d_3x1", "Mixed_7c.branch3x3dbl_3b.conv"),
        ("AuxLogits_Conv2d_2a_5x5", "AuxLogits.conv1.conv"),
        ("AuxLogits", "AuxLogits.fc"),
        ("logits", "fc"),
    ],
)
def test_names_of_inception_v3(layer: str, module: str) -> None:
    assert inception_v3_module(layer) == module


def test_names_of_unknown_layers_are_a_bug() -> None:
    with pytest.raises(ValueError, match="pool1"):
        resnet_module("pool1")
