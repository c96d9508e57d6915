"""An evaluation as one HTML file that needs nothing else, neither network nor script."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from keras_cls.classifier import library_versions
from keras_cls.evaluation import html
from keras_cls.evaluation.metrics import Evaluation, Interval
from keras_cls.files import new_file

TEMPLATE = "evaluation.html.j2"

WEAKEST_SHOWN = 20


def write_page(
    path: Path, evaluation: Evaluation, *, title: str, settings: Mapping[str, Any]
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
    many = len(evaluation.labels) > html.MOST_NAMED_CLASSES
    render(
        path,
        TEMPLATE,
        title=title,
        evaluation=evaluation,
        tiles=_tiles(evaluation),
        reliability=html.reliability(evaluation.calibration),
        bins=html.bins(evaluation.calibration),
        **html.confusion_of(evaluation),
        class_rows=rows,
        weakest=sorted(shown, key=lambda row: row.recall)[:WEAKEST_SHOWN] if many else None,
        pictures=[html.Picture.of(mistake) for mistake in evaluation.mistakes],
        settings=settings,
    )


def render(path: Path, template: str, **content: Any) -> None:
    """Write one of this folder's templates, filled in, with when and by what it was written."""
    environment = html.environment(Path(__file__).parent, setting=html.setting)
    text = environment.get_template(template).render(
        **content,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        versions=[f"{name} {number}" for name, number in library_versions().items()],
    )
    with new_file(path) as file:
        # A file name may hold bytes that are no text.
        file.write_bytes(text.encode("utf-8", "backslashreplace"))


# ------------------------------------------------------------------------------------- headline


def _tiles(evaluation: Evaluation) -> list[html.Tile]:
    tiles = [
        html.Tile("Top-1 accuracy", exact(evaluation.top1), interval_text(evaluation.top1_interval))
    ]
    if evaluation.top5 is not None and evaluation.top5_interval is not None:
        interval = interval_text(evaluation.top5_interval)
        tiles.append(html.Tile("Top-5 accuracy", exact(evaluation.top5), interval))
    tiles.append(html.Tile("Calibration error", exact(evaluation.calibration.error), "15 bins"))
    tiles.append(html.Tile("Loss", f"{evaluation.loss:.3f}", "cross-entropy"))
    speed = evaluation.images_per_second
    tiles.append(
        html.Tile(
            "Images",
            f"{evaluation.count:,}",
            f"of {len(evaluation.labels):,} classes"
            + ("" if speed is None else f", {speed:,.{1 if speed < 10 else 0}f} a second"),
        )
    )
    return tiles


# ------------------------------------------------------------------------------------------- text


def exact(share: float) -> str:
    """With two digits behind the point."""
    return f"{share:.2%}"


def interval_text(interval: Interval) -> str:
    """From where to where."""
    return f"{interval.low:.1%} to {interval.high:.1%}"
