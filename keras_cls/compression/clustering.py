"""Weight clustering of a twin."""

from functools import partial
from math import prod
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from keras_cls.compression import twin_layers
from keras_cls.compression.rebuilding import rebuilt
from keras_cls.compression.settings import LEAST_WITH_ZERO, Clustering
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
    wrapped = [layer for layer in found.layers if isinstance(layer, _wrapper())]
    if not wrapped:
        raise ConfigError(
            f"{twin.name}: no layer has a kernel that can be made of {settings.clusters} values"
        )
    for layer in wrapped:
        for algorithm in layer.clustering_algorithms.values():
            if type(algorithm).get_pulling_indices is _look_up():
                algorithm.get_pulling_indices = partial(nearest, algorithm)
    return found


def nearest(algorithm: Any, weight: tf.Tensor, centroids: tf.Tensor | None = None) -> tf.Tensor:
    """The nearest value to each weight, as its number, int64 of the weights' shape.

    The toolkit measures the distance of each weight to each value: of a large dense layer, in each
    step, gigabytes.
    """
    values = tf.convert_to_tensor(algorithm.cluster_centroids if centroids is None else centroids)
    order = tf.argsort(values)
    ordered = tf.gather(values, order)
    between = (ordered[1:] + ordered[:-1]) / 2
    places = tf.searchsorted(between, tf.reshape(weight, [-1]))
    return tf.reshape(tf.cast(tf.gather(order, places), tf.int64), tf.shape(weight))


def strip_clustering(model: tf_keras.Model) -> tf_keras.Model:
    """A clusterable model without what clustering added; each kernel is of few values.

    Raises:
        ConfigError: the model is no functional tf_keras model.
    """
    return rebuilt(model, _stripped)


def strip_again(model: tf_keras.Model, stripped: tf_keras.Model) -> None:
    """Give what :func:`strip_clustering` made of the same model before the values of now."""
    for layer in model.layers:
        if isinstance(layer, _wrapper()):
            _settle(layer, stripped.get_layer(layer.layer.name))


def _replacements(
    layer: tf_keras.layers.Layer, settings: Clustering
) -> list[tf_keras.layers.Layer]:
    kernel = twin_layers.kernel_of(layer)
    if kernel is None or not layer.trainable:
        return [layer]
    by_channel = settings.per_channel and isinstance(layer, tf_keras.layers.Conv2D)
    clusters = int(settings.clusters)
    weights = prod(kernel.shape[:-1] if by_channel else kernel.shape)
    left = int(np.count_nonzero(kernel)) if settings.preserve_sparsity else weights
    if weights <= clusters or left + 1 < LEAST_WITH_ZERO:
        if settings.preserve_sparsity:
            layer.trainable = False  # Nothing else would keep its zeros.
        return [layer]
    if settings.preserve_sparsity:
        # The toolkit wants a weight for each value, in each channel.
        by_channel = by_channel and np.count_nonzero(kernel, axis=(0, 1, 2)).min() >= clusters
        clusters = min(clusters, left + 1)
    if isinstance(layer, twin_layers.OwnConv2D):
        _clusterable_layer().register(type(layer))
    return [
        _wrapper()(
            layer,
            number_of_clusters=clusters,
            cluster_centroids_init=tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS,
            preserve_sparsity=settings.preserve_sparsity,
            cluster_per_channel=by_channel,
        )
    ]


def _look_up() -> Any:
    """How the toolkit finds the nearest of a kernel's values, where it has one set of them."""
    from tensorflow_model_optimization.python.core.clustering.keras import clustering_algorithm

    return clustering_algorithm.ClusteringAlgorithm.get_pulling_indices


def _wrapper() -> Any:
    from tensorflow_model_optimization.python.core.clustering.keras import cluster_wrapper

    return cluster_wrapper.ClusterWeights


def _clusterable_layer() -> Any:
    """What layers of others must be of: their methods alone are not looked for, as in pruning."""
    from tensorflow_model_optimization.python.core.clustering.keras import clusterable_layer

    return clusterable_layer.ClusterableLayer


def _stripped(layer: Any) -> list[tf_keras.layers.Layer]:
    if not isinstance(layer, _wrapper()):
        return [layer]
    # The layer's own variable was replaced by the clustered values: in place it goes again.
    clean = type(layer.layer).from_config(layer.layer.get_config())
    clean.build(layer.build_input_shape)
    _settle(layer, clean)
    return [clean]


def _settle(layer: Any, clean: tf_keras.layers.Layer) -> None:
    """Give a layer of its own the values that a wrapper's has now."""
    layer.update_clustered_weights_associations()
    kernels = layer.original_clusterable_weights
    for variable in clean.weights:
        name = variable_name(variable)
        if name in kernels:
            variable.assign(layer.get_weight_from_layer(name))
        else:
            variable.assign(getattr(layer.layer, name))
