"""Fused steps compute the same, and write over nothing that is still wanted."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import networks

from keras_cls.architectures import build_model
from keras_cls.exporting.float_network import run_in_float
from keras_cls.exporting.folding import fold
from keras_cls.exporting.fusing import fuse
from keras_cls.exporting.lowering import lower
from keras_cls.exporting.nodes import Add, Affine, Fused, Graph, Relu


def steps(graph: Graph) -> list[Fused]:
    return [node for node in graph if isinstance(node, Fused)]


def assert_nothing_is_written_over_too_early(graph: Graph) -> None:
    """Whatever order TensorFlow takes, all other readers of a summand have run."""
    made_of: dict[str, set[str]] = {}
    for node in graph:
        made_of[node.name] = set(node.inputs).union(*(made_of[name] for name in node.inputs))
    readers = graph.consumers()
    for step in steps(graph):
        if step.summand is not None:
            source = step.inputs[0]
            others = list(readers[step.summand])
            others.remove(step.name)
            assert all(name == source or name in made_of[source] for name in others), step.name


@given(networks())
@settings(max_examples=20, deadline=None)
def test_any_network_is_the_same_when_fused(model: keras.Model) -> None:
    plain = fold(lower(model))
    fused = fuse(plain)
    images = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:])).astype(np.float32)
    wanted = model(images).numpy()
    scale = np.abs(wanted).max() + 1e-6
    np.testing.assert_allclose(run_in_float(fused, images) / scale, wanted / scale, atol=1e-5)
    assert not any(isinstance(node, Affine | Add) for node in fused)
    assert_nothing_is_written_over_too_early(fused)


@pytest.mark.parametrize("name", ["resnet18", "resnet50_v2", "nasnet_mobile"])
def test_sums_are_joined_and_nothing_is_written_over_too_early(name: str) -> None:
    fused = fuse(fold(lower(build_model(name, input_shape=(64, 64, 3)))))
    assert_nothing_is_written_over_too_early(fused)
    assert not any(isinstance(node, Add | Relu | Affine) for node in fused)
    copies = sum(node.name.endswith("/summand") for node in fused)
    assert (copies == 0) == ("resnet" in name)


def test_a_residual_block_is_as_many_steps_as_it_has_convolutions() -> None:
    fused = fuse(fold(lower(build_model("resnet50", input_shape=(64, 64, 3)))))
    assert len(steps(fused)) == 53
    assert sum(step.summand is not None for step in steps(fused)) == 16
    assert all(step.relu is not None or step.summand is None for step in steps(fused))


@given(st.integers(2, 4))
@settings(max_examples=3, deadline=None)
def test_a_sum_of_many_and_of_a_map_with_itself(count: int) -> None:
    inputs = keras.Input((6, 6, 4))
    x = keras.layers.Conv2D(8, 1)(inputs)
    total = keras.layers.Add()([x] * count)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(total))
    fused = fuse(fold(lower(model)))
    assert_nothing_is_written_over_too_early(fused)
    images = np.random.default_rng(0).normal(size=(2, 6, 6, 4)).astype(np.float32)
    np.testing.assert_allclose(run_in_float(fused, images), model(images), atol=1e-5)
