"""Recipes at work: losses, auxiliary heads, averaged weights, and going on after a stop."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from classifiers import colour_folder
from runs import digits, stop_after, weights_of

from keras_cls.architectures import model_spec
from keras_cls.classifier import Classifier
from keras_cls.errors import ConfigError
from keras_cls.evaluation import evaluate
from keras_cls.preprocessing import Preprocessing
from keras_cls.training import recipes, train
from keras_cls.training.recipes import RECIPES
from keras_cls.training.trainee import Trainee
from keras_cls.weights import create_model

RANDOM = np.random.default_rng(0)


def cross_entropy(targets: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> float:
    logits = logits.astype("f8")
    normalizer = np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(-(weights * (targets * (logits - normalizer)).sum(axis=1)).mean())


def test_the_loss_smooths_targets_and_weights_auxiliary_heads() -> None:
    classifier = Classifier(create_model("googlenet", 7, (64, 64, 3)), list("abcdefg"))
    recipe = replace(RECIPES["plain"], label_smoothing=0.1, aux_weight=0.3, learning_rate=1e-30)
    weights = np.linspace(0.5, 1.5, 7)
    trainee = Trainee(
        classifier, recipe, steps=9, batch_size=5, auxiliary=True, class_weights=weights
    )
    for layer in trainee.network.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    x = RANDOM.normal(size=(5, 64, 64, 3)).astype("f4")
    targets = np.eye(7, dtype="f4")[[1, 2, 3, 6, 0]]
    logits = {name: value.numpy() for name, value in trainee.network(x).items()}
    assert len(logits) == 3
    main = logits.pop(model_spec("googlenet").head)
    smoothed = 0.9 * targets + 0.1 / 7
    expected = cross_entropy(smoothed, main, targets @ weights) + 0.3 * sum(
        cross_entropy(smoothed, other, targets @ weights) for other in logits.values()
    )
    loss, right, among, count, asked = trainee.step((tf.constant(x), tf.constant(targets))).numpy()
    assert loss / count == pytest.approx(expected, rel=1e-5)
    assert right == (main.argmax(1) == targets.argmax(1)).sum()
    assert right <= among <= count == 5
    assert asked == 0
    assert trainee.step((tf.constant(x), tf.constant(targets)), stop=True)[4] == 1


def test_dropout_depends_on_the_seed_and_the_step() -> None:
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(x), name="dropout")
    rule = Preprocessing(size=8, crop=1.0, color_mode="grayscale", mean=0.5, std=0.5)
    classifier = Classifier(model, ["a", "b", "c"], rule)
    still = replace(RECIPES["plain"], learning_rate=1e-30)
    batch = tf.ones((4, 8, 8, 1)), tf.one_hot([0, 1, 2, 0], 3)

    def losses(seed: int) -> list[float]:
        trainee = Trainee(classifier, still, steps=9, batch_size=4, seed=seed)
        return [float(trainee.step(batch)[0]) for _ in range(3)]

    first = losses(1)
    assert first == losses(1)
    assert len({*first, *losses(2)}) == 6


def test_the_networks_own_penalties_count() -> None:
    inputs = keras.Input((8, 8, 1))
    dense = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.5))
    model = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)), name="penalized")
    rule = Preprocessing(size=8, crop=1.0, color_mode="grayscale", mean=0.5, std=0.5)
    classifier = Classifier(model, ["a", "b", "c"], rule)
    trainee = Trainee(classifier, RECIPES["plain"], steps=9, batch_size=4)
    images, targets = np.zeros((4, 8, 8, 1), "f4"), np.eye(3, dtype="f4")[[0, 1, 2, 0]]
    penalty = 0.5 * (model.get_weights()[0] ** 2).sum()
    found = trainee.step((tf.constant(images), tf.constant(targets))).numpy()
    assert found[0] / 4 == pytest.approx(np.log(3) + penalty, rel=1e-5)


def test_a_model_that_is_no_graph_of_layers_is_refused() -> None:
    class Written(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="written")
            self.dense = keras.layers.Dense(2)

        def call(self, x: tf.Tensor) -> tf.Tensor:
            return self.dense(keras.ops.reshape(x, (-1, 64)))

    model = Written()
    model.build((None, 8, 8, 1))
    rule = Preprocessing(size=8, crop=1.0, color_mode="grayscale", mean=0.5, std=0.5)
    with pytest.raises(ConfigError, match="one input"):
        Trainee(Classifier(model, ["a", "b"], rule), RECIPES["plain"], steps=1, batch_size=1)


@pytest.fixture
def averaging(monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe with all that must survive a stop: averages, mixing, random colours."""
    recipe = replace(
        RECIPES["modern"], name="averaging", ema=0.9, batch_size=16, learning_rate=3e-3
    )
    monkeypatch.setitem(recipes.RECIPES, recipe.name, recipe)
    return recipe.name


