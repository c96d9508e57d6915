"""Evaluation: how good a classifier is on labelled images."""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from keras_cls.classifier import Classifier, load
from keras_cls.data.opening import open_evaluation_data, unreadable_in
from keras_cls.data.pipeline import ImageStream, evaluation_batches
from keras_cls.data.scanning import Progress
from keras_cls.evaluation.metrics import Evaluation

__all__ = ["Evaluation", "evaluate", "stream_probabilities"]


def evaluate(
    classifier: Classifier | str | os.PathLike[str],
    data: Any,
    *,
    batch_size: int = 32,
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
    if not isinstance(classifier, Classifier):
        classifier = load(classifier)
    with tempfile.TemporaryDirectory(prefix="keras_cls-") as cache:
        stream = open_evaluation_data(
            data, classifier.labels, cache=Path(cache), strict=strict, progress=progress
        )
        return Evaluation.from_probabilities(
            stream_probabilities(classifier, stream, batch_size),
            stream.targets,
            classifier.labels,
            unreadable_in(stream),
        )


def stream_probabilities(
    classifier: Classifier, stream: ImageStream, batch_size: int = 32
) -> np.ndarray:
    """The probabilities of every image of a stream, float32 ``[N, C]``, in its order."""
    batches = evaluation_batches(stream, classifier.preprocessing, batch_size)
    return np.concatenate([classifier.forward(images) for images, _ in batches])
