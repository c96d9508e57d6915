"""ResNet with pre-activation (He et al. 2016, arXiv 1603.05027), as TF-slim and Keras build it."""

from dataclasses import dataclass

import keras

from keras_cls.architectures._registry import register
from keras_cls.architectures.resnet import (
    ENDPOINTS,
    UNITS,
    bare_convolution,
    convolution,
    head,
    normalization,
)
from keras_cls.architectures.spec import ModelSpec, Network, Paper, ReportedError, Tensor, Views
from keras_cls.preprocessing import Preprocessing

PAPER = Paper(
    title="Identity Mappings in Deep Residual Networks",
    authors="He, Zhang, Ren, Sun",
    year=2016,
    url="https://arxiv.org/abs/1603.05027",
)

NEWS = (
    "Normalization and ReLU moved in front of the convolutions, so that nothing but additions lies "
    "on the path from unit to unit. A signal passes it unchanged in both directions, and networks "
    "of a thousand layers could be trained."
)


@dataclass(frozen=True, kw_only=True)
class ResNetV2Spec(ModelSpec):
    """How many bottleneck units conv2_x to conv5_x have."""

    units: tuple[int, int, int, int]


# The release halves the map in the last unit of a stage, and not in conv5_x, which has no stage
# after it.
_STRIDES = (2, 2, 2, 1)


_VALIDATION = "ImageNet validation, one crop"


def _keras(top1: float, top5: float) -> ReportedError:
    source = "keras.applications, the table of keras-applications' README"
    return ReportedError("release", _VALIDATION, top1, top5, source, views=Views())


def _slim(top1: float, top5: float) -> ReportedError:
    source = "TF-slim's weights, the table of its README"
    text = f"{_VALIDATION} of 299 x 299"
    return ReportedError("release", text, top1, top5, source, views=Views(size=299))


def _resnet_v2_spec(
    depth: int,
    params: tuple[int, int],
    multiply_adds: int,
    reported: tuple[ReportedError, ...],
) -> ResNetV2Spec:
    return ResNetV2Spec(
        name=f"resnet{depth}_v2",
        family="resnet_v2",
        paper=PAPER,
        news=NEWS,
        input_shape=(224, 224, 3),
        min_size=(32, 32),
        num_classes=1000,
        params_trainable=params[0],
        params_total=params[1],
        multiply_adds=multiply_adds,
        # keras.applications: "tf" mode, -1..1.
        preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        endpoints=ENDPOINTS,
        units=UNITS[depth],
        reported=reported,
        deviations=(
            "TF-slim and keras.applications halve the map in the 3x3 convolution of a stage's last "
            "unit, the paper and timm in the next stage's first: built here is the release.",
            "conv2_x, conv3_x and conv4_x are therefore tapped in front of the unit that halves, "
            "normalized and rectified: they have the strides and channels of ResNet v1's.",
            "The paper normalizes and rectifies conv1 once, before its pooling; the release in "
            "the first unit, after the pooling.",
            "As in keras.applications, zeros are padded around pool1, although its input has "
            "negative values; TF-slim pools with SAME.",
            "Biases stay where no normalization follows: in conv1, the last convolution of each "
            "unit and the projections; timm has none.",
        ),
    )


RESNETS_V2 = (
    _resnet_v2_spec(
        50,
        (25_568_360, 25_613_800),
        3_482_255_360,
        (_keras(24.040, 6.966), _slim(24.4, 7.2)),
    ),
    _resnet_v2_spec(
        101,
        (44_577_896, 44_675_560),
        7_194_476_544,
        (_keras(22.766, 6.184), _slim(23.0, 6.3)),
    ),
    _resnet_v2_spec(
        152,
        (60_236_904, 60_380_648),
        10_906_697_728,
        (
            ReportedError(
                "paper_single",
                "ImageNet validation, one network, one crop of 320 x 320",
                21.1,
                5.5,
                "paper, table 5",
                views=Views(scales=(320,), size=320),
            ),
            _keras(21.968, 5.838),
            _slim(22.2, 5.9),
        ),
    ),
)


@register(*RESNETS_V2)
def resnet_v2(images: Tensor, spec: ResNetV2Spec, num_classes: int) -> Network:
    """[N, H, W, C] -> logits [N, num_classes]; stages and units are named as in ResNet v1."""
    endpoints = {}
    x = endpoints["conv1"] = bare_convolution(images, 64, 7, 2, name="conv1")
    x = keras.layers.ZeroPadding2D(1, name="pool1_pad")(x)
    x = keras.layers.MaxPooling2D(3, 2, name="pool1")(x)
    for stage, (units, stride) in enumerate(zip(spec.units, _STRIDES, strict=True), start=2):
        width = 64 * 2 ** (stage - 2)
        for number in range(1, units + 1):
            name = f"conv{stage}_{number}"
            active = _normalized_relu(x, name=f"{name}_preact")
            x = _unit(x, active, width, stride if number == units else 1, name)
        endpoints[f"conv{stage}_x"] = active
    # No unit follows conv5_x: its map is what the head reads.
    x = endpoints["conv5_x"] = _normalized_relu(x, name="postnorm")
    x = keras.layers.GlobalAveragePooling2D(name="pool5")(x)
    return Network(head(x, num_classes, spec.head), endpoints)


def _unit(x: Tensor, active: Tensor, width: int, stride: int, name: str) -> Tensor:
    """A bottleneck on the active x, added to x itself, which nothing rectifies afterwards."""
    residual = convolution(active, width, 1, 1, name=f"{name}_conv1")
    residual = keras.layers.ReLU(name=f"{name}_conv1_relu")(residual)
    residual = convolution(residual, width, 3, stride, name=f"{name}_conv2")
    residual = keras.layers.ReLU(name=f"{name}_conv2_relu")(residual)
    residual = bare_convolution(residual, 4 * width, 1, 1, name=f"{name}_conv3")
    shortcut = _shortcut(x, active, 4 * width, stride, name=f"{name}_shortcut")
    return keras.layers.Add(name=f"{name}_add")([shortcut, residual])


def _shortcut(x: Tensor, active: Tensor, filters: int, stride: int, name: str) -> Tensor:
    """x itself, or every second pixel of it; a projection of the active x where channels change."""
    if x.shape[-1] != filters:
        return bare_convolution(active, filters, 1, stride, name)
    if stride > 1:
        # A window of one pixel keeps it as it is.
        return keras.layers.MaxPooling2D(1, stride, name=name)(x)
    return x


def _normalized_relu(x: Tensor, name: str) -> Tensor:
    x = normalization(x, f"{name}_bn")
    return keras.layers.ReLU(name=f"{name}_relu")(x)
