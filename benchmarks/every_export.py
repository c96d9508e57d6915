"""Every network of the registry as a SavedModel in float32, bfloat16 and int8.

``python -m benchmarks every_export``: at its own size, with random weights, and eight photos of the
gallery to calibrate and to compare with; each network in a process of its own. Two hours on two
cores; BENCH_ROWS=resnet50,vgg16 makes these rows alone anew. No accuracy: whether it can be had,
how large, how near to Keras, and what is in bytes.
"""

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inference import bytes_in
from benchmarks.real_images import spread_photos
from benchmarks.tables import markdown_table, rows_between, write_between
from keras_cls import list_models, model_spec

_DOCUMENT, _MARK = "docs/saved_model.md", "every export"
_HEADER = ["network", "float32", "bfloat16", "int8", "in bytes", "in float"]
_PRECISIONS = ("float32", "bfloat16", "int8")
_PHOTOS = 8
_DEVIATION = 2.0
"""Of the logits, as of a trained network's."""


def main() -> None:
    names = sorted(list_models(), key=lambda name: model_spec(name).paper.year)
    chosen = os.environ.get("BENCH_ROWS", ",".join(names)).split(",")
    if strange := set(chosen) - set(names):
        raise SystemExit(f"BENCH_ROWS: there is no network {', '.join(sorted(strange))}")
    rows = {row[0]: row for row in rows_between(_DOCUMENT, _MARK)}
    for name in sorted(chosen, key=lambda name: model_spec(name).multiply_adds):
        command = [sys.executable, "-m", "benchmarks.every_export", name]
        made = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        row = json.loads(made.stdout.splitlines()[-1]) if made.returncode == 0 else None
        rows[name] = row or [name, *[f"ended with {made.returncode}"] * (len(_HEADER) - 1)]
        print(" | ".join(rows[name]), flush=True)
        # What is known stands there, whatever becomes of the rest.
        table = [rows[name] for name in names if name in rows]
        write_between(_DOCUMENT, _MARK, markdown_table(_HEADER, table, "|".join(_HEADER[1:5])))


def _row(name: str) -> list[str]:
    import keras

    import keras_cls
    from benchmarks.as_if_trained import calm_gates, unsettle

    keras.utils.set_random_seed(0)
    model = keras_cls.create_model(name)
    classes = model.outputs[0].shape[-1]
    classifier = keras_cls.Classifier(model, [str(n) for n in range(classes)])
    photos = spread_photos(_PHOTOS)
    images = np.stack([classifier.prepared(photo) for photo in photos])
    unsettle(model)
    calm_gates(model, images)
    # Answers that are sure of one class would hide every difference.
    head = model.get_layer(model_spec(name).head)
    logits = keras.tree.flatten(model(images, training=False))[0]
    scale = _DEVIATION / np.std(logits)
    for weight in head.weights:
        weight.assign(scale * weight.numpy())
    made = [_made(classifier, precision, photos) for precision in _PRECISIONS]
    last = made[-1][1]
    kinds = Counter(last.get("in_float", {}).values())
    return [
        name,
        *(cell for cell, _ in made),
        f"{last['quantized_share']:.1%}" if last else "",
        ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())),
    ]


def _made(classifier: Any, precision: str, photos: list[Path]) -> tuple[str, dict[str, Any]]:
    """Its size and how far it is from Keras, or why there is none; what its card says."""
    import keras_cls

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            version = keras_cls.export(
                classifier, Path(folder) / "model", precision=precision, calibration=photos
            )
        except keras_cls.ExportError as error:
            print(f"{classifier.model.name} in {precision}: {error}", file=sys.stderr)
            return "refused", {}
        card = json.loads((version / "card.json").read_text())
        difference = card["verification"]["relative_difference"]
        return f"{bytes_in(version) / 1e6:,.1f} MB, {difference:.1g}", card["export"]


if __name__ == "__main__":
    print(json.dumps(_row(sys.argv[1])))
