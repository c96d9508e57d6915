"""A trained classifier's results on labelled images, and the pictures that tell most about it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_cls.classifier import BATCH_SIZE, Classifier
from keras_cls.data.pipeline import ImageStream, evaluation_pixels
from keras_cls.errors import ConfigError, DataError, ImageError
from keras_cls.evaluation import metrics, multi_label
from keras_cls.evaluation.gradcam import GradCam, overlay
from keras_cls.evaluation.metrics import Evaluation
from keras_cls.evaluation.multi_label import THRESHOLD, MultiLabelEvaluation, names_where
from keras_cls.preprocessing import normalize

MISTAKES_SHOWN = 24
RIGHTS_SHOWN = 12
EXPLAINED = 6
"""So many of the mistakes, and of the right answers, are shown with their heat map."""


@dataclass(frozen=True, eq=False)
class Example:
    """An image and what the classifier took it for.

    Attributes:
        image: uint8 [H, W, 3], RGB, as the network saw it.
        name: the file, or what else the image is called.
        truth: the true class; multi-label, all of them.
        predicted: the predicted class; multi-label, the most confident wrong answer, or all of
            the right ones.
        confidence: how probable that is to the classifier, in 0..1.
        explained: the class whose heat ``overlay`` shows.
        overlay: uint8 [H, W, 3], the image under its heat map (Grad-CAM); None for none.
    """

    image: np.ndarray
    name: str
    truth: str
    predicted: str
    confidence: float
    explained: str = ""
    overlay: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Examples:
    """The most telling images.

    Attributes:
        mistakes: wrong answers, the most confident first.
        rights: right answers, the most confident first; no class has more than its share.
    """

    mistakes: tuple[Example, ...] = ()
    rights: tuple[Example, ...] = ()


def examine(
    classifier: Classifier, stream: ImageStream, unreadable: Sequence[ImageError] = ()
) -> tuple[Evaluation | MultiLabelEvaluation, Examples]:
    """Judge a classifier on a stream's images, and pick examples.

    All in one pass: a dataset of the user's own may come in another order the next time. Of each
    image a short record is kept, of the examples the pixels.

    Args:
        classifier: the classifier.
        stream: the images, each once.
        unreadable: the errors of the images that were left out of it.

    Returns:
        The evaluation, and examples with heat maps for the first :data:`EXPLAINED` of a kind
        where the network has a feature map.

    Raises:
        DataError: there is no image, or one could be read before and cannot be any more.
    """
    kind = MULTI_LABEL if classifier.multi_label else SINGLE_LABEL
    rule, labels = classifier.preprocessing, classifier.labels
    mistakes = Keeper(MISTAKES_SHOWN, MISTAKES_SHOWN)
    rights = Keeper(RIGHTS_SHOWN, max(1, RIGHTS_SHOWN // len(labels)))
    records: list[np.ndarray] = []
    first = 0
    try:
        for pixels, targets in evaluation_pixels(stream, rule, BATCH_SIZE).as_numpy_iterator():
            answers = kind.records_of(
                classifier.forward(normalize(pixels, rule)), targets, labels, first
            )
            records.append(answers)
            for keeper, judged in ((mistakes, kind.wrong), (rights, kind.right)):
                confidence, about = judged(answers)
                for place in np.flatnonzero(confidence > 0).tolist():
                    if keeper.wants(confidence[place], about[place]):
                        picture = np.rint(pixels[place]).astype(np.uint8)
                        keeper.add(
                            _Candidate(
                                float(confidence[place]),
                                int(about[place]),
                                first + place,
                                picture,
                                answers[place],
                            )
                        )
            first += len(targets)
    except tf.errors.OpError as error:
        raise DataError(
            f"one of the images from number {first} on could be read when the run began and cannot "
            f"be any more: {str(error.message).splitlines()[0]}. Put it back and start again"
        ) from error
    evaluation = kind.evaluation.from_records(
        np.concatenate(records) if records else np.zeros(0), labels, unreadable
    )
    cam = _grad_cam(classifier)
    shown = [
        tuple(_examples(keeper.best_first(), words, labels, stream, cam))
        for keeper, words in ((mistakes, kind.wrong_in_words), (rights, kind.right_in_words))
    ]
    return evaluation, Examples(*shown)


# ------------------------------------------------------------------------------- which are kept


@dataclass(frozen=True, eq=False)
class _Candidate:
    confidence: float
    about: int  # the class of the answer
    number: int
    pixels: np.ndarray
    record: np.void


class Keeper:
    """Keeps the most confident of many, at most so many in all and of one class.

    The result is that of sorting all of them and taking from the top what the limits allow; of
    equals, the earlier.
    """

    def __init__(self, limit: int, per_class: int) -> None:
        self._limit = limit
        self._per_class = per_class
        self._kept: list[Any] = []

    def wants(self, confidence: float, about: int) -> bool:
        """Whether a candidate of this confidence, about this class, would be kept."""
        rivals = self._rivals(about)
        return not rivals or confidence > min(each.confidence for each in rivals)

    def add(self, candidate: Any) -> None:
        """Keep a wanted candidate, in the place of the least confident that is in its way."""
        if rivals := self._rivals(candidate.about):
            # Of equals the later goes.
            least = min(rivals, key=lambda each: (each.confidence, -each.number))
            self._kept = [each for each in self._kept if each is not least]
        self._kept.append(candidate)

    def best_first(self) -> list[Any]:
        """What is kept."""
        return sorted(self._kept, key=lambda each: (-each.confidence, each.number))

    def _rivals(self, about: int) -> list[Any]:
        """Those of which one must go for a candidate about this class."""
        same = [each for each in self._kept if each.about == about]
        if len(same) >= self._per_class:
            return same
        return self._kept if len(self._kept) >= self._limit else []


# ---------------------------------------------------------------- one class an image, or any number


@dataclass(frozen=True)
class _Kind:
    """How answers are noted and judged.

    Attributes:
        evaluation: what they are summed up to.
        records_of: what is kept of each image.
        wrong: records [N] -> the confidence of each image's wrong answer, 0 for none, and the
            class it is about.
        right: likewise of right answers.
        wrong_in_words: (record, labels) -> the truth and the answer.
        right_in_words: likewise.
    """

    evaluation: type[Evaluation] | type[MultiLabelEvaluation]
    records_of: Callable[..., np.ndarray]
    wrong: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    right: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    wrong_in_words: Callable[[np.void, Sequence[str]], tuple[str, str]]
    right_in_words: Callable[[np.void, Sequence[str]], tuple[str, str]]


def _where_rank(records: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.where(chosen, records["scores"][:, 0], 0), records["best"][:, 0]


def _truth_and_best(record: np.void, labels: Sequence[str]) -> tuple[str, str]:
    return labels[record["target"]], labels[record["best"][0]]


def _answers(records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each class of each image, the confidence of yes or no, and whether it is right."""
    said = records["scores"] >= THRESHOLD
    return np.where(said, records["scores"], 1 - records["scores"]), said == records["truth"]


