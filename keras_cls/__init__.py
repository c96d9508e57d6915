"""keras_cls: from labelled photos to a classification endpoint.

The verbs below are imported on first use, so that ``import keras_cls`` stays instant and loads
neither TensorFlow nor Keras; ``keras_cls.Client`` and ``keras_cls.AsyncClient`` never do.
"""

from typing import TYPE_CHECKING

from keras_cls.lazy import lazy_names
from keras_cls.version import __version__ as __version__

if TYPE_CHECKING:
    from keras_cls.architectures import ModelSpec, count_multiply_adds, list_models, model_spec
    from keras_cls.classifier import Classifier, load
    from keras_cls.client import AsyncClient, Client
    from keras_cls.compression.compressing import CompressionResult, compress
    from keras_cls.contract import Prediction
    from keras_cls.errors import (
        ConfigError,
        DataError,
        ExportError,
        ImageError,
        ServingError,
        TrainingDivergedError,
        TrainingStoppedError,
        UserError,
    )
    from keras_cls.evaluation import Evaluation, MultiLabelEvaluation, evaluate
    from keras_cls.exporting import export
    from keras_cls.preprocessing import Preprocessing
    from keras_cls.server import ModelServer, serve
    from keras_cls.training import TrainingRun, train
    from keras_cls.weights import create_model

_HOMES = {
    "AsyncClient": "client",
    "Classifier": "classifier",
    "Client": "client",
    "CompressionResult": "compression.compressing",
    "ConfigError": "errors",
    "DataError": "errors",
    "Evaluation": "evaluation",
    "ExportError": "errors",
    "ImageError": "errors",
    "ModelServer": "server",
    "ModelSpec": "architectures",
    "MultiLabelEvaluation": "evaluation",
    "Prediction": "contract",
    "Preprocessing": "preprocessing",
    "ServingError": "errors",
    "TrainingDivergedError": "errors",
    "TrainingRun": "training",
    "TrainingStoppedError": "errors",
    "UserError": "errors",
    "compress": "compression.compressing",
    "count_multiply_adds": "architectures",
    "create_model": "weights",
    "evaluate": "evaluation",
    "export": "exporting",
    "list_models": "architectures",
    "load": "classifier",
    "model_spec": "architectures",
    "serve": "server",
    "train": "training",
}

# What brings the libraries of a room; of the others it is "train".
_EXTRAS = {"server": "serve", "compression.compressing": "compress"}

__all__ = [
    "AsyncClient",
    "Classifier",
    "Client",
    "CompressionResult",
    "ConfigError",
    "DataError",
    "Evaluation",
    "ExportError",
    "ImageError",
    "ModelServer",
    "ModelSpec",
    "MultiLabelEvaluation",
    "Prediction",
    "Preprocessing",
    "ServingError",
    "TrainingDivergedError",
    "TrainingRun",
    "TrainingStoppedError",
    "UserError",
    "compress",
    "count_multiply_adds",
    "create_model",
    "evaluate",
    "export",
    "list_models",
    "load",
    "model_spec",
    "serve",
    "train",
]


def _prepare(home: str) -> None:
    # The client needs no TensorFlow, and the server leaves it as it is.
    if home not in ("client", "server", "errors", "contract", "preprocessing"):
        from keras_cls.processor import prefer_onednn

        prefer_onednn()


__getattr__, __dir__ = lazy_names(
    __name__, globals(), _HOMES, lambda home: _EXTRAS.get(home, "train"), _prepare
)
