"""What is known of a network before it is built: its paper, its counts, its published errors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import keras

from keras_cls.preprocessing import Preprocessing

Tensor: TypeAlias = keras.KerasTensor


@dataclass(frozen=True)
class Paper:
    """The publication that a network comes from; ``url`` is its arXiv or DOI address."""

    title: str
    authors: str
    year: int
    url: str


@dataclass(frozen=True)
class ReportedError:
    """A published error rate, in percent.

    ``protocol`` says on which images and how they were judged (crops, scales, one network or
    several), ``source`` where the figure stands. ``recalled`` marks a figure that was written
    down from memory of the source and still has to be checked against it.
    """

    protocol: str
    top1: float | None
    top5: float | None
    source: str
    recalled: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A network of the registry, described. A family adds what sets its networks apart.

    Attributes:
        name: the registry's name, such as ``"resnet50"``.
        family: the name of the file that builds it.
        paper: where it was published.
        input_shape: (height, width, channels) as published.
        min_size: the smallest (height, width) that the network takes.
        num_classes: the published number of classes.
        params_trainable: trainable parameters at the published shape and number of classes.
        params_total: the same with the moving statistics of batch normalization.
        multiply_adds: multiplications and additions, counted as one, of the convolutions and
            dense layers for one image of the published shape.
        preprocessing: what the published weights expect of an image.
        endpoints: the names of the feature maps, one a stride, first to last.
        head: the name of the last layer, a dense one that gives the logits.
        aux_heads: the names of the auxiliary classifiers' logits, where there are any.
        reported: error rates from the paper and from released weights.
        deviations: where paper and release differ, and which of them is built here.
    """

    name: str
    family: str
    paper: Paper
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
    reported: tuple[ReportedError, ...] = ()
    deviations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Network:
    """What a family's builder gives back: symbolic tensors, the endpoints in the spec's order."""

    logits: Tensor
    endpoints: Mapping[str, Tensor]
    aux: Mapping[str, Tensor] = field(default_factory=dict)
