"""ResNet for ImageNet (He et al. 2015, arXiv 1512.03385), and the units that its heirs build on.

Two sets of the deeper networks: ``resnet50`` with the later releases' stride on the 3x3
convolution, ``resnet50_v1`` with the paper's on the first 1x1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import keras

from keras_cls.architectures._registry import register
from keras_cls.architectures.layers import BatchNormalization, GroupedConv2D
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
    title="Deep Residual Learning for Image Recognition",
    authors="He, Zhang, Ren, Sun",
    year=2015,
    url="https://arxiv.org/abs/1512.03385",
)

NEWS = (
    "Layers learn what to add to their input instead of what to replace it with, through shortcuts "
    "that cost nothing. Networks of more than a hundred layers became trainable, and better."
)


@dataclass(frozen=True)
class Unit:
    """The convolutions of a residual unit (the paper's Figure 5), first to last."""

    kernels: tuple[int, ...]
    widths: tuple[int, ...]  # in multiples of the stage's width
    strided: int  # which convolution bears the unit's stride, counted from 1
    groups: int = 1  # of the convolutions with a kernel larger than 1x1


BASIC = Unit(kernels=(3, 3), widths=(1, 1), strided=1)
BOTTLENECK = Unit(kernels=(1, 3, 1), widths=(1, 1, 4), strided=2)
BOTTLENECK_OF_THE_PAPER = replace(BOTTLENECK, strided=1)

# Units in conv2_x to conv5_x, by the number of layers in bottlenecks.
UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


@dataclass(frozen=True, kw_only=True)
class ResNetSpec(ModelSpec):
    """A column of the paper's Table 1: the unit, and how many of it conv2_x to conv5_x have."""

    unit: Unit
    units: tuple[int, int, int, int]


_VALIDATION = "ImageNet validation, one crop"


def _resnet_spec(
    name: str,
    unit: Unit,
    units: tuple[int, int, int, int],
    params: tuple[int, int],
    multiply_adds: int,
    reported: tuple[ReportedError, ...] = (),
    review: ReviewFigure | None = None,
    deviations: tuple[str, ...] = (),
) -> ResNetSpec:
    return ResNetSpec(
        name=name,
        family="resnet",
        paper=PAPER,
        news=NEWS,
        input_shape=(224, 224, 3),
        min_size=(32, 32),
        num_classes=1000,
        params_trainable=params[0],
        params_total=params[1],
        multiply_adds=multiply_adds,
        preprocessing=Preprocessing(),
        endpoints=ENDPOINTS,
        unit=unit,
        units=units,
        reported=reported,
        review=review,
        deviations=(
            *deviations,
            "Stride-2 convolutions and the pooling pad equally on all sides, as the releases in "
            "Caffe and PyTorch do, not as TensorFlow's SAME.",
            "The last scale (gamma) of a unit starts at one, as in the paper; starting it at zero "
            "is a later recipe.",
        ),
    )


def _torchvision(top1: float, top5: float) -> ReportedError:
    source = "torchvision's weights, table in its documentation before 0.13"
    return ReportedError("release", _VALIDATION, top1, top5, source, views=Views())


def _authors(top1: float, top5: float) -> ReportedError:
    source = "github.com/KaimingHe/deep-residual-networks, README"
    return ReportedError("release", _VALIDATION, top1, top5, source, views=Views())


def _keras(top1: float, top5: float) -> ReportedError:
    source = "keras.applications, the table of keras-applications' README"
    return ReportedError("release", _VALIDATION, top1, top5, source, views=Views())


def _ten_crops(top1: float, top5: float) -> ReportedError:
    return ReportedError(
        "paper_best",
        "ImageNet validation, one network, ten crops",
        top1,
        top5,
        "paper, table 3",
        views=Views("10 of the whole image"),
    )


def _dense(top1: float, top5: float) -> ReportedError:
    return ReportedError(
        "paper_best",
        "ImageNet validation, one network, fully convolutional on five scales",
        top1,
        top5,
        "paper, table 4",
        views=Views("dense", (224, 256, 384, 480, 640)),
    )


ENDPOINTS = ("conv1", "conv2_x", "conv3_x", "conv4_x", "conv5_x")

_STRIDE_ON_THE_3X3 = (
    "The paper's bottleneck has its stride on the first 1x1 convolution; torchvision and timm "
    "have it on the 3x3, more accurate for 6 % more multiply-adds: so does this network. The "
    "paper's is the network of the same name with _v1.",
)
_STRIDE_ON_THE_1X1 = (
    "The stride is on the first 1x1 convolution, as in the paper, its release in Caffe and "
    "keras.applications; TF-slim has it in the last unit of a stage.",
    "Convolutions have no bias; keras.applications has one before each batch normalization, "
    "without effect.",
)

RESNETS = (
    _resnet_spec(
        "resnet18",
        BASIC,
        (2, 2, 2, 2),
        (11_689_512, 11_699_112),
        1_814_073_344,
        (_torchvision(30.24, 10.92),),
    ),
    _resnet_spec(
        "resnet34",
        BASIC,
        (3, 4, 6, 3),
        (21_797_672, 21_814_696),
        3_663_761_408,
        (_ten_crops(24.52, 7.46), _dense(21.84, 5.71), _torchvision(26.70, 8.58)),
    ),
    _resnet_spec(
        "resnet50",
        BOTTLENECK,
        UNITS[50],
        (25_557_032, 25_610_152),
        4_089_184_256,
        (_torchvision(23.85, 7.13),),
        deviations=_STRIDE_ON_THE_3X3,
    ),
    _resnet_spec(
        "resnet101",
        BOTTLENECK,
        UNITS[101],
        (44_549_160, 44_654_504),
        7_801_405_440,
        (_torchvision(22.63, 6.44),),
        deviations=_STRIDE_ON_THE_3X3,
    ),
    _resnet_spec(
        "resnet152",
        BOTTLENECK,
        UNITS[152],
        (60_192_808, 60_344_232),
        11_513_626_624,
        (_torchvision(21.69, 5.94),),
        deviations=_STRIDE_ON_THE_3X3,
    ),
    _resnet_spec(
        "resnet50_v1",
        BOTTLENECK_OF_THE_PAPER,
        UNITS[50],
        (25_557_032, 25_610_152),
        3_857_973_248,
        (
            _ten_crops(22.85, 6.71),
            _dense(20.74, 5.25),
            _authors(24.7, 7.8),
            _keras(25.072, 7.940),
        ),
        deviations=_STRIDE_ON_THE_1X1,
    ),
    _resnet_spec(
        "resnet101_v1",
        BOTTLENECK_OF_THE_PAPER,
        UNITS[101],
        (44_549_160, 44_654_504),
        7_570_194_432,
        (
            _ten_crops(21.75, 6.05),
            _dense(19.87, 4.60),
            _authors(23.6, 7.1),
            _keras(23.580, 7.214),
        ),
        deviations=_STRIDE_ON_THE_1X1,
    ),
    _resnet_spec(
        "resnet152_v1",
        BOTTLENECK_OF_THE_PAPER,
        UNITS[152],
        (60_192_808, 60_344_232),
        11_282_415_616,
        (
            _ten_crops(21.43, 5.71),
            _dense(19.38, 4.49),
            ReportedError(
                "paper_best",
                "ImageNet test, six networks, fully convolutional on several scales",
                None,
                3.57,
                "paper, abstract and table 5",
            ),
            _authors(23.0, 6.7),
            _keras(23.396, 6.882),
        ),
        review=ReviewFigure(
            3.57,
            "An ensemble of six networks on the test images, the winner of ILSVRC 2015. 4.49, "
            "quoted as well, is one network on the validation images, but on many scales.",
        ),
        deviations=_STRIDE_ON_THE_1X1,
    ),
)


@register(*RESNETS)
def resnet(images: Tensor, spec: ResNetSpec, num_classes: int) -> Network:
    """[N, H, W, C] -> logits [N, num_classes]; endpoints and units bear the paper's names."""
    x = convolution(images, 64, 7, 2, name="conv1")
    conv1 = keras.layers.ReLU(name="conv1_relu")(x)
    # Padding with zero is padding with minus infinity here: nothing is negative after the ReLU.
    x = keras.layers.ZeroPadding2D(1, name="pool1_pad")(conv1)
    x = keras.layers.MaxPooling2D(3, 2, name="pool1")(x)
    stages = residual_stages(x, spec.unit, spec.units, projection)
    x = keras.layers.GlobalAveragePooling2D(name="pool5")(stages["conv5_x"])
    return Network(head(x, num_classes, spec.head), {"conv1": conv1, **stages})


# (x, filters, stride, name) -> what is added to the unit's last convolution.
Shortcut = Callable[[Tensor, int, int, str], Tensor]
# (x, name=...) -> the unit's last convolution weighted, before the shortcut is added.
Gate = Callable[..., Tensor]


def residual_stages(
    x: Tensor, unit: Unit, units: Sequence[int], shortcut: Shortcut, gate: Gate | None = None
) -> dict[str, Tensor]:
    """conv2_x to conv5_x; each but the first halves the map in its first unit."""
    stages = {}
    for stage, count in enumerate(units, start=2):
        width = 64 * 2 ** (stage - 2)
        for number in range(1, count + 1):
            stride = 2 if stage > 2 and number == 1 else 1
            x = residual_unit(x, unit, width, stride, shortcut, f"conv{stage}_{number}", gate)
        stages[f"conv{stage}_x"] = x
    return stages


def residual_unit(
    x: Tensor,
    unit: Unit,
    width: int,
    stride: int,
    shortcut: Shortcut | None,
    name: str,
    gate: Gate | None = None,
) -> Tensor:
    """The unit's convolutions, the shortcut added (none in a plain network), and a ReLU."""
    residual = x
    last = len(unit.kernels)
    for number, (kernel, multiple) in enumerate(zip(unit.kernels, unit.widths, strict=True), 1):
        residual = convolution(
            residual,
            width * multiple,
            kernel,
            stride if number == unit.strided else 1,
            name=f"{name}_conv{number}",
            groups=unit.groups if kernel > 1 else 1,
        )
        if number < last:
            residual = keras.layers.ReLU(name=f"{name}_conv{number}_relu")(residual)
    if gate is not None:
        residual = gate(residual, name=f"{name}_se")
    if shortcut is not None:
        added = shortcut(x, width * unit.widths[-1], stride, f"{name}_shortcut")
        residual = keras.layers.Add(name=f"{name}_add")([residual, added])
    return keras.layers.ReLU(name=f"{name}_relu")(residual)


def projection(x: Tensor, filters: int, stride: int, name: str, strided_kernel: int = 1) -> Tensor:
    """Option B: a 1x1 convolution where the shape changes, else the identity."""
    if stride == 1 and x.shape[-1] == filters:
        return x
    return convolution(x, filters, strided_kernel if stride > 1 else 1, stride, name)


def convolution(
    x: Tensor, filters: int, kernel: int, stride: int, name: str, groups: int = 1
) -> Tensor:
    """A convolution without bias and its batch normalization."""
    x = bare_convolution(x, filters, kernel, stride, name, groups, use_bias=False)
    return normalization(x, f"{name}_bn")


def bare_convolution(
    x: Tensor,
    filters: int,
    kernel: int,
    stride: int,
    name: str,
    groups: int = 1,
    use_bias: bool = True,
) -> Tensor:
    """A convolution that pads equally on all sides; the He-normal weights are the paper's."""
    if stride > 1 and kernel > 1:
        x = keras.layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
    kind = keras.layers.Conv2D if groups == 1 else GroupedConv2D
    return kind(
        filters,
        kernel,
        strides=stride,
        padding="valid" if stride > 1 else "same",
        groups=groups,
        use_bias=use_bias,
        kernel_initializer="he_normal",
        name=name,
    )(x)


def normalization(x: Tensor, name: str) -> Tensor:
    """Batch normalization; epsilon is Caffe's and Torch's, momentum Torch's (0.1 there)."""
    return BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def head(x: Tensor, num_classes: int, name: str) -> Tensor:
    """[N, C] -> logits [N, num_classes], float32 in any precision."""
    return keras.layers.Dense(
        num_classes, kernel_initializer="he_normal", dtype="float32", name=name
    )(x)
