"""Exports: what a classifier becomes outside Python.

So far the SavedModel, in float32 or bfloat16. The Keras model is lowered to a plain graph at
inference, which is folded and written. An export is written beside its folder, verified against
the Keras model, and only then renamed to the next free version number.
"""

import os
from pathlib import Path
from typing import Literal

from keras_cls.classifier import Classifier, load
from keras_cls.errors import ConfigError
from keras_cls.exporting.networks import Precision
from keras_cls.exporting.saved_model import publish_saved_model

__all__ = ["export"]

FORMATS = ("saved_model",)


def export(
    classifier: Classifier | str | os.PathLike[str],
    directory: str | os.PathLike[str],
    format: str = "saved_model",
    *,
    precision: Precision = "float32",
    verify: Literal["strict", "report"] = "strict",
) -> Path:
    """Publish a classifier as the next version in a model's folder.

    Args:
        classifier: a classifier, or the folder of one or of a run.
        directory: the model's folder, such as ``models/pets``; its name is the model's name.
        format: ``"saved_model"``: four signatures that take encoded images, pixels or
            ``tf.Example``, with the preprocessing inside; see docs/saved_model.md.
        precision: what the network computes in: ``"float32"``, or ``"bfloat16"``, which halves the
            file and is twice as fast on processors that have it (AVX512-BF16, AMX), slow on
            others. Probabilities stay float32.
        verify: the export's answers are compared with the Keras model's, on the sample kept with
            the classifier or else on synthetic images. ``"strict"`` refuses to publish beyond the
            bound; ``"report"`` publishes and writes the differences into the card.

    Returns:
        The new version's folder, such as ``models/pets/1``.

    Raises:
        ConfigError: an argument that makes no sense.
        ExportError: the folder cannot be written, the network cannot be had in this precision,
            or the export does not agree with the model; nothing is published then.
    """
    if format not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}; found {format!r}")
    if verify not in ("strict", "report"):
        raise ConfigError(f"verify must be 'strict' or 'report'; found {verify!r}")
    if not isinstance(classifier, Classifier):
        classifier = load(classifier)
    return publish_saved_model(
        classifier, Path(directory).expanduser(), precision=precision, strict=verify == "strict"
    )
