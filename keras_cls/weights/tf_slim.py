"""Weights that TF-slim published (tensorflow/models, research/slim; Apache-2.0).

Its networks for ImageNet, but for VGG, have 1,001 classes: before the 1,000 stands one that no
image is of. Checkpoints of a training hold, beside each variable, what the optimizer keeps of it
and often its moving average, which is what slim evaluates; so that is taken where it is there.
"""

import re
from dataclasses import dataclass, replace

import keras
import numpy as np

from keras_cls.architectures import model_spec
from keras_cls.architectures.cells import CellNetworkSpec, stage_ends
from keras_cls.architectures.nasnet import release_preprocessing
from keras_cls.preprocessing import Preprocessing
from keras_cls.weights._plan import Change, DropFirst, Origin, Shape
from keras_cls.weights.formats import WeightsFile
from keras_cls.weights.source import Release, Source

# --- Names ----------------------------------------------------------------------------------------

# Our variable -> slim's.
_VARIABLES = {
    "kernel": "weights",
    "depthwise_kernel": "depthwise_weights",
    "pointwise_kernel": "pointwise_weights",
    "bias": "biases",
    "gamma": "gamma",
    "beta": "beta",
    "moving_mean": "moving_mean",
    "moving_variance": "moving_variance",
}


@dataclass(frozen=True, kw_only=True)
class _Naming:
    """How slim calls the layers of a network.

    Attributes:
        root: what all names begin with.
        steps: (regular expression, replacement), one after the other applied to a layer's name.
        scale: whether batch normalization has a gamma; a layer's name does not tell.
        convolutions: the layers that are dense here and 1x1 convolutions there.
    """

    root: str = ""
    steps: tuple[tuple[str, str], ...]
    scale: bool = True
    convolutions: tuple[str, ...] = ()

    def scope(self, layer: str) -> str:
        """Slim's name of a layer, of which the names of its variables are made."""
        for pattern, replacement in self.steps:
            layer = re.sub(pattern, replacement, layer)
        return self.root + layer


# Mixed_6c_Branch_2_Conv2d_0e_1x7_bn -> Mixed_6c/Branch_2/Conv2d_0e_1x7/BatchNorm
_INCEPTION = ((r"_(?=Branch_|Conv2d_|block)", "/"), (r"_bn$", "/BatchNorm"))

_INCEPTION_V3 = _Naming(
    root="InceptionV3/",
    steps=(
        *_INCEPTION,
        # Slips of the release, which its checkpoints keep.
        ("^(Mixed_5c/Branch_1)/Conv2d_0a_1x1", r"\1/Conv2d_0b_1x1"),
        ("^(Mixed_5c/Branch_1)/Conv2d_0b_5x5", r"\1/Conv_1_0c_5x5"),
        ("^(Mixed_6a/Branch_[01])/Conv2d_1a_3x3", r"\1/Conv2d_1a_1x1"),
        ("^(Mixed_7b/Branch_1)/Conv2d_0c_3x1", r"\1/Conv2d_0b_3x1"),
        ("^AuxLogits$", "AuxLogits/Conv2d_2b_1x1"),
        ("^logits$", "Logits/Conv2d_1c_1x1"),
    ),
    scale=False,
    convolutions=("AuxLogits", "logits"),
)
_INCEPTION_V4 = _Naming(
    root="InceptionV4/",
    steps=(
        *_INCEPTION,
        ("^(Mixed_3a/Branch_1)/Conv2d_1a_3x3", r"\1/Conv2d_0a_3x3"),
        ("^AuxLogits/Conv2d_2a_5x5", "AuxLogits/Conv2d_2a"),
        ("^AuxLogits$", "AuxLogits/Aux_logits"),
        ("^logits$", "Logits/Logits"),
    ),
    scale=False,
)
_INCEPTION_RESNET_V2 = _Naming(
    root="InceptionResnetV2/",
    steps=(
        *_INCEPTION,
        # A branch of one convolution.
        (r"((?:Mixed_5b|[Bb]lock\w+)/Branch_0)/Conv2d_0a_1x1", r"\1/Conv2d_1x1"),
        ("^AuxLogits$", "AuxLogits/Logits"),
        ("^logits$", "Logits/Logits"),
    ),
    scale=False,
)


