"""Squeeze-and-excitation networks (Hu et al. 2017, arXiv 1709.01507), as released in Caffe."""

from dataclasses import dataclass, replace
from functools import partial

import keras

from keras_cls.architectures._registry import register
from keras_cls.architectures.blocks import max_pool_ceil
from keras_cls.architectures.resnet import (
    BOTTLENECK_OF_THE_PAPER,
    ENDPOINTS,
    UNITS,
    ResNetSpec,
    Unit,
    convolution,
    head,
    projection,
    residual_stages,
)
from keras_cls.architectures.resnext import UNIT_32X4D
from keras_cls.architectures.spec import (
    Network,
    Paper,
    ReportedError,
    ReviewFigure,
    Tensor,
    Views,
)
from keras_cls.architectures.squeeze_excite import squeeze_excite
from keras_cls.preprocessing import Preprocessing

PAPER = Paper(
    title="Squeeze-and-Excitation Networks",
    authors="Hu, Shen, Albanie, Sun, Wu",
    year=2017,
    url="https://arxiv.org/abs/1709.01507",
)

NEWS = (
    "A network learns to weigh its channels anew for each image: their averages over the map go "
    "through two small layers that give each channel a factor. It fits into any network, for "
    "hardly any multiplications, and won the last ILSVRC."
)


@dataclass(frozen=True, kw_only=True)
class SENetSpec(ResNetSpec):
    """A ResNet or ResNeXt with a gate in every unit.

    Attributes:
        stem: (name, filters, kernel) of each of the first convolutions; the first has stride 2.
        strided_projection: the kernel of the projections that halve the map.
        reduction: how many times fewer channels the gate has inside.
        dropout: the share that is dropped in front of the logits.
    """

    stem: tuple[tuple[str, int, int], ...] = (("conv1", 64, 7),)
    strided_projection: int = 1
    reduction: int = 16
    dropout: float = 0.0


def _senet_spec(
    name: str,
    unit: Unit,
    units: tuple[int, int, int, int],
    params: tuple[int, int],
    multiply_adds: int,
    reported: tuple[ReportedError, ...],
    deviation: str,
) -> SENetSpec:
    return SENetSpec(
        name=name,
        family="senet",
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
        deviations=(
            deviation,
            "The first pooling pads at the bottom and the right only, as in the release: Caffe "
            "rounds its size up. On even maps its windows lie one pixel further than ResNet's.",
            "The release in Caffe expects BGR, less the mean (104, 117, 123) and not scaled; its "
            "ports to PyTorch expect RGB with ImageNet's mean and deviation: so does this network.",
        ),
    )


_ONE_CROP = "ImageNet validation, one crop"


def _paper(top1: float, top5: float) -> ReportedError:
    return ReportedError("paper_single", _ONE_CROP, top1, top5, "paper, table 2", views=Views())


def _release(top1: float, top5: float) -> ReportedError:
    readme = "github.com/hujie-frank/SENet, README (trained anew, for longer than in the paper)"
    return ReportedError("release", _ONE_CROP, top1, top5, readme, views=Views())


def _port(top1: float, top5: float) -> ReportedError:
    source = "the same weights in PyTorch, timm's results-imagenet.csv"
    return ReportedError("release", _ONE_CROP, top1, top5, source, views=Views())


_STRIDE_ON_THE_1X1 = (
    "The stride is on the first 1x1 convolution, as in the release and in the paper's count of "
    "multiply-adds; timm's seresnet50 has it on the 3x3."
)
_STRIDE_ON_THE_3X3 = (
    "The stride is on the grouped 3x3 convolution, as in the release and in ResNeXt; on the 1x1 in "
    "the SE-ResNets."
)

