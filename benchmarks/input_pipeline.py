"""Photos to training batches, beside torch's DataLoader with Pillow, as timm reads them.

``python -m benchmarks input_pipeline``: both sides read the same JPEG files and give batches of
float32 images, cut out at random (8 % to 100 % of the area, ratios 3/4 to 4/3, bilinear), mirrored
at random and normalized. Each side has a process of its own, and workers as it likes, on the same
two cores; they take turns. Ours has two rows: photos read from their files each time, as the peer
reads them, and photos held in memory, decoded before the first epoch, as ``train()`` does where
they fit. It needs full-size photos: those beside the repository (../shared/data, or
KERAS_CLS_DATA), or a folder of JPEG files that KERAS_CLS_PHOTOS names.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.peers import environment
from benchmarks.tables import ROOT, markdown_table, write_between

CORES = 2
ROUNDS = 7
IMAGES = 3840  # a turn
BATCH = 64
SIDE = 224
TORCH = ("torch==2.13.0", "numpy", "pillow")


def main() -> None:
    photos = _photos()
    python = environment("torch_pillow", TORCH)
    theirs = ROOT / "benchmarks/input_pipeline_torch.py"
    arguments = [str(photos), str(IMAGES), str(BATCH), str(SIDE)]
    ours = [sys.executable, "-m", "benchmarks.input_pipeline", "--row", *arguments]
    sides = {
        "torch DataLoader, 2 workers, Pillow": [python, theirs, *arguments],
        "keras_cls, from the files": [*ours, "files"],
        "keras_cls, held in memory": [*ours, "memory"],
    }
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(_started(command)) for name, command in sides.items()
        }
        versions = [_answer(process)["version"] for process in processes.values()]
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        for _ in range(ROUNDS):
            for name, process in processes.items():
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
                rounds[name].append(_answer(process))
                print(name, rounds[name][-1], flush=True)
        for process in processes.values():
            assert process.stdin is not None
            process.stdin.close()
    per_second, per_core = (
        {name: IMAGES / statistics.median(turn[key] for turn in turns) for name, turns in found}
        for key, found in (("seconds", rounds.items()), ("cpu_seconds", rounds.items()))
    )
    base = next(iter(sides))
    rows = [
        [
            name,
            f"{per_second[name]:,.0f}",
            f"{per_core[name]:,.0f}",
            f"{per_second[name] / per_second[base]:.2f}",
            f"{per_core[name] / per_core[base]:.2f}",
        ]
        for name in sides
    ]
    header = ["what", "images a second", "a CPU second", "times as fast", "times a CPU second"]
    table = markdown_table(header, rows, right="|".join(header[1:]))
    note = (
        f"\n{len(list(photos.iterdir()))} photos, random crops resized to {SIDE} px, batches of "
        f"{BATCH}; both on the same {CORES} cores ({platform.machine()}), turn by turn, medians of "
        f"{ROUNDS} rounds of {IMAGES:,} images. {', '.join(dict.fromkeys(versions))}."
    )
    write_between("docs/speed.md", "input pipeline", table + "\n" + note)


def _photos() -> Path:
    data = Path(os.environ.get("KERAS_CLS_DATA", ROOT.parent / "shared/data"))
    folder = Path(os.environ.get("KERAS_CLS_PHOTOS", data / "gallery/photos"))
    if not folder.is_dir():
        raise SystemExit(f"{folder}: no such folder; KERAS_CLS_PHOTOS names one of JPEG photos")
    return folder


def _started(command: Sequence[str | Path]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        preexec_fn=_on_the_cores,
    )


def _on_the_cores() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def _answer(process: "subprocess.Popen[str]") -> dict:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{process.args} ended before it answered")
    return json.loads(line)


def _row(where: str, folder: Path, images: int, batch: int, side: int) -> None:
    """Ours: answers every line that it reads with what a turn took."""
    import numpy as np
    import tensorflow as tf

    from keras_cls.data.augmentation import Augmentation
    from keras_cls.data.broken import BrokenImages
    from keras_cls.data.pipeline import training_batches
    from keras_cls.data.scanning import scan
    from keras_cls.data.sources import LabelledImages
    from keras_cls.preprocessing import Preprocessing

    files = tuple(sorted(folder.iterdir()))
    targets = np.arange(len(files)) % 2
    with tempfile.TemporaryDirectory() as cache:
        source = scan(LabelledImages(("a", "b"), targets, files, None, "photos"), Path(cache))
    if where == "memory" and not source.is_held():
        raise SystemExit("the photos do not fit in memory")
    batches = training_batches(
        source if where == "memory" else source.unheld(),
        Preprocessing(size=side),
        Augmentation(random_crop=(0.08, 1.0), flip=True),
        batch_size=batch,
        seed=0,
        broken=BrokenImages(),
    )
    print(json.dumps({"version": f"TensorFlow {tf.__version__}"}), flush=True)
    for _ in sys.stdin:
        turn = iter(batches)
        next(turn)
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(images // batch):
            next(turn)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        del turn
        print(json.dumps({"seconds": seconds, "cpu_seconds": cpu}), flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--row", folder, images, batch, side, where]:
            _row(where, Path(folder), int(images), int(batch), int(side))
        case _:
            raise SystemExit("run it as: python -m benchmarks input_pipeline")
