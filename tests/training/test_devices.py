"""Two devices train as one does."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import assert_ended_alike, training_script

from keras_cls.errors import ConfigError
from keras_cls.training.devices import distributed
from keras_cls.training.recipes import RECIPES, choose_batch_size

# Gentle enough that rounding does not grow into differences.
GENTLE = """
from dataclasses import replace
from keras_cls.training import recipes
gentle = replace(
    recipes.RECIPES["modern"], name="gentle", method=recipes.Sgd(), learning_rate=1e-4,
    warmup=0.0, ema=0.9, clip_norm=1.0, batch_size=24, aux_weight=0.0,
)
recipes.RECIPES["gentle"] = gentle
"""
TWO_DEVICES = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
"""


def run(script: str) -> None:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_devices_equal_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    changes = {"recipe": "gentle", "epochs": 2}
    run(training_script(one, before=GENTLE, **changes))
    devices = "strategy=tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1']),"
    run(training_script(two, before=TWO_DEVICES + GENTLE, also=devices, **changes))
    assert_ended_alike(one, two)


def test_batches_are_handed_out_whole_and_in_order() -> None:
    script = TWO_DEVICES + textwrap.dedent(
        """
        import numpy as np
        from keras_cls.training.devices import distributed
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        images, targets = np.arange(10.0), np.arange(10)
        batches = tf.data.Dataset.from_tensor_slices((images, targets)).batch(4)
        found = []
        for batch in distributed(batches, strategy):
            rows = [strategy.experimental_local_results(part) for part in batch]
            found.append([value.numpy().tolist() for value in rows[0]])
            for one, other in zip(*rows, strict=True):
                assert one.numpy().tolist() == other.numpy().tolist()
        assert found == [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8], [9]]], found
        odd = tf.data.Dataset.from_tensor_slices((images[:5], targets[:5])).batch(4)
        parts = [strategy.experimental_local_results(x) for x, _ in distributed(odd, strategy)]
        assert [[len(v) for v in part] for part in parts] == [[2, 2], [1, 0]], parts
        """
    )
    run(script)


def test_one_device_gets_the_batches_as_they_are() -> None:
    batches = tf.data.Dataset.from_tensor_slices((np.arange(3.0), np.arange(3))).batch(2)
    found = [x.numpy().tolist() for x, _ in distributed(batches, tf.distribute.get_strategy())]
    assert found == [[0, 1], [2]]


@settings(deadline=None)
@given(st.integers(1, 2000), st.integers(1, 8))
def test_a_batch_can_be_divided(images: int, devices: int) -> None:
    size = choose_batch_size(None, RECIPES["small_images"], images, devices)
    assert size % devices == 0
    assert size >= devices


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of 3; found 32"):
        choose_batch_size(32, RECIPES["plain"], 1000, 3)
    assert choose_batch_size(33, RECIPES["plain"], 1000, 3) == 33
