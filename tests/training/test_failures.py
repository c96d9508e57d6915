"""A full disk, too little memory, losses that are no numbers: said clearly, and nothing is lost."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from runs import QUICK, digits, start, state_of, training_script

from keras_cls.architectures import build_model
from keras_cls.classifier import load
from keras_cls.errors import ConfigError, TrainingDivergedError
from keras_cls.training import recipes, train
from keras_cls.training.failures import memory_errors_named, require_memory


def failed(script: str) -> str:
    """What the last line of a failing script says."""
    process = start(script, stderr=subprocess.PIPE, text=True)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    return errors.splitlines()[-1]


@pytest.mark.slow
def test_a_full_disk(tmp_path: Path) -> None:
    # No file may be larger than the first epoch's classifier: what a full disk does to a writer.
    script = training_script(
        tmp_path,
        before="""
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
        """,
    )
    message = failed(script)
    assert "keras_cls.errors.ConfigError" in message
    assert "file too large" in message
    assert "the same call goes on from there" in message
    assert not list(tmp_path.rglob(".tmp-*")), "nothing half-written is left"
    assert start(training_script(tmp_path)).wait() == 0
    assert state_of(tmp_path).finished


def test_a_folder_that_cannot_be_written() -> None:
    with pytest.raises(ConfigError, match=r"/proc/run.*: .*the same call goes on"):
        train("lenet5", digits(60), run_dir="/proc/run", **QUICK)


@pytest.mark.slow
def test_too_little_memory_says_which_batch_to_try(tmp_path: Path) -> None:
    script = training_script(
        tmp_path,
        before="""
        import resource
        import tensorflow as tf
        tf.zeros(1)
        def limit():
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, resource.RLIM_INFINITY))
        limit()
        """,
        batch_size=4096,
        input_shape=(64, 64, 3),
        epochs=1,
    )
    message = failed(script)
    assert "out of memory at batch size 4096; try batch_size=2048" in message


@pytest.mark.parametrize(
    ("free", "remedy"), [(10**7, "batch_size=82"), (10**4, "a smaller input_shape")]
)
def test_a_batch_that_cannot_fit_is_refused(free: int, remedy: str) -> None:
    network = build_model("lenet5", 10)
    # 32 x 32 numbers come in; 28 x 28 x 6, 10 x 10 x 16, 120, 84 and 10 are kept.
    an_image = 4 * (1024 + 4704 + 1600 + 120 + 84 + 10)
    most = free // an_image
    require_memory(network, most, "float32", free)
    require_memory(network, 10**9, "float32", free=0)
    with pytest.raises(ConfigError, match=f"GB are free; try {remedy}"):
        require_memory(network, most + 1, "float32", free)


def test_a_batch_for_which_no_machine_has_memory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="out of memory: at batch size 1,000,000,000,000"):
        train("lenet5", digits(60), run_dir=tmp_path, **{**QUICK, "batch_size": 10**12})


@pytest.mark.parametrize(
    "error", [MemoryError("8 GiB"), tf.errors.ResourceExhaustedError(None, None, "8 GiB")]
)
def test_too_little_memory_for_the_network_itself(error: Exception) -> None:
    with (
        pytest.raises(ConfigError, match=r"take a smaller input_shape.* \(8 GiB\)"),
        memory_errors_named(),
    ):
        raise error


@pytest.fixture
def wild(monkeypatch: pytest.MonkeyPatch) -> str:
    recipe = replace(recipes.RECIPES["plain"], name="wild", learning_rate=1e30)
    monkeypatch.setitem(recipes.RECIPES, "wild", recipe)
    return "wild"


def test_a_diverging_run_names_the_step(tmp_path: Path, wild: str) -> None:
    with pytest.raises(TrainingDivergedError) as raised:
        train("lenet5", digits(60), recipe=wild, run_dir=tmp_path / "run", **QUICK)
    message = str(raised.value)
    assert re.search("in step [23] of epoch 1, at learning rate", message)
    assert "No epoch was kept before" in message
    assert "Lower the learning rate" in message


@pytest.mark.slow
def test_a_run_that_diverges_later_keeps_its_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras_cls.training.schedules import Plateaus

    recipe = replace(
        recipes.RECIPES["plain"],
        name="later",
        warmup=0.0,
        schedule=Plateaus(until=(0.5,), shares=(1.0, 1e30)),
    )
    monkeypatch.setitem(recipes.RECIPES, "later", recipe)
    folder = tmp_path / "run"
    with pytest.raises(TrainingDivergedError, match=r"epoch 3.*of epoch [12], is kept in .*best-"):
        train("lenet5", digits(60), recipe="later", run_dir=folder, epochs=4, quiet=True)
    kept = load(folder)
    assert all(np.isfinite(weights).all() for weights in kept.model.get_weights())
    assert state_of(folder).epochs_done == 2
    run = train(kept, digits(60), run_dir=tmp_path / "another", **QUICK)
    assert len(run.history) == 2
