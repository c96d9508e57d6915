"""What a classifier's probabilities are worth: accuracy, loss, calibration, class by class.

Probabilities are boiled down to one :data:`RECORD` an image, batch by batch, and all results are
made of the records: 50,000 images of 1,000 classes take 2.6 MB instead of 200.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Self

import numpy as np

from keras_cls.errors import ConfigError, DataError, ImageError
from keras_cls.labels import printable

# With five classes or fewer the truth is always among the first five.
_LEAST_CLASSES_FOR_TOP5 = 6
# As in scikit-learn and Keras: one certain mistake costs about 16, not infinity.
_LEAST_PROBABILITY = float(np.finfo(np.float32).eps)
# Leaves room for a bfloat16 softmax, and none for logits.
_SUM_TOLERANCE = 1e-2
_CALIBRATION_BINS = 15  # as in Guo et al. 2017, "On Calibration of Modern Neural Networks"

BEST = 5
"""How many classes of each image are kept."""

RECORD = np.dtype(
    [
        ("target", "<i4"),
        ("rank", "<i4"),
        ("truth_score", "<f4"),
        ("best", "<i4", (BEST,)),
        ("scores", "<f4", (BEST,)),
    ]
)
"""One image's result: the true class, its place (0 for the most probable) and probability, the
five best classes and their probabilities (-1 and 0 where there are fewer classes)."""


@dataclass(frozen=True)
class Interval:
    """The bounds of a 95 % confidence interval of a share, in 0..1."""

    low: float
    high: float


def wilson_interval(successes: int, count: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval (1927) of a share of independent trials.

    Unlike the normal approximation it stays within 0..1 and holds for small counts and shares
    near the ends.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = successes / count, z * z / count
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    # Exact at the ends, where rounding would leave a little.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == count else centre + half
    return Interval(low, high)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Whether probabilities mean what they say: of answers given at 80 %, 80 % should be right.

    The confidence of an answer is its probability, the largest one; answers are put into bins of
    equal width.

    Attributes:
        error: the expected calibration error, in 0..1: the mean distance of a bin's share of
            right answers from its mean confidence, weighted by the bins' counts.
        edges: float64 [bins + 1], the bins' bounds; a bin holds its upper one.
        counts: int64 [bins], the answers in each bin.
        confidence: float64 [bins], their mean confidence; 0 where there are none.
        accuracy: float64 [bins], the share of right ones; 0 where there are none.
    """

    error: float
    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @classmethod
    def of(cls, confidence: np.ndarray, correct: np.ndarray, bins: int = _CALIBRATION_BINS) -> Self:
        """From each answer's probability, float [N], and whether it is right, bool [N]."""
        edges = np.linspace(0, 1, bins + 1)
        place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
        counts = np.bincount(place, minlength=bins)
        mean = ratio(np.bincount(place, confidence.astype(np.float64), bins), counts)
        right = ratio(np.bincount(place, correct.astype(np.float64), bins), counts)
        error = float(np.sum(counts * np.abs(right - mean)) / max(len(confidence), 1))
        return cls(error, edges, counts, mean, right)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON's own types."""
        return {
            "error": self.error,
            "edges": self.edges.tolist(),
            "counts": self.counts.tolist(),
            "confidence": self.confidence.tolist(),
            "accuracy": self.accuracy.tolist(),
        }


