"""GoogLeNet, Inception v1 (Szegedy et al. 2014, arXiv 1409.4842), as its Caffe release."""

from dataclasses import dataclass

import keras

from keras_cls.architectures._registry import register
from keras_cls.architectures.blocks import fully_connected, max_pool_ceil
from keras_cls.architectures.layers import LocalResponseNormalization
from keras_cls.architectures.spec import (
    ModelSpec,
    Network,
    Paper,
    ReportedError,
    ReviewFigure,
    Tensor,
    Views,
)
from keras_cls.preprocessing import Preprocessing


@dataclass(frozen=True)
class Inception:
    """A row of the paper's Table 1: how many maps each convolution of a module gives."""

    name: str
    conv1x1: int
    reduce3x3: int
    conv3x3: int
    reduce5x5: int
    conv5x5: int
    pool_proj: int


@dataclass(frozen=True, kw_only=True)
class GoogLeNetSpec(ModelSpec):
    """The modules, and which of them are followed by a pooling and by an auxiliary head."""

    modules: tuple[Inception, ...]
    pooled: tuple[str, ...]
    aux_after: tuple[str, ...]


GOOGLENET = GoogLeNetSpec(
    name="googlenet",
    family="googlenet",
    paper=Paper(
        title="Going Deeper with Convolutions",
        authors="Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke, Rabinovich",
        year=2014,
        url="https://arxiv.org/abs/1409.4842",
    ),
    news=(
        "Modules look at each position through several windows at once, and 1x1 convolutions keep "
        "them affordable. Twelve times fewer weights than AlexNet gave less than half its error."
    ),
    input_shape=(224, 224, 3),
    min_size=(32, 32),
    num_classes=1000,
    params_trainable=6_998_552,
    params_total=6_998_552,
    multiply_adds=1_582_671_872,
    # What the release subtracts, turned from BGR to RGB; it leaves the scale at 0..255.
    preprocessing=Preprocessing(mean=(123 / 255, 117 / 255, 104 / 255), std=(1 / 255,) * 3),
    endpoints=(
        "conv1_7x7_s2",
        "conv2_3x3",
        "inception_3b_output",
        "inception_4e_output",
        "inception_5b_output",
    ),
    aux_heads=("loss1_classifier", "loss2_classifier"),
    modules=(
        Inception("3a", 64, 96, 128, 16, 32, 32),
        Inception("3b", 128, 128, 192, 32, 96, 64),
        Inception("4a", 192, 96, 208, 16, 48, 64),
        Inception("4b", 160, 112, 224, 24, 64, 64),
        Inception("4c", 128, 128, 256, 24, 64, 64),
        Inception("4d", 112, 144, 288, 32, 64, 64),
        Inception("4e", 256, 160, 320, 32, 128, 128),
        Inception("5a", 256, 160, 320, 32, 128, 128),
        Inception("5b", 384, 192, 384, 48, 128, 128),
    ),
    pooled=("3b", "4e"),
    aux_after=("4a", "4d"),
    reported=(
        ReportedError(
            "paper_single",
            "ImageNet validation, one network, one crop",
            None,
            10.07,
            "paper, table 3",
            views=Views(),
        ),
        ReportedError(
            "paper_best",
            "ImageNet validation, one network, ten crops",
            None,
            9.15,
            "paper, table 3",
            views=Views(10),
        ),
        ReportedError(
            "paper_best",
            "ImageNet validation, one network, 144 crops",
            None,
            7.89,
            "paper, table 3",
            views=Views(144),
        ),
        ReportedError(
            "paper_best",
            "ImageNet 2014 test, seven networks, 144 crops",
            None,
            6.67,
            "paper, table 2",
        ),
        ReportedError(
            "release",
            "ImageNet validation, one crop; TF-slim's weights, of the variant with batch "
            "normalization and 3x3 for 5x5",
            30.2,
            10.4,
            "TF-slim, README",
        ),
        ReportedError(
            "release",
            "ImageNet validation, one crop; torchvision's weights, of the same variant",
            30.22,
            10.47,
            "torchvision, models/googlenet.py",
        ),
    ),
    review=ReviewFigure(6.67, "seven networks, 144 crops of each image; ImageNet 2014 test"),
    deviations=(
        "The 5x5 convolutions are 5x5, as in the paper and Caffe's bvlc_googlenet; TF-slim and "
        "torchvision have 3x3 there, and batch normalization, which the paper has not.",
        "The paper does not give the constants of its normalization; the release's are k = 1 and "
        "alpha = 1e-4 divided by n = 5.",
        "Auxiliary heads have dropout of 0.7 and weigh 0.3 in the loss, the head has 0.4, all as "
        "in the paper; torchvision has 0.2.",
        "An auxiliary head's dense layer is a convolution over its whole 4x4 map; on larger inputs "
        "it runs at each position and is averaged, on smaller ones its kernel is as small as the "
        "map.",
        "Weights start as the release's (Caffe's xavier is LeCun-uniform in Keras), biases at 0.2.",
    ),
)


