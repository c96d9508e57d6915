"""Inception v2 and v3 (Szegedy et al. 2015, arXiv 1512.00567), and what Inceptions are made of.

A network is a list of named parts: convolutions, poolings and modules, each a callable
``(x, name) -> x`` that is data, so that the paper's tables can be read in the code. Names are those
of TF-slim's endpoints, with ``_`` for its ``/``: ``Mixed_6b_Branch_1_Conv2d_0b_1x7``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from string import ascii_lowercase
from typing import Literal, TypeAlias

import keras

from keras_cls.architectures._registry import register
from keras_cls.architectures.layers import BatchNormalization
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
    title="Rethinking the Inception Architecture for Computer Vision",
    authors="Szegedy, Vanhoucke, Ioffe, Shlens, Wojna",
    year=2015,
    url="https://arxiv.org/abs/1512.00567",
)

# TF-slim's inception_preprocessing: -1..1, the central 87.5 %. It squashes the image to a square
# first; keeping its aspect is how torchvision and timm judge the same weights.
PREPROCESSING = Preprocessing(size=(299, 299), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

Padding: TypeAlias = Literal["same", "valid"]
Part: TypeAlias = Callable[[Tensor, str], Tensor]
Parts: TypeAlias = tuple[tuple[str, Part], ...]  # by name, first to last


# --- Parts ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conv:
    """A convolution without bias, its batch normalization and a ReLU."""

    filters: int
    kernel: int | tuple[int, int]  # (rows, columns), or one number for both
    stride: int = 1
    padding: Padding = "same"

    def __call__(self, x: Tensor, name: str) -> Tensor:
        """[N, H, W, C] -> [N, h, w, filters]."""
        x = keras.layers.Conv2D(
            self.filters,
            self.kernel,
            strides=self.stride,
            padding=self.padding,
            use_bias=False,
            kernel_initializer="he_normal",  # slim's variance_scaling_initializer
            name=name,
        )(x)
        x = BatchNormalization(momentum=0.9997, epsilon=1e-3, name=f"{name}_bn")(x)
        return keras.layers.ReLU(name=f"{name}_relu")(x)

    def name_in_branch(self, letter: str) -> str:
        """Slim's: Conv2d_0a_1x1 for a branch's first; 1a where the map shrinks."""
        rows, columns = self.kernel if isinstance(self.kernel, tuple) else (self.kernel,) * 2
        return f"Conv2d_{_place(self.padding, letter)}_{rows}x{columns}"


@dataclass(frozen=True)
class Pool:
    """A 3x3 pooling; an average leaves out what is padded, unless ``zeros`` counts it as zeros."""

    kind: Literal["Avg", "Max"]
    stride: int
    padding: Padding
    zeros: bool = False

    def __call__(self, x: Tensor, name: str) -> Tensor:
        """[N, H, W, C] -> [N, h, w, C]."""
        padding = self.padding
        if self.zeros:
            x, padding = keras.layers.ZeroPadding2D(1, name=f"{name}_pad")(x), "valid"
        layers = {"Avg": keras.layers.AveragePooling2D, "Max": keras.layers.MaxPooling2D}
        return layers[self.kind](3, self.stride, padding, name=name)(x)

    def name_in_branch(self, letter: str) -> str:
        """Slim's: AvgPool_0a_3x3; 1a where the map shrinks."""
        return f"{self.kind}Pool_{_place(self.padding, letter)}_3x3"


def _place(padding: Padding, letter: str) -> str:
    return "1a" if padding == "valid" else f"0{letter}"


AVERAGE = Pool("Avg", stride=1, padding="same")
AVERAGE_WITH_ZEROS = replace(AVERAGE, zeros=True)
MAX = Pool("Max", stride=2, padding="valid")


def halving(filters: int) -> Conv:
    """The 3x3 convolution that halves a map: like all that reduce the grid, it pads nothing."""
    return Conv(filters, 3, stride=2, padding="valid")


