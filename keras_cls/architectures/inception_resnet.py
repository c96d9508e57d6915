"""Inception-ResNet v1 and v2 (Szegedy et al. 2016, arXiv 1602.07261).

Version 2 exists twice: as it was released, and as the paper's figures draw it.
"""

from dataclasses import dataclass

import keras

from keras_cls.architectures import inception_v2_v3, inception_v4
from keras_cls.architectures._registry import register
from keras_cls.architectures.inception_v2_v3 import (
    KERAS_TABLE,
    MAX,
    PREPROCESSING,
    SLIM_TABLE,
    TIMM_RESULTS,
    Branch,
    Conv,
    InceptionSpec,
    Module,
    Part,
    Parts,
    branch_maps,
    halving,
    inception,
    mixed_5,
    release,
)
from keras_cls.architectures.inception_v4 import (
    PAPER,
    paper_144_crops,
    paper_single,
    reduction_a,
)
from keras_cls.architectures.spec import ReportedError, ReviewFigure, Tensor


@dataclass(frozen=True)
class Residual:
    """``relu(x + scale * projection(branches(x)))``; the map keeps its shape.

    The projection, back to x's channels, has a bias and neither batch normalization nor ReLU.
    Without the scale, training of the wider networks died (the paper's section 3.3).
    """

    branches: tuple[Branch, ...]
    scale: float
    rectified: bool = True

    def __call__(self, x: Tensor, name: str) -> Tensor:
        """[N, H, W, C] -> [N, H, W, C]."""
        residual = keras.layers.Concatenate(name=f"{name}_mixed")(
            branch_maps(x, self.branches, name)
        )
        residual = keras.layers.Conv2D(
            x.shape[-1], 1, kernel_initializer="he_normal", name=f"{name}_Conv2d_1x1"
        )(residual)
        residual = keras.layers.Rescaling(self.scale, name=f"{name}_scale")(residual)
        x = keras.layers.Add(name=f"{name}_add")([x, residual])
        return keras.layers.ReLU(name=f"{name}_relu")(x) if self.rectified else x


# The scales of TF-slim's release; the paper says between 0.1 and 0.3.
_SCALE_A, _SCALE_B, _SCALE_C = 0.17, 0.10, 0.20


def _repeat(name: str, part: Part, times: int) -> Parts:
    return tuple((f"{name}_{number}", part) for number in range(1, times + 1))


# --- Version 1: figures 10 to 14 ------------------------------------------------------------------

_BLOCK35_V1 = Residual(
    (
        (Conv(32, 1),),
        (Conv(32, 1), Conv(32, 3)),
        (Conv(32, 1), Conv(32, 3), Conv(32, 3)),
    ),
    scale=_SCALE_A,
)
_BLOCK17_V1 = Residual(
    (
        (Conv(128, 1),),
        (Conv(128, 1), Conv(128, (1, 7)), Conv(128, (7, 1))),
    ),
    scale=_SCALE_B,
)
_BLOCK8_V1 = Residual(
    (
        (Conv(192, 1),),
        (Conv(192, 1), Conv(192, (1, 3)), Conv(192, (3, 1))),
    ),
    scale=_SCALE_C,
)
_MIXED_7A_V1 = Module(
    (
        (Conv(256, 1), halving(384)),
        (Conv(256, 1), halving(256)),
        (Conv(256, 1), Conv(256, 3), halving(256)),
        (MAX,),
    )
)

_PARTS_V1: Parts = (
    *inception_v2_v3.STEM,
    ("Conv2d_4b_3x3", halving(256)),
    *_repeat("Repeat_block35", _BLOCK35_V1, 5),
    ("Mixed_6a", reduction_a(192, 192, 256, 384)),
    *_repeat("Repeat_1_block17", _BLOCK17_V1, 10),
    ("Mixed_7a", _MIXED_7A_V1),
    *_repeat("Repeat_2_block8", _BLOCK8_V1, 5),
)

# --- Version 2: figures 16 to 19, and the release -------------------------------------------------

_BLOCK35 = Residual(
    (
        (Conv(32, 1),),
        (Conv(32, 1), Conv(32, 3)),
        (Conv(32, 1), Conv(48, 3), Conv(64, 3)),
    ),
    scale=_SCALE_A,
)
_BLOCK17 = Residual(
    (
        (Conv(192, 1),),
        (Conv(128, 1), Conv(160, (1, 7)), Conv(192, (7, 1))),
    ),
    scale=_SCALE_B,
)
_BRANCHES8: tuple[Branch, ...] = (
    (Conv(192, 1),),
    (Conv(192, 1), Conv(224, (1, 3)), Conv(256, (3, 1))),
)
_BLOCK8 = Residual(_BRANCHES8, scale=_SCALE_C)
_LAST_BLOCK8 = Residual(_BRANCHES8, scale=1.0, rectified=False)

_MIXED_6A = reduction_a(256, 256, 384, 384)
_MIXED_7A = Module(
    (
        (Conv(256, 1), halving(384)),
        (Conv(256, 1), halving(288)),
        (Conv(256, 1), Conv(288, 3), halving(320)),
        (MAX,),
    )
)

