"""One pass over labelled images: views, probabilities, and what is kept of each image."""

import heapq
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_cls.data.pipeline import ImageStream, image_loader, input_pixels, items_in_order
from keras_cls.errors import DataError
from keras_cls.evaluation.metrics import Mistake
from keras_cls.evaluation.scoring import Member
from keras_cls.evaluation.tasks import Task
from keras_cls.evaluation.views import CropProtocol, Protocol, prepared_views
from keras_cls.preprocessing import Preprocessing, resize_and_crop

MISTAKES_SHOWN = 24
"""Of each result, as pictures."""

# The views of the images that are prepared ahead take no more than about this.
_BYTES_AHEAD = 1 << 29


@dataclass(frozen=True)
class Question:
    """What is asked of the members about each image.

    Attributes:
        task: for its one class, or for all that it shows; among which.
        protocol: which views of an image are averaged.
        scales: shorter sides in pixels; empty for the protocol's own.
        batch_size: how many views go through a network at once.
    """

    task: Task
    protocol: Protocol
    scales: tuple[int, ...]
    batch_size: int

    def described(self, networks: int) -> str:
        """The protocol in a few words."""
        words = [self.protocol.name]
        if self.scales:
            words.append(f"at {', '.join(map(str, self.scales))} pixels")
        if networks > 1:
            words.append(f"of {networks} networks")
        if self.task.among is not None:
            words.append(f"among {len(self.task.among)} classes")
        return " ".join(words)

    @property
    def images_at_once(self) -> int:
        """How many images make a batch; their views then make the network's."""
        if not isinstance(self.protocol, CropProtocol):
            return 1  # their sizes differ
        return max(1, self.batch_size // self.protocol.count(self.scales))


class WorstPictures:
    """Pictures of the most confident wrong answers so far, for data that is seen only once."""

    def __init__(self, task: Task, limit: int = MISTAKES_SHOWN) -> None:
        self._task = task
        self._limit = limit
        self._heap: list[tuple[float, int, Any]] = []

    def add(self, records: np.ndarray, pixels: np.ndarray, first: int) -> None:
        """Take note of a batch: records [n], uint8 [n, H, W, c], the number of its first image."""
        confidence = self._task.confidence_in_wrong(records)
        for place in np.flatnonzero(confidence).tolist():
            # No two images have one number: pictures are never compared.
            entry = (float(confidence[place]), -(first + place), pixels[place])
            if len(self._heap) < self._limit:
                heapq.heappush(self._heap, entry)
            else:
                heapq.heappushpop(self._heap, entry)

    def of(self, index: int) -> np.ndarray:
        """The picture of one of them, uint8 [H, W, c]."""
        return next(picture for _, number, picture in self._heap if -number == index)


def judged(
    stream: ImageStream,
    ensembles: Sequence[Sequence[Member]],
    question: Question,
    first: int = 0,
    pictures: Sequence[WorstPictures] = (),
) -> Iterator[np.ndarray]:
    """Judge a stream's images from number ``first`` on, in order.

    Args:
        stream: the images.
        ensembles: who is asked; the members of each answer together.
        question: what.
        first: how many images are done already.
        pictures: told of each batch, one for each column of the records.

    Yields:
        A batch's records, of the task's type, ``[n, R]``, a column for each ensemble.

    Raises:
        DataError: an image that could be read a moment ago cannot be any more.
    """
    rules = list(
        dict.fromkeys(member.scorer.preprocessing for each in ensembles for member in each)
    )
    batches = iter(_batches(stream, rules, question, first, with_pixels=bool(pictures)))
    while (batch := _next(batches, first)) is not None:
        views, targets, *pixels = batch
        shown = dict(zip(rules, views, strict=True))
        scores = [_together(members, shown, question.batch_size) for members in ensembles]
        columns = [question.task.records(each, targets.numpy(), first) for each in scores]
        for column, kept in zip(columns, pictures, strict=bool(pictures)):
            kept.add(column, pixels[0].numpy(), first)
        first += len(targets)
        yield np.stack(columns, axis=1)


def _together(
    members: Sequence[Member], views: Mapping[Preprocessing, Any], batch_size: int
) -> np.ndarray:
    """The members' probabilities, averaged: [N, K]."""
    rows = [
        member.probabilities(views[member.scorer.preprocessing], batch_size) for member in members
    ]
    return rows[0] if len(rows) == 1 else np.asarray(np.mean(rows, axis=0, dtype=np.float64))


def _batches(
    stream: ImageStream,
    rules: Sequence[Preprocessing],
    question: Question,
    first: int,
    with_pixels: bool,
) -> tf.data.Dataset:
    """(for each rule its stacks of views, targets[, uint8 pixels as the first rule sees them])."""
    load = {rule.image_channels: image_loader(stream, rule) for rule in rules}

    def prepared(*item: tf.Tensor) -> tuple[Any, ...]:
        images = {channels: loaded(*item) for channels, loaded in load.items()}
        views = tuple(
            prepared_views(images[rule.image_channels][0], rule, question.protocol, question.scales)
            for rule in rules
        )
        image, target = images[rules[0].image_channels]
        if not with_pixels:
            return views, target
        return views, target, tf.cast(tf.round(resize_and_crop(image, rules[0])), tf.uint8)

    return (
        items_in_order(stream)
        .skip(first)
        .map(prepared, num_parallel_calls=_calls(rules, question), deterministic=True)
        .batch(question.images_at_once)
        .prefetch(2)
    )


def _calls(rules: Sequence[Preprocessing], question: Question) -> int:
    """How many images are prepared at the same time."""
    cores = os.cpu_count() or 1
    if not isinstance(question.protocol, CropProtocol):
        return cores
    views = question.protocol.count(question.scales)
    each = sum(4 * views * int(np.prod(rule.input_shape)) for rule in rules)
    return max(1, min(cores, _BYTES_AHEAD // each))


def _next(batches: Iterator[Any], first: int) -> Any:
    try:
        return next(batches, None)
    except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError) as error:
        raise DataError(
            f"one of the images behind number {first} could be read when the evaluation began and "
            f"cannot be any more: {error.message.splitlines()[0]}. Leave the files alone and start "
            "again"
        ) from error


def mistakes_in(
    records: np.ndarray,
    stream: ImageStream,
    question: Question,
    *,
    rule: Preprocessing,
    pictures: WorstPictures | None,
) -> list[Mistake]:
    """The most confident wrong answers, with pictures as the network saw them."""
    confidence = question.task.confidence_in_wrong(records)
    wrong = np.flatnonzero(confidence)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES_SHOWN]
    if pictures is None:
        seen = list(input_pixels(stream, rule, worst))
    else:
        seen = [pictures.of(index) for index in worst.tolist()]
    return [
        question.task.mistake(records[index], picture[..., :3], stream.name(index))
        for index, picture in zip(worst.tolist(), seen, strict=True)
    ]