@dataclass(frozen=True)
class Fork:
    """The end of a branch in several convolutions side by side."""

    tines: tuple[Conv, ...]


Branch: TypeAlias = tuple[Conv | Pool | Fork, ...]


@dataclass(frozen=True)
class Module:
    """Branches side by side, concatenated."""

    branches: tuple[Branch, ...]

    def __call__(self, x: Tensor, name: str) -> Tensor:
        """[N, H, W, C] -> [N, h, w, the branches' filters together]."""
        return keras.layers.Concatenate(name=name)(branch_maps(x, self.branches, name))


def branch_maps(x: Tensor, branches: tuple[Branch, ...], name: str) -> list[Tensor]:
    """What the branches of a module make of x, in their order."""
    return [
        x_out
        for number, branch in enumerate(branches)
        for x_out in _branch(x, branch, f"{name}_Branch_{number}")
    ]


def _branch(x: Tensor, branch: Branch, name: str) -> list[Tensor]:
    letters = iter(ascii_lowercase)
    for step in branch:
        if isinstance(step, Fork):
            return [tine(x, f"{name}_{tine.name_in_branch(next(letters))}") for tine in step.tines]
        x = step(x, f"{name}_{step.name_in_branch(next(letters))}")
    return [x]


def auxiliary_head(x: Tensor, num_classes: int, name: str) -> Tensor:
    """The classifier that is trained beside the last one, and then dropped: [N, num_classes].

    The release's 5x5 kernels shrink to maps that are smaller; a map larger than 17x17 leaves more
    than one pixel, whose average is taken.
    """
    height, width = x.shape[1:3]
    window = min(5, height), min(5, width)
    x = keras.layers.AveragePooling2D(window, strides=3, name=f"{name}_AvgPool_1a_5x5")(x)
    x = Conv(128, 1)(x, f"{name}_Conv2d_1b_1x1")
    height, width = x.shape[1:3]
    x = Conv(768, (min(5, height), min(5, width)), padding="valid")(x, f"{name}_Conv2d_2a_5x5")
    x = keras.layers.GlobalAveragePooling2D(name=f"{name}_pool")(x)
    return keras.layers.Dense(num_classes, dtype="float32", name=name)(x)


# --- Networks -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class InceptionSpec(ModelSpec):
    """The parts, and which of them the auxiliary heads sit on."""

    parts: Parts
    auxiliary_on: str = ""
    dropout: float = 0.2  # the share that is dropped; slim's 0.8 is what it keeps


def inception(images: Tensor, spec: InceptionSpec, num_classes: int, aux: bool = False) -> Network:
    """[N, H, W, C] -> logits [N, num_classes]; the endpoints are named as their parts."""
    x, maps = images, {}
    for name, part in spec.parts:
        x = maps[name] = part(x, name)
    x = keras.layers.GlobalAveragePooling2D(name="AvgPool_1a_8x8")(x)
    x = keras.layers.Dropout(spec.dropout, name="Dropout_1b")(x)
    logits = keras.layers.Dense(num_classes, dtype="float32", name=spec.head)(x)
    heads = {}
    if aux:
        tapped = maps[spec.auxiliary_on]
        heads = {name: auxiliary_head(tapped, num_classes, name) for name in spec.aux_heads}
    return Network(logits, {name: maps[name] for name in spec.endpoints}, heads)


# --- Inception v2: the paper's Table 1 and its figures --------------------------------------------