# Ours -> slim's name, the side of its images, its archive; None where nothing was published: a file
# is somebody's own.
_CELLS: dict[str, tuple[str, int, str | None]] = {
    "nasnet_cifar10": ("nasnet_cifar", 32, None),
    "nasnet_mobile_slim": ("nasnet_mobile", 224, "nasnet-a_mobile_04_10_2017"),
    "nasnet_large_slim": ("nasnet_large", 331, "nasnet-a_large_04_10_2017"),
    "pnasnet5_mobile": ("pnasnet_mobile", 224, "pnasnet-5_mobile_2017_12_13"),
    "pnasnet5_large": ("pnasnet_large", 331, "pnasnet-5_large_2017_12_13"),
}


def _cells(name: str) -> _Naming:
    """cell_3_comb_iter_2_right_bn_sep_3x3_1 -> cell_3/comb_iter_2/right/bn_sep_3x3_1."""
    spec = model_spec(name)
    assert isinstance(spec, CellNetworkSpec)
    auxiliary = f"{stage_ends(spec)[1].replace('cell', 'aux')}/aux_logits"
    return _Naming(
        steps=(
            (r"^((?:reduction_)?cell_(?:stem_)?\d+)_", r"\1/"),
            (r"/(comb_iter_\d)_(left|right)_", r"/\1/\2/"),
            (r"/(reduction_\d)_", r"/cell_output/\1/"),
            ("^aux_proj$", f"{auxiliary}/proj"),
            ("^aux_(bn[01])$", rf"{auxiliary}/aux_\1"),
            ("^aux_conv$", f"{auxiliary}/Conv"),
            ("^aux_logits$", f"{auxiliary}/FC"),
            ("^logits$", "final_layer/FC"),
        )
    )


def _vgg(root: str) -> _Naming:
    """conv3_2 -> conv3/conv3_2; fc6 is a convolution in both."""
    return _Naming(
        root=root,
        steps=((r"^(conv\d)_", r"\1/\1_"), ("^logits$", "fc8")),
        convolutions=("logits",),
    )


_NAMINGS = {
    "inception_v3": _INCEPTION_V3,
    "inception_v4": _INCEPTION_V4,
    "inception_resnet_v2": _INCEPTION_RESNET_V2,
    **{name: _cells(name) for name in _CELLS},
    "vgg16": _vgg("vgg_16/"),
    "vgg19": _vgg("vgg_19/"),
}

# --- From names to origins ------------------------------------------------------------------------

_WITH_BACKGROUND = 1001
_AVERAGE = "/ExponentialMovingAverage"
# What the optimizers of slim's train_image_classifier.py keep, and the colour that VGG's images
# were centred on, which is part of the preprocessing.
_BOOKKEEPING = re.compile(
    r".*/(RMSProp|Momentum|Adam|Adagrad|Adadelta|Ftrl)(_\d+)?"
    r"|(.*/)?(global_step|beta[12]_power|mean_rgb)"
)


@dataclass(frozen=True)
class Squeeze:
    """The kernel of a 1x1 convolution, [1, 1, c, units], for a dense layer's, [c, units]."""

    said = "1x1 convolution made a dense layer"

    def shape_in_file(self, shape: Shape) -> Shape:
        """With the window of one pixel."""
        return (1, 1, *shape)

    def __call__(self, tensor: np.ndarray) -> np.ndarray:
        """Without it."""
        return tensor[0, 0]


@dataclass(frozen=True)
class Average:
    """Changes nothing; it says that another tensor was taken than the variable itself."""

    said = "moving average of the training taken, not the last value"

    def shape_in_file(self, shape: Shape) -> Shape:
        """The same."""
        return shape

    def __call__(self, tensor: np.ndarray) -> np.ndarray:
        """As it is."""
        return tensor


def origins(model: keras.Model, file: WeightsFile) -> dict[str, Origin]:
    """Where each variable is, moving averages first; the class of the background is dropped."""
    naming = _NAMINGS[SOURCE.releases[model.name].network or model.name]
    spec = model_spec(model.name)
    heads = (spec.head, *spec.aux_heads)
    bias = file.tensors.get(f"{naming.scope(spec.head)}/biases")
    background = bias is not None and bias.shape == (_WITH_BACKGROUND,)
    found = {}
    for layer in model.layers:
        for variable in layer.weights:
            if variable.name == "gamma" and not naming.scale:
                found[variable.path] = Origin(None, value=1.0)
                continue
            key = f"{naming.scope(layer.name)}/{_VARIABLES[variable.name]}"
            changes: list[Change] = []
            if key + _AVERAGE in file.tensors:
                key += _AVERAGE
                changes.append(Average())
            if layer.name in naming.convolutions and variable.name == "kernel":
                changes.append(Squeeze())
            if layer.name in heads and background and variable.shape[-1] != _WITH_BACKGROUND:
                changes.append(DropFirst())
            found[variable.path] = Origin(key, tuple(changes))
    return found


