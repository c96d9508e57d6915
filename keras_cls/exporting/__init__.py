"""Exports: what a classifier becomes outside Python.

So far the SavedModel, in float32, bfloat16 or int8. The Keras model is lowered to a plain graph at
inference, which is folded, for int8 fused and calibrated as well, and written. An export is written
beside its folder, verified against the Keras model, and only then renamed to the next free version
number.
"""

import os
from pathlib import Path
from typing import Literal

from keras_cls.classifier import Classifier, load
from keras_cls.errors import ConfigError
from keras_cls.exporting.calibration import Method
from keras_cls.exporting.calibration_images import CalibrationData, calibration_images
from keras_cls.exporting.networks import (
    PRECISIONS,
    Precision,
    float_network_of,
    int8_network_of,
)
from keras_cls.exporting.saved_model import publish_saved_model
from keras_cls.exporting.verification import sample_of

__all__ = ["export"]

FORMATS = ("saved_model",)


def export(
    classifier: Classifier | str | os.PathLike[str],
    directory: str | os.PathLike[str],
    format: str = "saved_model",
    *,
    precision: Precision = "float32",
    calibration: CalibrationData | None = None,
    calibration_method: Method = "mse",
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
            others; or ``"int8"``, a quarter of the file and about three times as fast on x86
            processors (VNNI), and for TensorFlow with oneDNN only. Probabilities stay float32.
        calibration: images such as the model will see, from which int8 learns how large its numbers
            become: a folder, a manifest, (images, labels), or images as for ``predict``. 256 of
            them, evenly out of all, are used. Default: the sample kept with the classifier.
        calibration_method: where the 256 steps of a byte end: at the ``"max"`` that was seen, at a
            ``"percentile"`` (99.99), or where the squared error (``"mse"``) or the change of the
            distribution (``"entropy"``) is smallest.
        verify: the export's answers are compared with the Keras model's, on the calibration images,
            else on the sample kept with the classifier, else on synthetic images. ``"strict"``
            refuses to publish beyond the bound; ``"report"`` publishes and writes the differences
            into the card.

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
    if precision not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}; found {precision!r}")
    if not isinstance(classifier, Classifier):
        classifier = load(classifier)
    images = None
    if precision == "int8":
        images = calibration_images(classifier, calibration)
        network = int8_network_of(classifier, images, calibration_method)
    else:
        if calibration is not None:
            images = calibration_images(classifier, calibration)
        network = float_network_of(classifier, precision)
    return publish_saved_model(
        classifier,
        network,
        Path(directory).expanduser(),
        sample_of(classifier, images),
        strict=verify == "strict",
    )
