"""Network in network (Lin et al. 2013, arXiv 1312.4400), wired as the authors' Caffe models."""

from dataclasses import dataclass
from typing import Literal

import keras

from keras_cls.architectures._registry import register
from keras_cls.architectures.blocks import max_pool_ceil
from keras_cls.architectures.spec import (
    ModelSpec,
    Network,
    Paper,
    ReportedError,
    Tensor,
    Views,
)
from keras_cls.preprocessing import Preprocessing

PAPER = Paper(
    title="Network In Network",
    authors="Lin, Chen, Yan",
    year=2013,
    url="https://arxiv.org/abs/1312.4400",
)

NEWS = (
    "After each convolution a small network of 1x1 convolutions looks at every position, and the "
    "last one's maps, averaged, are the classes: no dense layers are left to overfit. Nearly every "
    "later network has taken over both."
)


@dataclass(frozen=True)
class MLPConv:
    """A convolution and its 1x1 convolutions, then a pooling.

    Attributes:
        widths: maps of each convolution; None is the number of classes.
        kernel: the first one's; the others' is 1.
        deviations: of the normal distributions that the weights start from, as in the release.
        stride: the first one's.
        pooling: 3x3 every 2 pixels, or none.
    """

    widths: tuple[int | None, int | None, int | None]
    kernel: int
    deviations: tuple[float, float, float]
    stride: int = 1
    pooling: Literal["max", "average"] | None = None


@dataclass(frozen=True, kw_only=True)
class NINSpec(ModelSpec):
    """The blocks, and after which of them half the numbers are dropped, counted from 1.

    ``head`` is the last 1x1 convolution: its maps, averaged, are the logits. Its kernel and bias
    have the classes in their last axis, as a dense layer's.
    """

    blocks: tuple[MLPConv, ...]
    dropout_after: tuple[int, ...]


_MAPS_ARE_THE_LOGITS = (
    "The last 1x1 convolution has a rectifier too, as in the paper and the release: logits are "
    "not negative.",
    "Pooling windows may reach beyond the end, as in Caffe.",
)

NIN = NINSpec(
    name="nin",
    family="nin",
    paper=PAPER,
    news=NEWS,
    input_shape=(224, 224, 3),
    min_size=(39, 39),
    num_classes=1000,
    params_trainable=7_595_176,
    params_total=7_595_176,
    multiply_adds=1_100_188_800,
    # The release subtracts a mean image in BGR and leaves the scale at 0..255.
    preprocessing=Preprocessing(std=(1 / 255,) * 3),
    endpoints=("cccp2", "cccp4", "cccp6", "cccp7"),
    head="cccp8",
    blocks=(
        MLPConv((96, 96, 96), 11, (0.01, 0.05, 0.05), stride=4, pooling="max"),
        MLPConv((256, 256, 256), 5, (0.05, 0.05, 0.05), pooling="max"),
        MLPConv((384, 384, 384), 3, (0.01, 0.05, 0.05), pooling="max"),
        MLPConv((1024, 1024, None), 3, (0.05, 0.05, 0.01)),
    ),
    dropout_after=(3,),
    reported=(
        ReportedError(
            "release",
            "ImageNet validation",
            40.6,
            None,
            "Caffe model zoo, about",
            recalled=True,
        ),
    ),
    deviations=(
        *_MAPS_ARE_THE_LOGITS,
        "The paper has no network for ImageNet; this is the authors' model in the Caffe zoo, "
        "which crops 224 pixels in training and gives the same maps at 227.",
        "The mean of each colour is subtracted, not the mean image.",
    ),
)

NIN_CIFAR10 = NINSpec(
    name="nin_cifar10",
    family="nin",
    paper=PAPER,
    news=NEWS,
    input_shape=(32, 32, 3),
    min_size=(8, 8),
    num_classes=10,
    params_trainable=966_986,
    params_total=966_986,
    multiply_adds=222_486_528,
    preprocessing=Preprocessing(size=(32, 32), resize="squash", crop=1.0),
    endpoints=("cccp2", "cccp4", "cccp5"),
    head="cccp6",
    blocks=(
        MLPConv((192, 160, 96), 5, (0.05, 0.05, 0.05), pooling="max"),
        MLPConv((192, 192, 192), 5, (0.05, 0.05, 0.05), pooling="average"),
        MLPConv((192, 192, None), 3, (0.05, 0.05, 0.05)),
    ),
    dropout_after=(1, 2),
    reported=(
        ReportedError(
            "paper_single", "CIFAR-10 test", 10.41, None, "paper, table 1", views=Views()
        ),
        ReportedError(
            "paper_best",
            "CIFAR-10 test, trained with shifted and mirrored images",
            8.81,
            None,
            "paper, table 1",
            views=Views(),
        ),
    ),
    deviations=(
        *_MAPS_ARE_THE_LOGITS,
        "The paper whitens the images (global contrast, ZCA); here they are scaled with "
        "ImageNet's mean and deviation.",
        "The average pooling pads odd sides on both ends, unlike Caffe: on 32x32 there are none.",
    ),
)


@register(NIN, NIN_CIFAR10)
def nin(images: Tensor, spec: NINSpec, num_classes: int) -> Network:
    """[N, H, W, C] -> logits [N, num_classes]; the layers bear the names of the release."""
    maps = {}
    x = images
    for number, block in enumerate(spec.blocks, 1):
        # The release counts the 1x1 convolutions (cccp) through: two a block.
        names = (f"conv{number}", f"cccp{2 * number - 1}", f"cccp{2 * number}")
        for place, name in enumerate(names):
            x = maps[name] = _convolution(x, block, place, num_classes, name, name == spec.head)
        if block.pooling == "max":
            x = max_pool_ceil(x, name=f"pool{number}")
        elif block.pooling == "average":
            x = keras.layers.AveragePooling2D(3, 2, padding="same", name=f"pool{number}")(x)
        if number in spec.dropout_after:
            x = keras.layers.Dropout(0.5, name=f"drop{number}")(x)
    logits = keras.layers.GlobalAveragePooling2D(dtype="float32", name=f"pool{number}")(x)
    return Network(logits, {name: maps[name] for name in spec.endpoints})


def _convolution(
    x: Tensor, block: MLPConv, place: int, num_classes: int, name: str, is_head: bool
) -> Tensor:
    deviation = block.deviations[place]
    return keras.layers.Conv2D(
        block.widths[place] or num_classes,
        block.kernel if place == 0 else 1,
        strides=block.stride if place == 0 else 1,
        padding="same" if block.stride == 1 else "valid",
        activation="relu",
        kernel_initializer=keras.initializers.RandomNormal(stddev=deviation),
        dtype="float32" if is_head else None,
        name=name,
    )(x)
