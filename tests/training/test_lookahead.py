"""The network follows its slow copy: against NumPy, after a stop, and on two devices."""

import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from runs import digits, stop_after, weights_of

from keras_cls.classifier import Classifier
from keras_cls.training import recipes, train
from keras_cls.training.lookahead import Lookahead
from keras_cls.training.optimizers import Sgd
from keras_cls.training.recipes import RECIPES
from keras_cls.training.trainee import Trainee
from keras_cls.weights import create_model

LOOKAHEAD = Lookahead(every=3, from_share=0.25, decay=0.9, power=2.0)
STEPS = 16
RANDOM = np.random.default_rng(0)


@pytest.mark.slow
def trainee(lookahead: Lookahead | None) -> Trainee:
    """A small network with moving statistics and gentle steps."""
    recipe = replace(RECIPES["plain"], learning_rate=1e-3, warmup=0.0, lookahead=lookahead)
    model = create_model("airbench94_cifar10", 3, (25, 25, 1))
    random = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(random.uniform(0.1, 0.3, weight.shape))
    classifier = Classifier(model, ["a", "b", "c"])
    return Trainee(classifier, recipe, steps=STEPS, batch_size=4)


@pytest.mark.slow
def test_the_copy_and_the_network_are_those_of_numpy() -> None:
    """A step of the plain trainee, from the same weights, is what lies between two of its own."""
    batches = [
        (
            tf.constant(RANDOM.normal(size=(4, 25, 25, 1)), tf.float32),
            tf.one_hot(RANDOM.integers(0, 3, 4), 3),
        )
        for _ in range(STEPS)
    ]
    found, plain = trainee(LOOKAHEAD), trainee(None)
    count = len(plain.variables)
    assert len(found.variables) == count + len(plain.network.weights)
    slow: list[np.ndarray] = []
    for done, batch in enumerate(batches, 1):
        for mine, theirs in zip(plain.variables, found.variables[:count], strict=True):
            mine.assign(theirs.numpy())
        plain.step(batch)
        found.step(batch)
        expected = [weight.numpy() for weight in plain.network.weights]
        if done == 6:  # the first multiple of 3 beyond a quarter of the steps
            slow = expected
        elif done > 6 and done % 3 == 0:
            kept = 0.9 * (done / STEPS) ** 2
            slow = [kept * s + (1 - kept) * w for s, w in zip(slow, expected, strict=True)]
            expected = slow
        for weight, value in zip(found.network.weights, expected, strict=True):
            np.testing.assert_allclose(weight.numpy(), value, rtol=1e-5, atol=1e-6)
    found.hand_over()  # one step after the last of them
    for weight, value in zip(found.classifier.model.weights, slow, strict=True):
        np.testing.assert_allclose(weight.numpy(), value, rtol=1e-5, atol=1e-6)
    for mine, kept in zip(found.network.weights, found.classifier.model.weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), kept.numpy())


def test_before_the_copy_is_made_an_epoch_ends_as_ever() -> None:
    found = trainee(LOOKAHEAD)
    before = [weight.numpy() for weight in found.network.weights]
    found.hand_over()
    for weight, value in zip(found.network.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


@pytest.fixture
def following(monkeypatch: pytest.MonkeyPatch) -> str:
    recipe = replace(
        RECIPES["plain"],
        name="following",
        method=Sgd(0.9, nesterov=True, velocity="gradients"),
        learning_rate=0.02,
        norm_bias_rate=4.0,
        lookahead=LOOKAHEAD,
        batch_size=16,
    )
    monkeypatch.setitem(recipes.RECIPES, recipe.name, recipe)
    return recipe.name


@pytest.mark.slow
@pytest.mark.parametrize("epochs_before", [1, 2])
def test_a_stopped_run_with_a_slow_copy_ends_alike(
    following: str, epochs_before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"epochs": 3, "recipe": following, "precision": "float32", "quiet": True}
    whole = train("lenet5", digits(), run_dir=tmp_path / "whole", **settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, epochs_before)
        train("lenet5", digits(), run_dir=tmp_path / "stopped", **settings)
    stopped = train("lenet5", digits(), run_dir=tmp_path / "stopped", **settings)
    for one, other in zip(whole.history, stopped.history, strict=True):
        for key in ("loss", "val_loss", "learning_rate"):
            assert other[key] == pytest.approx(one[key], rel=1e-5)
    for one, other in zip(
        weights_of(tmp_path / "whole"), weights_of(tmp_path / "stopped"), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.slow
def test_two_devices_follow_as_one_does() -> None:
    script = """
    import numpy as np
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    from dataclasses import replace
    from keras_cls.classifier import Classifier
    from keras_cls.training.devices import distributed
    from keras_cls.training.lookahead import Lookahead
    from keras_cls.training.recipes import RECIPES
    from keras_cls.training.trainee import Trainee
    from keras_cls.weights import create_model

    random = np.random.default_rng(0)
    model = create_model("airbench94_cifar10", 3, (25, 25, 1))
    classifier, start = Classifier(model, ["a", "b", "c"]), model.get_weights()
    recipe = replace(
        RECIPES["airbench94"], learning_rate=0.002, batch_size=8, lookahead=Lookahead(2, 0.25)
    )
    images = random.normal(size=(48, 25, 25, 1)).astype("float32")
    targets = np.eye(3, dtype="float32")[random.integers(0, 3, 48)]
    batches = tf.data.Dataset.from_tensor_slices((images, targets)).batch(8)
    both = [tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])]
    ended = []
    for strategy in both:
        model.set_weights(start)
        trainee = Trainee(classifier, recipe, steps=7, batch_size=8, strategy=strategy)
        for batch in distributed(batches, strategy):
            trainee.step(batch)
        trainee.hand_over()
        ended.append([variable.numpy() for variable in trainee.variables])
        for variable in trainee.variables:
            copies = strategy.experimental_local_results(variable.value)
            assert len(copies) == strategy.num_replicas_in_sync, variable.path
            for copy in copies:
                np.testing.assert_array_equal(copy, copies[0], variable.path)
    for variable, one, two in zip(trainee.variables, *ended, strict=True):
        np.testing.assert_allclose(one, two, 1e-3, 1e-5, err_msg=variable.path)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
