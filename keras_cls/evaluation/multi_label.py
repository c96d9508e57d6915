"""What a classifier's answers are worth where an image may show any number of the classes.

An image has a yes or no for every class, and every class a probability of its own. The ranking of
the images by that probability is judged without a threshold (average precision), and the answers
at :data:`THRESHOLD` by precision and recall. Average precision needs all the probabilities, so
5 bytes are kept of each image and class: 20 MB of 50,000 images of 80 classes.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from keras_cls.errors import ConfigError, ImageError
from keras_cls.evaluation.metrics import (
    Calibration,
    Interval,
    Mistake,
    average_precision,
    ratio,
    require_finite,
    require_some_image,
    unreadable_line,
    wilson_interval,
)

THRESHOLD = 0.5
"""A class is said to be there where its probability is this or more."""

NONE = "none of the classes"
"""What the labels of an image without any are called where people read."""

# A probability of 0 or 1 that is wrong costs about 16 nats, as in the single-label loss.
_LEAST_PROBABILITY = float(np.finfo(np.float32).eps)
_NAMED_IN_SUMMARY = 3


@dataclass(frozen=True, eq=False)
class MultiLabelEvaluation:
    """A multi-label classifier's results on labelled images.

    An answer is a yes or no about one class of one image: yes where the probability is
    :data:`THRESHOLD` or more. "Micro" figures count the answers of all classes together, so common
    classes weigh more; "macro" figures are the plain mean over the classes that some image shows.
    Where a ratio has no denominator it is 0, as in scikit-learn; nan stands for the average
    precision of a class that no image shows, and for means over no class.

    Attributes:
        labels: the K class names.
        images: the number of images, N, without the unreadable ones.
        counts: int64 [K], the images that show the class.
        average_precision: float64 [K], the mean of the precision over the images of the class,
            each taken where it stands among all images ranked by the class's probability: the area
            under the precision-recall curve, without interpolation, as scikit-learn's
            ``average_precision_score``. nan where no image shows the class.
        precision: float64 [K], the share of images said to show the class that do.
        recall: float64 [K], the share of images of the class that are said to show it.
        f1: float64 [K], the harmonic mean of precision and recall.
        mean_average_precision: mAP, the macro mean of ``average_precision``.
        micro_precision: of all answers yes, the share that is right.
        micro_recall: of all classes on all images, the share that is found.
        micro_f1: their harmonic mean.
        macro_precision: the macro mean of ``precision``.
        macro_recall: the macro mean of ``recall``.
        macro_f1: the macro mean of ``f1``.
        exact_match: the share of images of which every answer is right, in 0..1.
        hamming_loss: the share of wrong answers, in 0..1.
        loss: the mean binary cross-entropy of an answer in nats, probabilities taken as 1.2e-7
            away from 0 and 1 at least.
        calibration: how far probabilities can be believed: of the classes given 80 %, 80 % should
            be there. ``accuracy`` is the share of them that is.
        unreadable: the images left out because they could not be read, each with name and reason.
        protocol: which views of each image were averaged, and of how many networks.
        images_per_second: how fast the images were judged, reading included; None where nothing
            was measured.
        mistakes: the images with the most confident wrong answers, the worst first, one an image.
    """

    labels: tuple[str, ...]
    images: int
    counts: np.ndarray
    average_precision: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    mean_average_precision: float
    micro_precision: float
    micro_recall: float
    micro_f1: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    exact_match: float
    hamming_loss: float
    loss: float
    calibration: Calibration
    unreadable: tuple[ImageError, ...] = ()
    protocol: str = "1 crop"
    images_per_second: float | None = None
    mistakes: tuple[Mistake, ...] = field(default=(), repr=False)

    @property
    def exact_match_interval(self) -> Interval:
        """Wilson's 95 % interval of ``exact_match``."""
        return wilson_interval(round(self.exact_match * self.images), self.images)

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
            probabilities: float [N, K], each in 0..1.
            targets: [N, K] of zeros and ones, of any numeric dtype or bool.
            labels: the K class names.
            unreadable: the errors of the images that are not among the N.

        Raises:
            DataError: there is no image.
            ConfigError: the arrays do not fit each other or the labels, or hold other values.
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
        truth, scores = records["truth"], records["scores"]
        said = scores >= THRESHOLD
        counts, answers = truth.sum(axis=0), said.sum(axis=0)
        right = (truth & said).sum(axis=0)
        shown = counts > 0
        ranked = average_precision(scores, truth)
        precision, recall = ratio(right, answers), ratio(right, counts)
        f1 = ratio(2 * right, answers + counts)
        wrong = truth != said
        return cls(
            labels=tuple(labels),
            images=len(records),
            counts=counts,
            average_precision=ranked,
            precision=precision,
            recall=recall,
            f1=f1,
            mean_average_precision=_mean(ranked[shown]),
            micro_precision=float(ratio(right.sum(), answers.sum())),
            micro_recall=float(ratio(right.sum(), counts.sum())),
            micro_f1=float(ratio(2 * right.sum(), answers.sum() + counts.sum())),
            macro_precision=_mean(precision[shown]),
            macro_recall=_mean(recall[shown]),
            macro_f1=_mean(f1[shown]),
            exact_match=float(np.mean(~wrong.any(axis=1))),
            hamming_loss=float(wrong.mean()),
            loss=_binary_cross_entropy(scores, truth),
            calibration=Calibration.of(scores.ravel(), truth.ravel()),
            unreadable=tuple(unreadable),
            protocol=protocol,
            images_per_second=images_per_second,
            mistakes=tuple(mistakes),
        )

    def weakest(self, limit: int = 10) -> list[tuple[str, float]]:
        """The classes of the lowest average precision, as (label, average precision)."""
        order = np.argsort(self.average_precision, kind="stable")  # nan comes last
        found = [(self.labels[i], float(self.average_precision[i])) for i in order[:limit]]
        return [(label, value) for label, value in found if not math.isnan(value)]

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON's own types, nan as None; ``per_class`` holds a record for each label.

        The mistakes' pictures are left out.
        """
        columns = zip(
            self.labels,
            self.counts.tolist(),
            self.average_precision.tolist(),
            self.precision.tolist(),
            self.recall.tolist(),
            self.f1.tolist(),
            strict=True,
        )
        interval = self.exact_match_interval
        return {
            "protocol": self.protocol,
            "multi_label": True,
            "images": self.images,
            "mean_average_precision": _number(self.mean_average_precision),
            "micro_precision": self.micro_precision,
            "micro_recall": self.micro_recall,
            "micro_f1": self.micro_f1,
            "macro_precision": _number(self.macro_precision),
            "macro_recall": _number(self.macro_recall),
            "macro_f1": _number(self.macro_f1),
            "exact_match": self.exact_match,
            "exact_match_interval": [interval.low, interval.high],
            "hamming_loss": self.hamming_loss,
            "loss": self.loss,
            "threshold": THRESHOLD,
            "calibration": self.calibration.to_dict(),
            "images_per_second": self.images_per_second,
            "labels": list(self.labels),
            "per_class": [
                {
                    "label": label,
                    "images": count,
                    "average_precision": _number(ranked),
                    "precision": precision,
                    "recall": recall,
                    "f1": f1,
                }
                for label, count, ranked, precision, recall, f1 in columns
            ],
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
        images = "1 image" if self.images == 1 else f"{self.images:,} images"
        classes = "1 class" if len(self.labels) == 1 else f"{len(self.labels)} classes"
        found = self.images_per_second
        speed = "" if found is None else f"; {found:,.{1 if found < 10 else 0}f} images/s"
        lines = [
            f"{images}, any number of {classes} each: mAP {share_text(self.mean_average_precision)}"
            f", F1 {self.micro_f1:.1%} (micro), {share_text(self.macro_f1)} (macro), "
            f"loss {self.loss:.3f}",
            f"every class right: {self.exact_match:.1%} of the images; answers wrong: "
            f"{self.hamming_loss:.1%}; {self.protocol}{speed}",
        ]
        weak = [each for each in self.weakest(_NAMED_IN_SUMMARY) if each[1] < 1]
        if weak and len(self.labels) > 1:
            lines.append(
                "lowest average precision: "
                + ", ".join(f"{label} ({value:.1%})" for label, value in weak)
            )
        if self.unreadable:
            lines.append(unreadable_line(self.unreadable))
        return "\n".join(lines)


# -------------------------------------------------------------------------------- notes of an image


def record_type(classes: int) -> np.dtype:
    """What is kept of an image: which of the classes it shows, and their probabilities."""
    return np.dtype([("truth", "?", (classes,)), ("scores", "<f4", (classes,))])


def records_of(
    probabilities: np.ndarray, targets: np.ndarray, labels: Sequence[str], first: int = 0
) -> np.ndarray:
    """What is kept of each image, :func:`record_type` [N].

    Args:
        probabilities: float [N, K], each in 0..1.
        targets: [N, K] of zeros and ones.
        labels: the K class names.
        first: the number of the first of these images, for messages.

    Raises:
        ConfigError: the arrays do not fit each other or the labels, or hold other values.
    """
    shape = (len(targets), len(labels))
    for what, array in (("targets", targets), ("probabilities", probabilities)):
        if array.shape != shape:
            raise ConfigError(
                f"{what} have shape {list(array.shape)}, but there are {shape[0]} images and "
                f"{shape[1]} labels: the shape must be {list(shape)}"
            )
    if targets.size and not np.isin(targets, (0, 1)).all():
        raise ConfigError("targets must be zeros and ones: 1 where the image shows the class")
    require_finite(probabilities, first)
    outside = (probabilities < 0) | (probabilities > 1)
    if outside.any():
        image = int(np.flatnonzero(outside.any(axis=1))[0])
        raise ConfigError(
            f"probabilities of image {first + image} lie in {probabilities[image].min():.4g}.."
            f"{probabilities[image].max():.4g}, not in 0..1: if they are logits, take the sigmoid "
            "first"
        )
    records = np.zeros(len(targets), record_type(len(labels)))
    records["truth"] = targets > 0
    records["scores"] = probabilities
    return records


def confidence_in_wrong(records: np.ndarray) -> np.ndarray:
    """Of each image, the confidence of its most confident wrong answer; 0 where all are right.

    Returns:
        float32 [N]; the confidence of a yes is its probability p, of a no 1 - p.
    """
    return _confidence_of_wrong_answers(records).max(axis=1)


def mistake(record: np.void, labels: Sequence[str], image: np.ndarray, name: str) -> Mistake:
    """The most confident wrong answer about an image, in words.

    Args:
        record: the image's, with at least one wrong answer.
        labels: the K class names.
        image: uint8 [H, W, 3].
        name: what the image is called.
    """
    confidence = _confidence_of_wrong_answers(np.asarray(record)[None])[0]
    worst = int(confidence.argmax())
    said = "" if record["scores"][worst] >= THRESHOLD else "not "
    return Mistake(
        image=image,
        name=name,
        truth=", ".join(names_where(record["truth"], labels)) or NONE,
        predicted=f"{said}{labels[worst]}",
        confidence=float(confidence[worst]),
    )


def names_where(chosen: np.ndarray, labels: Sequence[str]) -> list[str]:
    """The labels at which ``chosen``, bool [K], is true."""
    return [labels[index] for index in np.flatnonzero(chosen).tolist()]


def share_text(share: float) -> str:
    """In percent with one digit behind the point; a dash where there is none."""
    return "–" if math.isnan(share) else f"{share:.1%}"


def _confidence_of_wrong_answers(records: np.ndarray) -> np.ndarray:
    """float32 [N, K]; 0 for right answers."""
    truth, scores = records["truth"], records["scores"]
    return np.where(truth != (scores >= THRESHOLD), np.where(truth, 1 - scores, scores), 0)


def _binary_cross_entropy(scores: np.ndarray, truth: np.ndarray) -> float:
    of_right = np.where(truth, scores, 1 - scores).astype(np.float64)
    return float(-np.log(np.clip(of_right, _LEAST_PROBABILITY, 1.0)).mean())


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else math.nan


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
