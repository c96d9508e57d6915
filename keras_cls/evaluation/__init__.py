"""Evaluation: how good a classifier is on labelled images."""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from keras_cls.classifier import BATCH_SIZE, Classifier, load
from keras_cls.data.opening import open_evaluation_data, unreadable_in
from keras_cls.data.pipeline import ImageStream, evaluation_batches
from keras_cls.data.scanning import Progress
from keras_cls.errors import ConfigError
from keras_cls.evaluation.metrics import Evaluation

__all__ = ["Evaluation", "evaluate", "predict_stream"]


def evaluate(
    classifier: Classifier | str | os.PathLike[str],
    data: Any,
    *,
    batch_size: int = BATCH_SIZE,
    strict: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a classifier on labelled images, one central crop each.

    Args:
        classifier: a classifier, or the folder of one or of a run.
        data: a folder of class folders, a manifest, arrays (images, labels), a ``tf.data.Dataset``
            or ``"digits"``. Classes are matched by name; not every class need be there.
        batch_size: images that go through the network at once.
        strict: stop at unreadable images instead of leaving them out and naming them.
        progress: called with the number of images scanned and of all.

    Raises:
        DataError: the data cannot be used, or holds classes that the classifier does not know.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f"batch_size must be a whole number of 1 or more, found {batch_size!r}")
    if not isinstance(classifier, Classifier):
        classifier = load(classifier)
    with tempfile.TemporaryDirectory(prefix="keras_cls-") as cache:
        stream = open_evaluation_data(
            data, classifier.labels, cache=Path(cache), strict=strict, progress=progress
        )
        probabilities, targets = predict_stream(classifier, stream, batch_size)
        return Evaluation.from_probabilities(
            probabilities, targets, classifier.labels, unreadable_in(stream)
        )


def predict_stream(
    classifier: Classifier, stream: ImageStream, batch_size: int = BATCH_SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities float32 ``[N, C]`` and true classes int64 ``[N]``, from one pass."""
    batches = evaluation_batches(stream, classifier.preprocessing, batch_size)
    pairs = [(classifier.forward(images), targets.numpy()) for images, targets in batches]
    probabilities, targets = zip(*pairs, strict=True)
    return np.concatenate(probabilities), np.concatenate(targets)
