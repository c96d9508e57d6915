"""The table of recipes in docs/training.md, from the recipes themselves."""

from dataclasses import fields

from benchmarks.tables import markdown_table, write_between
from keras_cls.data.augmentation import Augmentation
from keras_cls.training.recipes import RECIPES, Recipe


def main() -> None:
    header = ["recipe", "what it is", "optimizer", "rate", "batch", "epochs", "augmentation"]
    rows = [
        [
            f"`{recipe.name}`",
            recipe.summary,
            _method(recipe),
            f"{recipe.learning_rate:g}",
            str(recipe.batch_size),
            str(recipe.epochs or ""),
            _changed(recipe.augmentation),
        ]
        for recipe in RECIPES.values()
    ]
    table = markdown_table(header, rows, right="rate|batch|epochs")
    sources = [f"- `{r.name}`: {r.source}" for r in RECIPES.values() if r.source]
    write_between("docs/training.md", "recipes", "\n\n".join([table, "\n".join(sources)]))


def _method(recipe: Recipe) -> str:
    constants = ", ".join(
        f"{f.name} {getattr(recipe.method, f.name)}" for f in fields(recipe.method)
    )
    return f"{type(recipe.method).__name__} ({constants}), weight decay {recipe.weight_decay:g}"


def _changed(augmentation: Augmentation) -> str:
    """What differs from no augmentation, in words."""
    plain, parts = Augmentation(), []
    for field in fields(augmentation):
        value = getattr(augmentation, field.name)
        if value != getattr(plain, field.name):
            name = field.name.replace("_", " ")
            if isinstance(value, tuple):
                value = " to ".join(f"{each:.3g}" for each in value)
            parts.append(
                name
                if not isinstance(value, str | int | float) or value is True
                else f"{name} {value}"
            )
    return ", ".join(parts) or "none"
