"""ResNeXt (Xie et al. 2016, arXiv 1611.05431): ResNet with grouped 3x3 convolutions."""

from dataclasses import replace

from keras_cls.architectures._registry import register
from keras_cls.architectures.resnet import BOTTLENECK, ENDPOINTS, UNITS, ResNetSpec, resnet
from keras_cls.architectures.spec import Paper, ReportedError, Views
from keras_cls.preprocessing import Preprocessing

PAPER = Paper(
    title="Aggregated Residual Transformations for Deep Neural Networks",
    authors="Xie, Girshick, Dollár, Tu, He",
    year=2016,
    url="https://arxiv.org/abs/1611.05431",
)

NEWS = (
    "The bottleneck splits into many equal and narrow paths, one group of a convolution each. "
    "Their number, the cardinality, buys more accuracy than the same effort in depth or width."
)

# 32x4d: 32 groups of 4 channels where the stage is 64 wide, so twice ResNet's width.
UNIT_32X4D = replace(BOTTLENECK, widths=(2, 2, 4), groups=32)


_VALIDATION = "ImageNet validation, one crop"


def _paper(top1: float, top5: float | None, source: str) -> ReportedError:
    return ReportedError("paper_single", _VALIDATION, top1, top5, source, views=Views())


def _release(top1: float, top5: float, source: str) -> ReportedError:
    return ReportedError("release", _VALIDATION, top1, top5, source, views=Views())


_KERAS = "keras.applications, the table of keras-applications' README"


def _resnext_spec(
    depth: int,
    params: tuple[int, int],
    multiply_adds: int,
    reported: tuple[ReportedError, ...],
) -> ResNetSpec:
    return ResNetSpec(
        name=f"resnext{depth}_32x4d",
        family="resnext",
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
        unit=UNIT_32X4D,
        units=UNITS[depth],
        reported=reported,
        deviations=(
            "Of the paper's three equivalent forms this is (c), the grouped convolution; the "
            "stride is on it, as in the release in Torch.",
        ),
    )


RESNEXTS = (
    _resnext_spec(
        50,
        (25_028_904, 25_097_128),
        4_230_479_872,
        (
            _paper(22.2, None, "paper, table 3; the README of facebookresearch/ResNeXt"),
            _release(22.260, 6.190, _KERAS),
            _release(22.382, 6.302, "torchvision's weights, their metadata"),
        ),
    ),
    _resnext_spec(
        101,
        (44_177_704, 44_315_560),
        7_969_996_800,
        (
            _paper(21.2, 5.6, "paper, as quoted in arXiv 1709.01507, table 2"),
            _release(21.270, 5.706, _KERAS),
        ),
    ),
)

register(*RESNEXTS)(resnet)
