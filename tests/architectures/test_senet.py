"""SENet: gates, pooling and SENet-154's own wiring, against NumPy."""

from functools import partial

import keras
import numpy as np
import pytest
from residual import assert_gives, forward, max_pool, randomise, weights_of

from keras_cls.architectures import build_model


@pytest.mark.parametrize(
    ("name", "strided", "size"),
    [
        ("se_resnet50", 1, (75, 49)),
        pytest.param("se_resnet50", 1, (96, 64), marks=pytest.mark.slow),
        pytest.param("se_resnet101", 1, (75, 49), marks=pytest.mark.slow),
        pytest.param("se_resnet152", 1, (75, 49), marks=pytest.mark.slow),
        pytest.param("se_resnext50_32x4d", 2, (75, 49), marks=pytest.mark.slow),
        pytest.param("se_resnext101_32x4d", 2, (75, 49), marks=pytest.mark.slow),
        pytest.param("senet154", 2, (75, 49), marks=pytest.mark.slow),
        pytest.param("senet154", 2, (64, 48), marks=pytest.mark.slow),
    ],
)
def test_equals_numpy(name: str, strided: int, size: tuple[int, int]) -> None:
    model = build_model(name, 50, (*size, 3))
    randomise(model, seed=0)
    assert_gives(model, partial(forward, weights_of(model), strided=strided, pool="rounded up"))


@pytest.mark.parametrize(
    ("size", "pooled"),
    [((224, 224), (56, 56)), ((75, 49), (19, 12))],
)
def test_pooling_rounds_up_and_starts_at_the_first_pixel(
    size: tuple[int, int], pooled: tuple[int, int]
) -> None:
    model = build_model("se_resnet50", input_shape=(*size, 3))
    layers = model.get_layer("conv1_relu").output, model.get_layer("pool1").output
    images = np.random.default_rng(0).normal(size=(1, *size, 3)).astype("f4")
    conv1, pool1 = (x.numpy() for x in keras.Model(model.input, layers)(images))
    assert pool1.shape == (1, *pooled, 64)
    np.testing.assert_array_equal(pool1, max_pool(conv1, "rounded up"))


@pytest.mark.slow
def test_senet154_drops_a_fifth_in_front_of_the_logits() -> None:
    model = build_model("senet154", input_shape=(32, 32, 3))
    assert model.get_layer("pool5_dropout").rate == 0.2
    assert model.layers[-2].name == "pool5_dropout"
