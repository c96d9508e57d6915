"""What is known of a network before it is built: its paper, its counts, its published errors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import keras
import numpy as np

from keras_cls.preprocessing import Preprocessing

Tensor: TypeAlias = keras.KerasTensor

# (model, float32 images [n, H, W, C] as the network takes them) -> None
Preparation: TypeAlias = Callable[[keras.Model, np.ndarray], None]


@dataclass(frozen=True)
class Paper:
    """The publication that a network comes from; ``url`` is its arXiv or DOI address."""

    title: str
    authors: str
    year: int
    url: str


@dataclass(frozen=True)
class Views:
    """What one network was shown of each image, where a figure can be measured again.

    Attributes:
        crops: the central one; ten, of the central square of the resized image (AlexNet) or of all
            of it (ResNet); GoogLeNet's 144; or ``"dense"``, the network over the whole image. The
            probabilities of all are averaged.
        scales: the shorter sides, in pixels, to which the image was resized, all averaged; where
            there are none, that of the network's preprocessing.
        size: the side of the network's square input in pixels; None where it is the published one.
    """

    crops: Literal[1, 10, "10 of the whole image", 144, "dense"] = 1
    scales: tuple[int, ...] = ()
    size: int | None = None


@dataclass(frozen=True)
class ReportedError:
    """A published error rate, in percent.

    ``column`` is the column of the card: the paper's figure for one network and one central crop
    (``"paper_single"``), the paper's best (``"paper_best"``), or what released weights reach
    (``"release"``). ``protocol`` says on which images and how they were judged (crops, scales,
    one network or several), ``source`` where the figure stands. ``recalled`` marks a figure that
    was written down from memory of the source and still has to be checked against it. ``views``
    says the protocol for programs; it is None where one network of the registry cannot be measured
    so: several networks, hidden test images, or weights of a variant that is not in the registry.
    """

    column: Literal["paper_single", "paper_best", "release"]
    protocol: str
    top1: float | None
    top5: float | None
    source: str
    recalled: bool = False
    views: Views | None = None


@dataclass(frozen=True)
class ReviewFigure:
    """The top-5 error, in percent, that popular reviews of the field quote, and what it really is.

    ``meaning`` says which row of the publications it is: of how many networks and crops, on which
    images.
    """

    top5: float
    meaning: str


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A network of the registry, described. A family adds what sets its networks apart.

    Attributes:
        name: the registry's name, such as ``"resnet50"``.
        family: the name of the file that builds it.
        paper: where it was published.
        news: what was new, in two sentences.
        input_shape: (height, width, channels) as published.
        min_size: the smallest (height, width) that the network takes.
        num_classes: the published number of classes.
        params_trainable: trainable parameters at the published shape and number of classes.
        params_total: the same with the moving statistics of batch normalization.
        multiply_adds: multiplications and additions, counted as one, of the convolutions and
            dense layers for one image of the published shape.
        preprocessing: what the published weights expect of an image.
        endpoints: the names of the feature maps, one a stride, first to last.
        head: the name of the layer that gives the logits: a dense one, or a 1x1 convolution whose
            maps are averaged; the classes are its last axis.
        aux_heads: the names of the auxiliary classifiers' logits, where there are any.
        prepare: fits fresh weights to a few thousand of the training images before the first
            step, where the paper does so.
        reported: error rates from the paper and from released weights.
        review: the figure that popular reviews quote, where they quote one.
        deviations: where paper and release differ, and which of them is built here.
    """

    name: str
    family: str
    paper: Paper
    news: str = ""
    input_shape: tuple[int, int, int]
    min_size: tuple[int, int]
    num_classes: int
    params_trainable: int
    params_total: int
    multiply_adds: int
    preprocessing: Preprocessing
    endpoints: tuple[str, ...]
    head: str = "logits"
    aux_heads: tuple[str, ...] = ()
    prepare: Preparation | None = None
    reported: tuple[ReportedError, ...] = ()
    review: ReviewFigure | None = None
    deviations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Network:
    """What a family's builder gives back: symbolic tensors, the endpoints in the spec's order."""

    logits: Tensor
    endpoints: Mapping[str, Tensor]
    aux: Mapping[str, Tensor] = field(default_factory=dict)
