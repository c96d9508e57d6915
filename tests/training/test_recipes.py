"""Recipes: what auto picks; and each paper's schedule, at three points, and augmentation."""

import math
from dataclasses import fields

import numpy as np
import pytest

from keras_cls.data.augmentation import Augmentation
from keras_cls.errors import ConfigError
from keras_cls.preprocessing import Preprocessing
from keras_cls.training.optimizers import AdamW, RmsProp, Sgd
from keras_cls.training.recipes import (
    RECIPES,
    checked_epochs,
    choose_batch_size,
    choose_recipe,
    recipe_names,
)

STEPS_AN_EPOCH = 100


def rule(size, mode="rgb"):
    return Preprocessing(size=size, color_mode=mode, mean=0.5, std=0.5)


@pytest.mark.parametrize(
    ("preprocessing", "images", "name"),
    [
        (rule(224), 1000, "photos"),
        (rule(224), 1_281_167, "modern"),
        (rule((32, 65)), 1000, "photos"),
        (rule(64), 1_000_000, "small_images"),
        (rule(32, "rgba"), 1000, "small_images"),
        (rule(32, "grayscale"), 1000, "small_gray"),
        (rule(224, "grayscale"), 1000, "photos"),
    ],
)
def test_auto_goes_by_size_colour_and_number(preprocessing, images, name):
    recipe, why = choose_recipe("auto", preprocessing, images)
    assert recipe.name == name
    assert f"{max(preprocessing.size)} pixels" in why
    tuned, why = choose_recipe("auto", preprocessing, images, trained=True)
    assert tuned.name == "fine_tuning"
    assert "trained weights" in why
    fitting = "photos" if name == "modern" else name
    assert tuned.augmentation == RECIPES[fitting].augmentation


def test_a_recipe_is_found_by_name_or_refused_with_the_list():
    assert set(recipe_names()) == {"auto", *RECIPES}
    for name in RECIPES:
        assert choose_recipe(name, rule(32))[0].name == name
    with pytest.raises(ConfigError, match="auto, plain, small_gray"):
        choose_recipe("imagenet", rule(32))
    with pytest.raises(ConfigError, match="found 3"):
        choose_recipe(3, rule(32))


def test_handwriting_is_never_mirrored():
    assert not RECIPES["small_gray"].augmentation.flip


@pytest.mark.parametrize(
    "name", ["plain", "small_gray", "small_images", "photos", "modern", "fine_tuning"]
)
def test_the_learning_rate_rises_and_then_falls_as_a_cosine(name):
    recipe, steps = RECIPES[name], 1000
    schedule = recipe.scheduled(steps)
    rising = math.ceil(recipe.warmup * steps)
    peak, middle = recipe.learning_rate, rising + (steps - rising) // 2
    assert 0 < float(schedule(0)) <= peak / rising * 1.001
    assert math.isclose(float(schedule(rising)), peak, rel_tol=1e-5)
    assert math.isclose(float(schedule(middle)), peak / 2, rel_tol=1e-2)
    assert float(schedule(steps)) < 1e-8
    assert float(recipe.scheduled(1)(0)) > 0


# The learning rate in three epochs of the paper's own run, counted from 0.
RATES = {
    "lenet5": {0: 0.05, 4: 0.02, 19: 0.001},  # 0.0005, 0.0002, 0.00001 of the paper, times 100
    "alexnet": {0: 0.01, 30: 0.001, 89: 0.00001},
    "nin": {0: 0.01, 45: 0.001, 89: 0.0001},
    "vgg": {0: 0.01, 36: 0.001, 73: 0.00001},
    "googlenet": {7: 0.01, 8: 0.0096, 63: 0.01 * 0.96**7},
    "bn_inception": {1: 0.045, 2: 0.0423, 99: 0.045 * 0.94**49},
    "inception_v3": {1: 0.045, 2: 0.0423, 99: 0.045 * 0.94**49},
    "inception_v4": {1: 0.045, 2: 0.0423, 99: 0.045 * 0.94**49},
    "resnet": {29: 0.1, 30: 0.01, 89: 0.001},
    "resnet_cifar": {90: 0.1, 92: 0.01, 181: 0.001},
    "resnext": {29: 0.1, 59: 0.01, 60: 0.001},
    "senet": {29: 0.6, 30: 0.06, 99: 0.0006},
    "senet154": {29: 0.6, 60: 0.006, 99: 0.0006},
    "nasnet": {1: 0.04, 3: 0.04 * 0.97, 249: 0.04 * 0.97**103},
    "nasnet_cifar": {0: 0.025, 300: 0.0125, 599: 0.0},
    "airbench94": {0: 0.5609, 2: 1.4638, 9: 0.1956},
}
METHODS = {
    "lenet5": Sgd(momentum=0),
    "inception_v3": RmsProp(0.9, 0.9, 1.0),
    "inception_v4": RmsProp(0.9, 0.9, 1.0),
    "nasnet": RmsProp(0.9, 0.9, 1.0),
    "airbench94": Sgd(0.85, nesterov=True, velocity="gradients"),
}
SZEGEDY = {"random_crop": (0.08, 1.0), "flip": True}
AUGMENTATIONS = {
    "lenet5": {},
    "alexnet": {"scale_jitter": (256 / 224, 256 / 224), "flip": True, "pca_color": 0.1},
    "nin": {"scale_jitter": (256 / 224, 256 / 224), "flip": True},
    "vgg": {"scale_jitter": (256 / 224, 512 / 224), "flip": True, "pca_color": 0.1},
    "googlenet": {**SZEGEDY, "jitter": 0.4},
    "bn_inception": SZEGEDY,
    "inception_v3": {**SZEGEDY, "jitter": 0.4},
    "inception_v4": {**SZEGEDY, "jitter": 0.4},
    "resnet": {"scale_jitter": (256 / 224, 480 / 224), "flip": True, "pca_color": 0.1},
    "resnet_cifar": {"shift": 4, "flip": True},
    "resnext": {**SZEGEDY, "jitter": 0.4, "pca_color": 0.1},
    "senet": SZEGEDY,
    "senet154": SZEGEDY,
    "nasnet": {**SZEGEDY, "jitter": 0.4},
    "nasnet_cifar": {"shift": 4, "flip": True},
    "airbench94": {"shift": 2, "reflect": True, "alternating_flip": True},
}
# name: (batch, weight decay, smoothed labels, auxiliary weight, averaged)
CONSTANTS = {
    "lenet5": (10, 0.0, 0.0, 0.0, False),
    "alexnet": (128, 5e-4, 0.0, 0.0, False),
    "nin": (128, 5e-4, 0.0, 0.0, False),
    "vgg": (256, 5e-4, 0.0, 0.0, False),
    "googlenet": (32, 2e-4, 0.0, 0.3, True),
    "bn_inception": (32, 4e-5, 0.0, 0.0, False),
    "inception_v3": (32, 4e-5, 0.1, 0.4, True),
    "inception_v4": (32, 4e-5, 0.0, 0.4, True),
    "resnet": (256, 1e-4, 0.0, 0.0, False),
    "resnet_cifar": (128, 1e-4, 0.0, 0.0, False),
    "resnext": (256, 1e-4, 0.0, 0.0, False),
    "senet": (1024, 1e-4, 0.0, 0.0, False),
    "senet154": (1024, 1e-4, 0.1, 0.0, False),
    "nasnet": (32, 4e-5, 0.1, 0.4, True),
    "nasnet_cifar": (32, 5e-4, 0.0, 0.4, False),
    "airbench94": (1024, 0.0153 / 11.5, 0.2, 0.0, False),
}