# Every branch is narrow until its last convolution. The widths are not in the paper; see the card.
_FIGURE_5 = Module(
    (
        (Conv(64, 1),),
        (Conv(32, 1), Conv(64, 3)),
        (Conv(48, 1), Conv(48, 3), Conv(96, 3)),
        (AVERAGE, Conv(64, 1)),
    )
)
_FIGURE_6 = Module(
    (
        (Conv(192, 1),),
        (Conv(64, 1), Conv(64, (1, 7)), Conv(192, (7, 1))),
        (
            Conv(64, 1),
            Conv(64, (1, 7)),
            Conv(64, (7, 1)),
            Conv(64, (1, 7)),
            Conv(192, (7, 1)),
        ),
        (AVERAGE, Conv(192, 1)),
    )
)
_THREE_BY_THREE_IN_LINES = Fork((Conv(384, (1, 3)), Conv(384, (3, 1))))
_FIGURE_7 = Module(
    (
        (Conv(320, 1),),
        (Conv(192, 1), _THREE_BY_THREE_IN_LINES),
        (Conv(192, 1), Conv(192, 3), _THREE_BY_THREE_IN_LINES),
        (AVERAGE, Conv(192, 1)),
    )
)


def _figure_10(narrow: int, one: int, two: int) -> Module:
    return Module(
        (
            (Conv(narrow, 1), halving(one)),
            (Conv(narrow, 1), Conv(narrow, 3), halving(two)),
            (MAX,),
        )
    )


_TABLE_1: Parts = (
    ("Conv2d_1a_3x3", halving(32)),
    ("Conv2d_2a_3x3", Conv(32, 3, padding="valid")),
    ("Conv2d_2b_3x3", Conv(64, 3)),
    ("MaxPool_3a_3x3", MAX),
    ("Conv2d_3b_3x3", Conv(80, 3, padding="valid")),
    ("Conv2d_4a_3x3", halving(192)),
    ("Conv2d_4b_3x3", Conv(288, 3)),
    *((f"Mixed_5{letter}", _FIGURE_5) for letter in "bcd"),
    ("Mixed_6a", _figure_10(64, one=384, two=96)),
    *((f"Mixed_6{letter}", _FIGURE_6) for letter in "bcdef"),
    ("Mixed_7a", _figure_10(128, one=320, two=192)),
    *((f"Mixed_7{letter}", _FIGURE_7) for letter in "bc"),
)

# --- Inception v3: the release --------------------------------------------------------------------

# The stem of Inception v3, which Inception-ResNet has as well.
STEM: Parts = (
    ("Conv2d_1a_3x3", halving(32)),
    ("Conv2d_2a_3x3", Conv(32, 3, padding="valid")),
    ("Conv2d_2b_3x3", Conv(64, 3)),
    ("MaxPool_3a_3x3", MAX),
    ("Conv2d_3b_1x1", Conv(80, 1)),
    ("Conv2d_4a_3x3", Conv(192, 3, padding="valid")),
)


def mixed_5(first: int, pooled: int) -> Module:
    """The module of the 35x35 grid: the filters of its 1x1 branch and of its pooling branch."""
    return Module(
        (
            (Conv(first, 1),),
            (Conv(48, 1), Conv(64, 5)),
            (Conv(64, 1), Conv(96, 3), Conv(96, 3)),
            (AVERAGE, Conv(pooled, 1)),
        )
    )


def _mixed_6(width: int) -> Module:
    return Module(
        (
            (Conv(192, 1),),
            (Conv(width, 1), Conv(width, (1, 7)), Conv(192, (7, 1))),
            (
                Conv(width, 1),
                Conv(width, (7, 1)),
                Conv(width, (1, 7)),
                Conv(width, (7, 1)),
                Conv(192, (1, 7)),
            ),
            (AVERAGE, Conv(192, 1)),
        )
    )


_MIXED_6A = Module(
    (
        (halving(384),),
        (Conv(64, 1), Conv(96, 3), halving(96)),
        (MAX,),
    )
)
_MIXED_7A = Module(
    (
        (Conv(192, 1), halving(320)),
        (Conv(192, 1), Conv(192, (1, 7)), Conv(192, (7, 1)), halving(192)),
        (MAX,),
    )
)
_MIXED_7 = Module(
    (
        (Conv(320, 1),),
        (Conv(384, 1), _THREE_BY_THREE_IN_LINES),
        (Conv(448, 1), Conv(384, 3), _THREE_BY_THREE_IN_LINES),
        (AVERAGE, Conv(192, 1)),
    )
)

