"""The networks of ImageNet's history: one file a family, one registry for all.

After importing this package, ``keras.saving.load_model`` loads any network saved as ``.keras``.
"""

from keras_cls.architectures import lenet, resnet, resnet_cifar
from keras_cls.architectures._counting import count_multiply_adds
from keras_cls.architectures._registry import build_model, list_models, model_spec
from keras_cls.architectures.spec import ModelSpec, Paper, ReportedError, ReviewFigure

__all__ = [
    "ModelSpec",
    "Paper",
    "ReportedError",
    "ReviewFigure",
    "build_model",
    "count_multiply_adds",
    "lenet",
    "list_models",
    "model_spec",
    "resnet",
    "resnet_cifar",
]
