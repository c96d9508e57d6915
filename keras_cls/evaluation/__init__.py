"""Evaluation: how good a classifier is on labelled images, by the papers' protocols."""

import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import tensorflow as tf

from keras_cls.classifier import BATCH_SIZE
from keras_cls.data.datasets import LabelledDataset
from keras_cls.data.opening import describe_data, open_evaluation_data, unreadable_in
from keras_cls.data.pipeline import ImageStream
from keras_cls.data.scanning import Progress
from keras_cls.errors import ConfigError
from keras_cls.evaluation.folder import EvaluationFolder, RecordsInMemory
from keras_cls.evaluation.identity import identity
from keras_cls.evaluation.judging import Question, WorstPictures, judged, mistakes_in
from keras_cls.evaluation.metrics import (
    Calibration,
    Evaluation,
    Interval,
    Mistake,
    average_precision,
    wilson_interval,
)
from keras_cls.evaluation.multi_label import MultiLabelEvaluation
from keras_cls.evaluation.progress import ImageProgress
from keras_cls.evaluation.results import write_results
from keras_cls.evaluation.scoring import (
    Judged,
    Member,
    Scorer,
    digest_of,
    is_multi_label,
    members,
    name_of,
    opened,
)
from keras_cls.evaluation.tasks import Result, task_of
from keras_cls.evaluation.views import (
    CropProtocol,
    DenseProtocol,
    Protocol,
    checked_scales,
    protocol_for,
)
from keras_cls.files import remove_leftovers, sole_owner
from keras_cls.labels import checked_labels

__all__ = [
    "Calibration",
    "CropProtocol",
    "DenseProtocol",
    "Evaluation",
    "Interval",
    "Mistake",
    "MultiLabelEvaluation",
    "Result",
    "Scorer",
    "average_precision",
    "evaluate",
    "wilson_interval",
]


@overload
def evaluate(
    classifier: Judged | Sequence[Judged],
    data: Any,
    *,
    crops: int | str | Protocol = ...,
    scales: Sequence[int] | None = ...,
    ensemble: Literal[True] = ...,
    restrict: bool = ...,
    batch_size: int = ...,
    folder: str | os.PathLike[str] | None = ...,
    strict: bool = ...,
    progress: Progress | None = ...,
    quiet: bool = ...,
) -> Result: ...


@overload
def evaluate(
    classifier: Judged | Sequence[Judged],
    data: Any,
    *,
    crops: int | str | Protocol = ...,
    scales: Sequence[int] | None = ...,
    ensemble: Literal[False],
    restrict: bool = ...,
    batch_size: int = ...,
    folder: str | os.PathLike[str] | None = ...,
    strict: bool = ...,
    progress: Progress | None = ...,
    quiet: bool = ...,
) -> list[Result]: ...


@overload
def evaluate(
    classifier: Judged | Sequence[Judged],
    data: Any,
    *,
    crops: int | str | Protocol = ...,
    scales: Sequence[int] | None = ...,
    ensemble: bool,
    restrict: bool = ...,
    batch_size: int = ...,
    folder: str | os.PathLike[str] | None = ...,
    strict: bool = ...,
    progress: Progress | None = ...,
    quiet: bool = ...,
) -> Result | list[Result]: ...


