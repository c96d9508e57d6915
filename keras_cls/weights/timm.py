"""Weights of timm (1.0.31) for the networks that it has as we have them."""

import re
from collections.abc import Callable
from dataclasses import replace
from math import floor

import keras

from keras_cls.architectures import model_spec
from keras_cls.architectures.vgg import VGGSpec
from keras_cls.preprocessing import Preprocessing
from keras_cls.weights import _pytorch, torchvision
from keras_cls.weights._plan import Origin
from keras_cls.weights._pytorch import Branched
from keras_cls.weights.formats import WeightsFile
from keras_cls.weights.source import Release, Source

# --- Names ----------------------------------------------------------------------------------------

_VGG_TOP = {"fc6": "pre_logits.fc1", "fc7": "pre_logits.fc2", "logits": "head.fc"}

_GATE = {"reduce": "fc1", "expand": "fc2"}


def senet_module(layer: str) -> str:
    """``"conv3_1_se_reduce"`` -> ``"layer2.0.se_module.fc1"``; the rest is almost ResNet's."""
    if layer == "logits":
        return "last_linear"
    # SENet-154 has three convolutions for one.
    if match := re.fullmatch(r"conv1(?:_(\d))?(_bn)?", layer):
        number, normalization = match.groups()
        return f"layer0.{'bn' if normalization else 'conv'}{number or 1}"
    if match := re.fullmatch(r"conv(\d)_(\d+)_se_(reduce|expand)", layer):
        stage, unit, part = match.groups()
        return f"layer{int(stage) - 1}.{int(unit) - 1}.se_module.{_GATE[part]}"
    return torchvision.resnet_module(layer)


def _branches(*steps: int) -> tuple[tuple[str, ...], ...]:
    """Names of branches of so many steps each: ``branch0``, but ``branch1.0`` and ``branch1.1``."""
    return tuple(
        (f"branch{branch}",)
        if count == 1
        else tuple(f"branch{branch}.{step}" for step in range(count))
        for branch, count in enumerate(steps)
    )


_INCEPTION_C = (
    ("branch0",),
    ("branch1_0", "branch1_1a", "branch1_1b"),
    ("branch2_0", "branch2_1", "branch2_2", "branch2_3a", "branch2_3b"),
    ("branch3.0", "branch3.1"),
)
_INCEPTION_V4 = {
    "Mixed_3a": Branched("features.3", (("maxpool",), ("conv",))),
    "Mixed_4a": Branched("features.4", _branches(2, 4)),
    "Mixed_5a": Branched("features.5", (("conv",), ("maxpool",))),
    **{
        f"Mixed_5{letter}": Branched(f"features.{index}", _branches(1, 2, 3, 2))
        for index, letter in enumerate("bcde", start=6)
    },
    "Mixed_6a": Branched("features.10", _branches(1, 3)),
    **{
        f"Mixed_6{letter}": Branched(f"features.{index}", _branches(1, 3, 5, 2))
        for index, letter in enumerate("bcdefgh", start=11)
    },
    "Mixed_7a": Branched("features.18", _branches(2, 4)),
    **{
        f"Mixed_7{letter}": Branched(f"features.{index}", _INCEPTION_C)
        for index, letter in enumerate("bcd", start=19)
    },
}
_INCEPTION_V4_STEM = {
    "Conv2d_1a_3x3": "features.0",
    "Conv2d_2a_3x3": "features.1",
    "Conv2d_2b_3x3": "features.2",
}


def inception_v4_module(layer: str) -> str:
    """``"Mixed_5b_Branch_1_Conv2d_0b_3x3_bn"`` -> ``"features.6.branch1.1.bn"``."""
    if layer == "logits":
        return "last_linear"
    if layer.startswith("AuxLogits"):  # timm has none: they will be reported missing
        return layer
    name = layer.removesuffix("_bn")
    module = _pytorch.convolution_in_branch(name, _INCEPTION_V4) or _INCEPTION_V4_STEM[name]
    return f"{module}.{'conv' if name == layer else 'bn'}"


_INCEPTION_RESNET_V2 = {
    "Mixed_5b": Branched("mixed_5b", _branches(1, 2, 3, 2)),
    "Mixed_6a": Branched("mixed_6a", _branches(1, 3)),
    "Mixed_7a": Branched("mixed_7a", _branches(2, 2, 3)),
    "Block8": Branched("block8", _branches(1, 3)),
    **{
        f"{ours}_{number}": Branched(f"{theirs}.{number - 1}", branches)
        for ours, theirs, times, branches in (
            ("Repeat_block35", "repeat", 10, _branches(1, 2, 3)),
            ("Repeat_1_block17", "repeat_1", 20, _branches(1, 3)),
            ("Repeat_2_block8", "repeat_2", 9, _branches(1, 3)),
        )
        for number in range(1, times + 1)
    },
}


