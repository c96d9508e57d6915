"""Inception v4 (Szegedy et al. 2016, arXiv 1602.07261)."""

from keras_cls.architectures._registry import register
from keras_cls.architectures.inception_v2_v3 import (
    AVERAGE,
    MAX,
    ONE_CROP,
    PREPROCESSING,
    SLIM_TABLE,
    TIMM_RESULTS,
    Conv,
    Fork,
    InceptionSpec,
    Module,
    Parts,
    halving,
    inception,
    release,
)
from keras_cls.architectures.spec import Paper, ReportedError, Views

PAPER = Paper(
    title="Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning",
    authors="Szegedy, Ioffe, Vanhoucke, Alemi",
    year=2016,
    url="https://arxiv.org/abs/1602.07261",
)

# Figure 3.
_MIXED_3A = Module(((MAX,), (halving(96),)))
_MIXED_4A = Module(
    (
        (Conv(64, 1), Conv(96, 3, padding="valid")),
        (Conv(64, 1), Conv(64, (1, 7)), Conv(64, (7, 1)), Conv(96, 3, padding="valid")),
    )
)
_MIXED_5A = Module(((halving(192),), (MAX,)))

STEM: Parts = (
    ("Conv2d_1a_3x3", halving(32)),
    ("Conv2d_2a_3x3", Conv(32, 3, padding="valid")),
    ("Conv2d_2b_3x3", Conv(64, 3)),
    ("Mixed_3a", _MIXED_3A),
    ("Mixed_4a", _MIXED_4A),
    ("Mixed_5a", _MIXED_5A),
)

# Figure 4.
_INCEPTION_A = Module(
    (
        (Conv(96, 1),),
        (Conv(64, 1), Conv(96, 3)),
        (Conv(64, 1), Conv(96, 3), Conv(96, 3)),
        (AVERAGE, Conv(96, 1)),
    )
)


def reduction_a(k: int, l: int, m: int, n: int) -> Module:  # noqa: E741
    """Figure 7, from 35x35 to 17x17, with the letters of the paper's Table 1."""
    return Module(
        (
            (halving(n),),
            (Conv(k, 1), Conv(l, 3), halving(m)),
            (MAX,),
        )
    )


# Figure 5.
_INCEPTION_B = Module(
    (
        (Conv(384, 1),),
        (Conv(192, 1), Conv(224, (1, 7)), Conv(256, (7, 1))),
        (
            Conv(192, 1),
            Conv(192, (7, 1)),
            Conv(224, (1, 7)),
            Conv(224, (7, 1)),
            Conv(256, (1, 7)),
        ),
        (AVERAGE, Conv(128, 1)),
    )
)
# Figure 8.
_REDUCTION_B = Module(
    (
        (Conv(192, 1), halving(192)),
        (Conv(256, 1), Conv(256, (1, 7)), Conv(320, (7, 1)), halving(320)),
        (MAX,),
    )
)
# Figure 6.
_THREE_BY_THREE_IN_LINES = Fork((Conv(256, (1, 3)), Conv(256, (3, 1))))
_INCEPTION_C = Module(
    (
        (Conv(256, 1),),
        (Conv(384, 1), _THREE_BY_THREE_IN_LINES),
        (Conv(384, 1), Conv(448, (3, 1)), Conv(512, (1, 3)), _THREE_BY_THREE_IN_LINES),
        (AVERAGE, Conv(256, 1)),
    )
)


def paper_single(top1: float, top5: float) -> ReportedError:
    """Errors in percent from the paper's table 2, without the images that are on a blacklist."""
    text = f"{ONE_CROP}, without the images on ILSVRC's blacklist"
    return ReportedError("paper_single", text, top1, top5, "paper, table 2", views=Views())


def paper_144_crops(top1: float, top5: float) -> ReportedError:
    """Errors in percent from the paper's table 4."""
    text = "ImageNet validation, one network, 144 crops"
    return ReportedError("paper_best", text, top1, top5, "paper, table 4", views=Views(144))


INCEPTION_V4 = InceptionSpec(
    name="inception_v4",
    family="inception_v4",
    paper=PAPER,
    news=(
        "Freed from the constraints of an older training system, the modules of one grid are all "
        "alike, and the stem branches too. The plain network reached what residual connections "
        "give, which train faster but are not needed for depth."
    ),
    input_shape=(299, 299, 3),
    min_size=(75, 75),
    num_classes=1000,
    params_trainable=42_679_816,
    params_total=42_742_984,
    multiply_adds=12_253_974_624,
    preprocessing=PREPROCESSING,
    endpoints=("Conv2d_2b_3x3", "Mixed_4a", "Mixed_5e", "Mixed_6h", "Mixed_7d"),
    aux_heads=("AuxLogits",),
    parts=(
        *STEM,
        *((f"Mixed_5{letter}", _INCEPTION_A) for letter in "bcde"),
        ("Mixed_6a", reduction_a(192, 224, 256, 384)),
        *((f"Mixed_6{letter}", _INCEPTION_B) for letter in "bcdefgh"),
        ("Mixed_7a", _REDUCTION_B),
        *((f"Mixed_7{letter}", _INCEPTION_C) for letter in "bcd"),
    ),
    auxiliary_on="Mixed_6h",
    reported=(
        paper_single(20.0, 5.0),
        ReportedError(
            "paper_best",
            "ImageNet validation, one network, 12 crops",
            18.7,
            4.2,
            "paper, table 3",
        ),
        paper_144_crops(17.7, 3.8),
        release(19.8, 4.8, SLIM_TABLE),
        release(19.844, 5.032, TIMM_RESULTS),
    ),
    deviations=(
        "Batch normalization has a scale (gamma); TF-slim leaves it out: with its weights it is "
        "one.",
        "The auxiliary head is the release's; the paper's figures do not show it.",
        "Dropout drops 0.2 of the features; the paper and TF-slim write that 0.8 are kept.",
        "In the stem, TF-slim numbers Mixed_3a's pooling and convolution 0a instead of 1a.",
    ),
)

register(INCEPTION_V4)(inception)