def evaluate(
    classifier: Judged | Sequence[Judged],
    data: Any,
    *,
    crops: int | str | Protocol = 1,
    scales: Sequence[int] | None = None,
    ensemble: bool = True,
    restrict: bool = False,
    batch_size: int = BATCH_SIZE,
    folder: str | os.PathLike[str] | None = None,
    strict: bool = False,
    progress: Progress | None = None,
    quiet: bool = False,
) -> Result | list[Result]:
    """Measure a classifier, or several together, on labelled images.

    Args:
        classifier: a classifier, the folder of one or of a run, any other :class:`Scorer`, or a
            list of these, which must know the same classes; another order is put right by name.
        data: a folder of class folders, a manifest, arrays (images, labels), a ``tf.data.Dataset``
            or ``"digits"``. Classes are matched by name; not every class need be there. For a
            multi-label classifier, an image shows the classes that its label names and no others.
        crops: which views of an image are averaged: 1, the classifier's own preprocessing; 10,
            AlexNet's corners, centre and their mirror images; 144, GoogLeNet's; ``"dense"``, the
            network over the whole image, as VGG and ResNet were tested; or a
            :class:`CropProtocol` or :class:`DenseProtocol` of your own.
        scales: shorter sides in pixels to which images are resized, such as (256, 384, 512); the
            probabilities of all are averaged. None: the classifier's frame, or, of 144 crops,
            the paper's four scales.
        ensemble: average the probabilities of several classifiers. False: judge each by itself,
            in the same pass.
        restrict: the answer is known to be one of the classes that occur in ``data``: the others'
            probabilities are set aside and the rest made to sum to 1; of a multi-label classifier,
            only those classes are judged. False: judged among all.
        batch_size: views that go through the network at once.
        folder: where evaluation.json, predictions.csv, per_class.csv and evaluation.html go; of
            several results, in a folder each. The same call goes on after a kill, and on a
            finished evaluation it returns at once. (A ``tf.data.Dataset``, which may come in
            another order, starts anew.) Another classifier, protocol, or changed data are refused.
        strict: stop at unreadable images instead of leaving them out and naming them.
        progress: called with the number of images scanned and of all.
        quiet: show no bar at a terminal.

    Returns:
        The result: an :class:`Evaluation`, or, for a multi-label classifier, a
        :class:`MultiLabelEvaluation`. Of ``ensemble=False`` a list, one for each classifier.

    Raises:
        ConfigError: an argument makes no sense, or does not fit the classifier or the folder.
        DataError: the data cannot be used, holds classes that the classifier does not know, or
            images of several classes for a classifier that gives each one.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f"batch_size must be a whole number of 1 or more, found {batch_size!r}")
    protocol, chosen_scales = protocol_for(crops), checked_scales(scales)
    scorers = opened(classifier)
    jury = members(scorers, protocol, chosen_scales)
    ensembles = [jury] if ensemble else [[member] for member in jury]
    kept = None if folder is None else EvaluationFolder(_checked_path(folder), len(ensembles))

    with _at_work_in(kept) as cache:
        stream = _opened_data(
            data, jury, cache=cache, strict=strict, progress=progress, quiet=quiet
        )
        question = Question(
            task=task_of(
                checked_labels(scorers[0].labels),
                np.flatnonzero(stream.counts) if restrict else None,
                multi_label=is_multi_label(scorers[0]),
            ),
            protocol=protocol,
            scales=chosen_scales,
            batch_size=batch_size,
        )
        # What is seen only once must be pictured at once.
        seen_once = isinstance(stream, LabelledDataset)
        pictures = [WorstPictures(question.task) for _ in ensembles] if seen_once else []
        records, speed = _judge(stream, ensembles, question, kept, pictures, quiet=quiet)
        results: list[Result] = []
        for column, each in enumerate(ensembles):
            rule = each[0].scorer.preprocessing
            kept_pictures = pictures[column] if pictures else None
            result = question.task.result(
                records[:, column],
                unreadable_in(stream),
                protocol=question.described(len(each)),
                images_per_second=speed,
                mistakes=mistakes_in(
                    records[:, column], stream, question, rule=rule, pictures=kept_pictures
                ),
            )
            results.append(result)
            if kept is not None:
                names = [name_of(member.scorer) for member in each]
                own = f"{column + 1}-{_as_file_name(names[0])}"
                write_results(
                    kept.path if ensemble else kept.path / own,
                    result,
                    records[:, column],
                    stream.name,
                    title=f"{' + '.join(names)} on {_named(data)}",
                    settings=_settings(question, each, data, restrict),
                )
        if kept is not None:
            kept.finish(speed)
    return results[0] if ensemble else results


def _judge(
    stream: ImageStream,
    ensembles: Sequence[Sequence[Member]],
    question: Question,
    kept: EvaluationFolder | None,
    pictures: Sequence[WorstPictures],
    *,
    quiet: bool,
) -> tuple[np.ndarray, float | None]:
    """The records of all images, ``[N, R]``, and how many were judged in a second."""
    record = question.task.record
    ledger = kept or RecordsInMemory(len(ensembles), record)
    done = 0
    if kept is not None:
        key, resumable = identity(stream, ensembles, question)
        done = kept.begin(key, record, resumable=resumable, whole=question.images_at_once)
    begun, first = time.perf_counter(), done
    with ImageProgress("judging the images", quiet=quiet) as bar:
        bar(done, len(stream))
        if done < len(stream):
            for records in judged(stream, ensembles, question, done, pictures):
                ledger.append(records)
                done += len(records)
                bar(done, len(stream))
    if done == first:
        return ledger.records(), None if kept is None else kept.speed()
    return ledger.records(), (done - first) / (time.perf_counter() - begun)


def _opened_data(
    data: Any,
    jury: Sequence[Member],
    *,
    cache: Path,
    strict: bool,
    progress: Progress | None,
    quiet: bool,
) -> ImageStream:
    scorer = jury[0].scorer

    def opened_data(told: Progress) -> ImageStream:
        return open_evaluation_data(
            data,
            scorer.labels,
            multi_label=is_multi_label(scorer),
            cache=cache,
            strict=strict,
            progress=told,
        )

    if progress is not None:
        return opened_data(progress)
    with ImageProgress("looking at the images", quiet=quiet) as bar:
        return opened_data(bar)


@contextmanager
def _at_work_in(kept: EvaluationFolder | None) -> Iterator[Path]:
    """Own the folder, if there is one; gives the place for copies of images."""
    if kept is None:
        with tempfile.TemporaryDirectory(prefix="keras_cls-") as cache:
            yield Path(cache)
        return
    kept.check()
    with sole_owner(kept.path):
        remove_leftovers(kept.path)
        yield kept.cache


def _checked_path(folder: Any) -> Path:
    if not isinstance(folder, str | os.PathLike):
        raise ConfigError(f"folder must be a path, found {folder!r}")
    return Path(folder).expanduser()


def _as_file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)


def _named(data: Any) -> str:
    """What the report calls the data."""
    if isinstance(data, str | os.PathLike):
        return Path(data).name or str(data)
    return "a dataset" if isinstance(data, tf.data.Dataset) else "arrays"


def _settings(
    question: Question, jury: Sequence[Member], data: Any, restrict: bool
) -> dict[str, Any]:
    """What the evaluation was told, for its results."""
    return {
        "classifiers": [digest_of(member.scorer) or name_of(member.scorer) for member in jury],
        "data": str(describe_data(data)),
        "views": question.protocol.name,
        "views of an image": (
            question.protocol.count(question.scales)
            if isinstance(question.protocol, CropProtocol)
            else "whole"
        ),
        "scales": list(question.scales) or "the protocol's own",
        "restricted to the data's classes": restrict,
        "as in": question.protocol.source,
        "input": [list(member.scorer.preprocessing.input_shape) for member in jury],
    }