def inception_resnet_v2_module(layer: str) -> str:
    """``"Repeat_block35_2_Branch_1_Conv2d_0b_3x3_bn"`` -> ``"repeat.1.branch1.1.bn"``."""
    if layer == "logits":
        return "classif"
    if layer.startswith("AuxLogits"):  # timm has none: they will be reported missing
        return layer
    projected = layer.removesuffix("_Conv2d_1x1")
    if projected in _INCEPTION_RESNET_V2:
        return f"{_INCEPTION_RESNET_V2[projected].module}.conv2d"
    name = layer.removesuffix("_bn")
    # "Conv2d_1a_3x3" -> "conv2d_1a"
    module = (
        _pytorch.convolution_in_branch(name, _INCEPTION_RESNET_V2)
        or name.rpartition("_")[0].lower()
    )
    return f"{module}.{'conv' if name == layer else 'bn'}"


# What follows a cell's name -> its module, in which separable convolutions are modules of two.
_CELL_PARTS = {
    r"1x1": "conv_1x1.conv",
    r"beginning_bn": "conv_1x1.bn",
    r"prev_1x1": "conv_prev_1x1.conv",
    r"prev_bn": "conv_prev_1x1.bn",
    r"path([12])_conv": r"{reduction}path_\1.conv",
    r"final_path_bn": "{reduction}final_path_bn",
    r"(comb_iter_\d_(?:left|right))_separable_\dx\d_([12])": r"\1.separable_\2",
    r"(comb_iter_\d_(?:left|right))_bn_sep_\dx\d_([12])": r"\1.bn_sep_\2",
    r"(comb_iter_\d_(?:left|right))_1x1": r"\1.conv",
    r"(comb_iter_\d_(?:left|right))_bn_1": r"\1.bn",
}


def _cell_network_module(layer: str, stem: str, reduction: str) -> str:
    ends = {"logits": "last_linear", "conv0": f"{stem}.conv", "conv0_bn": f"{stem}.bn"}
    if layer in ends:
        return ends[layer]
    if layer.startswith("aux_"):  # timm has none: they will be reported missing
        return layer
    match = re.fullmatch(r"((?:reduction_)?cell_(?:stem_)?\d+)_(.+)", layer)
    if match is not None:
        cell, part = match.groups()
        for pattern, module in _CELL_PARTS.items():
            if found := re.fullmatch(pattern, part):
                return f"{cell}.{found.expand(module).format(reduction=reduction)}"
    raise _pytorch.unknown(layer)


def nasnet_module(layer: str) -> str:
    """``"cell_0_comb_iter_1_left_bn_sep_5x5_2"`` -> ``"cell_0.comb_iter_1_left.bn_sep_2"``."""
    return _cell_network_module(layer, stem="conv0", reduction="")


def pnasnet_module(layer: str) -> str:
    """The same but for the stem and the reductions of the previous cell's output."""
    return _cell_network_module(layer, stem="conv_0", reduction="conv_prev_1x1.")


# By the network's family.
_MODULES: dict[str, Callable[[str], str]] = {
    "resnet": torchvision.resnet_module,
    "resnext": torchvision.resnet_module,
    "senet": senet_module,
    "inception_v2_v3": torchvision.inception_v3_module,
    "inception_v4": inception_v4_module,
    "inception_resnet": inception_resnet_v2_module,
    "nasnet": nasnet_module,
    "pnasnet": pnasnet_module,
}


def _origins(model: keras.Model, file: WeightsFile) -> dict[str, Origin]:
    spec = model_spec(model.name)
    if isinstance(spec, VGGSpec):
        modules = {**torchvision.vgg_features(spec), **_VGG_TOP}
        return _pytorch.origins(model, modules.__getitem__)
    return _pytorch.origins(model, _MODULES[spec.family])


# --- Releases -------------------------------------------------------------------------------------


def _centre(size: int, crop_pct: float) -> float:
    """The crop that leads to timm's frame: timm rounds the frame's side down, we to the nearest."""
    return size / floor(size / crop_pct)