@register(GOOGLENET)
def googlenet(images: Tensor, spec: GoogLeNetSpec, num_classes: int, aux: bool = False) -> Network:
    """[N, H, W, C] -> logits [N, num_classes]; the layers bear the names of bvlc_googlenet."""
    maps = {}
    x = keras.layers.ZeroPadding2D(3, name="conv1_pad")(images)
    x = maps["conv1_7x7_s2"] = _convolution(x, 64, 7, "conv1_7x7_s2", strides=2, padding="valid")
    x = max_pool_ceil(x, name="pool1_3x3_s2")
    x = _normalization(x, name="pool1_norm1")
    x = _convolution(x, 64, 1, "conv2_3x3_reduce")
    x = maps["conv2_3x3"] = _convolution(x, 192, 3, "conv2_3x3")
    x = _normalization(x, name="conv2_norm2")
    x = max_pool_ceil(x, name="pool2_3x3_s2")
    for module in spec.modules:
        name = f"inception_{module.name}"
        x = maps[f"{name}_output"] = inception(x, module, name)
        if module.name in spec.pooled:
            x = max_pool_ceil(x, name=f"pool{module.name[0]}_3x3_s2")
    x = keras.layers.GlobalAveragePooling2D(name="pool5")(x)
    x = keras.layers.Dropout(0.4, name="pool5_drop")(x)
    logits = _classifier(x, num_classes, name=spec.head)

    heads = {}
    if aux:
        for head, below in zip(spec.aux_heads, spec.aux_after, strict=True):
            heads[head] = _auxiliary(maps[f"inception_{below}_output"], num_classes, name=head)
    return Network(logits, {name: maps[name] for name in spec.endpoints}, heads)


def inception(x: Tensor, widths: Inception, name: str) -> Tensor:
    """The module of the paper's figure 2(b): four branches, concatenated."""
    pooled = keras.layers.MaxPooling2D(3, 1, padding="same", name=f"{name}_pool")(x)
    reduced3 = _convolution(x, widths.reduce3x3, 1, f"{name}_3x3_reduce")
    reduced5 = _convolution(x, widths.reduce5x5, 1, f"{name}_5x5_reduce")
    branches = [
        _convolution(x, widths.conv1x1, 1, f"{name}_1x1"),
        _convolution(reduced3, widths.conv3x3, 3, f"{name}_3x3"),
        _convolution(reduced5, widths.conv5x5, 5, f"{name}_5x5"),
        _convolution(pooled, widths.pool_proj, 1, f"{name}_pool_proj"),
    ]
    return keras.layers.Concatenate(name=f"{name}_output")(branches)


def _auxiliary(x: Tensor, num_classes: int, name: str) -> Tensor:
    """A classifier on the way, which brings gradients to the layers below it."""
    prefix = name.removesuffix("_classifier")
    window = [min(5, side) for side in x.shape[1:3]]
    x = keras.layers.AveragePooling2D(window, 3, name=f"{prefix}_ave_pool")(x)
    x = _convolution(x, 128, 1, f"{prefix}_conv")
    x = fully_connected(x, 1024, 4, f"{prefix}_fc", **_INITIALIZERS)
    x = keras.layers.Dropout(0.7, name=f"{prefix}_drop_fc")(x)
    x = keras.layers.GlobalAveragePooling2D(name=f"{prefix}_fc_pool")(x)
    return _classifier(x, num_classes, name)


# Dicts, for Keras warns where one initializer object draws twice.
_INITIALIZERS = {
    "kernel_initializer": "lecun_uniform",
    "bias_initializer": {"class_name": "Constant", "config": {"value": 0.2}},
}


def _convolution(
    x: Tensor, filters: int, kernel: int, name: str, strides: int = 1, padding: str = "same"
) -> Tensor:
    return keras.layers.Conv2D(
        filters,
        kernel,
        strides=strides,
        padding=padding,
        activation="relu",
        name=name,
        **_INITIALIZERS,
    )(x)


def _normalization(x: Tensor, name: str) -> Tensor:
    return LocalResponseNormalization(bias=1, alpha=1e-4 / 5, name=name)(x)


def _classifier(x: Tensor, num_classes: int, name: str) -> Tensor:
    return keras.layers.Dense(
        num_classes, kernel_initializer="lecun_uniform", dtype="float32", name=name
    )(x)
