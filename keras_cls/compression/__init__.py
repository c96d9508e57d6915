"""Smaller networks: pruning, clustering and quantization-aware training for Keras 3 models.

The tools for it (tensorflow-model-optimization) take tf_keras models only. So a model gets a twin
in tf_keras (:func:`twin_of`), the twin is wrapped, trained and stripped there, and what it has
learnt goes back into the Keras 3 model (:func:`copy_back`). Needs ``keras-cls[compress]``, which is
loaded when a function of this package is first used.
"""

from typing import TYPE_CHECKING

from keras_cls.compression.settings import (
    Clustering,
    ConstantSparsity,
    PolynomialDecay,
    Pruning,
    Quantization,
)
from keras_cls.lazy import lazy_names
from keras_cls.processor import prefer_onednn

if TYPE_CHECKING:
    from keras_cls.compression.clustering import clusterable, strip_clustering
    from keras_cls.compression.pruning import prunable, pruning_callbacks, strip_pruning
    from keras_cls.compression.quantization import calibrate, quantizable, ranges_of
    from keras_cls.compression.twin import copy_back, twin_layer, twin_of

_HOMES = {
    "calibrate": "quantization",
    "clusterable": "clustering",
    "copy_back": "twin",
    "prunable": "pruning",
    "pruning_callbacks": "pruning",
    "quantizable": "quantization",
    "ranges_of": "quantization",
    "strip_clustering": "clustering",
    "strip_pruning": "pruning",
    "twin_layer": "twin",
    "twin_of": "twin",
}

__all__ = [
    "Clustering",
    "ConstantSparsity",
    "PolynomialDecay",
    "Pruning",
    "Quantization",
    "calibrate",
    "clusterable",
    "copy_back",
    "prunable",
    "pruning_callbacks",
    "quantizable",
    "ranges_of",
    "strip_clustering",
    "strip_pruning",
    "twin_layer",
    "twin_of",
]

__getattr__, __dir__ = lazy_names(
    __name__, globals(), _HOMES, lambda _: "compress", lambda _: prefer_onednn()
)
