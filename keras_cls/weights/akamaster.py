"""Weights of the CIFAR-10 ResNets from github.com/akamaster/pytorch_resnet_cifar10 (BSD-2)."""

import re

from keras_cls.architectures import model_spec
from keras_cls.weights import _pytorch
from keras_cls.weights.source import Release, Source

_ENDS = {"conv1": "conv1", "conv1_bn": "bn1", "logits": "linear"}


def module(layer: str) -> str:
    """``"conv3_1_conv2_bn"`` -> ``"layer2.0.bn2"``: stages count from 2 here, from 1 there."""
    if layer in _ENDS:
        return _ENDS[layer]
    match = re.fullmatch(r"conv(\d)_(\d+)_conv(\d)(_bn)?", layer)
    if match is None:
        raise ValueError(f"{layer!r} is not a layer of these networks")
    stage, unit, number, normalization = match.groups()
    kind = "bn" if normalization else "conv"
    return f"layer{int(stage) - 1}.{int(unit) - 1}.{kind}{number}"


SOURCE = Source(
    name="akamaster",
    about="the ResNets for CIFAR-10 of github.com/akamaster/pytorch_resnet_cifar10 (BSD-2)",
    endings=_pytorch.ENDINGS,
    releases={
        f"resnet{depth}_cifar10": Release(
            name=f"resnet{depth}",
            preprocessing=model_spec(f"resnet{depth}_cifar10").preprocessing,
            classes="cifar10",
            head=("linear.",),
        )
        for depth in (20, 32, 44, 56, 110)
    },
    origins=lambda model, file: _pytorch.origins(model, module),
    ignored=_pytorch.bookkeeping,
)
