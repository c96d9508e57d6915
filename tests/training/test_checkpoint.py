"""A checkpoint holds all, or is refused as a whole."""

from pathlib import Path

import keras
import numpy as np
import pytest

from keras_cls.errors import ConfigError, TrainingDivergedError
from keras_cls.training.checkpoint import load_checkpoint, save_checkpoint


def variables(*shapes: tuple[int, ...], value: float = 0.0) -> list[keras.Variable]:
    return [
        keras.Variable(np.full(shape, value, "f4"), name=f"v{i}") for i, shape in enumerate(shapes)
    ]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    saved = [
        keras.Variable(random.normal(size=(3, 2)), dtype="float32", name="kernel"),
        keras.Variable(7, dtype="int32", name="iterations"),
    ]
    save_checkpoint(tmp_path / "c.npz", saved)
    loaded = [
        keras.Variable(np.zeros((3, 2), "f4"), name="kernel"),
        keras.Variable(0, dtype="int32", name="iterations"),
    ]
    load_checkpoint(tmp_path / "c.npz", loaded)
    for one, other in zip(saved, loaded, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [path.name for path in tmp_path.iterdir()] == ["c.npz"]


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_is_not_finite_is_not_written_over_what_is(tmp_path: Path, number: float) -> None:
    good = variables((2,), value=1.0)
    save_checkpoint(tmp_path / "c.npz", good)
    with pytest.raises(TrainingDivergedError, match="v0"):
        save_checkpoint(tmp_path / "c.npz", variables((2,), value=number))
    load_checkpoint(tmp_path / "c.npz", fresh := variables((2,)))
    np.testing.assert_array_equal(fresh[0], good[0])


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([(2,), (3,), (1,)], "holds 2 variables, expected 3"),
        ([(2,)], "holds 2 variables, expected 1"),
        ([(2,), (4,)], r"v1 is \[3\], expected \[4\]"),
    ],
)
def test_other_variables_are_refused(
    tmp_path: Path, wanted: list[tuple[int, ...]], message: str
) -> None:
    save_checkpoint(tmp_path / "c.npz", variables((2,), (3,), value=1.0))
    fresh = variables(*wanted)
    with pytest.raises(ConfigError, match=message):
        load_checkpoint(tmp_path / "c.npz", fresh)
    assert not any(np.asarray(variable).any() for variable in fresh), "none is changed"


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    save_checkpoint(path, variables((200,), (300,), value=1.0))
    whole = path.read_bytes()
    for damaged in (b"", b"PK", whole[:-30], whole[:500] + b"\xff" * 40 + whole[540:]):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"c\.npz: damaged"):
            load_checkpoint(path, variables((200,), (300,)))
    with pytest.raises(ConfigError, match="damaged"):
        load_checkpoint(tmp_path / "missing.npz", [])
