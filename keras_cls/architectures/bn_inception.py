"""BN-Inception (Ioffe & Szegedy 2015, arXiv 1502.03167), and with squeeze-and-excitation.

The layers bear the names of the release in Caffe: ``inception_3a_double_3x3_reduce``.
"""

from dataclasses import dataclass, replace
from typing import Literal

import keras

from keras_cls.architectures._registry import register
from keras_cls.architectures.layers import BatchNormalization
from keras_cls.architectures.spec import (
    ModelSpec,
    Network,
    Paper,
    ReportedError,
    Tensor,
    Views,
)
from keras_cls.architectures.squeeze_excite import squeeze_excite
from keras_cls.preprocessing import Preprocessing


@dataclass(frozen=True)
class Module:
    """A row of the paper's Figure 5: filters, the reducing 1x1 convolution's first.

    A module without ``projection`` passes its pooling through and halves the map.
    """

    name: str
    conv_1x1: int | None
    conv_3x3: tuple[int, int]
    double_3x3: tuple[int, int]
    pool: Literal["average", "max"]
    projection: int | None


# Figure 5.
MODULES = (
    Module("inception_3a", 64, (64, 64), (64, 96), "average", 32),
    Module("inception_3b", 64, (64, 96), (64, 96), "average", 64),
    Module("inception_3c", None, (128, 160), (64, 96), "max", None),
    Module("inception_4a", 224, (64, 96), (96, 128), "average", 128),
    Module("inception_4b", 192, (96, 128), (96, 128), "average", 128),
    Module("inception_4c", 160, (128, 160), (128, 160), "average", 128),
    Module("inception_4d", 96, (128, 192), (160, 192), "average", 128),
    Module("inception_4e", None, (128, 192), (192, 256), "max", None),
    Module("inception_5a", 352, (192, 320), (160, 224), "average", 128),
    Module("inception_5b", 352, (192, 320), (192, 224), "max", 128),
)


@dataclass(frozen=True, kw_only=True)
class BNInceptionSpec(ModelSpec):
    """The modules, and by how much squeeze-and-excitation after each reduces its channels."""

    modules: tuple[Module, ...] = MODULES
    se_reduction: int | None = None


BN_INCEPTION = BNInceptionSpec(
    name="bn_inception",
    family="bn_inception",
    paper=Paper(
        title=(
            "Batch Normalization: Accelerating Deep Network Training by Reducing Internal "
            "Covariate Shift"
        ),
        authors="Ioffe, Szegedy",
        year=2015,
        url="https://arxiv.org/abs/1502.03167",
    ),
    news=(
        "Each layer's input is normalized by the statistics of its batch, and scaled and shifted "
        "by what is learned. GoogLeNet so changed reached its accuracy in a fourteenth of the "
        "steps, without dropout, and then surpassed it."
    ),
    input_shape=(224, 224, 3),
    min_size=(32, 32),
    num_classes=1000,
    params_trainable=11_285_224,
    params_total=11_305_256,
    multiply_adds=2_032_600_064,
    # The release in Caffe: grey levels less the mean colour. Its channels are BGR: whoever imports
    # its weights turns the first kernel round.
    preprocessing=Preprocessing(mean=(128 / 255, 117 / 255, 104 / 255), std=(1 / 255,) * 3),
    endpoints=("conv1_7x7_s2", "conv2_3x3", "inception_3b", "inception_4d", "inception_5b"),
    reported=(
        ReportedError(
            "paper_single",
            "ImageNet validation, one network, one crop",
            25.2,
            7.82,
            "paper, figure 4",
            views=Views(),
        ),
        ReportedError(
            "paper_best",
            "ImageNet validation, one network, 144 crops",
            21.99,
            5.82,
            "paper, figure 4",
            views=Views(144),
        ),
        ReportedError(
            "paper_best",
            "ImageNet validation, six networks, 144 crops",
            20.1,
            4.9,
            "paper, figure 4",
        ),
        ReportedError(
            "paper_best",
            "ImageNet test, six networks, 144 crops",
            None,
            4.82,
            "paper, figure 4",
        ),
        ReportedError(
            "release",
            "ImageNet validation, one crop; the variant with a separable first convolution",
            26.1,
            8.2,
            "TF-slim's weights (inception_v2), the table of its README",
        ),
        ReportedError(
            "release",
            "ImageNet validation, one crop, trained anew",
            25.38,
            7.89,
            "squeeze-and-excitation's paper, arXiv 1709.01507, table 2",
            views=Views(),
        ),
    ),
    deviations=(
        "The first convolution is a full 7x7, as in the release in Caffe. TF-slim, which calls "
        "this network inception_v2, has a separable one; its modules 4c and 4d project to 96.",
        "The paper's text counts 13.6 million parameters, more than the rows of its Figure 5 give.",
        "Modules 4c and 4d have 608 channels and 4e has 1056, the sums of their branches; the "
        "figure's output sizes have 576 and 1024.",
        "No convolution has a bias; the release has one before each batch normalization, without "
        "effect.",
        "Stride-2 convolutions pad equally on all sides, averages count what is padded, and the "
        "two poolings of the stem round up, as in Caffe. Poolings inside modules fit the "
        "convolutions beside them at odd sizes too, where Caffe could not build the network.",
    ),
)

