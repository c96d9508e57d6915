"""Clustered twins have few values a kernel, and so has the Keras 3 model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_networks import drawn, outputs, trained

from keras_cls.architectures.layers import FullyConnected, GroupedConv2D
from keras_cls.compression import (
    Clustering,
    Pruning,
    clusterable,
    copy_back,
    prunable,
    pruning_callbacks,
    strip_clustering,
    strip_pruning,
    twin_of,
)
from keras_cls.compression.clustering import nearest
from keras_cls.errors import ConfigError


def clustered(name: str, settings: Clustering, sparsity: float = 0) -> keras.Model:
    """A Keras 3 model with the weights of its clustered (before that, pruned) twin."""
    model, images = drawn(name)
    twin = twin_of(model)
    if sparsity:
        twin = prunable(twin, Pruning(sparsity))
        twin = strip_pruning(trained(twin, images, 1, pruning_callbacks()))
    stripped = strip_clustering(trained(clusterable(twin, settings), images, 2))
    copy_back(stripped, model)
    for found, expected in zip(outputs(model, images), outputs(stripped, images), strict=True):
        # As twins are equal: to 1e-5 of the largest.
        bound = max(1e-4, 1e-5 * np.abs(expected).max())
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=bound)
    return model


def kernels(model: keras.Model) -> list[np.ndarray]:
    return [
        keras.ops.convert_to_numpy(variable)
        for variable in model.weights
        if variable.name in ("kernel", "pointwise_kernel")
    ]


@pytest.mark.parametrize(
    ("name", "clusters"),
    [
        ("lenet5", 2),
        ("lenet5", 16),
        pytest.param("resnet20_cifar10", 8, marks=pytest.mark.slow),
        pytest.param("googlenet", 8, marks=pytest.mark.slow),
        pytest.param("resnext50_32x4d", 8, marks=pytest.mark.slow),
    ],
)
def test_each_kernel_has_few_values(name: str, clusters: int) -> None:
    found = kernels(clustered(name, Clustering(clusters)))
    assert len(found) > 4
    for kernel in found:
        assert 1 < len(np.unique(kernel)) <= clusters


@pytest.mark.slow
def test_each_channel_has_few_values() -> None:
    found = kernels(clustered("lenet5", Clustering(4, per_channel=True)))
    for kernel in (each for each in found if each.ndim == 4):
        counts = [len(np.unique(kernel[..., i])) for i in range(kernel.shape[-1])]
        assert max(counts) <= 4
    assert any(len(np.unique(kernel)) > 4 for kernel in found)


def test_zeros_stay_zeros() -> None:
    for kernel in kernels(clustered("lenet5", Clustering(8, preserve_sparsity=True), 0.5)):
        assert len(np.unique(kernel)) <= 8
        assert np.mean(kernel == 0) >= 0.5 - 1 / kernel.size


def test_small_kernels_stay_as_they_are() -> None:
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dense(40)(inputs)))
    twin = strip_clustering(clusterable(twin_of(model), Clustering(16)))
    before = model.layers[2].kernel.numpy()
    copy_back(twin, model)
    assert len(np.unique(model.layers[1].kernel)) <= 16
    assert len(np.unique(model.layers[2].kernel)) <= 16
    assert np.abs(model.layers[2].kernel.numpy() - before).max() > 0
    with pytest.raises(ConfigError, match="can be made of 1000 values"):
        clusterable(twin_of(model), Clustering(1000))


@pytest.mark.parametrize("left", [0, 1, 2, 20])
def test_a_kernel_that_is_almost_all_zeros_keeps_them(left: int) -> None:
    """The toolkit itself fails where fewer weights are left than it shall make values."""
    inputs = keras.Input((20,))
    model = keras.Model(inputs, keras.layers.Dense(7)(keras.layers.Dense(40)(inputs)))
    kernel = np.zeros(800, "float32")
    kernel[:left] = np.random.default_rng(0).normal(size=left)
    np.random.default_rng(1).shuffle(kernel)
    kernel = kernel.reshape(20, 40)
    model.layers[1].kernel.assign(kernel)
    wrapped = clusterable(twin_of(model), Clustering(32, preserve_sparsity=True))
    images = np.random.default_rng(0).normal(size=(4, 20)).astype("float32")
    copy_back(strip_clustering(trained(wrapped, images, 2)), model)
    assert np.array_equal(model.layers[1].kernel == 0, kernel == 0)


def test_the_nearest_values_are_those_that_the_toolkit_finds() -> None:
    random = np.random.default_rng(0)
    values = tf.Variable(random.normal(size=7).astype("float32"))
    from tensorflow_model_optimization.python.core.clustering.keras import clustering_algorithm

    theirs = clustering_algorithm.ClusteringAlgorithm(values)
    weights = tf.constant(random.normal(size=(3, 3, 8, 20)).astype("float32"))
    found = nearest(theirs, weights)
    assert found.dtype == theirs.get_pulling_indices(weights).dtype
    np.testing.assert_array_equal(found, theirs.get_pulling_indices(weights))
    fewer = values[:3]
    np.testing.assert_array_equal(
        nearest(theirs, weights, fewer), theirs.get_pulling_indices(weights, fewer)
    )


@pytest.mark.parametrize(
    "layer",
    [GroupedConv2D(16, 3, groups=4, padding="same"), FullyConnected(16, 6), FullyConnected(16, 3)],
)
def test_layers_of_our_own_are_clustered(layer) -> None:
    inputs = keras.Input((6, 6, 8))
    model = keras.Model(inputs, layer(inputs))
    copy_back(strip_clustering(clusterable(twin_of(model), Clustering(4))), model)
    assert len(np.unique(model.layers[1].kernel)) == 4


def test_only_functional_tf_keras_models() -> None:
    with pytest.raises(ConfigError, match="functional tf_keras model"):
        clusterable(drawn("lenet5")[0])
