"""Exports: what a classifier becomes outside Python.

The SavedModel, in float32, bfloat16 or int8, and LiteRT. The Keras model is lowered to a plain
graph at inference, which is folded, for int8 fused and calibrated as well, and written. An export
is written beside its folder, verified against the Keras model, and only then renamed to the next
free version number.
"""

import os
import warnings
from pathlib import Path
from typing import Literal, cast

from keras_cls.classifier import Classifier, load
from keras_cls.errors import ConfigError
from keras_cls.exporting.calibration import Method
from keras_cls.exporting.calibration_images import (
    CalibrationData,
    PreparedImages,
    calibration_images,
)
from keras_cls.exporting.hardware import slow_here
from keras_cls.exporting.litert import LITE_PRECISIONS, LiteFile, LitePrecision
from keras_cls.exporting.networks import (
    PRECISIONS,
    Precision,
    float_network_of,
    int8_network_of,
)
from keras_cls.exporting.publishing import Artefact, publish
from keras_cls.exporting.saved_model import SavedModel
from keras_cls.exporting.verification import refuse_broken_weights, sample_of

__all__ = ["export"]

PRECISIONS_OF: dict[str, tuple[str, ...]] = {
    "saved_model": PRECISIONS,
    "litert": LITE_PRECISIONS,
}
"""By format."""


def export(
    classifier: Classifier | str | os.PathLike[str],
    directory: str | os.PathLike[str],
    format: str = "saved_model",
    *,
    precision: Precision | LitePrecision = "float32",
    calibration: CalibrationData | None = None,
    calibration_method: Method = "mse",
    verify: Literal["strict", "report"] = "strict",
    fallback: bool = False,
) -> Path:
    """Publish a classifier as the next version in a model's folder.

    Args:
        classifier: a classifier, or the folder of one or of a run.
        directory: the model's folder, such as ``models/pets``; its name is the model's name.
        format: ``"saved_model"``: four signatures that take encoded images, pixels or
            ``tf.Example``, with the preprocessing inside; see docs/saved_model.md. ``"litert"``:
            one ``model.tflite`` that takes pixels, for phones and small computers.
        precision: what the network computes in. Of a SavedModel ``"float32"``; ``"bfloat16"``,
            which halves the file and is twice as fast on processors that have it (AVX512-BF16,
            AMX), slow on others; or ``"int8"``, a quarter of the file and three to four times as
            fast on x86 processors (VNNI), in TensorFlow's builds for x86 alone. Of LiteRT
            ``"float32"``, ``"dynamic"`` (weights in bytes) or ``"int8"``. Probabilities stay
            float32.
        calibration: images such as the model will see, from which int8 learns how large its numbers
            become: a folder, a manifest, (images, labels), or images as for ``predict``. 256 of
            them, evenly out of all, are used. Default: the sample kept with the classifier.
        calibration_method: where the 256 steps of a byte end: at the ``"max"`` that was seen, at a
            ``"percentile"`` (99.99), or where the squared error (``"mse"``) or the change of the
            distribution (``"entropy"``) is smallest. LiteRT's converter has a rule of its own.
        verify: the export's answers are compared with the Keras model's, on the calibration images
            and the sample kept with the classifier, else on synthetic images. ``"strict"``
            refuses to publish beyond the bound; ``"report"`` publishes and writes the differences
            into the card.
        fallback: publish the SavedModel in float32 as well, one version before it, for servers that
            cannot run int8 (Arm, a build without oneDNN) or have no bfloat16. Both are verified
            before either is published, and their cards name each other.

    Returns:
        The new version's folder, such as ``models/pets/1``.

    Warns:
        UserWarning: it will be slow on this machine, or what it was calibrated with says little.

    Raises:
        ConfigError: an argument that makes no sense.
        ExportError: the folder cannot be written, the network cannot be had in this precision,
            or the export does not agree with the model; nothing is published then.
    """
    if format not in PRECISIONS_OF:
        raise ConfigError(f"format must be one of {', '.join(PRECISIONS_OF)}; found {format!r}")
    if verify not in ("strict", "report"):
        raise ConfigError(f"verify must be 'strict' or 'report'; found {verify!r}")
    if precision not in PRECISIONS_OF[format]:
        raise ConfigError(
            f"precision of {format} must be one of {', '.join(PRECISIONS_OF[format])}; found "
            f"{precision!r}"
        )
    if fallback and (format != "saved_model" or precision == "float32"):
        raise ConfigError(
            "fallback: a float32 version goes beside a saved_model in int8 or bfloat16; found "
            f"{format} in {precision}"
        )
    if not isinstance(classifier, Classifier):
        classifier = load(classifier)
    refuse_broken_weights(classifier)
    if format == "saved_model" and (reason := slow_here(precision)):
        warnings.warn(reason, stacklevel=2)
    images = None
    if precision == "int8" or calibration is not None:
        images = calibration_images(classifier, calibration)
    return publish(
        classifier,
        [
            _artefact(classifier, format, each, images, calibration_method)
            for each in (("float32", precision) if fallback else (precision,))
        ],
        Path(directory).expanduser(),
        sample_of(classifier, images),
        strict=verify == "strict",
    )


def _artefact(
    classifier: Classifier,
    format: str,
    precision: str,
    images: PreparedImages | None,
    method: Method,
) -> Artefact:
    if format == "litert":
        network = float_network_of(classifier, "float32")
        pixels = images.pixels if images is not None and precision == "int8" else None
        return LiteFile(classifier, network, cast(LitePrecision, precision), pixels)
    if precision == "int8":
        assert images is not None
        return SavedModel(classifier, int8_network_of(classifier, images, method))
    return SavedModel(classifier, float_network_of(classifier, cast(Precision, precision)))