_RELEASE: Parts = (
    *STEM,
    ("MaxPool_5a_3x3", MAX),
    ("Mixed_5b", mixed_5(64, pooled=32)),
    ("Mixed_5c", mixed_5(64, pooled=64)),
    ("Mixed_5d", mixed_5(64, pooled=64)),
    ("Mixed_6a", _MIXED_6A),
    ("Mixed_6b", _mixed_6(128)),
    ("Mixed_6c", _mixed_6(160)),
    ("Mixed_6d", _mixed_6(160)),
    ("Mixed_6e", _mixed_6(192)),
    ("Mixed_7a", _MIXED_7A),
    ("Mixed_7b", _MIXED_7),
    ("Mixed_7c", _MIXED_7),
)

# --- Cards ----------------------------------------------------------------------------------------

ONE_CROP = "ImageNet validation, one network, one crop"
SLIM_TABLE = "TF-slim's weights, the table of its README"
KERAS_TABLE = "keras.applications, the table of keras-applications' README"
TIMM_RESULTS = "timm's results-imagenet.csv, one crop of 299 pixels"


def release(top1: float, top5: float, source: str) -> ReportedError:
    """Errors in percent of released weights: ImageNet's validation images, one crop."""
    return ReportedError("release", ONE_CROP, top1, top5, source, views=Views())


INCEPTION_V2 = InceptionSpec(
    name="inception_v2",
    family="inception_v2_v3",
    paper=PAPER,
    news=(
        "Large convolutions were taken apart: 5x5 into two 3x3, 7x7 into lines of 1x7 and 7x1, so "
        "that the computation goes into more layers. Grids shrink by convolution and pooling side "
        "by side, so that no layer becomes a bottleneck."
    ),
    input_shape=(299, 299, 3),
    min_size=(75, 75),
    num_classes=1000,
    params_trainable=13_308_840,
    params_total=13_337_864,
    multiply_adds=3_782_910_816,
    preprocessing=PREPROCESSING,
    endpoints=("Conv2d_2b_3x3", "Conv2d_3b_3x3", "Mixed_5d", "Mixed_6f", "Mixed_7c"),
    parts=_TABLE_1,
    reported=(
        ReportedError(
            "paper_single",
            ONE_CROP,
            23.4,
            None,
            "paper, table 3, Inception-v2",
            recalled=True,
            views=Views(),
        ),
        ReportedError(
            "paper_best",
            f"{ONE_CROP}, trained with RMSProp and label smoothing, the first 7x7 factorized",
            21.6,
            5.8,
            "paper, table 3, Inception-v2 Factorized 7x7",
            recalled=True,
        ),
    ),
    review=ReviewFigure(
        5.6,
        "The last row of the paper's table 3: Inception-v2 with every addition, which is Inception "
        "v3; one network, one crop.",
    ),
    deviations=(
        "Three networks are called Inception v2. This is Table 1 of the paper; TF-slim's "
        "inception_v2 is BN-Inception of the same year (here bn_inception), and the paper's text "
        "also calls Inception v3 without the normalized auxiliary head so.",
        "Nothing was released, and the widths inside the modules are not in the paper. Here every "
        "branch is narrow until its last convolution, and the narrow widths are such that the "
        "network costs the 3.8 billion multiply-adds of the paper's table 3, far below its 25 "
        "million parameters.",
        "The grid reductions (figure 10) stand between the modules that Table 1 counts, as the "
        "paper's text has them.",
        "Table 1 marks only the third convolution as padded; the sixth is padded as well, or the "
        "grid of 35x35 would not come out.",
        "Poolings inside modules average, as in the release of Inception v3; the figures do not "
        "say. Dropout of 0.2 is that release's, too.",
        "The auxiliary classifier that the paper trains beside the network is not built.",
    ),
)

