"""Cells as data, the builder, and the drop path with a schedule."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from cells_in_numpy import NORMAL as SLIM_NORMAL
from cells_in_numpy import PNASNET as SLIM_PNASNET
from cells_in_numpy import REDUCTION as SLIM_REDUCTION
from cells_in_numpy import InNumpy
from residual import randomise

from keras_cls.architectures import count_multiply_adds, model_spec
from keras_cls.architectures.cells import (
    Block,
    Cell,
    Normalization,
    Place,
    ScheduledDropPath,
    cell,
    cell_network,
    places,
    set_drop_path_progress,
)
from keras_cls.architectures.nasnet import NORMAL, REDUCTION
from keras_cls.architectures.pnasnet import PNASNET_5
from keras_cls.errors import ConfigError


@pytest.mark.parametrize(
    ("data", "slim"),
    [(NORMAL, SLIM_NORMAL), (REDUCTION, SLIM_REDUCTION), (PNASNET_5, SLIM_PNASNET)],
    ids=["normal", "reduction", "pnasnet"],
)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("previous", [(9, 6, 8), (9, 6, 5), (17, 12, 5), None], ids=str)
def test_a_cell_is_slims(data: Cell, slim, stride: int, previous) -> None:
    images = [keras.Input((9, 6, 7))] + ([keras.Input(previous)] if previous else [])
    place = Place("cell_0", data, 8, stride)
    outputs = cell(images[0], images[1] if previous else None, place, Normalization())
    model = keras.Model(images, outputs)
    randomise(model, seed=1)
    random = np.random.default_rng(2)
    maps = [random.normal(size=(2, *x.shape[1:])).astype("f4") for x in images]
    second = InNumpy(model, epsilon=1e-3)
    expected = second.cell(maps[0], slim, 8, stride, maps[1] if previous else None, "cell_0")
    found = model(maps).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert second.read == set(second.weights)


def test_any_cell_builds_and_loads(tmp_path) -> None:
    """Also what no published cell has: concatenation, strided states in the output."""
    odd = Cell(
        (
            Block(("identity", 0), ("max3", 1), combine="concat"),
            Block(("avg3", 2), ("identity", 2)),
            Block(("sep3", 2), ("identity", 3), combine="concat"),
        ),
        output=(0, 1, 3, 4),
    )
    spec = replace(model_spec("nasnet_cifar10"), normal=odd, reduction=odd, repeats=1, filters=6)
    spec = replace(spec, endpoints=("cell_0", "cell_1", "cell_2"))
    images = keras.Input((15, 10, 3))
    network = cell_network(images, spec, 3)
    shapes = {name: x.shape[1:] for name, x in network.endpoints.items()}
    assert shapes == {"cell_0": (15, 10, 24), "cell_1": (8, 5, 48), "cell_2": (4, 3, 96)}

    model = keras.Model(images, network.logits)
    model.save(tmp_path / "odd.keras")
    loaded = keras.saving.load_model(tmp_path / "odd.keras")
    batch = np.random.default_rng(0).normal(size=(2, 15, 10, 3)).astype("f4")
    np.testing.assert_allclose(loaded(batch), model(batch), rtol=1e-5, atol=1e-5)
    assert count_multiply_adds(loaded) == count_multiply_adds(model) > 0


@pytest.mark.parametrize(
    ("blocks", "output", "message"),
    [
        ((), (0,), "blocks: expected one"),
        ((Block(("sep4", 0), ("sep3", 1)),), (2,), "block 0: .*sep3.* found 'sep4'"),
        ((Block(("sep3", 0), ("sep3", 2)),), (2,), "block 0: expected a hidden state 0 to 1"),
        ((Block(("sep3", 0), ("sep3", -1)),), (2,), "found -1"),
        ((Block(("sep3", 0), ("sep3", 1), "mean"),), (2,), "block 0: combine: .* found 'mean'"),  # type: ignore[arg-type]
        ((Block(("sep3", 0), ("sep3", 1)),), (), "output: expected"),
        ((Block(("sep3", 0), ("sep3", 1)),), (3,), "output: expected a hidden state 0 to 2"),
    ],
)
def test_refuses_what_is_no_cell(blocks, output, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Cell(blocks, output)


def test_places_are_the_release_s() -> None:
    def told(name: str) -> list[tuple[str, int, int, int]]:
        return [(p.name, p.filters, p.stride, p.previous) for p in places(model_spec(name))]

    mobile = told("nasnet_mobile")
    assert mobile[:3] == [
        ("cell_stem_0", 11, 2, 2),
        ("cell_stem_1", 22, 2, 2),
        ("cell_0", 44, 1, 2),
    ]
    assert mobile[6:8] == [("reduction_cell_0", 88, 2, 2), ("cell_4", 88, 1, 2)]
    assert len(mobile) == 16
    large = told("nasnet_large")
    assert large[8:10] == [("reduction_cell_0", 336, 2, 2), ("cell_6", 336, 1, 3)]
    assert len(large) == 22
    progressive = told("pnasnet5_mobile")
    assert progressive[5:7] == [("cell_3", 108, 2, 2), ("cell_4", 108, 1, 2)]
    assert len(progressive) == 11


def small(name: str, **changes) -> keras.Model:
    spec = replace(model_spec(name), repeats=1, filters=8, endpoints=(), **changes)
    images = keras.Input((32, 32, 3))
    return keras.Model(images, cell_network(images, spec, 3).logits)


@pytest.mark.parametrize(
    ("name", "cells", "in_the_end"),
    [("nasnet_large", 7, 0.3), ("nasnet_cifar10", 5, 0.4), ("pnasnet5_large", 5, 0.4)],
)
def test_paths_drop_more_often_in_later_cells(name: str, cells: int, in_the_end: float) -> None:
    paths = [x for x in small(name).layers if isinstance(x, ScheduledDropPath)]
    assert sorted({round(path.rate * cells / in_the_end, 6) for path in paths}) == [
        *range(1, cells + 1)
    ]
    # Every operation but the identity.
    normal, reduction = (9, 9) if name.startswith("pnasnet") else (8, 9)
    strided = {"nasnet_large": 4, "nasnet_cifar10": 2, "pnasnet5_large": 0}[name]
    assert len(paths) == normal * (cells - strided) + reduction * strided


@pytest.mark.parametrize("name", ["nasnet_mobile", "pnasnet5_mobile"])
def test_mobile_networks_keep_every_path(name: str) -> None:
    assert not any(isinstance(layer, ScheduledDropPath) for layer in small(name).layers)


def test_a_callback_sets_the_progress_of_a_compiled_step() -> None:
    images = keras.Input((4,))
    inner = keras.Model(images, ScheduledDropPath(0.5, seed=1, name="path")(images), name="inner")
    model = keras.Model(images, inner(images))
    model.compile("sgd", "mse", metrics=[keras.metrics.MeanSquaredError(name="error")])
    ones = np.ones((4000, 4), "f4")
    callback = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: set_drop_path_progress(model, epoch / 2)
    )
    history = model.fit(ones, ones, batch_size=4000, epochs=3, callbacks=[callback], verbose=0)
    # (0 - 1)^2 where dropped (probability p), else (1 / (1 - p) - 1)^2: p / (1 - p) altogether.
    assert history.history["error"] == pytest.approx([0, 0.25 / 0.75, 0.5 / 0.5], abs=0.06)
    assert inner.get_layer("path").progress == 1
    np.testing.assert_array_equal(model(ones), ones)


def test_drop_path_with_a_schedule() -> None:
    layer = ScheduledDropPath(0.25, seed=3)
    assert layer.progress == 1
    assert not layer.weights
    batch = np.ones((8000, 2, 2, 3), "f4")
    out = layer(batch, training=True).numpy()
    kept = out[:, 0, 0, 0] > 0
    np.testing.assert_allclose(out[kept], 1 / 0.75, rtol=1e-6)
    assert not out[~kept].any()
    assert kept.mean() == pytest.approx(0.75, abs=0.02)
    layer.progress = 0
    np.testing.assert_array_equal(layer(batch, training=True), batch)
    again = ScheduledDropPath.from_config(layer.get_config())
    assert (again.rate, again.seed, again.progress) == (0.25, 3, 1)
    with pytest.raises(ConfigError, match=r"progress: expected 0 to 1, found 1\.5"):
        layer.progress = 1.5
