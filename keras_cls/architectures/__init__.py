"""The networks of ImageNet's history: one file a family, one registry for all.

After importing this package, ``keras.saving.load_model`` loads any network saved as ``.keras``.
"""

from keras_cls.architectures import (
    airbench,
    alexnet,
    bn_inception,
    googlenet,
    inception_resnet,
    inception_v2_v3,
    inception_v4,
    lenet,
    nasnet,
    nin,
    pnasnet,
    resnet,
    resnet_cifar,
    resnet_v2,
    resnext,
    senet,
    vgg,
)
from keras_cls.architectures._counting import count_multiply_adds
from keras_cls.architectures._registry import build_model, list_models, model_spec
from keras_cls.architectures.spec import ModelSpec, Paper, ReportedError, ReviewFigure, Views

__all__ = [
    "ModelSpec",
    "Paper",
    "ReportedError",
    "ReviewFigure",
    "Views",
    "airbench",
    "alexnet",
    "bn_inception",
    "build_model",
    "count_multiply_adds",
    "googlenet",
    "inception_resnet",
    "inception_v2_v3",
    "inception_v4",
    "lenet",
    "list_models",
    "model_spec",
    "nasnet",
    "nin",
    "pnasnet",
    "resnet",
    "resnet_cifar",
    "resnet_v2",
    "resnext",
    "senet",
    "vgg",
]
