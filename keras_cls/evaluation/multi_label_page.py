"""A multi-label evaluation as one HTML file that needs nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_cls.evaluation import html
from keras_cls.evaluation.multi_label import THRESHOLD, MultiLabelEvaluation, share_text
from keras_cls.evaluation.page import WEAKEST_SHOWN, interval_text, render

TEMPLATE = "multi_label.html.j2"


def write_multi_label_page(
    path: Path, evaluation: MultiLabelEvaluation, *, title: str, settings: Mapping[str, Any]
) -> None:
    """Write the page; it appears whole or not at all.

    Args:
        path: the file; missing folders are made, an existing file is replaced.
        evaluation: the results.
        title: the heading.
        settings: what the evaluation was told, by name.
    """
    rows = html.class_rows(evaluation)
    shown = [row for row in rows if row.support]
    many = len(rows) > html.MOST_NAMED_CLASSES
    render(
        path,
        TEMPLATE,
        title=title,
        evaluation=evaluation,
        threshold=f"{THRESHOLD:.0%}",
        tiles=_tiles(evaluation),
        reliability=html.reliability(evaluation.calibration, "there"),
        bins=html.bins(evaluation.calibration),
        class_rows=rows,
        weakest=sorted(shown, key=_ranking)[:WEAKEST_SHOWN] if many else None,
        pictures=[html.Picture.of(mistake) for mistake in evaluation.mistakes],
        settings=settings,
    )


def _ranking(row: html.ClassRow) -> float:
    return row.average_precision or 0.0


def _tiles(evaluation: MultiLabelEvaluation) -> list[html.Tile]:
    interval = evaluation.exact_match_interval
    speed = evaluation.images_per_second
    return [
        html.Tile("mAP", share_text(evaluation.mean_average_precision), "mean average precision"),
        html.Tile(
            "F1 (micro)",
            share_text(evaluation.micro_f1),
            f"precision {evaluation.micro_precision:.1%}, recall {evaluation.micro_recall:.1%}",
        ),
        html.Tile("F1 (macro)", share_text(evaluation.macro_f1), "mean over the classes"),
        html.Tile("Every class right", share_text(evaluation.exact_match), interval_text(interval)),
        html.Tile("Wrong answers", f"{evaluation.hamming_loss:.2%}", "of all yes and no"),
        html.Tile("Loss", f"{evaluation.loss:.3f}", "binary cross-entropy"),
        html.Tile(
            "Images",
            f"{evaluation.images:,}",
            f"{evaluation.counts.sum() / evaluation.images:.2f} classes each"
            + ("" if speed is None else f", {speed:,.{1 if speed < 10 else 0}f} a second"),
        ),
    ]
