"""ResNet for ImageNet (He et al. 2015), with the releases' stride on the 3x3 convolution."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import keras

from keras_cls.architectures._registry import register
from keras_cls.architectures.spec import ModelSpec, Network, Paper, ReportedError, Tensor
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


BASIC = Unit(kernels=(3, 3), widths=(1, 1), strided=1)
BOTTLENECK = Unit(kernels=(1, 3, 1), widths=(1, 1, 4), strided=2)
BOTTLENECK_OF_THE_PAPER = replace(BOTTLENECK, strided=1)


@dataclass(frozen=True, kw_only=True)
class ResNetSpec(ModelSpec):
    """A column of the paper's Table 1: the unit, and how many of it conv2_x to conv5_x have."""

    unit: Unit
    units: tuple[int, int, int, int]


def _resnet_spec(
    depth: int,
    unit: Unit,
    units: tuple[int, int, int, int],
    params: tuple[int, int],
    multiply_adds: int,
    torchvision_errors: tuple[float, float],
    deviations: tuple[str, ...] = (),
) -> ResNetSpec:
    return ResNetSpec(
        name=f"resnet{depth}",
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
        endpoints=("conv1", "conv2_x", "conv3_x", "conv4_x", "conv5_x"),
        unit=unit,
        units=units,
        reported=(
            ReportedError(
                "release",
                "ImageNet validation, one crop",
                *torchvision_errors,
                source="torchvision's weights, table in its documentation before 0.13",
            ),
        ),
        deviations=(
            *deviations,
            "Stride-2 convolutions and the pooling pad equally on all sides, as the releases in "
            "Caffe and PyTorch do, not as TensorFlow's SAME.",
            "The last scale (gamma) of a unit starts at one, as in the paper; starting it at zero "
            "is a later recipe.",
        ),
    )


_STRIDE_ON_THE_3X3 = (
    "The paper's bottleneck has its stride on the first 1x1 convolution; torchvision and timm "
    "have it on the 3x3, more accurate for 6 % more multiply-adds: so does this network.",
)

RESNETS = (
    _resnet_spec(18, BASIC, (2, 2, 2, 2), (11_689_512, 11_699_112), 1_814_073_344, (30.24, 10.92)),
    _resnet_spec(34, BASIC, (3, 4, 6, 3), (21_797_672, 21_814_696), 3_663_761_408, (26.70, 8.58)),
    _resnet_spec(
        50,
        BOTTLENECK,
        (3, 4, 6, 3),
        (25_557_032, 25_610_152),
        4_089_184_256,
        (23.85, 7.13),
        _STRIDE_ON_THE_3X3,
    ),
    _resnet_spec(
        101,
        BOTTLENECK,
        (3, 4, 23, 3),
        (44_549_160, 44_654_504),
        7_801_405_440,
        (22.63, 6.44),
        _STRIDE_ON_THE_3X3,
    ),
    _resnet_spec(
        152,
        BOTTLENECK,
        (3, 8, 36, 3),
        (60_192_808, 60_344_232),
        11_513_626_624,
        (21.69, 5.94),
        _STRIDE_ON_THE_3X3,
    ),
)


@register(*RESNETS)
def resnet(images: Tensor, spec: ResNetSpec, num_classes: int) -> Network:
    """[N, H, W, C] -> logits [N, num_classes]; endpoints and units bear the paper's names."""
    endpoints = {}
    x = convolution(images, 64, 7, 2, name="conv1")
    x = endpoints["conv1"] = keras.layers.ReLU(name="conv1_relu")(x)
    # Padding with zero is padding with minus infinity here: nothing is negative after the ReLU.
    x = keras.layers.ZeroPadding2D(1, name="pool1_pad")(x)
    x = keras.layers.MaxPooling2D(3, 2, name="pool1")(x)
    for stage, units in enumerate(spec.units, start=2):
        width = 64 * 2 ** (stage - 2)
        for number in range(1, units + 1):
            stride = 2 if stage > 2 and number == 1 else 1
            x = residual_unit(x, spec.unit, width, stride, projection, name=f"conv{stage}_{number}")
        endpoints[f"conv{stage}_x"] = x
    x = keras.layers.GlobalAveragePooling2D(name="pool5")(x)
    logits = keras.layers.Dense(
        num_classes, kernel_initializer="he_normal", dtype="float32", name=spec.head
    )(x)
    return Network(logits, endpoints)


# (x, filters, stride, name) -> what is added to the unit's last convolution.
Shortcut = Callable[[Tensor, int, int, str], Tensor]


def residual_unit(
    x: Tensor, unit: Unit, width: int, stride: int, shortcut: Shortcut | None, name: str
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
        )
        if number < last:
            residual = keras.layers.ReLU(name=f"{name}_conv{number}_relu")(residual)
    if shortcut is not None:
        added = shortcut(x, width * unit.widths[-1], stride, f"{name}_shortcut")
        residual = keras.layers.Add(name=f"{name}_add")([residual, added])
    return keras.layers.ReLU(name=f"{name}_relu")(residual)


def projection(x: Tensor, filters: int, stride: int, name: str) -> Tensor:
    """Option B: a 1x1 convolution where the shape changes, else the identity."""
    if stride == 1 and x.shape[-1] == filters:
        return x
    return convolution(x, filters, 1, stride, name)


def convolution(x: Tensor, filters: int, kernel: int, stride: int, name: str) -> Tensor:
    """A convolution without bias and its batch normalization.

    He-normal weights and a batch normalization after every convolution are the paper's; epsilon
    1e-5 is Caffe's and PyTorch's, momentum 0.9 PyTorch's (written there as 0.1).
    """
    if stride > 1 and kernel > 1:
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
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)
