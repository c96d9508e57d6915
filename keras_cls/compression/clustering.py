"""Weight clustering of a twin."""

from math import prod
from typing import Any

import tf_keras

from keras_cls.compression import twin_layers
from keras_cls.compression.rebuilding import rebuilt
from keras_cls.compression.settings import Clustering
from keras_cls.compression.toolkit import tfmot
from keras_cls.compression.twin import variable_name
from keras_cls.errors import ConfigError


def clusterable(twin: tf_keras.Model, settings: Clustering | None = None) -> tf_keras.Model:
    """A model whose kernels have few values each, which training moves.

    Kernels of convolutions and dense layers are clustered, and the pointwise ones of separable
    convolutions; depthwise kernels, biases, layers that are frozen, and kernels with no more
    weights than clusters are not. It shares the twin's layers: the twin is used up.

    Args:
        twin: what :func:`~keras_cls.compression.twin.twin_of` makes, trained before.
        settings: None for 16 values a kernel.

    Raises:
        ConfigError: the twin is no functional tf_keras model, or nothing in it can be clustered.
    """
    settings = settings or Clustering()
    found = rebuilt(twin, lambda layer: _replacements(layer, settings))
    if not any(isinstance(layer, _wrapper()) for layer in found.layers):
        raise ConfigError(
            f"{twin.name}: no layer has a kernel that can be made of {settings.clusters} values"
        )
    return found


def strip_clustering(model: tf_keras.Model) -> tf_keras.Model:
    """A clusterable model without what clustering added; each kernel is of few values.

    Raises:
        ConfigError: the model is no functional tf_keras model.
    """
    return rebuilt(model, _stripped)


def _replacements(
    layer: tf_keras.layers.Layer, settings: Clustering
) -> list[tf_keras.layers.Layer]:
    if isinstance(layer, tf_keras.layers.InputLayer):
        return []
    if not layer.trainable or _values(layer, settings.per_channel) <= settings.clusters:
        return [layer]
    return [
        _wrapper()(
            layer,
            number_of_clusters=int(settings.clusters),
            cluster_centroids_init=tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS,
            preserve_sparsity=settings.preserve_sparsity,
            cluster_per_channel=settings.per_channel,
        )
    ]


def _values(layer: tf_keras.layers.Layer, per_channel: bool) -> int:
    """How many weights would share their values; 0 where the layer is left alone."""
    if type(layer) is tf_keras.layers.SeparableConv2D:
        return prod(layer.pointwise_kernel.shape)
    if type(layer) not in twin_layers.KERNELS:
        return 0
    shape = layer.kernel.shape
    if per_channel and isinstance(layer, tf_keras.layers.Conv2D):
        shape = shape[:-1]
    return prod(shape)


def _wrapper() -> Any:
    from tensorflow_model_optimization.python.core.clustering.keras import cluster_wrapper

    return cluster_wrapper.ClusterWeights


def _stripped(layer: Any) -> list[tf_keras.layers.Layer]:
    if isinstance(layer, tf_keras.layers.InputLayer):
        return []
    if not isinstance(layer, _wrapper()):
        return [layer]
    layer.update_clustered_weights_associations()
    # The layer's own variable was replaced by the clustered values: in place it goes again.
    clean = type(layer.layer).from_config(layer.layer.get_config())
    clean.build(layer.build_input_shape)
    kernels = layer.original_clusterable_weights
    for variable in clean.weights:
        name = variable_name(variable)
        if name in kernels:
            variable.assign(layer.get_weight_from_layer(name))
        else:
            variable.assign(getattr(layer.layer, name))
    return [clean]