@dataclass(frozen=True, eq=False)
class Mistake:
    """A misclassified image.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        name: the file, or what else the image is called.
        truth: the true class.
        predicted: the predicted class.
        confidence: the predicted class's probability, in 0..1.
    """

    image: np.ndarray
    name: str
    truth: str
    predicted: str
    confidence: float


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
        calibration: how far probabilities can be believed.
        protocol: which views of each image were averaged, such as "10 crops", and of how many
            networks.
        images_per_second: how fast the images were judged, reading included; None where nothing
            was measured.
        mistakes: the most confident wrong answers, the worst first.
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
    calibration: Calibration
    unreadable: tuple[ImageError, ...] = ()
    protocol: str = "1 crop"
    images_per_second: float | None = None
    mistakes: tuple[Mistake, ...] = field(default=(), repr=False)

    @property
    def top1_interval(self) -> Interval:
        """Wilson's 95 % interval of ``top1``: what images of the same kind may still change."""
        return wilson_interval(round(self.top1 * self.count), self.count)

    @property
    def top5_interval(self) -> Interval | None:
        """Wilson's 95 % interval of ``top5``."""
        if self.top5 is None:
            return None
        return wilson_interval(round(self.top5 * self.count), self.count)

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
        require_some_image(len(targets), unreadable)
        return cls.from_records(records_of(probabilities, targets, labels), labels, unreadable)

    @classmethod
    def from_records(
        cls,
        records: np.ndarray,
        labels: Sequence[str],
        unreadable: Sequence[ImageError] = (),
        *,
        protocol: str = "1 crop",
        images_per_second: float | None = None,
        mistakes: Sequence[Mistake] = (),
    ) -> Self:
        """Sum up what :func:`records_of` has noted of each image.

        Raises:
            DataError: there is no image.
        """
        require_some_image(len(records), unreadable)
        class_count = len(labels)
        predictions, ranks = records["best"][:, 0], records["rank"]
        confusion = _confusion(records["target"].astype(np.int64), predictions, class_count)
        correct, support, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        return cls(
            labels=tuple(labels),
            count=len(records),
            top1=float(np.mean(ranks < 1)),
            top5=float(np.mean(ranks < 5)) if class_count >= _LEAST_CLASSES_FOR_TOP5 else None,
            loss=_cross_entropy(records["truth_score"]),
            confusion=confusion,
            precision=ratio(correct, predicted),
            recall=ratio(correct, support),
            f1=ratio(2 * correct, predicted + support),
            support=support,
            calibration=Calibration.of(records["scores"][:, 0], ranks == 0),
            unreadable=tuple(unreadable),
            protocol=protocol,
            images_per_second=images_per_second,
            mistakes=tuple(mistakes),
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
        """All fields as JSON's own types; ``per_class`` holds one record for each label.

        The mistakes' pictures are left out.
        """
        columns = zip(
            self.labels,
            self.precision.tolist(),
            self.recall.tolist(),
            self.f1.tolist(),
            self.support.tolist(),
            strict=True,
        )
        top1, top5 = self.top1_interval, self.top5_interval
        return {
            "protocol": self.protocol,
            "count": self.count,
            "top1": self.top1,
            "top1_interval": [top1.low, top1.high],
            "top5": self.top5,
            "top5_interval": None if top5 is None else [top5.low, top5.high],
            "loss": self.loss,
            "calibration": self.calibration.to_dict(),
            "images_per_second": self.images_per_second,
            "labels": list(self.labels),
            "per_class": [
                {"label": label, "precision": precision, "recall": recall, "f1": f1, "support": n}
                for label, precision, recall, f1, n in columns
            ],
            "confusion": self.confusion.tolist(),
            "mistakes": [
                {"name": m.name, "truth": m.truth, "predicted": m.predicted, "score": m.confidence}
                for m in self.mistakes
            ],
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
            f"loss {self.loss:.3f}",
            f"95% interval of top-1: {self.top1_interval.low:.1%} to {self.top1_interval.high:.1%}"
            f"; calibration error {self.calibration.error:.1%}; {self.protocol}{self._speed()}",
        ]
        if confused := self.most_confused(3):
            pairs = (f"{truth} as {predicted} ({n})" for truth, predicted, n in confused)
            lines.append(f"most often confused: {', '.join(pairs)}")
        if self.unreadable:
            lines.append(unreadable_line(self.unreadable))
        return "\n".join(lines)

    def _speed(self) -> str:
        found = self.images_per_second
        return "" if found is None else f"; {found:,.{1 if found < 10 else 0}f} images/s"


def records_of(
    probabilities: np.ndarray, targets: np.ndarray, labels: Sequence[str], first: int = 0
) -> np.ndarray:
    """What is kept of each image, :data:`RECORD` [N].

    Args:
        probabilities: float [N, C], each row in 0..1 and summing to 1.
        targets: integers [N] in 0..C - 1.
        labels: the C class names.
        first: the number of the first of these images, for messages.

    Raises:
        ConfigError: the arrays do not fit each other or the labels, or the rows of
            ``probabilities`` are none.
    """
    _require_matching(probabilities, targets, labels)
    _require_probabilities(probabilities, first)
    targets = targets.astype(np.int64)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :BEST]
    kept = best.shape[1]
    records = np.zeros(len(targets), RECORD)
    records["target"] = targets
    records["rank"] = _ranks(probabilities, targets)
    records["truth_score"] = np.take_along_axis(probabilities, targets[:, None], axis=1)[:, 0]
    records["best"] = -1
    records["best"][:, :kept] = best
    records["scores"][:, :kept] = np.take_along_axis(probabilities, best, axis=1)
    return records