SENET154 = replace(
    _senet_spec(
        "senet154",
        Unit(kernels=(1, 3, 1), widths=(2, 4, 4), strided=2, groups=64),
        UNITS[152],
        (115_088_984, 115_336_536),
        20_688_363_520,
        (
            ReportedError(
                "paper_single",
                "ImageNet validation, one crop of 320 x 320",
                17.28,
                3.79,
                "paper, table 8",
                views=Views(size=320),
            ),
            ReportedError(
                "paper_best",
                "ImageNet test, an ensemble of SENets on several scales and crops",
                None,
                2.251,
                "paper, abstract",
            ),
            _release(18.68, 4.47),
            _port(18.692, 4.508),
        ),
        "The release is more than a ResNeXt-152 (64x4d) with gates: three 3x3 convolutions stand "
        "for the 7x7, the first 1x1 of a unit has half of the 3x3's channels, and the projections "
        "that halve the map are 3x3.",
    ),
    stem=(("conv1_1", 64, 3), ("conv1_2", 64, 3), ("conv1_3", 128, 3)),
    strided_projection=3,
    dropout=0.2,
    review=ReviewFigure(
        2.25,
        "The ensemble that won ILSVRC 2017, many crops of test images; this network is one of its "
        "members, and reaches 4.47 with one crop of a validation image.",
    ),
)

SENETS = (
    _senet_spec(
        "se_resnet50",
        BOTTLENECK_OF_THE_PAPER,
        UNITS[50],
        (28_088_024, 28_141_144),
        3_860_488_192,
        (_paper(23.29, 6.62), _release(22.37, 6.36), _port(22.356, 6.242)),
        _STRIDE_ON_THE_1X1,
    ),
    _senet_spec(
        "se_resnet101",
        BOTTLENECK_OF_THE_PAPER,
        UNITS[101],
        (49_326_872, 49_432_216),
        7_574_937_600,
        (_paper(22.38, 6.07), _release(21.75, 5.72), _port(21.614, 5.738)),
        _STRIDE_ON_THE_1X1,
    ),
    _senet_spec(
        "se_resnet152",
        BOTTLENECK_OF_THE_PAPER,
        UNITS[152],
        (66_821_848, 66_973_272),
        11_288_993_792,
        (_paper(21.57, 5.73), _release(21.34, 5.54), _port(21.340, 5.630)),
        _STRIDE_ON_THE_1X1,
    ),
    _senet_spec(
        "se_resnext50_32x4d",
        UNIT_32X4D,
        UNITS[50],
        (27_559_896, 27_628_120),
        4_232_994_816,
        (_paper(21.10, 5.49), _release(20.97, 5.54), _port(20.924, 5.568)),
        _STRIDE_ON_THE_3X3,
    ),
    _senet_spec(
        "se_resnext101_32x4d",
        UNIT_32X4D,
        UNITS[101],
        (48_955_416, 49_093_272),
        7_974_739_968,
        (_paper(20.70, 5.01), _release(19.81, 4.96), _port(19.770, 4.974)),
        _STRIDE_ON_THE_3X3,
    ),
    SENET154,
)


@register(*SENETS)
def senet(images: Tensor, spec: SENetSpec, num_classes: int) -> Network:
    """[N, H, W, C] -> logits [N, num_classes]; stages and units are named as in ResNet."""
    x = images
    for number, (name, filters, kernel) in enumerate(spec.stem):
        x = convolution(x, filters, kernel, 2 if number == 0 else 1, name)
        x = keras.layers.ReLU(name=f"{name}_relu")(x)
    conv1 = x
    x = max_pool_ceil(conv1, name="pool1")
    stages = residual_stages(
        x,
        spec.unit,
        spec.units,
        partial(projection, strided_kernel=spec.strided_projection),
        partial(squeeze_excite, reduction=spec.reduction),
    )
    x = keras.layers.GlobalAveragePooling2D(name="pool5")(stages["conv5_x"])
    if spec.dropout:
        x = keras.layers.Dropout(spec.dropout, name="pool5_dropout")(x)
    return Network(head(x, num_classes, spec.head), {"conv1": conv1, **stages})
