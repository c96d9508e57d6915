"""NASNet-A (Zoph et al. 2017), wired and padded as in the release."""

from dataclasses import replace
from typing import Literal

from keras_cls.architectures._registry import register
from keras_cls.architectures.cells import (
    Block,
    Cell,
    CellNetworkSpec,
    Normalization,
    cell_network,
    cifar_stem,
    imagenet_stem,
)
from keras_cls.architectures.spec import (
    Network,
    Paper,
    ReportedError,
    ReviewFigure,
    Tensor,
    Views,
)
from keras_cls.preprocessing import Preprocessing

PAPER = Paper(
    title="Learning Transferable Architectures for Scalable Image Recognition",
    authors="Zoph, Vasudevan, Shlens, Le",
    year=2017,
    url="https://arxiv.org/abs/1707.07012",
)

NEWS = (
    "Not a network is searched for but a cell, on CIFAR-10, and stacked to any depth and width. "
    "The cell that a recurrent network found there beat all networks made by hand on ImageNet."
)

# nasnet_utils.py of the release; the previous cell's output (1) is itself part of the output.
NORMAL = Cell(
    blocks=(
        Block(("sep5", 0), ("sep3", 1)),
        Block(("sep5", 1), ("sep3", 1)),
        Block(("avg3", 0), ("identity", 1)),
        Block(("avg3", 1), ("avg3", 1)),
        Block(("sep3", 0), ("identity", 0)),
    ),
    output=(1, 2, 3, 4, 5, 6),
)
REDUCTION = Cell(
    blocks=(
        Block(("sep5", 0), ("sep7", 1)),
        Block(("max3", 0), ("sep7", 1)),
        Block(("avg3", 0), ("sep5", 1)),
        Block(("identity", 3), ("avg3", 2)),
        Block(("sep3", 2), ("max3", 0)),
    ),
    output=(3, 4, 5, 6),
)

# keras.applications' port: padding counts where the pooling strides.
REDUCTION_OF_KERAS = Cell(
    blocks=(
        Block(("sep5", 0), ("sep7", 1)),
        Block(("max3_zeros", 0), ("sep7", 1)),
        Block(("avg3_zeros", 0), ("sep5", 1)),
        Block(("identity", 3), ("avg3", 2)),
        Block(("sep3", 2), ("max3_zeros", 0)),
    ),
    output=(3, 4, 5, 6),
)

# timm's: in averages that stride the padding counts, in maxima it does not.
REDUCTION_OF_TIMM = Cell(
    blocks=(
        Block(("sep5", 0), ("sep7", 1)),
        Block(("max3", 0), ("sep7", 1)),
        Block(("avg3_zeros", 0), ("sep5", 1)),
        Block(("identity", 3), ("avg3", 2)),
        Block(("sep3", 2), ("max3", 0)),
    ),
    output=(3, 4, 5, 6),
)

DEVIATIONS = (
    "The paper draws the cells but does not say how a hidden state of another size or width is "
    "brought to the cell's; here as in the release, with factorized reductions and 1x1 "
    "convolutions.",
    "Where pooling strides, the ImageNet networks count its padding as zeros, as the port in "
    "keras.applications does. The release in TF-slim leaves the padding out (nasnet_mobile_slim, "
    "nasnet_large_slim); timm counts it in averages only (nasnet_large_timm). The tensors are the "
    "same, the logits are not: weights are loaded into the network that they belong to.",
    "The release's networks have 1001 classes, the first one for nothing; here there are 1000.",
)

_README = "tensorflow/models, research/slim/nets/nasnet/README.md"


def release_preprocessing(size: int) -> Preprocessing:
    """slim's inception_preprocessing: the central 87.5 % of each side, squashed; -1 to 1."""
    return Preprocessing(
        size=(size, size), resize="squash", crop=0.875, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )


def one_crop(
    column: Literal["paper_single", "release"], size: int, top1: float, top5: float, source: str
) -> ReportedError:
    """Errors in percent on ImageNet's validation images."""
    return ReportedError(
        column,
        f"ImageNet validation, one crop at {size} px",
        top1,
        top5,
        source=source,
        views=Views(),
    )


