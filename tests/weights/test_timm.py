"""timm's own logits, for weights drawn by a rule and loaded from a safetensors file."""

from pathlib import Path

import pytest
from torch_fixtures import (
    Fixture,
    assert_gives_the_logits,
    cases,
    read_fixture,
)

from keras_cls.errors import ConfigError
from keras_cls.weights import create_model, timm
from keras_cls.weights.formats import safetensors
from keras_cls.weights.timm import SOURCE

DEFAULT = {
    ("resnet18", (97, 130)),
    ("resnext50_32x4d", (97, 130)),
    ("se_resnet50", (97, 130)),
}


@pytest.mark.parametrize(("name", "fixture", "size"), cases(SOURCE, DEFAULT))
def test_gives_the_logits_of_the_source(
    name: str, fixture: Fixture, size: tuple[int, int], tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    safetensors.write(file, fixture.draw())
    assert_gives_the_logits(SOURCE, name, fixture, size, file)


@pytest.mark.slow
def test_an_auxiliary_head_that_timm_lacks_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    safetensors.write(file, read_fixture("timm", "inception_v4").draw())
    with pytest.raises(ConfigError, match=r"AuxLogits\S+ is missing"):
        create_model("inception_v4", input_shape=(75, 75, 3), aux=True, weights=file)


# size, crop_pct and interpolation of default_cfgs, and the side of the frame that they lead to.
@pytest.mark.parametrize(
    ("name", "size", "frame", "interpolation", "mean"),
    [
        ("vgg16", 224, 256, "bilinear", 0.485),
        ("resnet50", 224, 256, "bilinear", 0.485),
        ("resnext101_32x4d", 224, 256, "bicubic", 0.485),
        ("senet154", 224, 256, "bilinear", 0.485),
        ("inception_v4", 299, 341, "bicubic", 0.5),
        ("inception_resnet_v2", 299, 333, "bicubic", 0.5),
        ("pnasnet5_large", 331, 363, "bicubic", 0.5),
    ],
)
def test_images_are_prepared_as_by_its_transforms(
    name: str, size: int, frame: int, interpolation: str, mean: float
) -> None:
    rule = SOURCE.releases[name].preprocessing
    assert (rule.size, rule.frame) == ((size, size), (frame, frame))
    assert (rule.resize, rule.interpolation, rule.mean[0]) == ("shorter", interpolation, mean)


def test_another_networks_file_is_refused_in_words(tmp_path: Path) -> None:
    ours, theirs = "resnet50_v2", "resnetv2_50"
    file = tmp_path / f"{theirs}.safetensors"
    safetensors.write(file, read_fixture("timm", theirs).draw())
    with pytest.raises(ConfigError) as caught:
        create_model(ours, weights=file)
    assert str(file) in str(caught.value)
    assert f"timm: {SOURCE.refused[ours]}" in str(caught.value)


def test_a_refused_network_is_not_fetched() -> None:
    with pytest.raises(ConfigError, match="timm: its resnetv2_101 is another"):
        create_model("resnet101_v2", weights="timm")


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ("resnet50_v1", "Its weights are resnet50's here"),
        ("resnet50_v2", "no bias in its convolutions"),
        ("se_resnet50", "this one is its legacy_seresnet50"),
        ("se_resnext101_32x4d", "this network is its legacy_seresnext101_32x4d"),
        ("inception_resnet_v2_paper", "inception_resnet_v2 here"),
        ("vgg19", "vgg19_bn"),
    ],
)
def test_says_why_a_network_is_another(network: str, says: str) -> None:
    assert says in SOURCE.refused[network]


@pytest.mark.parametrize(
    ("module", "layer", "expected"),
    [
        (timm.senet_module, "conv1_bn", "layer0.bn1"),
        (timm.senet_module, "conv1_3", "layer0.conv3"),
        (timm.senet_module, "conv5_3_se_expand", "layer4.2.se_module.fc2"),
        (timm.senet_module, "conv2_1_shortcut_bn", "layer1.0.downsample.1"),
        (timm.inception_v4_module, "Mixed_3a_Branch_1_Conv2d_1a_3x3", "features.3.conv.conv"),
        (
            timm.inception_v4_module,
            "Mixed_7b_Branch_2_Conv2d_0e_3x1_bn",
            "features.19.branch2_3b.bn",
        ),
        (timm.inception_resnet_v2_module, "Conv2d_7b_1x1", "conv2d_7b.conv"),
        (timm.inception_resnet_v2_module, "Block8_Conv2d_1x1", "block8.conv2d"),
        (timm.nasnet_module, "cell_0_path1_conv", "cell_0.path_1.conv"),
        (timm.nasnet_module, "reduction_cell_1_beginning_bn", "reduction_cell_1.conv_1x1.bn"),
        (timm.pnasnet_module, "cell_0_path1_conv", "cell_0.conv_prev_1x1.path_1.conv"),
        (timm.pnasnet_module, "cell_4_comb_iter_4_right_bn_1", "cell_4.comb_iter_4_right.bn"),
    ],
)
def test_names(module: object, layer: str, expected: str) -> None:
    assert module(layer) == expected


def test_names_of_unknown_layers_are_a_bug() -> None:
    for module in (timm.senet_module, timm.nasnet_module, timm.pnasnet_module):
        with pytest.raises(ValueError, match="pool7"):
            module("pool7")