def _any_wrong(records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    confidence, right = _answers(records)
    wrong = np.where(right, 0, confidence)
    return wrong.max(axis=1), wrong.argmax(axis=1)


def _all_right(records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An image is as sure as its least sure answer; of those without a class nothing is shown."""
    confidence, right = _answers(records)
    telling = right.all(axis=1) & records["truth"].any(axis=1)
    shown = np.where(records["truth"], records["scores"], 0)
    return np.where(telling, confidence.min(axis=1), 0), shown.argmax(axis=1)


def _mistake_in_words(record: np.void, labels: Sequence[str]) -> tuple[str, str]:
    found = multi_label.mistake(record, labels, np.zeros((1, 1, 3), np.uint8), "")
    return found.truth, found.predicted


def _all_in_words(record: np.void, labels: Sequence[str]) -> tuple[str, str]:
    names = ", ".join(names_where(record["truth"], labels))
    return names, names


SINGLE_LABEL = _Kind(
    evaluation=Evaluation,
    records_of=metrics.records_of,
    wrong=lambda records: _where_rank(records, records["rank"] > 0),
    right=lambda records: _where_rank(records, records["rank"] == 0),
    wrong_in_words=_truth_and_best,
    right_in_words=_truth_and_best,
)

MULTI_LABEL = _Kind(
    evaluation=MultiLabelEvaluation,
    records_of=multi_label.records_of,
    wrong=_any_wrong,
    right=_all_right,
    wrong_in_words=_mistake_in_words,
    right_in_words=_all_in_words,
)


# ------------------------------------------------------------------------------------- heat maps


def _grad_cam(classifier: Classifier) -> GradCam | None:
    try:
        return GradCam(classifier)
    except ConfigError:  # a network without a feature map; the report does without
        return None


def _examples(
    candidates: Sequence[_Candidate],
    words: Callable[[np.void, Sequence[str]], tuple[str, str]],
    labels: Sequence[str],
    stream: ImageStream,
    cam: GradCam | None,
) -> list[Example]:
    explained = candidates[: EXPLAINED if cam else 0]
    heats: list[np.ndarray] = []
    if cam is not None and explained:
        pixels = np.stack([each.pixels for each in explained])
        heats = list(cam.heat(pixels, [each.about for each in explained]))
    overlays = [overlay(each.pixels, heat) for each, heat in zip(explained, heats, strict=True)] + [
        None
    ] * (len(candidates) - len(explained))
    return [
        Example(
            each.pixels[..., :3],
            stream.name(each.number),
            *words(each.record, labels),
            each.confidence,
            labels[each.about],
            shown,
        )
        for each, shown in zip(candidates, overlays, strict=True)
    ]
