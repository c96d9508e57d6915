"""Settings say what is wrong with them."""

import pytest

from keras_cls.compression import (
    Clustering,
    ConstantSparsity,
    PolynomialDecay,
    Pruning,
    Quantization,
)
from keras_cls.errors import ConfigError


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, "half", None, True, float("nan")])
def test_a_share_outside_zero_to_one(share: object) -> None:
    for made in (
        lambda: Pruning(share),
        lambda: PolynomialDecay(10, initial_sparsity=share),
        lambda: Quantization(range_decay=share),
    ):
        with pytest.raises(ConfigError, match="found"):
            made()


@pytest.mark.parametrize("clusters", [1, 0, -3, 2.5, "16", True])
def test_too_few_clusters(clusters: object) -> None:
    with pytest.raises(ConfigError, match="clusters: expected an integer of 2 or more"):
        Clustering(clusters)


def test_two_clusters_are_too_few_where_one_is_zero() -> None:
    with pytest.raises(ConfigError, match="3 or more"):
        Clustering(2, preserve_sparsity=True)


def test_schedules_that_make_no_sense() -> None:
    for made in (
        lambda: ConstantSparsity(begin_step=-1),
        lambda: ConstantSparsity(begin_step=5, end_step=5),
        lambda: ConstantSparsity(frequency=0),
        lambda: PolynomialDecay(end_step=0),
        lambda: PolynomialDecay(10, power=0),
        lambda: Pruning(0.5, PolynomialDecay(10, initial_sparsity=0.6)),
        lambda: Pruning(0.5, "polynomial"),
        lambda: Pruning(0.5, by_layer={"conv1": 1.0}),
        lambda: Pruning(0.5, allocation="global"),
    ):
        with pytest.raises(ConfigError, match=r"expected .* found"):
            made()