SE_BN_INCEPTION = replace(
    BN_INCEPTION,
    name="se_bn_inception",
    paper=Paper(
        title="Squeeze-and-Excitation Networks",
        authors="Hu, Shen, Albanie, Sun, Wu",
        year=2017,
        url="https://arxiv.org/abs/1709.01507",
    ),
    news=(
        "After each module the network looks at the average of every channel and decides how much "
        "of each to let through. Six percent more parameters and hardly any computation make "
        "BN-Inception clearly better."
    ),
    params_trainable=11_931_622,
    params_total=11_951_654,
    multiply_adds=2_033_239_424,
    # The release in Caffe, as above with another mean.
    preprocessing=Preprocessing(mean=(123 / 255, 117 / 255, 104 / 255), std=(1 / 255,) * 3),
    se_reduction=16,
    reported=(
        ReportedError(
            "release",
            "ImageNet validation, one crop",
            23.62,
            7.04,
            "the authors' weights in Caffe, the table of hujie-frank/SENet's README",
            views=Views(),
        ),
    ),
    deviations=(
        "Squeeze-and-excitation follows all ten modules, those that halve the map as well; the "
        "release's size fits that.",
        *BN_INCEPTION.deviations,
    ),
)


@register(BN_INCEPTION, SE_BN_INCEPTION)
def bn_inception(images: Tensor, spec: BNInceptionSpec, num_classes: int) -> Network:
    """[N, H, W, C] -> logits [N, num_classes]."""
    maps = {}
    x = maps["conv1_7x7_s2"] = _convolution(images, 64, 7, 2, name="conv1_7x7_s2")
    x = _pool_rounding_up(x, name="pool1_3x3_s2")
    x = _convolution(x, 64, 1, 1, name="conv2_3x3_reduce")
    x = maps["conv2_3x3"] = _convolution(x, 192, 3, 1, name="conv2_3x3")
    x = _pool_rounding_up(x, name="pool2_3x3_s2")
    for module in spec.modules:
        x = _module(x, module)
        if spec.se_reduction is not None:
            x = squeeze_excite(x, spec.se_reduction, name=f"{module.name}_se")
        maps[module.name] = x
    x = keras.layers.GlobalAveragePooling2D(name="global_pool")(x)
    logits = keras.layers.Dense(num_classes, dtype="float32", name=spec.head)(x)
    return Network(logits, {name: maps[name] for name in spec.endpoints})


def _module(x: Tensor, module: Module) -> Tensor:
    """[N, H, W, C] -> [N, H, W, filters]; H / 2, W / 2 (rounded up) where nothing is projected."""
    name = module.name
    stride = 1 if module.projection is not None else 2
    branches = []
    if module.conv_1x1 is not None:
        branches.append(_convolution(x, module.conv_1x1, 1, 1, name=f"{name}_1x1"))

    reduced, filters = module.conv_3x3
    branch = _convolution(x, reduced, 1, 1, name=f"{name}_3x3_reduce")
    branches.append(_convolution(branch, filters, 3, stride, name=f"{name}_3x3"))

    reduced, filters = module.double_3x3
    branch = _convolution(x, reduced, 1, 1, name=f"{name}_double_3x3_reduce")
    branch = _convolution(branch, filters, 3, 1, name=f"{name}_double_3x3_1")
    branches.append(_convolution(branch, filters, 3, stride, name=f"{name}_double_3x3_2"))

    branch = _POOLS[module.pool](x, stride, f"{name}_pool")
    if module.projection is not None:
        branch = _convolution(branch, module.projection, 1, 1, name=f"{name}_pool_proj")
    return keras.layers.Concatenate(name=name)([*branches, branch])


def _average_pool(x: Tensor, stride: int, name: str) -> Tensor:
    """Zeros around the map count as pixels, as in Caffe; Keras' own padding does not count."""
    x = keras.layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    return keras.layers.AveragePooling2D(3, stride, name=name)(x)


def _max_pool(x: Tensor, stride: int, name: str) -> Tensor:
    return keras.layers.MaxPooling2D(3, stride, padding="same", name=name)(x)


_POOLS = {"average": _average_pool, "max": _max_pool}


def _pool_rounding_up(x: Tensor, name: str) -> Tensor:
    """Caffe's and PyTorch's ceil_mode: the last window may look over the edge.

    Padding with zero is padding with minus infinity here: nothing is negative after the ReLU.
    """
    x = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{name}_pad")(x)
    return keras.layers.MaxPooling2D(3, 2, name=name)(x)


def _convolution(x: Tensor, filters: int, kernel: int, stride: int, name: str) -> Tensor:
    """A convolution without bias, batch normalization as in the release, and a ReLU."""
    if stride > 1:
        x = keras.layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
    x = keras.layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        padding="valid" if stride > 1 else "same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)
    x = BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)
