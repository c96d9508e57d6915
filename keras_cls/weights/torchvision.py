"""Weights of torchvision (BSD-3).

The releases are those of the training that torchvision calls V1; files of V2 (resized to 232
instead of 256 pixels) have the same tensors.
"""

import re
from collections.abc import Callable

import keras

from keras_cls.architectures import model_spec
from keras_cls.architectures.vgg import VGGSpec
from keras_cls.preprocessing import Preprocessing
from keras_cls.weights import _pytorch
from keras_cls.weights._plan import Origin
from keras_cls.weights._pytorch import Branched
from keras_cls.weights.formats import WeightsFile
from keras_cls.weights.source import Release, Source

# --- Names ----------------------------------------------------------------------------------------

_RESNET_ENDS = {"conv1": "conv1", "conv1_bn": "bn1", "logits": "fc"}


def resnet_module(layer: str) -> str:
    """``"conv3_1_conv2_bn"`` -> ``"layer2.0.bn2"``: stages count from 2 here, from 1 there."""
    if layer in _RESNET_ENDS:
        return _RESNET_ENDS[layer]
    match = re.fullmatch(r"conv(\d)_(\d+)_(conv(\d)|shortcut)(_bn)?", layer)
    if match is None:
        raise _pytorch.unknown(layer)
    stage, unit, part, number, normalization = match.groups()
    if part == "shortcut":
        place = f"downsample.{1 if normalization else 0}"
    else:
        place = f"{'bn' if normalization else 'conv'}{number}"
    return f"layer{int(stage) - 1}.{int(unit) - 1}.{place}"


def vgg_features(spec: VGGSpec) -> dict[str, str]:
    """``{"conv1_1": "features.0", "conv1_2": "features.2", ...}``.

    There the convolutions are numbered together with their ReLUs and the poolings.
    """
    modules, index = {}, 0
    for block, convolutions in enumerate(spec.convolutions, start=1):
        for number in range(1, convolutions + 1):
            modules[f"conv{block}_{number}"] = f"features.{index}"
            index += 2
        index += 1
    return modules


_VGG_TOP = {"fc6": "classifier.0", "fc7": "classifier.3", "logits": "classifier.6"}

