"""Where the steps of a byte end."""

import numpy as np
import pytest

from keras_cls.architectures import build_model
from keras_cls.exporting.calibration import METHODS, _share, calibrated_formats
from keras_cls.exporting.folding import fold
from keras_cls.exporting.fusing import fuse
from keras_cls.exporting.lowering import lower


def histogram(values: np.ndarray) -> np.ndarray:
    return np.histogram(values, bins=2048, range=(0, values.max()))[0]


def quantized(values: np.ndarray, limit: float, levels: int) -> np.ndarray:
    step = limit / levels
    return np.minimum(np.rint(values / step), levels) * step


@pytest.mark.parametrize("levels", [127, 255])
def test_the_least_squared_error_is_found(levels: int) -> None:
    values = np.abs(np.random.default_rng(0).laplace(size=200_000))
    share = _share(histogram(values), "mse", levels)
    found = np.mean((values - quantized(values, share * values.max(), levels)) ** 2)
    tried = [
        np.mean((values - quantized(values, s * values.max(), levels)) ** 2)
        for s in np.linspace(0.2, 1, 81)
    ]
    assert share < 0.95
    assert found <= 1.02 * min(tried)


def test_a_percentile_cuts_off_what_is_rare() -> None:
    values = np.concatenate([np.random.default_rng(0).uniform(0, 1, 100_000), [50.0]])
    assert _share(histogram(values), "percentile", 255) == pytest.approx(1 / 50, abs=2e-3)


@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_numbers_spread_evenly_are_not_cut(method) -> None:
    values = np.random.default_rng(0).uniform(0, 3, 500_000)
    assert _share(histogram(values), method, 255) > 0.97


def test_entropy_cuts_a_long_tail() -> None:
    values = np.abs(np.random.default_rng(0).standard_t(3, size=200_000))
    assert _share(histogram(values), "entropy", 127) < 0.7


def test_a_map_that_is_always_zero_keeps_its_range() -> None:
    counts = np.zeros(2048, np.int64)
    counts[0] = 100
    for method in ("percentile", "mse", "entropy"):
        assert _share(counts, method, 255) == 1.0


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_formats_for_all_bytes(method) -> None:
    graph = fuse(fold(lower(build_model("resnet20_cifar10"))))
    images = np.random.default_rng(0).normal(size=(20, 32, 32, 3)).astype(np.float32)
    largest = calibrated_formats(graph, images, "max")
    found = calibrated_formats(graph, images, method)
    assert set(found) == set(largest)
    for name, form in found.items():
        assert 0 < form.step <= 1.001 * largest[name].step
        assert form.signed == largest[name].signed
