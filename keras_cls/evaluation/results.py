"""The results of an evaluation as files: JSON, CSV and a page to look at."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_cls.data.manifests import SEPARATOR
from keras_cls.evaluation.metrics import BEST, Evaluation
from keras_cls.evaluation.multi_label import THRESHOLD, MultiLabelEvaluation, names_where
from keras_cls.evaluation.multi_label_page import write_multi_label_page
from keras_cls.evaluation.page import write_page
from keras_cls.evaluation.tasks import Result
from keras_cls.files import new_file, write_text

EVALUATION_FILE = "evaluation.json"
PREDICTIONS_FILE = "predictions.csv"
CLASSES_FILE = "per_class.csv"
PAGE_FILE = "evaluation.html"


def write_results(
    folder: Path,
    evaluation: Result,
    records: np.ndarray,
    name: Callable[[int], str],
    *,
    title: str,
    settings: Mapping[str, Any],
) -> None:
    """Write all results; each file appears whole or not at all.

    Args:
        folder: where they go; made where it is missing.
        evaluation: the result.
        records: what is known of each image, in order.
        name: what each image is called, by its number.
        title: the page's heading.
        settings: what the evaluation was told, by name.
    """
    content = {**evaluation.to_dict(), "settings": dict(settings)}
    write_text(folder / EVALUATION_FILE, _json_text(content))
    if isinstance(evaluation, MultiLabelEvaluation):
        predictions = _multi_label_prediction_rows(evaluation.labels, records, name)
        classes = _multi_label_class_rows(evaluation)
        write_multi_label_page(folder / PAGE_FILE, evaluation, title=title, settings=settings)
    else:
        predictions = _prediction_rows(evaluation.labels, records, name)
        classes = _class_rows(evaluation)
        write_page(folder / PAGE_FILE, evaluation, title=title, settings=settings)
    _write_csv(folder / PREDICTIONS_FILE, predictions)
    _write_csv(folder / CLASSES_FILE, classes)


def _json_text(content: Mapping[str, Any]) -> str:
    """A field a line: a confusion matrix of 1,000 classes would else take a million."""
    fields = (
        f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
        for key, value in content.items()
    )
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _prediction_rows(
    labels: Sequence[str], records: np.ndarray, name: Callable[[int], str]
) -> Iterable[Sequence[object]]:
    kept = min(BEST, len(labels))
    places = range(1, kept + 1)
    yield ["file", "label", *(f"best_{n}" for n in places), *(f"score_{n}" for n in places)]
    for index, record in enumerate(records):
        best = [labels[number] for number in record["best"][:kept].tolist()]
        scores = [f"{score:.6g}" for score in record["scores"][:kept].tolist()]
        yield [name(index), labels[record["target"]], *best, *scores]


def _class_rows(evaluation: Evaluation) -> Iterable[Sequence[object]]:
    yield ["label", "images", "precision", "recall", "f1"]
    columns = (evaluation.precision, evaluation.recall, evaluation.f1)
    for number, label in enumerate(evaluation.labels):
        figures = [f"{column[number]:.6g}" for column in columns]
        yield [label, int(evaluation.support[number]), *figures]


def _multi_label_prediction_rows(
    labels: Sequence[str], records: np.ndarray, name: Callable[[int], str]
) -> Iterable[Sequence[object]]:
    """All true and all predicted classes, as in a manifest, and the best of them with scores."""
    kept = min(BEST, len(labels))
    places = range(1, kept + 1)
    yield [
        "file",
        "labels",
        "predicted",
        *(f"best_{n}" for n in places),
        *(f"score_{n}" for n in places),
    ]
    for index, (truth, scores) in enumerate(records):
        best = np.argsort(-scores, kind="stable")[:kept].tolist()
        yield [
            name(index),
            SEPARATOR.join(names_where(truth, labels)),
            SEPARATOR.join(names_where(scores >= THRESHOLD, labels)),
            *(labels[number] for number in best),
            *(f"{scores[number]:.6g}" for number in best),
        ]


def _multi_label_class_rows(evaluation: MultiLabelEvaluation) -> Iterable[Sequence[object]]:
    yield ["label", "images", "average_precision", "precision", "recall", "f1"]
    columns = (
        evaluation.average_precision,
        evaluation.precision,
        evaluation.recall,
        evaluation.f1,
    )
    for number, label in enumerate(evaluation.labels):
        figures = ["" if np.isnan(c[number]) else f"{c[number]:.6g}" for c in columns]
        yield [label, int(evaluation.counts[number]), *figures]


def _write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    with new_file(path) as temporary, temporary.open("wb") as stream:
        text = io.TextIOWrapper(
            stream, encoding="utf-8", errors="backslashreplace", newline="", write_through=True
        )
        csv.writer(text, lineterminator="\n").writerows(rows)
        text.flush()
        text.detach()