_MIXED_5 = (
    ("branch1x1",),
    ("branch5x5_1", "branch5x5_2"),
    ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
    ("pooling", "branch_pool"),
)
_MIXED_6A = (("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"))
_MIXED_6 = (
    ("branch1x1",),
    ("branch7x7_1", "branch7x7_2", "branch7x7_3"),
    ("branch7x7dbl_1", "branch7x7dbl_2", "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5"),
    ("pooling", "branch_pool"),
)
_MIXED_7A = (
    ("branch3x3_1", "branch3x3_2"),
    ("branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4"),
)
_MIXED_7 = (
    ("branch1x1",),
    ("branch3x3_1", "branch3x3_2a", "branch3x3_2b"),
    ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a", "branch3x3dbl_3b"),
    ("pooling", "branch_pool"),
)
_INCEPTION_V3 = {
    name: Branched(name, branches)
    for names, branches in (
        (("Mixed_5b", "Mixed_5c", "Mixed_5d"), _MIXED_5),
        (("Mixed_6a",), _MIXED_6A),
        (("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), _MIXED_6),
        (("Mixed_7a",), _MIXED_7A),
        (("Mixed_7b", "Mixed_7c"), _MIXED_7),
    )
    for name in names
}
_INCEPTION_V3_ENDS = {"logits": "fc", "AuxLogits": "AuxLogits.fc"}
_INCEPTION_V3_AUXILIARY = {
    "AuxLogits_Conv2d_1b_1x1": "AuxLogits.conv0",
    "AuxLogits_Conv2d_2a_5x5": "AuxLogits.conv1",
}


def inception_v3_module(layer: str) -> str:
    """``"Mixed_5b_Branch_1_Conv2d_0b_5x5_bn"`` -> ``"Mixed_5b.branch5x5_2.bn"``."""
    if layer in _INCEPTION_V3_ENDS:
        return _INCEPTION_V3_ENDS[layer]
    name = layer.removesuffix("_bn")
    module = (
        _pytorch.convolution_in_branch(name, _INCEPTION_V3)
        or _INCEPTION_V3_AUXILIARY.get(name)
        or name  # the stem's names are the same
    )
    return f"{module}.{'conv' if name == layer else 'bn'}"


def _module(model: keras.Model) -> Callable[[str], str]:
    spec = model_spec(model.name)
    if isinstance(spec, VGGSpec):
        return {**vgg_features(spec), **_VGG_TOP}.__getitem__
    return inception_v3_module if spec.family == "inception_v2_v3" else resnet_module


def _origins(model: keras.Model, file: WeightsFile) -> dict[str, Origin]:
    return _pytorch.origins(model, _module(model), dense=("fc6", "fc7"))


# --- Releases -------------------------------------------------------------------------------------

# Shorter side to 256, centre of 224, bilinear, ImageNet's mean and deviation.
_PREPROCESSING = Preprocessing()
# transforms() says ImageNet's mean and deviation, and the network undoes them for -1 to 1
# (transform_input in inception.py): for the network without that step it is this.
_INCEPTION_PREPROCESSING = Preprocessing(
    size=(299, 299),
    crop=299 / 342,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


def _release(
    name: str,
    file: str,
    head: str = "fc.",
    top: tuple[str, ...] = (),
    aux: tuple[str, ...] = (),
    preprocessing: Preprocessing = _PREPROCESSING,
    network: str | None = None,
) -> Release:
    """The file's name ends in the beginning of its checksum, as torch.hub has it."""
    return Release(
        name=name,
        network=network,
        preprocessing=preprocessing,
        head=(head,),
        top=top,
        aux=aux,
        url=f"https://download.pytorch.org/models/{file}.pth",
        sha256=file.rpartition("-")[2],
    )


_STRIDE = (
    "its {0} has the stride on the 3x3 convolutions, this network on the 1x1 in front of "
    "them: same tensors, other results. Its weights are {0}'s here"
)
_NORMALIZED = (
    "its {0}_bn, with a batch normalization behind every convolution, is another network; "
    "this one is its {0}"
)

# Its averages count their padding, so that it computes something else than TensorFlow's.
_V3 = _release(
    "inception_v3",
    "inception_v3_google-0cc3c7bd",
    aux=("AuxLogits.",),
    preprocessing=_INCEPTION_PREPROCESSING,
    network="inception_v3_torch",
)

SOURCE = Source(
    name="torchvision",
    about="torchvision's weights (BSD-3)",
    endings=_pytorch.ENDINGS,
    releases={
        "vgg16": _release("vgg16", "vgg16-397923af", "classifier.6.", ("classifier.",)),
        "vgg19": _release("vgg19", "vgg19-dcbb9e9d", "classifier.6.", ("classifier.",)),
        "resnet18": _release("resnet18", "resnet18-f37072fd"),
        "resnet34": _release("resnet34", "resnet34-b627a593"),
        "resnet50": _release("resnet50", "resnet50-0676ba61"),
        "resnet101": _release("resnet101", "resnet101-63fe2227"),
        "resnet152": _release("resnet152", "resnet152-394f9c45"),
        "resnext50_32x4d": _release("resnext50_32x4d", "resnext50_32x4d-7cdf4587"),
        "inception_v3": _V3,
        "inception_v3_torch": _V3,
    },
    refused={
        "alexnet": (
            "its alexnet is not the paper's but the single tower of 'One weird trick' "
            "(arXiv 1404.5997): 64, 192, 384, 256 and 256 filters instead of 96, 256, 384, 384 and "
            "256, no groups and no response normalization, 61,100,840 parameters"
        ),
        "googlenet": (
            "its googlenet is not the paper's: batch normalization instead of biases and "
            "response normalization, and 3x3 convolutions where the paper has 5x5 "
            "(github.com/pytorch/vision/issues/906), 6,624,904 parameters"
        ),
        "resnext101_32x4d": (
            "it has ResNeXt-101 as 32x8d and 64x4d only, twice as wide: other networks"
        ),
        "vgg16": _NORMALIZED.format("vgg16"),
        "vgg19": _NORMALIZED.format("vgg19"),
        **{f"resnet{depth}_v1": _STRIDE.format(f"resnet{depth}") for depth in (50, 101, 152)},
    },
    origins=_origins,
    ignored=_pytorch.bookkeeping,
)
