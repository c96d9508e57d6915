"""Weights of ResNet and ResNeXt under the names of torchvision (BSD-3), which timm shares."""

import re

from keras_cls.architectures import model_spec
from keras_cls.weights import _pytorch
from keras_cls.weights.source import Release, Source

_ENDS = {"conv1": "conv1", "conv1_bn": "bn1", "logits": "fc"}


def module(layer: str) -> str:
    """``"conv3_1_conv2_bn"`` -> ``"layer2.0.bn2"``: stages count from 2 here, from 1 there."""
    if layer in _ENDS:
        return _ENDS[layer]
    match = re.fullmatch(r"conv(\d)_(\d+)_(conv(\d)|shortcut)(_bn)?", layer)
    if match is None:
        raise ValueError(f"{layer!r} is not a layer of these networks")
    stage, unit, part, number, normalization = match.groups()
    if part == "shortcut":
        place = f"downsample.{1 if normalization else 0}"
    else:
        place = f"{'bn' if normalization else 'conv'}{number}"
    return f"layer{int(stage) - 1}.{int(unit) - 1}.{place}"


SOURCE = Source(
    name="torchvision",
    about="torchvision's weights (BSD-3)",
    endings=_pytorch.ENDINGS,
    releases={
        name: Release(name=name, preprocessing=model_spec(name).preprocessing, head=("fc.",))
        for name in (
            *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
            "resnext50_32x4d",
            "resnext101_32x4d",
        )
    },
    origins=lambda model, file: _pytorch.origins(model, module),
    ignored=_pytorch.bookkeeping,
)