def average_precision(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """How well each class's scores rank the images that show it before those that do not.

    The area under the precision-recall curve, without interpolation; scikit-learn's
    ``average_precision_score``. Its mean over the classes, ``np.nanmean``, is the mAP.

    Args:
        scores: float [N, K], probabilities or logits: only their order counts.
        targets: [N, K] of zeros and ones, of any numeric dtype or bool.

    Returns:
        float64 [K], each the sum over the distinct scores of (rise of recall) x (precision); nan
        for a class that no image shows.
    """
    shown = np.asarray(targets) > 0
    columns = zip(np.asarray(scores).T, shown.T, strict=True)
    return np.array([_average_precision(column, truth) for column, truth in columns], np.float64)


def worst_mistakes(records: np.ndarray, limit: int) -> np.ndarray:
    """The places of the most confident wrong answers, int64 [at most limit], the worst first."""
    wrong = np.flatnonzero(records["rank"] > 0)
    order = np.argsort(-records["scores"][wrong, 0], kind="stable")
    return wrong[order[:limit]]


def unreadable_line(unreadable: Sequence[ImageError]) -> str:
    """How many files were left out, and which was the first, in a line."""
    files = "1 file" if len(unreadable) == 1 else f"{len(unreadable):,} files"
    return f"left out, unreadable: {files}, the first: {printable(str(unreadable[0]))}"


def require_some_image(count: int, unreadable: Sequence[ImageError]) -> None:
    """Refuse results of nothing."""
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


def _require_probabilities(probabilities: np.ndarray, before: int) -> None:
    require_finite(probabilities, before)
    sums = probabilities.sum(axis=1, dtype=np.float64)
    valid = (probabilities >= 0).all(axis=1) & (abs(sums - 1) <= _SUM_TOLERANCE)
    if not valid.all():
        first = int(np.flatnonzero(~valid)[0])
        raise ConfigError(
            f"probabilities of image {before + first} lie in {probabilities[first].min():.4g}.."
            f"{probabilities[first].max():.4g} and sum to {sums[first]:.4g}, not to 1: if they are "
            "logits, take the softmax first"
        )


def require_finite(probabilities: np.ndarray, before: int) -> None:
    """Refuse probabilities [N, C] that are no numbers; ``before`` images came earlier."""
    if probabilities.dtype.kind != "f":
        raise ConfigError(f"probabilities have dtype {probabilities.dtype}: they must be floats")
    finite = np.isfinite(probabilities).all(axis=1)
    if not finite.all():
        image = before + int(np.flatnonzero(~finite)[0])
        raise ConfigError(
            f"probabilities of image {image} hold NaN or infinity: the model has diverged; train "
            "with a lower learning rate"
        )


def _ranks(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Place of the true class, int64 [N], 0 for the most probable, as a stable sort has it."""
    true = np.take_along_axis(probabilities, targets[:, None], axis=1)
    earlier = np.arange(probabilities.shape[1]) < targets[:, None]
    return ((probabilities > true) | ((probabilities == true) & earlier)).sum(axis=1)


def _average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    positives = int(truth.sum())
    if positives == 0:
        return math.nan
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    # Images of one score are ranked together: figures are taken behind the last of them.
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    found = np.cumsum(truth[order])[last]
    return float(np.sum(np.diff(found, prepend=0) * found / (last + 1)) / positives)


def _confusion(targets: np.ndarray, predictions: np.ndarray, class_count: int) -> np.ndarray:
    pairs = targets * class_count + predictions
    counts = np.bincount(pairs, minlength=class_count * class_count)
    return counts.reshape(class_count, class_count)


def _cross_entropy(true: np.ndarray) -> float:
    return float(-np.log(np.clip(true.astype(np.float64), _LEAST_PROBABILITY, 1.0)).mean())


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Float64 quotients, 0 where the denominator is 0 (as is then each numerator here)."""
    return numerator / np.maximum(denominator, 1)
