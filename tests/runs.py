"""Training runs in processes of their own, for tests that end them or limit what they may use."""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_cls.classifier import load
from keras_cls.data.sources import open_source
from keras_cls.training.run_folder import RunFolder, RunState

QUICK = {"epochs": 2, "batch_size": 16, "quiet": True}
COMPARED = ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")


def digits(count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """The first of the built-in digits, and their classes."""
    images = open_source("digits").train
    return images.pixels[:count], images.targets[:count]


def stop_after(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Let a run die once that epoch's state is written."""
    written = RunFolder.write_state

    def write_then_die(self: RunFolder, state: RunState) -> None:
        written(self, state)
        if state.epochs_done == epoch and not state.finished:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "write_state", write_then_die)


def training_script(folder: Path, before: str = "", also: str = "", **changes: Any) -> str:
    """Python source that trains a small residual network in float32.

    ``before`` is done first; ``also`` is the source of further arguments.
    """
    arguments = {
        "model": "resnet20_cifar10",
        "input_shape": (16, 16, 3),
        "epochs": 4,
        "batch_size": 24,
        "precision": "float32",
        "run_dir": str(folder),
        "quiet": True,
        **changes,
    }
    return textwrap.dedent(before) + textwrap.dedent(
        f"""
        import keras_cls
        from keras_cls.data.sources import open_source
        images = open_source("digits").train
        keras_cls.train(data=(images.pixels[:120], images.targets[:120]), {also} **{arguments!r})
        """
    )


def start(script: str, **options: Any) -> subprocess.Popen:
    """Run Python source in a process of its own."""
    return subprocess.Popen([sys.executable, "-c", script], **options)


def state_of(folder: Path) -> RunState:
    """How far a run is."""
    return RunFolder(folder).read_state()


def weights_of(folder: Path) -> list[np.ndarray]:
    """The weights of a run's best classifier."""
    return load(folder).model.get_weights()


def same_weights(one: Path, other: Path) -> bool:
    """Whether two runs' best classifiers are the same to the bit."""
    return all(map(np.array_equal, weights_of(one), weights_of(other)))


def assert_ended_alike(one: Path, other: Path, within: float = 1e-5) -> None:
    """Two finished runs have the same history and the same weights."""
    histories = [state_of(folder).history for folder in (one, other)]
    assert all(state_of(folder).finished for folder in (one, other))
    for row, row_of_other in zip(*histories, strict=True):
        for key in COMPARED:
            assert abs(row[key] - row_of_other[key]) <= within * max(1, abs(row[key])), key
    for weights, others in zip(weights_of(one), weights_of(other), strict=True):
        np.testing.assert_allclose(weights, others, atol=within, rtol=within)
