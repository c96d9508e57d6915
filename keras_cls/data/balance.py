"""Uneven classes: weights that make up for them, and what to tell the user."""

from collections.abc import Sequence

import numpy as np

from keras_cls.labels import printable

UNEVEN_FROM = 10
"""How many times the images of the smallest class the largest has where a warning is due."""

LARGEST_POSITIVE_WEIGHT = 100.0
"""Beyond it a single image of a rare class would outweigh whole batches of others."""


def class_weights(counts: np.ndarray) -> np.ndarray:
    """How much an image of each class weighs, so that all classes weigh the same together.

    Args:
        counts: int64 [K], the images of each class.

    Returns:
        float32 [K], N / (classes with images * count), whose mean over the images is 1; 0 for a
        class without images.
    """
    present = counts > 0
    weights = counts.sum() / (max(int(present.sum()), 1) * np.maximum(counts, 1))
    return np.where(present, weights, 0).astype(np.float32)


def positive_weights(counts: np.ndarray, images: int) -> np.ndarray:
    """How much a class's presence weighs beside its absence, so that both weigh the same together.

    Args:
        counts: int64 [K], the images that show each class.
        images: of how many.

    Returns:
        float32 [K], absences / presences, within 1 / :data:`LARGEST_POSITIVE_WEIGHT` and
        :data:`LARGEST_POSITIVE_WEIGHT`; 1 for a class that no image shows.
    """
    ratio = (images - counts) / np.maximum(counts, 1)
    kept = np.clip(ratio, 1 / LARGEST_POSITIVE_WEIGHT, LARGEST_POSITIVE_WEIGHT)
    return np.where(counts > 0, kept, 1).astype(np.float32)


def describe_imbalance(labels: Sequence[str], counts: np.ndarray) -> str | None:
    """A warning of very uneven classes; None where the largest is less than ten times the smallest.

    Args:
        labels: the K class names.
        counts: int64 [K], the images of each class; classes without any are left out.
    """
    present = np.flatnonzero(counts)
    if not len(present):
        return None
    small = present[counts[present].argmin()]
    large = present[counts[present].argmax()]
    if counts[large] < UNEVEN_FROM * counts[small]:
        return None
    noun = "image" if counts[small] == 1 else "images"
    return (
        f"the classes are uneven: '{printable(labels[large])}' has {counts[large]:,} images, "
        f"'{printable(labels[small])}' has {counts[small]:,} {noun}. A network may come to "
        'overlook the rare ones; imbalance="weights" makes them weigh as much as the common ones, '
        'imbalance="resample" shows them as often'
    )
