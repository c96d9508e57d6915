"""The whole way in one go: handwritten digits, LeNet-5, a SavedModel, a server, answers by gRPC."""

import io
from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from keras_cls.client import Client
from keras_cls.contract import Prediction
from keras_cls.data.sources import LabelledImages, open_source, split
from keras_cls.evaluation import evaluate
from keras_cls.exporting import export
from keras_cls.server import ModelServer
from keras_cls.training import train

EPOCHS = 60
_HELD_OUT = 0.2
_VALIDATION = 0.1
_SHADES = " ░▒▓█"


def run_demo(console: Console, directory: Path | None = None, epochs: int = EPOCHS) -> None:
    """Train, evaluate, export, serve and ask; prints what it does and where the results are.

    Args:
        console: where to print.
        directory: where to write; None makes a new folder under ``runs/``.
        epochs: how long to train; the default takes about half a minute on two cores.
    """
    directory = directory or Path("runs") / f"demo-{datetime.now():%Y%m%d-%H%M%S}"
    console.rule("1. Train LeNet-5 on scikit-learn's handwritten digits")
    digits = open_source("digits").train
    training, held_out = split(digits, _HELD_OUT, seed=0)
    run = train("lenet5", _arrays(training), _VALIDATION, epochs=epochs, run_dir=directory / "run")

    console.rule(f"2. Evaluate on {len(held_out)} digits that the run has never seen")
    evaluation = evaluate(run.classifier, _arrays(held_out))
    console.print(evaluation.summary(), highlight=False)

    console.rule("3. Export a SavedModel and serve it")
    version = export(run.classifier, directory / "models" / "digits")
    with ModelServer(version.parent, host="127.0.0.1", port=0) as server:
        console.print(f"serving {version} on {server.address}", highlight=False)

        console.rule("4. Ask for the held-out digits, as PNG bytes, by gRPC Predict")
        assert held_out.pixels is not None
        files = [_png(pixels) for pixels in held_out.pixels]
        with Client(server.address, model=server.model_name) as client:
            answers = client.classify(files)
        truths = [held_out.labels[target] for target in held_out.targets]
        right = sum(row[0].label == truth for row, truth in zip(answers, truths, strict=True))
        console.print(_table(held_out, truths, answers))
        console.print(
            f"{right} of {len(truths)} answers are right ({right / len(truths):.1%})",
            highlight=False,
        )
    console.print("the server has stopped", highlight=False)

    console.rule("Where things are")
    for what, where in {
        "run folder": run.directory,
        "report": run.report,
        "exported model": version,
        "serve it again": f"keras-cls serve --model_base_path {version.parent}",
    }.items():
        console.print(f"{what:<16}{where}", highlight=False, markup=False)


def _arrays(images: LabelledImages) -> tuple[np.ndarray, np.ndarray]:
    assert images.pixels is not None
    return images.pixels, images.targets


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _table(images: LabelledImages, truths: list[str], answers: list[list[Prediction]]) -> Table:
    """One digit of each class, with the server's two best answers."""
    assert images.pixels is not None
    table = Table("digit", "truth", "answer", "score", "second", "score", show_lines=True)
    for index in (truths.index(label) for label in images.labels):
        first, second = answers[index][:2]
        colour = "green" if first.label == truths[index] else "red"
        table.add_row(
            _drawing(images.pixels[index]),
            truths[index],
            Text(first.label, style=f"bold {colour}"),
            f"{first.score:.1%}",
            Text(second.label, style="dim"),
            Text(f"{second.score:.1%}", style="dim"),
            end_section=True,
        )
    return table


def _drawing(pixels: np.ndarray) -> str:
    """A digit in shades of text: characters are twice as tall as wide, so rows go in pairs."""
    rows = pixels.reshape(pixels.shape[0] // 2, 2, -1).mean(axis=1)
    steps = np.rint(rows / 255 * (len(_SHADES) - 1)).astype(int)
    return "\n".join("".join(_SHADES[step] for step in row) for row in steps)