def _inception_preprocessing(size: int, crop_pct: float) -> Preprocessing:
    return Preprocessing(
        size=(size, size),
        crop=_centre(size, crop_pct),
        interpolation="bicubic",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


_BILINEAR = Preprocessing()  # 224 out of 256, ImageNet's mean and deviation
_BICUBIC = replace(_BILINEAR, interpolation="bicubic")


def _hub(
    tag: str,
    head: str,
    preprocessing: Preprocessing = _BILINEAR,
    top: tuple[str, ...] = (),
    aux: tuple[str, ...] = (),
    network: str | None = None,
) -> Release:
    """Weights on Hugging Face's hub; ``tag`` says of which training: resnet18.tv_in1k."""
    return Release(
        name=tag.partition(".")[0],
        network=network,
        preprocessing=preprocessing,
        head=(head,),
        top=top,
        aux=aux,
        url=f"https://huggingface.co/timm/{tag}/resolve/main/model.safetensors",
    )


def _legacy(name: str, file: str) -> Release:
    """Weights of the release in Caffe, ported by Cadene; timm has them on GitHub alone.

    The file's name ends in the beginning of its checksum.
    """
    return Release(
        name=name,
        preprocessing=_BILINEAR,
        head=("last_linear.",),
        url=f"https://github.com/rwightman/pytorch-image-models/releases/download/{file}.pth",
        sha256=file.rpartition("-")[2],
    )


_VGG_TOP_TENSORS = ("pre_logits.", "head.fc.")
_V3 = _inception_preprocessing(299, 0.875)

# Networks that count their padding otherwise than ours of that name.
_INCEPTION_V3 = _hub(
    "inception_v3.tf_in1k", "fc.", _V3, aux=("AuxLogits.",), network="inception_v3_torch"
)
_NASNET_LARGE = _hub(
    "nasnetalarge.tf_in1k",
    "last_linear.",
    _inception_preprocessing(331, 0.911),
    network="nasnet_large_timm",
)

_STRIDE = (
    "its {0} has the stride on the 3x3 convolutions, this network on the 1x1 in front of them: "
    "same tensors, other results. Its weights are {0}'s here"
)
_NORMALIZED = (
    "its {0}_bn, with a batch normalization behind every convolution, is another network; "
    "this one is its {0}"
)
_RESNET_V2 = (
    "its resnetv2_{0} is another network than the release: it halves the map in a stage's first "
    "unit instead of the last, and has no bias in its convolutions"
)
_SE_RESNET = (
    "its {0}, without legacy_, is another network: the stride is on the 3x3 convolutions and "
    "the first pooling pads on all sides; this one is its legacy_{0}"
)
_SE_RESNEXT = (
    "its {0}, without legacy_, pools with padding on all sides after the first convolution; "
    "this network is its legacy_{0}"
)

SOURCE = Source(
    name="timm",
    about=(
        "timm's collection (Apache 2.0): torchvision's, Gluon's, Cadene's ports of the authors' "
        "and TensorFlow's weights"
    ),
    endings=(".safetensors", ".pth", ".npz"),
    releases={
        "vgg16": _hub("vgg16.tv_in1k", "head.fc.", top=_VGG_TOP_TENSORS),
        "vgg19": _hub("vgg19.tv_in1k", "head.fc.", top=_VGG_TOP_TENSORS),
        **{
            f"resnet{depth}": _hub(f"resnet{depth}.tv_in1k", "fc.")
            for depth in (18, 34, 50, 101, 152)
        },
        "resnext50_32x4d": _hub("resnext50_32x4d.tv_in1k", "fc."),
        "resnext101_32x4d": _hub("resnext101_32x4d.gluon_in1k", "fc.", _BICUBIC),
        "se_resnet50": _legacy("legacy_seresnet50", "v0.1-cadene/se_resnet50-ce0d4300"),
        "se_resnet101": _legacy("legacy_seresnet101", "v0.1-cadene/se_resnet101-7e38fcc6"),
        "se_resnet152": _legacy("legacy_seresnet152", "v0.1-cadene/se_resnet152-d17c99b7"),
        "se_resnext50_32x4d": _legacy(
            "legacy_seresnext50_32x4d", "v0.1-weights/legacy_se_resnext50_32x4d-f3651bad"
        ),
        "se_resnext101_32x4d": _legacy(
            "legacy_seresnext101_32x4d", "v0.1-weights/legacy_se_resnext101_32x4d-37725eac"
        ),
        "senet154": _legacy("legacy_senet154", "v0.1-weights/legacy_senet154-e9eb9fe6"),
        "inception_v4": _hub("inception_v4.tf_in1k", "last_linear.", _V3),
        "inception_resnet_v2": _hub(
            "inception_resnet_v2.tf_in1k", "classif.", _inception_preprocessing(299, 0.8975)
        ),
        "inception_v3": _INCEPTION_V3,
        "inception_v3_torch": _INCEPTION_V3,
        "nasnet_large": _NASNET_LARGE,
        "nasnet_large_timm": _NASNET_LARGE,
        "pnasnet5_large": _hub(
            "pnasnet5large.tf_in1k", "last_linear.", _inception_preprocessing(331, 0.911)
        ),
    },
    refused={
        "vgg16": _NORMALIZED.format("vgg16"),
        "vgg19": _NORMALIZED.format("vgg19"),
        **{f"resnet{depth}_v1": _STRIDE.format(f"resnet{depth}") for depth in (50, 101, 152)},
        **{f"resnet{depth}_v2": _RESNET_V2.format(depth) for depth in (50, 101, 152)},
        **{f"se_resnet{depth}": _SE_RESNET.format(f"seresnet{depth}") for depth in (50, 101, 152)},
        **{
            f"se_resnext{depth}_32x4d": _SE_RESNEXT.format(f"seresnext{depth}_32x4d")
            for depth in (50, 101)
        },
        "inception_resnet_v2_paper": (
            "its inception_resnet_v2 is the release, with twice the blocks of the paper's "
            "figures: inception_resnet_v2 here"
        ),
    },
    origins=_origins,
    ignored=_pytorch.bookkeeping,
)