_PARTS_V2: Parts = (
    *inception_v2_v3.STEM,
    ("MaxPool_5a_3x3", MAX),
    ("Mixed_5b", mixed_5(96, pooled=64)),
    *_repeat("Repeat_block35", _BLOCK35, 10),
    ("Mixed_6a", _MIXED_6A),
    *_repeat("Repeat_1_block17", _BLOCK17, 20),
    ("Mixed_7a", _MIXED_7A),
    *_repeat("Repeat_2_block8", _BLOCK8, 9),
    ("Block8", _LAST_BLOCK8),
    ("Conv2d_7b_1x1", Conv(1536, 1)),
)
_PARTS_V2_PAPER: Parts = (
    *inception_v4.STEM,
    *_repeat("Repeat_block35", _BLOCK35, 5),
    ("Mixed_6a", _MIXED_6A),
    *_repeat("Repeat_1_block17", _BLOCK17, 10),
    ("Mixed_7a", _MIXED_7A),
    *_repeat("Repeat_2_block8", _BLOCK8, 5),
)

# --- Cards ----------------------------------------------------------------------------------------

_GAMMA = (
    "Batch normalization has a scale (gamma); TF-slim and keras.applications leave it out: with "
    "their weights it is one."
)
_SCALES = "The residuals are scaled by 0.17, 0.10 and 0.20, the release's values for version 2."
_DROPOUT = "Dropout drops 0.2 of the features; the paper and TF-slim write that 0.8 are kept."

INCEPTION_RESNET_V1 = InceptionSpec(
    name="inception_resnet_v1",
    family="inception_resnet",
    paper=PAPER,
    news=(
        "Inception modules learn a residual, projected back to the width of their input. At the "
        "cost of Inception v3 the network trains much faster than it, to about the same accuracy."
    ),
    input_shape=(299, 299, 3),
    min_size=(75, 75),
    num_classes=1000,
    params_trainable=22_756_328,
    params_total=22_783_368,
    multiply_adds=6_206_361_696,
    preprocessing=PREPROCESSING,
    endpoints=(
        "Conv2d_2b_3x3",
        "Conv2d_4a_3x3",
        "Repeat_block35_5",
        "Repeat_1_block17_10",
        "Repeat_2_block8_5",
    ),
    parts=_PARTS_V1,
    reported=(paper_single(21.3, 5.5), paper_144_crops(18.8, 4.3)),
    deviations=(
        "Nothing was released by the authors: built are the paper's figures. The network for faces "
        "in davidsandberg/facenet has one more block at the end, without ReLU.",
        _SCALES,
        _DROPOUT,
    ),
)

INCEPTION_RESNET_V2 = InceptionSpec(
    name="inception_resnet_v2",
    family="inception_resnet",
    paper=PAPER,
    news=(
        "Inception modules learn a residual, as wide as in Inception v4 and scaled down before it "
        "is added, which keeps wide networks from dying in training. It trains faster than "
        "Inception v4, to slightly better accuracy."
    ),
    input_shape=(299, 299, 3),
    min_size=(75, 75),
    num_classes=1000,
    params_trainable=55_843_464,
    params_total=55_904_008,
    multiply_adds=13_155_794_016,
    preprocessing=PREPROCESSING,
    endpoints=(
        "Conv2d_2b_3x3",
        "Conv2d_4a_3x3",
        "Repeat_block35_10",
        "Repeat_1_block17_20",
        "Conv2d_7b_1x1",
    ),
    aux_heads=("AuxLogits",),
    parts=_PARTS_V2,
    auxiliary_on="Repeat_1_block17_20",
    reported=(
        paper_single(19.9, 4.9),
        paper_144_crops(17.8, 3.7),
        ReportedError(
            "paper_best",
            "ImageNet test, four networks (an Inception v4, three of these), many crops",
            None,
            3.08,
            "paper, abstract",
        ),
        release(19.6, 4.7, SLIM_TABLE),
        release(19.744, 4.748, KERAS_TABLE),
        release(19.538, 4.692, TIMM_RESULTS),
    ),
    review=ReviewFigure(
        3.08,
        "An ensemble of four networks, one Inception v4 and three Inception-ResNet v2, on the test "
        "images.",
    ),
    deviations=(
        "Built is the release, which fits its weights and, its author says, what was meant. It has "
        "twice the blocks of the paper's figures (10, 20, 10), the stem of Inception v3 with one "
        "more module, a last block without scale and ReLU, and a final convolution to 1536. The "
        "figures are inception_resnet_v2_paper.",
        _GAMMA,
        _DROPOUT,
        "Where a branch is a single 1x1 convolution, TF-slim calls it Conv2d_1x1, not "
        "Conv2d_0a_1x1.",
    ),
)

INCEPTION_RESNET_V2_PAPER = InceptionSpec(
    name="inception_resnet_v2_paper",
    family="inception_resnet",
    paper=PAPER,
    news=INCEPTION_RESNET_V2.news,
    input_shape=(299, 299, 3),
    min_size=(75, 75),
    num_classes=1000,
    params_trainable=32_433_928,
    params_total=32_466_792,
    multiply_adds=9_257_953_632,
    preprocessing=PREPROCESSING,
    endpoints=(
        "Conv2d_2b_3x3",
        "Mixed_4a",
        "Repeat_block35_5",
        "Repeat_1_block17_10",
        "Repeat_2_block8_5",
    ),
    parts=_PARTS_V2_PAPER,
    deviations=(
        "The paper's errors are those of the network that was released, inception_resnet_v2; for "
        "its figures, which are built here, none are known.",
        "The figures print projections to 1154 and 2048 channels, where the maps that they are "
        "added to have 1152 and 2144.",
        _SCALES,
        _DROPOUT,
    ),
)

register(INCEPTION_RESNET_V1, INCEPTION_RESNET_V2, INCEPTION_RESNET_V2_PAPER)(inception)
