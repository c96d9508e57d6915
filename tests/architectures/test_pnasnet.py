"""PNASNet against slim's way written out in NumPy: nothing in keras.applications to compare."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from cells_in_numpy import InNumpy
from residual import assert_gives, randomise

from keras_cls.architectures import build_model, model_spec
from keras_cls.architectures.cells import cell_network
from keras_cls.architectures.pnasnet import PNASNET_5


@pytest.mark.parametrize(("repeats", "size"), [(1, (45, 38)), (2, (64, 33))])
def test_small_networks_are_slims(repeats: int, size: tuple[int, int]) -> None:
    spec = replace(model_spec("pnasnet5_mobile"), repeats=repeats, filters=8, endpoints=())
    images = keras.Input((*size, 3))
    model = keras.Model(images, cell_network(images, spec, 7).logits)
    randomise(model, seed=1)
    second = InNumpy(model, epsilon=1e-3)
    assert_gives(model, lambda x: second.pnasnet(x, repeats, 8))
    assert second.read == set(second.weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pnasnet5_mobile", "pnasnet5_large"])
def test_networks_are_slims(name: str) -> None:
    spec = model_spec(name)
    model = build_model(name, 7, (75, 96, 3))
    randomise(model, seed=1)
    second = InNumpy(model, epsilon=1e-3)
    assert_gives(model, lambda x: second.pnasnet(x, spec.repeats, spec.filters))
    assert second.read == set(second.weights)


def test_the_papers_figure_has_fewer_parameters() -> None:
    """tensorflow/models#4729: with four outputs instead of five the published count is missed."""
    spec = model_spec("pnasnet5_mobile")
    figure = replace(PNASNET_5, output=(2, 3, 5, 6))
    images = keras.Input(spec.input_shape)
    network = cell_network(images, replace(spec, normal=figure, reduction=figure), 1000)
    model = keras.Model(images, network.logits)
    params = sum(int(np.prod(x.shape)) for x in model.trainable_weights)
    assert params < 0.95 * spec.params_trainable


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("pnasnet5_mobile", 2_412_776),
        pytest.param("pnasnet5_large", 4_586_216, marks=pytest.mark.slow),
    ],
)
def test_auxiliary_head(name: str, params: int) -> None:
    model = build_model(name, aux=True)
    assert list(model.output) == ["logits", "aux_logits"]
    aux = [x for x in model.trainable_weights if x.path.startswith("aux_")]
    assert sum(int(np.prod(x.shape)) for x in aux) == params
