"""Uneven classes: a warning, or on request weights or resampling; and several labels an image."""

import json

import numpy as np
import pytest
from runs import digits

from keras_cls.errors import ConfigError
from keras_cls.evaluation import MultiLabelEvaluation, evaluate
from keras_cls.training import train


def uneven() -> tuple[np.ndarray, np.ndarray]:
    """Zeros and ones, of these a tenth."""
    pixels, targets = digits(1797)
    zeros, ones = np.flatnonzero(targets == 0)[:150], np.flatnonzero(targets == 1)[:15]
    rows = np.concatenate([zeros, ones])
    return pixels[rows], targets[rows]


def test_uneven_classes_are_warned_of(tmp_path, capsys) -> None:
    settings = {"epochs": 1, "batch_size": 16}
    run = train("lenet5", uneven(), run_dir=tmp_path / "warned", **settings)
    said = capsys.readouterr().err
    assert "the classes are uneven: '0' has 120 images, '1' has 12 images" in said
    assert 'imbalance="weights"' in said
    assert "the classes are uneven" in run.report.read_text()
    train("lenet5", uneven(), imbalance="weights", run_dir=tmp_path / "weighted", **settings)
    assert "classes are uneven" not in capsys.readouterr().err
    with pytest.raises(ConfigError, match="imbalance must be None, 'weights' or 'resample'"):
        train("lenet5", uneven(), imbalance="undersample", run_dir=tmp_path / "no", **settings)


@pytest.mark.slow
@pytest.mark.parametrize("imbalance", ["weights", "resample"])
def test_the_rare_class_is_heeded(tmp_path, imbalance) -> None:
    """Of a network too short trained to know more, the rare class gets as many answers."""
    settings = {"epochs": 2, "batch_size": 12, "recipe": "plain", "quiet": True}
    plain = train("lenet5", uneven(), run_dir=tmp_path / "plain", **settings)
    heeded = train("lenet5", uneven(), imbalance=imbalance, run_dir=tmp_path / "heeded", **settings)
    pixels, targets = digits(1797)
    rare = (pixels[targets == 1], np.ones((targets == 1).sum(), int))
    shares = [run.classifier.probabilities(rare[0])[:, 1].mean() for run in (plain, heeded)]
    assert shares[1] > shares[0]
    state = json.loads((heeded.directory / "settings.json").read_text())
    assert state["request"]["imbalance"] == imbalance


def test_images_with_several_classes(tmp_path) -> None:
    """Two digits side by side: which ones are there?"""
    pixels, targets = digits(1797)
    random = np.random.default_rng(0)
    one, other = random.integers(0, len(pixels), (2, 600))
    pairs = np.concatenate([pixels[one], pixels[other]], axis=2)
    shown = (np.eye(10)[targets[one]] + np.eye(10)[targets[other]] > 0).astype(int)
    run = train(
        "lenet5", (pairs, shown), imbalance="weights", run_dir=tmp_path, epochs=4, quiet=True
    )
    assert run.classifier.multi_label
    last = run.history[-1]
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "val_map"} <= last.keys()
    assert "top5" not in last
    best = max(row["val_map"] for row in run.history)
    assert run.classifier.metrics["val_map"] == best
    assert best > 0.5 > shown.mean()
    found = evaluate(run.classifier, (pairs, shown))
    assert isinstance(found, MultiLabelEvaluation)
    assert "mean average precision" in run.report.read_text().lower()
    again = train(
        "lenet5", (pairs, shown), imbalance="weights", run_dir=tmp_path, epochs=4, quiet=True
    )
    assert again.history == run.history
