"""How to train: optimizer, schedule and augmentation, as data."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras

from keras_cls.data.augmentation import Augmentation
from keras_cls.errors import ConfigError
from keras_cls.preprocessing import Preprocessing


@dataclass(frozen=True)
class Recipe:
    """A way to train.

    AdamW (arXiv:1711.05101) with the learning rate rising linearly and then falling as a cosine
    (arXiv:1608.03983). Biases and normalization parameters do not decay.

    Attributes:
        name: what ``recipe=`` calls it.
        summary: one line on what it is for.
        augmentation: what happens to a training image.
        batch_size: images a step, where the caller does not say; fewer where there are few images.
        learning_rate: the highest one.
        weight_decay: decoupled, a step's share is this times the learning rate.
        warmup: the share of all steps in which the learning rate rises.
    """

    name: str
    summary: str
    augmentation: Augmentation
    batch_size: int
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05

    def optimizer(self, steps: int) -> keras.Optimizer:
        """A fresh optimizer for a run of ``steps`` steps."""
        rising = max(1, round(self.warmup * steps))
        schedule = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=self.learning_rate / rising,
            decay_steps=max(1, steps - rising),
            warmup_target=self.learning_rate,
            warmup_steps=rising,
        )
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=self.weight_decay)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        return optimizer


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("plain", "no augmentation", Augmentation(), batch_size=64),
        Recipe(
            "small_gray",
            "small grey pictures, such as handwriting: shifted a little, never mirrored",
            Augmentation(shift=3),
            batch_size=32,
            learning_rate=3e-3,
        ),
        Recipe(
            "small_images",
            "small colour pictures: shifted and mirrored",
            Augmentation(shift=4, flip=True),
            batch_size=128,
            learning_rate=2e-3,
        ),
        Recipe(
            "photos",
            "photos: random crops, mirrored",
            Augmentation(random_crop=(0.25, 1.0), flip=True),
            batch_size=32,
        ),
    )
}

_SMALL_SIDE = 64
_FEWEST_STEPS = 8
_SMALLEST_BATCH = 8  # batch normalization needs some


def choose_recipe(name: str, rule: Preprocessing) -> Recipe:
    """The recipe of that name, or the one that fits the network's input for ``"auto"``.

    Raises:
        ConfigError: there is no such recipe.
    """
    if not isinstance(name, str):
        raise ConfigError(f"recipe must be a name, found {name!r}")
    if name == "auto":
        if max(rule.size) > _SMALL_SIDE:
            name = "photos"
        else:
            name = "small_gray" if rule.color_mode == "grayscale" else "small_images"
    if name not in RECIPES:
        raise ConfigError(f"recipe must be one of auto, {', '.join(RECIPES)}; found {name!r}")
    return RECIPES[name]


def choose_batch_size(wanted: int | None, recipe: Recipe, images: int) -> int:
    """The caller's, or the recipe's; smaller where an epoch would have too few steps."""
    if wanted is not None:
        if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
            raise ConfigError(f"batch_size must be a whole number of 1 or more, found {wanted!r}")
        return wanted
    return min(recipe.batch_size, max(_SMALLEST_BATCH, images // _FEWEST_STEPS))


def checked_epochs(epochs: int) -> int:
    """Raises ConfigError unless ``epochs`` is a whole number of 1 or more."""
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ConfigError(f"epochs must be a whole number of 1 or more, found {epochs!r}")
    return epochs


def recipe_names() -> Sequence[str]:
    """What ``recipe=`` takes."""
    return ["auto", *RECIPES]