def ignored(file: WeightsFile) -> list[str]:
    """What a training kept beside its variables, and those of which it kept an average."""
    return [
        key for key in file.tensors if key + _AVERAGE in file.tensors or _BOOKKEEPING.fullmatch(key)
    ]


# --- Releases -------------------------------------------------------------------------------------

# vgg_preprocessing.py: the shorter side to 256, the central 224 pixels, less the mean, unscaled.
_VGG_PREPROCESSING = Preprocessing(
    size=(224, 224),
    resize="shorter",
    crop=0.875,
    mean=(123.68 / 255, 116.779 / 255, 103.94 / 255),
    std=(1 / 255, 1 / 255, 1 / 255),
)
_2016 = "http://download.tensorflow.org/models"
_2017 = "https://storage.googleapis.com/download.tensorflow.org/models"


def _inception_release(name: str, root: str, archive: str) -> Release:
    return Release(
        name=name,
        preprocessing=release_preprocessing(299),
        head=(f"{root}Logits/",),
        aux=(f"{root}AuxLogits/",),
        url=f"{_2016}/{archive}.tar.gz",
    )


def _cells_release(ours: str) -> Release:
    name, size, archive = _CELLS[ours]
    return Release(
        name=name,
        preprocessing=release_preprocessing(size) if archive else model_spec(ours).preprocessing,
        classes="imagenet" if archive else None,
        head=("final_layer/",),
        aux=("aux_",),
        url=f"{_2017}/{archive}.tar.gz" if archive else None,
    )


def _vgg_release(name: str) -> Release:
    return Release(
        name=name,
        preprocessing=_VGG_PREPROCESSING,
        head=(f"{name}/fc8/",),
        top=tuple(f"{name}/{layer}/" for layer in ("fc6", "fc7", "fc8")),
        url=f"{_2016}/{name}_2016_08_28.tar.gz",
    )


_RESNET = (
    "the stride is in the last unit of a stage there and in the first here: the same names and "
    "shapes, another network"
)

SOURCE = Source(
    name="tf-slim",
    about="TF-slim's weights (tensorflow/models, research/slim; Apache-2.0)",
    endings=(".ckpt",),
    releases={
        "inception_v3": _inception_release(
            "inception_v3", "InceptionV3/", "inception_v3_2016_08_28"
        ),
        "inception_v4": _inception_release(
            "inception_v4", "InceptionV4/", "inception_v4_2016_09_09"
        ),
        "inception_resnet_v2": _inception_release(
            "inception_resnet_v2", "InceptionResnetV2/", "inception_resnet_v2_2016_08_30"
        ),
        **{name: _cells_release(name) for name in _CELLS},
        # Where pooling strides, its padding is left out there: same tensors, other logits.
        **{
            name: replace(_cells_release(f"{name}_slim"), network=f"{name}_slim")
            for name in ("nasnet_mobile", "nasnet_large")
        },
        "vgg16": _vgg_release("vgg_16"),
        "vgg19": _vgg_release("vgg_19"),
    },
    refused={
        "alexnet": "its alexnet_v2 is the single tower of another paper (arXiv 1404.5997), without "
        "groups and local response normalization",
        "googlenet": "its inception_v1 has batch normalization, and 3x3 kernels where the paper "
        "has 5x5",
        "bn_inception": "its inception_v2 begins with a separable 7x7 convolution, the paper's "
        "with a full one",
        "inception_v2": "its inception_v2 is BN-Inception (arXiv 1502.03167) with a separable "
        "first convolution, not the network of arXiv 1512.00567",
        **{f"resnet{depth}{kind}": _RESNET for depth in (50, 101, 152) for kind in ("_v1", "_v2")},
        **{f"resnet{depth}": _RESNET for depth in (50, 101, 152)},
    },
    origins=origins,
    ignored=ignored,
)
