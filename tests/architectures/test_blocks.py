"""The shared blocks against Caffe's definitions and against dense layers."""

import caffe
import keras
import numpy as np
import pytest

from keras_cls.architectures.blocks import fully_connected, max_pool_ceil


@pytest.mark.parametrize("size", [(8, 6), (9, 7), (8, 7), (9, 2), (3, 4), (2, 2)])
def test_pools_as_caffe(size: tuple[int, int]) -> None:
    images = keras.Input((*size, 3))
    model = keras.Model(images, max_pool_ceil(images, name="pool"))
    batch = np.random.default_rng(0).uniform(size=(2, *size, 3)).astype("float32")
    np.testing.assert_array_equal(model(batch), caffe.pool(batch, "MAX"))
    assert model.output.shape[1:3] == (size[0] // 2, size[1] // 2)


@pytest.mark.parametrize("size", [(4, 4), (6, 5), (3, 7), (1, 1)])
def test_fully_connected_is_a_dense_layer_at_each_position(size: tuple[int, int]) -> None:
    images = keras.Input((*size, 3))
    model = keras.Model(images, fully_connected(images, 5, 4, name="fc"))
    caffe.randomise_biases(model)
    kernel, bias = model.get_weights()
    height, width = (min(4, side) for side in size)
    batch = np.random.default_rng(0).normal(size=(2, *size, 3)).astype("float32")
    outputs = model(batch).numpy()
    assert outputs.shape == (2, size[0] - height + 1, size[1] - width + 1, 5)
    for i, j in np.ndindex(outputs.shape[1:3]):
        window = batch[:, i : i + height, j : j + width].reshape(2, -1)
        expected = np.maximum(window @ kernel.reshape(-1, 5) + bias, 0)
        np.testing.assert_allclose(outputs[:, i, j], expected, rtol=1e-4, atol=1e-5)
