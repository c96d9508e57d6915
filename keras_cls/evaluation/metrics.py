"""What a classifier's probabilities are worth: accuracy, loss, confusion, class by class."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from keras_cls.errors import ConfigError, DataError, ImageError

# With five classes or fewer the truth is always among the first five.
_LEAST_CLASSES_FOR_TOP5 = 6
# As in scikit-learn and Keras: one certain mistake costs about 16, not infinity.
_LEAST_PROBABILITY = float(np.finfo(np.float32).eps)
# Leaves room for a bfloat16 softmax, and none for logits.
_SUM_TOLERANCE = 1e-2


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A classifier's results on labelled images.

    Where a ratio has no denominator (the precision of a class that is never predicted, the recall
    of a class without images) it is 0, as in scikit-learn.

    Attributes:
        labels: the C class names.
        count: the number of images, N, without the unreadable ones.
        top1: the share of images whose most probable class is the true one, in 0..1.
        top5: the share of images whose true class is among the five most probable, in 0..1; None
            for five classes or fewer, where it says nothing. Of equal probabilities the class of
            the lower index comes first.
        loss: the mean cross-entropy in nats, probabilities below 1.2e-7 taken as 1.2e-7.
        confusion: int64 [C, C], the number of images by true class (row) and predicted class.
        precision: float64 [C], the share of images predicted as the class that belong to it.
        recall: float64 [C], the share of images of the class that are predicted as it.
        f1: float64 [C], the harmonic mean of precision and recall.
        support: int64 [C], the number of images of the class.
        unreadable: the images left out because they could not be read, each with name and reason.
    """

    labels: tuple[str, ...]
    count: int
    top1: float
    top5: float | None
    loss: float
    confusion: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray
    unreadable: tuple[ImageError, ...] = ()

    @classmethod
    def from_probabilities(
        cls,
        probabilities: np.ndarray,
        targets: np.ndarray,
        labels: Sequence[str],
        unreadable: Sequence[ImageError] = (),
    ) -> Self:
        """Compare probabilities with the truth.

        Args:
            probabilities: float [N, C], each row in 0..1 and summing to 1.
            targets: integers [N] in 0..C - 1.
            labels: the C class names.
            unreadable: the errors of the images that are not among the N.

        Raises:
            DataError: there is no image.
            ConfigError: the arrays do not fit each other or the labels, or the rows of
                ``probabilities`` are none.
        """
        probabilities, targets = np.asarray(probabilities), np.asarray(targets)
        _require_some_image(len(targets), unreadable)
        _require_matching(probabilities, targets, labels)
        _require_probabilities(probabilities)
        targets = targets.astype(np.int64)
        class_count = len(labels)
        ranks = _ranks(probabilities, targets)
        confusion = _confusion(targets, probabilities.argmax(axis=1), class_count)
        correct, support, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        return cls(
            labels=tuple(labels),
            count=len(targets),
            top1=float(np.mean(ranks < 1)),
            top5=float(np.mean(ranks < 5)) if class_count >= _LEAST_CLASSES_FOR_TOP5 else None,
            loss=_cross_entropy(probabilities, targets),
            confusion=confusion,
            precision=_ratio(correct, predicted),
            recall=_ratio(correct, support),
            f1=_ratio(2 * correct, predicted + support),
            support=support,
            unreadable=tuple(unreadable),
        )

    def most_confused(self, limit: int = 10) -> list[tuple[str, str, int]]:
        """The commonest mistakes as (true label, predicted label, count), most frequent first."""
        mistakes = self.confusion.copy()
        np.fill_diagonal(mistakes, 0)
        rows, columns = np.nonzero(mistakes)
        counts = mistakes[rows, columns]
        order = np.argsort(-counts, kind="stable")[:limit]
        return [
            (self.labels[rows[i]], self.labels[columns[i]], int(counts[i])) for i in order.tolist()
        ]

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON's own types; ``per_class`` holds one record for each label."""
        columns = zip(
            self.labels,
            self.precision.tolist(),
            self.recall.tolist(),
            self.f1.tolist(),
            self.support.tolist(),
            strict=True,
        )
        return {
            "count": self.count,
            "top1": self.top1,
            "top5": self.top5,
            "loss": self.loss,
            "labels": list(self.labels),
            "per_class": [
                {"label": label, "precision": precision, "recall": recall, "f1": f1, "support": n}
                for label, precision, recall, f1, n in columns
            ],
            "confusion": self.confusion.tolist(),
            "unreadable": [{"name": e.name, "reason": e.reason} for e in self.unreadable],
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as JSON text in ASCII."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def summary(self) -> str:
        """The result in a few lines of text."""
        top5 = "" if self.top5 is None else f", top-5 {self.top5:.1%}"
        images = "1 image" if self.count == 1 else f"{self.count:,} images"
        lines = [
            f"{images} of {len(self.labels)} classes: top-1 {self.top1:.1%}{top5}, "
            f"loss {self.loss:.3f}"
        ]
        if confused := self.most_confused(3):
            pairs = (f"{truth} as {predicted} ({n})" for truth, predicted, n in confused)
            lines.append(f"most often confused: {', '.join(pairs)}")
        if self.unreadable:
            files = "1 file" if len(self.unreadable) == 1 else f"{len(self.unreadable):,} files"
            lines.append(f"left out, unreadable: {files}, the first: {self.unreadable[0]}")
        return "\n".join(lines)


def _require_some_image(count: int, unreadable: Sequence[ImageError]) -> None:
    if count == 0 and unreadable:
        raise DataError(
            f"no image to evaluate: all {len(unreadable)} are unreadable, the first: "
            f"{unreadable[0]}. Check the files"
        )
    if count == 0:
        raise DataError("no image to evaluate: the data is empty. Add images")


def _require_matching(
    probabilities: np.ndarray, targets: np.ndarray, labels: Sequence[str]
) -> None:
    if targets.ndim != 1 or targets.dtype.kind not in "iu":
        raise ConfigError(
            f"targets have shape {list(targets.shape)} and dtype {targets.dtype}: they must be "
            "integers [N]"
        )
    if probabilities.shape != (len(targets), len(labels)):
        raise ConfigError(
            f"probabilities have shape {list(probabilities.shape)}, but there are {len(targets)} "
            f"targets and {len(labels)} labels: the shape must be [{len(targets)}, {len(labels)}]"
        )
    wrong = np.flatnonzero((targets < 0) | (targets >= len(labels)))
    if wrong.size:
        raise ConfigError(
            f"target {wrong[0]} is {targets[wrong[0]]}, but must lie in 0..{len(labels) - 1}"
        )


def _require_probabilities(probabilities: np.ndarray) -> None:
    if probabilities.dtype.kind != "f":
        raise ConfigError(f"probabilities have dtype {probabilities.dtype}: they must be floats")
    finite = np.isfinite(probabilities).all(axis=1)
    if not finite.all():
        raise ConfigError(
            f"probabilities of image {np.flatnonzero(~finite)[0]} hold NaN or infinity: the model "
            "has diverged; train with a lower learning rate"
        )
    sums = probabilities.sum(axis=1, dtype=np.float64)
    valid = (probabilities >= 0).all(axis=1) & (abs(sums - 1) <= _SUM_TOLERANCE)
    if not valid.all():
        first = int(np.flatnonzero(~valid)[0])
        raise ConfigError(
            f"probabilities of image {first} lie in {probabilities[first].min():.4g}.."
            f"{probabilities[first].max():.4g} and sum to {sums[first]:.4g}, not to 1: if they are "
            "logits, take the softmax first"
        )


def _ranks(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Place of the true class, int64 [N], 0 for the most probable, as a stable sort has it."""
    true = np.take_along_axis(probabilities, targets[:, None], axis=1)
    earlier = np.arange(probabilities.shape[1]) < targets[:, None]
    return ((probabilities > true) | ((probabilities == true) & earlier)).sum(axis=1)


def _confusion(targets: np.ndarray, predictions: np.ndarray, class_count: int) -> np.ndarray:
    pairs = targets * class_count + predictions
    counts = np.bincount(pairs, minlength=class_count * class_count)
    return counts.reshape(class_count, class_count)


def _cross_entropy(probabilities: np.ndarray, targets: np.ndarray) -> float:
    true = np.take_along_axis(probabilities, targets[:, None], axis=1).astype(np.float64)
    return float(-np.log(np.clip(true, _LEAST_PROBABILITY, 1.0)).mean())


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Float64 quotients, 0 where the denominator is 0 (as is then each numerator here)."""
    return numerator / np.maximum(denominator, 1)