_KERAS = "keras.applications, the table of keras-applications' README"


NASNETS = (
    CellNetworkSpec(
        name="nasnet_mobile",
        family="nasnet",
        paper=PAPER,
        news=NEWS,
        input_shape=(224, 224, 3),
        min_size=(32, 32),
        num_classes=1000,
        params_trainable=5_289_978,
        params_total=5_326_716,
        multiply_adds=563_638_816,
        preprocessing=release_preprocessing(224),
        endpoints=("conv0", "cell_stem_0", "cell_3", "cell_7", "cell_11"),
        aux_heads=("aux_logits",),
        reported=(
            one_crop("paper_single", 224, 26.0, 8.4, f"paper, as quoted in {_README}"),
            one_crop("release", 224, 26.0, 8.4, _README),
            one_crop("release", 224, 25.634, 8.146, _KERAS),
        ),
        deviations=DEVIATIONS,
        normal=NORMAL,
        reduction=REDUCTION_OF_KERAS,
        reductions_between=True,
        repeats=4,
        filters=44,
        stem=imagenet_stem(32),
    ),
    CellNetworkSpec(
        name="nasnet_large",
        family="nasnet",
        paper=PAPER,
        news=NEWS,
        input_shape=(331, 331, 3),
        min_size=(32, 32),
        num_classes=1000,
        params_trainable=88_753_150,
        params_total=88_949_818,
        multiply_adds=23_783_414_658,
        preprocessing=release_preprocessing(331),
        endpoints=("conv0", "cell_stem_0", "cell_5", "cell_11", "cell_17"),
        aux_heads=("aux_logits",),
        reported=(
            one_crop("paper_single", 331, 17.3, 3.8, "paper, abstract"),
            one_crop("release", 331, 17.3, 3.8, _README),
            one_crop("release", 331, 17.362, 3.934, "timm, results-imagenet.csv"),
            one_crop("release", 331, 17.502, 3.996, _KERAS),
        ),
        review=ReviewFigure(3.8, "one network, one crop at 331 px, ImageNet validation"),
        deviations=DEVIATIONS,
        normal=NORMAL,
        reduction=REDUCTION_OF_KERAS,
        reductions_between=True,
        repeats=6,
        filters=168,
        stem=imagenet_stem(96),
        skip_reduction=True,
        drop_path=0.3,
    ),
    CellNetworkSpec(
        name="nasnet_cifar10",
        family="nasnet",
        paper=PAPER,
        news=NEWS,
        input_shape=(32, 32, 3),
        min_size=(8, 8),
        num_classes=10,
        params_trainable=3_346_538,
        params_total=3_383_786,
        multiply_adds=544_333_312,
        preprocessing=Preprocessing(
            size=(32, 32), resize="squash", crop=1.0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
        ),
        endpoints=("cell_5", "cell_11", "cell_17"),
        aux_heads=("aux_logits",),
        deviations=(
            DEVIATIONS[0],
            "Neither paper nor release say how images are scaled; here to -1 to 1, as on ImageNet.",
        ),
        normal=NORMAL,
        reduction=REDUCTION,
        reductions_between=True,
        repeats=6,
        filters=32,
        stem=cifar_stem(96),
        drop_path=0.4,
        dropout=0.0,
        normalization=Normalization(momentum=0.9, epsilon=1e-5),
    ),
)


_BY_NAME = {spec.name: spec for spec in NASNETS}
# The same networks, their padding counted otherwise.
VARIANTS = (
    replace(_BY_NAME["nasnet_mobile"], name="nasnet_mobile_slim", reduction=REDUCTION),
    replace(_BY_NAME["nasnet_large"], name="nasnet_large_slim", reduction=REDUCTION),
    replace(_BY_NAME["nasnet_large"], name="nasnet_large_timm", reduction=REDUCTION_OF_TIMM),
)


@register(*NASNETS, *VARIANTS)
def nasnet(images: Tensor, spec: CellNetworkSpec, num_classes: int, aux: bool = False) -> Network:
    """[N, H, W, C] -> logits [N, num_classes]; cells bear the release's names."""
    return cell_network(images, spec, num_classes, aux)
