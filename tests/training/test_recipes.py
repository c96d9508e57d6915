"""Recipes: what auto picks, and the schedule at the steps that matter."""

import math

import keras
import numpy as np
import pytest

from keras_cls.errors import ConfigError
from keras_cls.preprocessing import Preprocessing
from keras_cls.training.recipes import (
    RECIPES,
    checked_epochs,
    choose_batch_size,
    choose_recipe,
    recipe_names,
)


def rule(size, mode="rgb"):
    return Preprocessing(size=size, color_mode=mode, mean=0.5, std=0.5)


@pytest.mark.parametrize(
    ("preprocessing", "name"),
    [
        (rule(224), "photos"),
        (rule((32, 65)), "photos"),
        (rule(64), "small_images"),
        (rule(32, "rgba"), "small_images"),
        (rule(32, "grayscale"), "small_gray"),
        (rule(224, "grayscale"), "photos"),
    ],
)
def test_auto_goes_by_size_and_colour(preprocessing, name):
    assert choose_recipe("auto", preprocessing).name == name


def test_a_recipe_is_found_by_name_or_refused_with_the_list():
    assert set(recipe_names()) == {"auto", *RECIPES}
    for name in RECIPES:
        assert choose_recipe(name, rule(32)).name == name
    with pytest.raises(ConfigError, match="auto, plain, small_gray"):
        choose_recipe("imagenet", rule(32))


def test_handwriting_is_never_mirrored():
    assert not RECIPES["small_gray"].augmentation.flip


@pytest.mark.parametrize("name", RECIPES)
def test_the_learning_rate_rises_and_then_falls_as_a_cosine(name):
    recipe, steps = RECIPES[name], 1000
    schedule = recipe.optimizer(steps)._learning_rate
    rising = round(recipe.warmup * steps)
    peak, middle = recipe.learning_rate, rising + (steps - rising) // 2
    assert 0 < float(schedule(0)) <= peak / rising
    assert math.isclose(float(schedule(rising)), peak, rel_tol=1e-5)
    assert math.isclose(float(schedule(middle)), peak / 2, rel_tol=1e-2)
    assert float(schedule(steps)) < 1e-8
    assert float(recipe.optimizer(1)._learning_rate(0)) > 0


def test_biases_and_normalization_do_not_decay():
    layers = [keras.layers.Dense(4, name="d"), keras.layers.BatchNormalization(name="n")]
    model = keras.Sequential([keras.Input((3,)), *layers])
    optimizer = RECIPES["plain"].optimizer(10)
    optimizer.build(model.trainable_variables)
    decaying = {v.name for v in model.trainable_variables if optimizer._use_weight_decay(v)}
    assert decaying == {"kernel"}
    before = [np.array(v) for v in model.trainable_variables]
    for _ in range(3):
        optimizer.apply([np.zeros(v.shape, np.float32) for v in model.trainable_variables])
    for old, variable in zip(before, model.trainable_variables, strict=True):
        changed = not np.array_equal(old, np.array(variable))
        assert changed == (variable.name == "kernel")


def test_the_batch_shrinks_with_few_images_unless_the_caller_says():
    recipe = RECIPES["photos"]
    assert choose_batch_size(None, recipe, 10_000) == 32
    assert choose_batch_size(None, recipe, 80) == 10
    assert choose_batch_size(None, recipe, 2) == 8
    assert choose_batch_size(7, recipe, 2) == 7


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "8"])
def test_senseless_numbers_are_refused(value):
    with pytest.raises(ConfigError, match="batch_size"):
        choose_batch_size(value, RECIPES["plain"], 100)
    with pytest.raises(ConfigError, match="epochs"):
        checked_epochs(value)