@pytest.mark.parametrize("name", RATES)
def test_the_papers_learning_rates(name):
    recipe = RECIPES[name]
    steps = recipe.epochs * STEPS_AN_EPOCH
    schedule = recipe.scheduled(steps)
    for epoch, rate in RATES[name].items():
        found = float(schedule(epoch * STEPS_AN_EPOCH + STEPS_AN_EPOCH // 2))
        np.testing.assert_allclose(found, rate, rtol=5e-3, atol=1e-6)
    # A run of another length goes through the same curve.
    short = recipe.scheduled(steps // 10)
    for done in (0.11, 0.47, 0.93):
        np.testing.assert_allclose(short(done * steps / 10), schedule(done * steps), rtol=0.1)


@pytest.mark.parametrize("name", RATES)
def test_the_papers_constants_and_augmentation(name):
    recipe = RECIPES[name]
    assert recipe.method == METHODS.get(name, Sgd(0.9))
    assert recipe.augmentation == Augmentation(**AUGMENTATIONS[name])
    found = (
        recipe.batch_size,
        recipe.weight_decay,
        recipe.label_smoothing,
        recipe.aux_weight,
        recipe.ema is not None,
    )
    assert found == CONSTANTS[name]
    assert recipe.drop_path == name.startswith("nasnet")
    assert recipe.source and recipe.epochs


def test_every_paper_is_held_to():
    general = {"plain", "small_gray", "small_images", "photos", "modern", "fine_tuning"}
    assert set(RECIPES) == general | set(RATES) == general | set(AUGMENTATIONS) | set(CONSTANTS)


def test_modern_has_all_that_its_name_promises():
    recipe = RECIPES["modern"]
    assert recipe.augmentation.rand_augment is not None
    assert recipe.augmentation.erase > 0
    assert recipe.mixing.mixup > 0 and recipe.mixing.cutmix > 0
    assert recipe.ema is not None and recipe.warmup > 0


def test_the_rate_follows_the_batch():
    assert RECIPES["resnet"].learning_rate_for(1024) == pytest.approx(0.4)
    assert isinstance(RECIPES["photos"].method, AdamW)
    batch = RECIPES["photos"].batch_size
    assert RECIPES["photos"].learning_rate_for(4 * batch) == pytest.approx(2e-3)
    schedule = RECIPES["resnet"].scheduled(900, 64)
    assert float(schedule(0)) == pytest.approx(0.025)


def test_recipes_are_plain_data():
    for recipe in RECIPES.values():
        assert hash(recipe) == hash(recipe)
        assert {field.name for field in fields(recipe)} >= {"name", "summary", "method"}


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


def test_the_triangle_is_that_of_the_release() -> None:
    recipe, steps = RECIPES["airbench94"], 476  # ceil(48 * 9.9)
    schedule = recipe.scheduled(steps)
    points = ((0, 0.23 * steps, steps), (0.2, 1.0, 0.07))
    for step in range(steps):
        assert float(schedule(step)) == pytest.approx(1.5 * np.interp(step, *points), rel=1e-5)


def test_airbench_begins_its_averages_and_rests_a_bias_after_three_epochs() -> None:
    recipe = RECIPES["airbench94"]
    assert recipe.lookahead is not None
    assert recipe.lookahead.first_step(476) == 145  # the first of 5, 10, ... beyond 3 * 48 steps
    assert recipe.lookahead.first_step(490) == 150  # ... beyond 3 * 49
    assert recipe.lookahead.kept(238, 476) == pytest.approx(0.95**5 / 8)
    schedule = recipe.scheduled(490)
    assert recipe.optimizer(schedule).rates.stops == {"whitening/bias": 147}