INCEPTION_V3 = InceptionSpec(
    name="inception_v3",
    family="inception_v2_v3",
    paper=PAPER,
    news=(
        "Inception v2 with all that the paper adds to it: factorized 7x7 convolutions, a batch "
        "normalization in the auxiliary classifier, RMSProp and smoothed labels. One network of "
        "fewer than 25 million parameters did better than the ensembles of a year before."
    ),
    input_shape=(299, 299, 3),
    min_size=(75, 75),
    num_classes=1000,
    params_trainable=23_834_568,
    params_total=23_869_000,
    multiply_adds=5_713_216_096,
    preprocessing=PREPROCESSING,
    endpoints=("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"),
    aux_heads=("AuxLogits",),
    parts=_RELEASE,
    auxiliary_on="Mixed_6e",
    reported=(
        ReportedError("paper_single", ONE_CROP, 21.2, 5.6, "paper, abstract", views=Views()),
        ReportedError(
            "paper_best",
            "ImageNet validation, one network, 144 crops",
            18.77,
            4.2,
            "paper, table 4",
            views=Views(144),
        ),
        ReportedError(
            "paper_best",
            "ImageNet validation, four networks, 144 crops",
            17.2,
            3.46,
            "paper, table 5 (the abstract has 3.5)",
            recalled=True,
        ),
        ReportedError(
            "paper_best",
            "ImageNet test, four networks, 144 crops",
            None,
            3.58,
            "paper, table 5 (the abstract has 3.6)",
        ),
        release(22.0, 6.1, SLIM_TABLE),
        release(22.102, 6.280, KERAS_TABLE),
        release(22.71, 6.55, "torchvision's weights, their metadata"),
        release(22.138, 6.356, f"{TIMM_RESULTS}, inception_v3.tf_in1k"),
    ),
    review=ReviewFigure(3.58, "An ensemble of four networks, 144 crops, on the test images."),
    deviations=(
        "The paper describes the network by its additions to Inception v2; built here is the "
        "release. It has a 1x1 convolution to 80 where Table 1 has a 3x3, one module less on the "
        "17x17 grid, and its 35x35 modules keep the 5x5 convolution.",
        "Batch normalization has a scale (gamma); TF-slim and keras.applications leave it out: "
        "with their weights it is one.",
        "Every module averages in its pooling branch. The graph of 2015-12-05, used for the "
        "Frechet inception distance, takes the maximum in Mixed_7c.",
        "Names are TF-slim's, but for its slips: Mixed_5c's Branch_1 has Conv2d_0b_1x1 and "
        "Conv_1_0c_5x5 there, the 3x3 of Mixed_6a are called 1x1, and a 3x1 of Mixed_7b is 0b.",
        "The auxiliary head takes inputs of any size; the release's only 299x299 or close to it.",
    ),
)


def _with_zeros(part: Callable[[Tensor, str], Tensor]) -> Callable[[Tensor, str], Tensor]:
    """The part with averages that count their padding."""
    if not isinstance(part, Module):
        return part
    return Module(
        tuple(
            tuple(AVERAGE_WITH_ZEROS if step == AVERAGE else step for step in branch)
            for branch in part.branches
        )
    )


INCEPTION_V3_TORCH = replace(
    INCEPTION_V3,
    name="inception_v3_torch",
    parts=tuple((name, _with_zeros(part)) for name, part in _RELEASE),
    reported=tuple(
        row for row in INCEPTION_V3.reported if "tor" in row.source or "timm" in row.source
    ),
    review=None,
    deviations=(
        "Inception v3 as torchvision and timm have it: the averages in its modules count their "
        "padding as zeros, where TensorFlow leaves it out. The weights are the same, the logits "
        "are not; torchvision's and timm's files are loaded into this one.",
        *INCEPTION_V3.deviations,
    ),
)

register(INCEPTION_V2, INCEPTION_V3, INCEPTION_V3_TORCH)(inception)
