"""Seconds and memory until a SavedModel answers, beside Keras' own export.

``python -m benchmarks loading``: each file is loaded in a TensorFlow session, in a process of its
own, which then answers one image by one signature and at last by all. Memory is what the process
holds beyond TensorFlow itself, after free memory was given back, and the most that it held at a
time. Random weights. BENCH_ROWS=resnet50 measures these networks alone.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inference import bytes_in
from benchmarks.machine import machine
from benchmarks.real_images import gallery_photos, spread_photos
from benchmarks.tables import ROOT, markdown_table, write_between

NETWORKS = ("resnet50", "vgg16")
KINDS = ("keras", "float32", "bfloat16", "int8")
_HEADER = [
    "network",
    "what",
    "file",
    "load",
    "first answer",
    "loaded",
    "answers",
    "all four",
    "most",
]
_PHOTOS = 16


def main() -> None:
    rows = []
    for network in os.environ.get("BENCH_ROWS", ",".join(NETWORKS)).split(","):
        with tempfile.TemporaryDirectory() as folder:
            _run("--write", network, folder)
            for kind in KINDS:
                path = Path(folder) / ("keras" if kind == "keras" else f"{kind}/1")
                found = json.loads(_run("--row", str(path)).splitlines()[-1])
                what = "Keras 3, float32" if kind == "keras" else f"keras_cls, {kind}"
                seconds = [f"{found[key]:.1f} s" for key in ("load", "first")]
                memory = [
                    f"{found[key] / 1e6:,.0f}" if key in found else ""
                    for key in ("loaded", "answers", "all", "most")
                ]
                rows.append([network, what, f"{bytes_in(path) / 1e6:,.0f}", *seconds, *memory])
                print(" | ".join(rows[-1]), flush=True)
    table = markdown_table(_HEADER, rows, "|".join(_HEADER[2:]))
    write_between("docs/saved_model.md", "loading", f"{table}\n\nMB; {machine()}.")


def _run(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks.loading", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return done.stdout


def _write(network: str, folder: Path) -> None:
    import keras

    import keras_cls

    keras.utils.set_random_seed(0)
    model = keras_cls.create_model(network)
    classifier = keras_cls.Classifier(model, [str(n) for n in range(model.output_shape[-1])])
    model.export(folder / "keras", verbose=False)
    photos = spread_photos(_PHOTOS)
    for precision in KINDS[1:]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Random weights: how far the answers are apart says nothing.
            keras_cls.export(
                classifier, folder / precision, precision=precision,
                calibration=photos, verify="report",
            )  # fmt: skip


def _row(path: Path) -> dict[str, float]:
    """Seconds and bytes of one file."""
    import tensorflow as tf

    from keras_cls import contract
    from keras_cls.exporting.verification import SessionModel, example_of

    photo = gallery_photos()[0].read_bytes()
    tf.constant(0)  # TensorFlow's own memory
    own = _resident()
    begin = time.perf_counter()
    with SessionModel(path) as model:
        found = {"load": time.perf_counter() - begin, "loaded": _resident() - own}

        def answer(signature: str) -> None:
            (alias, given), *_ = model.signatures[signature].inputs.items()
            shape = [max(each.size, 1) for each in given.tensor_shape.dim]
            images: Any = np.zeros(shape, tf.as_dtype(given.dtype).as_numpy_dtype)
            if images.dtype == object:
                is_example = signature == contract.SIGNATURE_CLASSIFY
                images[:] = example_of(photo) if is_example else photo
            model(signature, {alias: images})

        ours = contract.SIGNATURE_IMAGES in model.signatures
        begin = time.perf_counter()
        answer(contract.SIGNATURE_IMAGES if ours else contract.SIGNATURE_DEFAULT)
        found |= {"first": time.perf_counter() - begin, "answers": _resident() - own}
        if ours:
            for signature in sorted(set(model.signatures) - {contract.SIGNATURE_IMAGES}):
                if not signature.startswith("__"):  # TensorFlow's own
                    answer(signature)
            found["all"] = _resident() - own
    return found | {"most": _status("VmHWM") - own}


def _resident() -> int:
    """Bytes that this process holds, once it gave back what it does not use."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _status("VmRSS")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith(f"{key}:"))
    return 1024 * int(value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", nargs=2, metavar=("NETWORK", "FOLDER"))
    parser.add_argument("--row", metavar="FOLDER")
    options = parser.parse_args()
    if options.write:
        _write(options.write[0], Path(options.write[1]))
    elif options.row:
        print(json.dumps(_row(Path(options.row))))
    else:
        main()
