"""The rungs of the ladder."""

import pytest

from keras_cls.compression.ladder import Training, ladder
from keras_cls.compression.settings import Clustering, Pruning, Quantization
from keras_cls.errors import ConfigError

ALL = ("float32", "bfloat16", "int8")


def names(*arguments: object, epochs: int = 2) -> list[str]:
    return [rung.name for rung in ladder(*arguments, Training(epochs, 128, 10))]


def test_cheap_ones_come_first() -> None:
    assert names(ALL, (0.5, 0.8), (32,)) == [
        "float32",
        "bfloat16",
        "int8",
        "50 % zeros, bfloat16",
        "50 % zeros, int8",
        "80 % zeros, bfloat16",
        "80 % zeros, int8",
        "32 values, bfloat16",
        "32 values, int8",
        "80 % zeros, 32 values, bfloat16",
        "80 % zeros, 32 values, int8",
        "trained for int8, int8",
        "80 % zeros, 32 values, trained for int8, int8",
    ]


def test_without_training_there_are_exports_alone() -> None:
    assert names(ALL, (0.5, 0.8), (32,), epochs=0) == list(ALL)


def test_what_is_not_asked_for_is_left_out() -> None:
    assert names(("float32",), (0.5,), ()) == ["float32", "50 % zeros, float32"]
    assert names(("int8",), (), ()) == ["int8", "trained for int8, int8"]
    assert names(("bfloat16",), (), (16,)) == ["bfloat16", "16 values, bfloat16"]


def test_what_is_asked_for_twice_is_made_once() -> None:
    assert names(("bfloat16",), (0.5, 0.5, 0.0), ()) == ["bfloat16", "50 % zeros, bfloat16"]


def test_of_two_values_none_is_kept_for_zeros() -> None:
    assert "80 % zeros, 2 values, bfloat16" not in names(("bfloat16",), (0.8,), (2, 16))
    assert "80 % zeros, 16 values, bfloat16" in names(("bfloat16",), (0.8,), (2, 16))


def test_what_was_won_is_preserved() -> None:
    pruned, clustered, aware = (
        each.technique for each in ladder(ALL, (0.8,), (32,), Training(2, 128, 10))[-1].refinements
    )
    assert isinstance(pruned, Pruning) and pruned.schedule.end_step == 6
    assert clustered == Clustering(32, preserve_sparsity=True)
    assert aware == Quantization(preserve_sparsity=True, preserve_clusters=True)


@pytest.mark.parametrize(("sparsities", "clusters"), [((1.5,), ()), (("half",), ()), ((), (1,))])
def test_what_makes_no_sense_is_refused(sparsities: tuple, clusters: tuple) -> None:
    with pytest.raises(ConfigError, match="expected"):
        names(ALL, sparsities, clusters)
