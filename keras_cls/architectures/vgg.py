"""VGG (Simonyan and Zisserman 2014, arXiv 1409.1556): its columns D and E."""

from dataclasses import dataclass

import keras

from keras_cls.architectures._registry import register
from keras_cls.architectures.blocks import fully_connected
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

PAPER = Paper(
    title="Very Deep Convolutional Networks for Large-Scale Image Recognition",
    authors="Simonyan, Zisserman",
    year=2014,
    url="https://arxiv.org/abs/1409.1556",
)

NEWS = (
    "Nothing but 3x3 convolutions, stacked two to four deep between poolings: two of them see what "
    "one 5x5 sees, with fewer weights and one rectifier more. Depth itself made the difference, "
    "and the features became everybody's starting point."
)

WIDTHS = (64, 128, 256, 512, 512)


@dataclass(frozen=True, kw_only=True)
class VGGSpec(ModelSpec):
    """A column of the paper's Table 1: how many convolutions precede each pooling."""

    convolutions: tuple[int, int, int, int, int]


def _vgg_spec(
    convolutions: tuple[int, int, int, int, int],
    params: int,
    multiply_adds: int,
    reported: tuple[ReportedError, ...] = (),
) -> VGGSpec:
    return VGGSpec(
        name=f"vgg{sum(convolutions) + 3}",
        family="vgg",
        paper=PAPER,
        news=NEWS,
        input_shape=(224, 224, 3),
        min_size=(32, 32),
        num_classes=1000,
        params_trainable=params,
        params_total=params,
        multiply_adds=multiply_adds,
        # As torchvision's weights expect; the authors' own are for BGR at 0..255 less the mean.
        preprocessing=Preprocessing(),
        endpoints=(*(f"conv{block}_{n}" for block, n in enumerate(convolutions, 1)), "pool5"),
        convolutions=convolutions,
        reported=(
            # Equal for both, in the paper's table.
            ReportedError(
                "paper_best",
                "ImageNet validation, one network, dense evaluation at three scales",
                24.8,
                7.5,
                "paper, table 4",
                views=Views("dense", (256, 384, 512)),
            ),
            *reported,
            ReportedError(
                "paper_best",
                "ImageNet validation, VGG16 and VGG19 together, many crops and dense evaluation",
                23.7,
                6.8,
                "paper, table 6",
            ),
        ),
        review=ReviewFigure(
            7.3, "the submission to ILSVRC 2014: seven networks, dense evaluation, test images"
        ),
        deviations=(
            "fc6 is a convolution over the whole 7x7 map; on larger inputs it runs at each "
            "position and fc7 is averaged (the paper's dense evaluation), on smaller ones its "
            "kernel is as small as the map.",
            "Dropout of one half follows fc6 and fc7, as in the paper; keras.applications has "
            "none.",
            "Weights start He-normal (2015), from which this depth trains at once; the paper "
            "trained its shallow column A first and began the deeper ones with its layers.",
        ),
    )


_TORCHVISION = "torchvision's weights, timm's results-imagenet.csv"
_SLIM = "TF-slim's weights, the table of its README"
_KERAS = "keras.applications, the table of keras-applications' README"


def _release(top1: float, top5: float, source: str) -> ReportedError:
    return ReportedError(
        "release", "ImageNet validation, one crop", top1, top5, source, views=Views()
    )


VGGS = (
    _vgg_spec(
        (2, 2, 3, 3, 3),
        138_357_544,
        15_470_264_320,
        (
            _release(28.408, 9.616, _TORCHVISION),
            _release(28.5, 10.2, _SLIM),
            _release(28.732, 9.950, _KERAS),
        ),
    ),
    _vgg_spec(
        (2, 2, 4, 4, 4),
        143_667_240,
        19_632_062_464,
        (
            _release(27.622, 9.126, _TORCHVISION),
            _release(28.9, 10.2, _SLIM),
            _release(28.744, 10.012, _KERAS),
        ),
    ),
)


@register(*VGGS)
def vgg(images: Tensor, spec: VGGSpec, num_classes: int) -> Network:
    """[N, H, W, C] -> logits [N, num_classes]; the layers bear the names of the release."""
    endpoints = {}
    x = images
    for block, (convolutions, width) in enumerate(zip(spec.convolutions, WIDTHS, strict=True), 1):
        for number in range(1, convolutions + 1):
            x = keras.layers.Conv2D(
                width,
                3,
                padding="same",
                activation="relu",
                kernel_initializer="he_normal",
                name=f"conv{block}_{number}",
            )(x)
        endpoints[f"conv{block}_{convolutions}"] = x
        x = keras.layers.MaxPooling2D(2, name=f"pool{block}")(x)
    endpoints["pool5"] = x
    for name, side in (("fc6", 7), ("fc7", 1)):
        x = fully_connected(x, 4096, side, name, kernel_initializer="he_normal")
        x = keras.layers.Dropout(0.5, name=name.replace("fc", "drop"))(x)
    x = keras.layers.GlobalAveragePooling2D(name="fc7_pool")(x)
    logits = keras.layers.Dense(num_classes, dtype="float32", name=spec.head)(x)
    return Network(logits, endpoints)
