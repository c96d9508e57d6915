"""What an image is asked for: its one class, or every class that it shows."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np

from keras_cls.errors import ImageError
from keras_cls.evaluation import metrics, multi_label
from keras_cls.evaluation.metrics import Evaluation, Mistake
from keras_cls.evaluation.multi_label import MultiLabelEvaluation

Result: TypeAlias = Evaluation | MultiLabelEvaluation


@dataclass(frozen=True, eq=False)
class Task(ABC):
    """What is noted of an image's probabilities, and what is made of the notes.

    Attributes:
        labels: the names of the k classes that an answer may be.
        among: int64 [k], their numbers among all K, sorted; None for all.
    """

    labels: tuple[str, ...]
    among: np.ndarray | None = None

    _summary: ClassVar[type[Evaluation] | type[MultiLabelEvaluation]]

    @property
    @abstractmethod
    def record(self) -> np.dtype:
        """The type of an image's record."""

    @abstractmethod
    def records(self, probabilities: np.ndarray, targets: np.ndarray, first: int) -> np.ndarray:
        """The records [n] of a batch: float [n, K] and its targets.

        Args:
            probabilities: of all K classes.
            targets: as an :class:`~keras_cls.data.pipeline.ImageStream` has them.
            first: the number of the batch's first image, for messages.
        """

    @abstractmethod
    def confidence_in_wrong(self, records: np.ndarray) -> np.ndarray:
        """Of each image, how sure the surest wrong answer is, float [n]; 0 where there is none."""

    @abstractmethod
    def mistake(self, record: np.void, image: np.ndarray, name: str) -> Mistake:
        """The surest wrong answer about an image, uint8 [H, W, 3], of this name."""

    def result(
        self,
        records: np.ndarray,
        unreadable: Sequence[ImageError],
        *,
        protocol: str,
        images_per_second: float | None,
        mistakes: Sequence[Mistake],
    ) -> Result:
        """All records summed up."""
        return self._summary.from_records(
            records,
            self.labels,
            unreadable,
            protocol=protocol,
            images_per_second=images_per_second,
            mistakes=mistakes,
        )


class SingleLabel(Task):
    """The one class of an image; given that it is ``among`` some, where they are known."""

    _summary = Evaluation

    @property
    def record(self) -> np.dtype:
        """See :class:`Task`, as for all that follows."""
        return metrics.RECORD

    def records(self, probabilities: np.ndarray, targets: np.ndarray, first: int) -> np.ndarray:
        """The place of the true class, its probability, and the best classes."""
        if self.among is not None:
            probabilities = _restricted(probabilities, self.among)
            targets = np.searchsorted(self.among, targets)
        return metrics.records_of(probabilities, targets, self.labels, first)

    def confidence_in_wrong(self, records: np.ndarray) -> np.ndarray:
        """The best class's probability, where it is not the true one."""
        return np.where(records["rank"] > 0, records["scores"][:, 0], 0)

    def mistake(self, record: np.void, image: np.ndarray, name: str) -> Mistake:
        """The true class and the best."""
        return Mistake(
            image=image,
            name=name,
            truth=self.labels[record["target"]],
            predicted=self.labels[record["best"][0]],
            confidence=float(record["scores"][0]),
        )


class MultiLabel(Task):
    """All classes that an image shows; only those ``among`` some are judged, where given."""

    _summary = MultiLabelEvaluation

    @property
    def record(self) -> np.dtype:
        """See :class:`Task`, as for all that follows."""
        return multi_label.record_type(len(self.labels))

    def records(self, probabilities: np.ndarray, targets: np.ndarray, first: int) -> np.ndarray:
        """Which classes are there, and the probability of each."""
        if self.among is not None:
            probabilities, targets = probabilities[:, self.among], targets[:, self.among]
        return multi_label.records_of(probabilities, targets, self.labels, first)

    def confidence_in_wrong(self, records: np.ndarray) -> np.ndarray:
        """Of the surest wrong yes or no."""
        return multi_label.confidence_in_wrong(records)

    def mistake(self, record: np.void, image: np.ndarray, name: str) -> Mistake:
        """The classes that are there, and the surest wrong yes or no."""
        return multi_label.mistake(record, self.labels, image, name)


def task_of(labels: tuple[str, ...], among: np.ndarray | None, *, multi_label: bool) -> Task:
    """The task of a classifier of these K labels, restricted to those at ``among``."""
    answers = labels if among is None else tuple(labels[index] for index in among)
    return MultiLabel(answers, among) if multi_label else SingleLabel(answers, among)


def _restricted(probabilities: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Probabilities [N, K] -> [N, k] of the classes ``among``, given that it is one of them."""
    kept = probabilities[:, among].astype(np.float64)
    total = kept.sum(axis=1, keepdims=True)
    # Where nothing is left after rounding, nothing is known.
    return np.where(total > 0, kept / np.where(total > 0, total, 1), 1 / len(among))
