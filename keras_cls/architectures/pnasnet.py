"""PNASNet-5 (Liu et al. 2017), wired and padded as in the release."""

from keras_cls.architectures._registry import register
from keras_cls.architectures.cells import (
    Block,
    Cell,
    CellNetworkSpec,
    cell_network,
    imagenet_stem,
)
from keras_cls.architectures.nasnet import one_crop, release_preprocessing
from keras_cls.architectures.spec import Network, Paper, Tensor

PAPER = Paper(
    title="Progressive Neural Architecture Search",
    authors="Liu, Zoph, Neumann, Shlens, Hua, Li, Fei-Fei, Yuille, Huang, Murphy",
    year=2017,
    url="https://arxiv.org/abs/1712.00559",
)

NEWS = (
    "Cells grow block by block, and a small model that learns to predict their accuracy picks the "
    "few that are worth training. It took a fifth of the trained networks that reinforcement "
    "learning took in the same space."
)

# pnasnet.py of the release: one cell for both strides.
PNASNET_5 = Cell(
    blocks=(
        Block(("sep5", 1), ("max3", 1)),
        Block(("sep7", 0), ("max3", 0)),
        Block(("sep5", 0), ("sep3", 0)),
        Block(("sep3", 4), ("max3", 0)),
        Block(("sep3", 1), ("identity", 0)),
    ),
    output=(2, 3, 4, 5, 6),
)

_DEVIATIONS = (
    "The paper draws four of the five blocks as the cell's output, because the fourth one reads "
    "the third; the release concatenates all five (tensorflow/models#4729), and only so are the "
    "published parameters reached: so does this network.",
    "The release's networks have 1001 classes, the first one for nothing; here there are 1000.",
)
_README = "tensorflow/models, research/slim/README.md"

PNASNETS = (
    CellNetworkSpec(
        name="pnasnet5_mobile",
        family="pnasnet",
        paper=PAPER,
        news=NEWS,
        input_shape=(224, 224, 3),
        min_size=(32, 32),
        num_classes=1000,
        params_trainable=5_064_487,
        params_total=5_098_151,
        multiply_adds=587_293_200,
        preprocessing=release_preprocessing(224),
        endpoints=("conv0", "cell_stem_0", "cell_2", "cell_5", "cell_8"),
        aux_heads=("aux_logits",),
        reported=(
            one_crop("paper_single", 224, 25.8, 8.1, f"paper, as quoted in {_README}"),
            one_crop("release", 224, 25.8, 8.1, _README),
        ),
        deviations=_DEVIATIONS,
        normal=PNASNET_5,
        reduction=PNASNET_5,
        reductions_between=False,
        repeats=3,
        filters=54,
        stem=imagenet_stem(32),
    ),
    CellNetworkSpec(
        name="pnasnet5_large",
        family="pnasnet",
        paper=PAPER,
        news=NEWS,
        input_shape=(331, 331, 3),
        min_size=(32, 32),
        num_classes=1000,
        params_trainable=86_057_668,
        params_total=86_234_656,
        multiply_adds=24_937_395_792,
        preprocessing=release_preprocessing(331),
        endpoints=("conv0", "cell_stem_0", "cell_3", "cell_7", "cell_11"),
        aux_heads=("aux_logits",),
        reported=(
            one_crop("paper_single", 331, 17.1, 3.8, f"paper, as quoted in {_README}"),
            one_crop("release", 331, 17.1, 3.8, _README),
            one_crop("release", 331, 17.186, 3.968, "timm, results-imagenet.csv"),
        ),
        deviations=_DEVIATIONS,
        normal=PNASNET_5,
        reduction=PNASNET_5,
        reductions_between=False,
        repeats=4,
        filters=216,
        stem=imagenet_stem(96),
        drop_path=0.4,
    ),
)


@register(*PNASNETS)
def pnasnet(images: Tensor, spec: CellNetworkSpec, num_classes: int, aux: bool = False) -> Network:
    """[N, H, W, C] -> logits [N, num_classes]; cells bear the release's names."""
    return cell_network(images, spec, num_classes, aux)