@pytest.mark.slow
@pytest.mark.slow
def test_a_stopped_run_with_averages_and_mixing_ends_alike(
    averaging, tmp_path, monkeypatch
) -> None:
    settings = {"epochs": 3, "recipe": averaging, "quiet": True}
    whole = train("lenet5", digits(), run_dir=tmp_path / "whole", **settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 1)
        train("lenet5", digits(), run_dir=tmp_path / "stopped", **settings)
    stopped = train("lenet5", digits(), run_dir=tmp_path / "stopped", **settings)
    for one, other in zip(whole.history, stopped.history, strict=True):
        for key in ("loss", "val_loss", "learning_rate"):
            assert other[key] == pytest.approx(one[key], rel=1e-5)
    for one, other in zip(
        weights_of(tmp_path / "whole"), weights_of(tmp_path / "stopped"), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_validation_figures_are_those_of_the_kept_weights(averaging, tmp_path) -> None:
    pixels, targets = digits()
    data, held_out = (pixels[:150], targets[:150]), (pixels[150:], targets[150:])
    run = train("lenet5", data, held_out, epochs=2, recipe=averaging, run_dir=tmp_path, quiet=True)
    best = run.history[int(run.classifier.metrics["epoch"]) - 1]
    found = evaluate(run.classifier, held_out)
    assert found.top1 == pytest.approx(best["val_accuracy"])
    assert found.loss == pytest.approx(best["val_loss"], rel=1e-4)


@pytest.mark.slow
def test_auxiliary_heads_learn_and_are_left_behind(tmp_path) -> None:
    photos = colour_folder(tmp_path / "photos")
    run = train(
        "googlenet",
        photos,
        validation=0.5,
        epochs=1,
        batch_size=4,
        input_shape=(64, 64, 3),
        recipe="googlenet",
        run_dir=tmp_path / "run",
        quiet=True,
    )
    model = run.classifier.model
    assert not isinstance(model.output, dict)
    assert not any(layer.name.startswith("loss") for layer in model.layers)
    # Three losses of about log(classes) each, two of them weighted 0.3.
    chance = np.log(len(run.classifier.labels))
    assert run.history[0]["loss"] > 1.2 * chance
    assert run.history[0]["val_loss"] < 1.5 * chance


@pytest.mark.slow
def test_fine_tuning_trains_the_head_first_and_leaves_the_statistics(tmp_path) -> None:
    pixels, targets = digits()
    first = train(
        "resnet20_cifar10",
        (pixels, targets),
        epochs=1,
        batch_size=32,
        input_shape=(32, 32, 1),
        recipe="plain",
        run_dir=tmp_path / "first",
        quiet=True,
    )
    start = first.classifier
    names = [variable.path for variable in start.model.variables]
    before = dict(zip(names, start.model.get_weights(), strict=True))
    halves = (pixels, targets // 5)

    def tuned(epochs: int, head_first: float, folder: str) -> dict[str, np.ndarray]:
        recipe = RECIPES["fine_tuning"]
        stages = replace(recipe.fine_tuning, head_first=head_first)
        with pytest.MonkeyPatch.context() as patch:
            tuned = replace(recipe, name="tuned", fine_tuning=stages)
            patch.setitem(recipes.RECIPES, "tuned", tuned)
            run = train(
                start,
                halves,
                epochs=epochs,
                batch_size=32,
                labels=["low", "high"],
                recipe="tuned",
                run_dir=tmp_path / folder,
                quiet=True,
            )
        assert all(layer.trainable for layer in run.classifier.model.layers)
        return dict(zip(names, run.classifier.model.get_weights(), strict=True))

    head_only = tuned(1, 1.0, "head")
    both = tuned(1, 0.0, "both")
    for path in names:
        if path.startswith("logits"):
            assert head_only[path].shape != before[path].shape
            continue
        np.testing.assert_array_equal(head_only[path], before[path])
        moved = not np.array_equal(both[path], before[path])
        assert moved == path.endswith("kernel"), path
    moves = [
        np.abs(both[path] - before[path]).mean() / np.abs(before[path]).mean()
        for path in ("conv1/kernel", "conv4_3_conv2/kernel")
    ]
    assert moves[0] < moves[1]  # the front moves least
