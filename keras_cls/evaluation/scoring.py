"""What is judged: classifiers, alone or together, and whatever else gives probabilities."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import tensorflow as tf

from keras_cls.classifier import Classifier, load
from keras_cls.errors import ConfigError
from keras_cls.evaluation.dense import DenseNetwork, check_dense
from keras_cls.evaluation.views import DenseProtocol, sides_of
from keras_cls.evaluation.views import Protocol as ViewProtocol
from keras_cls.labels import checked_labels
from keras_cls.preprocessing import Preprocessing

_NAMED_IN_ERRORS = 5


@runtime_checkable
class Scorer(Protocol):
    """Whatever can be evaluated: a :class:`~keras_cls.Classifier`, or any other runtime's model.

    An evaluation that is to go on after a kill also asks for ``digest() -> str``, which tells one
    model from another. Where an attribute ``multi_label`` is true, the probabilities are those of
    a yes for each class; else they sum to 1.
    """

    @property
    def labels(self) -> Sequence[str]:
        """The names of the K classes, in the order of the probabilities."""

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become the input of :meth:`forward`."""

    def forward(self, batch: Any) -> np.ndarray:
        """Prepared images float32 ``[N, H, W, C]`` -> probabilities float ``[N, K]``."""


Judged: TypeAlias = Scorer | str | os.PathLike[str]
"""A scorer, or the folder of a classifier or a run."""


def opened(judged: Judged | Sequence[Judged]) -> list[Scorer]:
    """The scorers themselves, loaded where they are folders.

    Raises:
        ConfigError: there is none, or something is neither a scorer nor a folder of one.
    """
    several = isinstance(judged, Sequence) and not isinstance(judged, str)
    found = list(judged) if several else [judged]  # type: ignore[arg-type]
    if not found:
        raise ConfigError("evaluate: expected a classifier or several, found an empty list")
    return [_opened(one) for one in found]


def _opened(one: Any) -> Scorer:
    if isinstance(one, str | os.PathLike):
        return load(one)
    if not isinstance(one, Scorer):
        raise ConfigError(
            "evaluate: expected a classifier, the folder of one, or an object with labels, "
            f"preprocessing and forward(batch); found {type(one).__name__}"
        )
    return one


def name_of(scorer: Scorer) -> str:
    """What results call it."""
    return scorer.architecture if isinstance(scorer, Classifier) else type(scorer).__name__


def is_multi_label(scorer: Scorer) -> bool:
    """Whether an image may show any number of its classes instead of exactly one."""
    return bool(getattr(scorer, "multi_label", False))


def digest_of(scorer: Scorer) -> str | None:
    """What tells it from others; None where nothing does."""
    digest = getattr(scorer, "digest", None)
    return None if digest is None else str(digest())


@dataclass(frozen=True)
class Member:
    """A scorer, ready to be judged.

    Attributes:
        scorer: what gives the probabilities.
        order: int64 [K], for each of the common labels, the scorer's number of it; None where the
            order is the same.
        dense: the network over whole images, for a dense protocol.
    """

    scorer: Scorer
    order: np.ndarray | None
    dense: DenseNetwork | None = field(default=None, repr=False)

    def probabilities(self, views: Sequence[tf.Tensor], batch_size: int) -> np.ndarray:
        """Averaged over the views, in the order of the common labels.

        Args:
            views: float32 ``[N, V, H, W, C]``, a stack for each size.
            batch_size: how many views go through the network at once.

        Returns:
            ``[N, K]``.
        """
        forward = self.scorer.forward if self.dense is None else self.dense.forward
        stacks = [_scores(forward, stack, batch_size) for stack in views]
        scores = np.concatenate(stacks, axis=1)
        # The mean of one view is that view, bit for bit.
        mean = scores[:, 0] if scores.shape[1] == 1 else scores.mean(1, np.float64)
        return mean if self.order is None else mean[:, self.order]


def members(
    scorers: Sequence[Scorer], protocol: ViewProtocol, scales: tuple[int, ...]
) -> list[Member]:
    """Scorers of the same classes, ready to be judged by one protocol.

    Raises:
        ConfigError: their classes differ, only some are multi-label, or one of them cannot be
            judged so.
    """
    labels = checked_labels(scorers[0].labels)
    for place, scorer in enumerate(scorers):
        if is_multi_label(scorer) != is_multi_label(scorers[0]):
            raise ConfigError(
                f"classifier {place + 1} ({name_of(scorer)}) is "
                f"{'' if is_multi_label(scorer) else 'not '}multi-label, other than the first: "
                "their probabilities cannot be judged together"
            )
    return [
        Member(
            scorer,
            _order(labels, checked_labels(scorer.labels), place, name_of(scorer)),
            _dense_network(scorer, protocol, scales),
        )
        for place, scorer in enumerate(scorers)
    ]


def _dense_network(
    scorer: Scorer, protocol: ViewProtocol, scales: tuple[int, ...]
) -> DenseNetwork | None:
    sides = sides_of(protocol, scorer.preprocessing, scales)
    if not isinstance(protocol, DenseProtocol):
        return None
    if not isinstance(scorer, Classifier):
        raise ConfigError(
            f"crops='dense' needs a keras_cls.Classifier, whose network can be built for other "
            f"sizes; found {name_of(scorer)}: take crops=1, 10 or 144"
        )
    for side in sides:
        check_dense(scorer.model, side)
    return DenseNetwork(scorer)


def _order(
    common: tuple[str, ...], own: tuple[str, ...], place: int, name: str
) -> np.ndarray | None:
    if own == common:
        return None
    if set(own) != set(common):
        lacking = [label for label in common if label not in set(own)]
        strange = [label for label in own if label not in set(common)]
        parts = [
            f"{what} {', '.join(map(repr, names[:_NAMED_IN_ERRORS]))}"
            + (
                f" and {len(names) - _NAMED_IN_ERRORS} more"
                if len(names) > _NAMED_IN_ERRORS
                else ""
            )
            for what, names in (("it lacks", lacking), ("it adds", strange))
            if names
        ]
        raise ConfigError(
            f"classifier {place + 1} ({name}) has other labels than the first: "
            f"{'; '.join(parts)}. Classifiers that are judged together need the same classes"
        )
    number = {label: index for index, label in enumerate(own)}
    return np.array([number[label] for label in common], np.int64)


def _scores(forward: Any, stack: tf.Tensor, batch_size: int) -> np.ndarray:
    """[N, V, H, W, C] -> [N, V, K], at most ``batch_size`` views at once."""
    count, views = stack.shape[:2]
    flat = tf.reshape(stack, [count * views, *stack.shape[2:]])
    rows = [np.asarray(forward(part)) for part in _parts(flat, batch_size)]
    return np.concatenate(rows).reshape(count, views, -1)


def _parts(batch: tf.Tensor, size: int) -> Iterator[tf.Tensor]:
    if len(batch) <= size:
        yield batch
        return
    for start in range(0, len(batch), size):
        yield batch[start : start + size]
