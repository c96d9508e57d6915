"""The training step beside that of PyTorch and of plain Keras 3; and what the input costs.

``python -m benchmarks training``: each row has a process of its own, which takes some steps when it
is its turn, while the others wait; the PyTorch rows are the first in every round. Plain Keras is
the same network with Keras' own batch normalization, trained by ``train_on_batch``; ours is the
step that ``keras_cls.train`` takes. Images and targets are in memory; all rows have the loss, the
momentum and the weight decay of the ResNet paper.

``python -m benchmarks.training --epoch`` runs whole epochs instead: ``train()``'s own input
(ResNet-50 from JPEG files, ResNet-20 from arrays) with the step, against the step alone.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine
from benchmarks.peers import environment
from benchmarks.tables import ROOT, markdown_table, write_between

THREADS = 2
ROUNDS = 9
RATE, MOMENTUM, DECAY = 0.01, 0.9, 1e-4
TORCH = ("torch==2.13.0", "numpy")


@dataclass(frozen=True)
class Work:
    """A network's training step: the input's side, images, classes; steps a turn."""

    side: int
    batch: int
    classes: int
    steps: int


WORK = {
    "resnet50": Work(128, 32, 1000, 2),
    "resnet20_cifar10": Work(32, 64, 10, 20),
}
_TORCH_WAYS = ("eager float32", "eager bfloat16", "compile float32", "compile bfloat16")
# (whose, precision)
_KERAS_WAYS = {
    "plain Keras 3 float32": ("plain", "float32"),
    "plain Keras 3 mixed_bfloat16": ("plain", "bfloat16"),
    "keras_cls float32": ("ours", "float32"),
    "keras_cls bfloat16": ("ours", "bfloat16"),
}
_BASE = "plain Keras 3 float32"
_BEST_OF_TORCH = "best PyTorch"


def main() -> None:
    python = environment("torch", TORCH)
    rows, versions = [], set()
    for name, work in WORK.items():
        commands = {
            f"PyTorch {way}": [python, ROOT / "benchmarks/training_torch.py", name, way, work.steps]
            for way in _TORCH_WAYS
        } | {
            row: [sys.executable, "-m", "benchmarks.training", "--row", name, row]
            for row in _KERAS_WAYS
        }
        with ExitStack() as stack:
            processes = [stack.enter_context(_Row.started(c)) for c in commands.values()]
            counts = {process.about["parameters"] for process in processes}
            if len(counts) != 1:
                raise SystemExit(f"{name}: the rows' networks differ: parameters {sorted(counts)}")
            versions |= {process.about["version"] for process in processes}
            times: dict[str, list[float]] = {row: [] for row in commands}
            for _ in range(ROUNDS):
                for row, process in zip(commands, processes, strict=True):
                    times[row].append(process.turn())
        rows += _table_rows(name, work, {r: statistics.median(t) for r, t in times.items()})
    header = ["step", "how", "ms", f"against {_BASE}", f"against {_BEST_OF_TORCH}"]
    table = markdown_table(header, rows, "|".join(header[2:]))
    note = f"\nMeasured on {machine()}, {THREADS} threads, {', '.join(sorted(versions))}; medians "
    note += f"of {ROUNDS} turns. Larger is faster."
    write_between("docs/speed.md", "training", table + "\n" + note)


def _table_rows(name: str, work: Work, times: dict[str, float]) -> list[list[str]]:
    torch = min(seconds for row, seconds in times.items() if row.startswith("PyTorch"))
    what = f"{name}, {work.side} px, batch {work.batch}"
    rows = [
        [what, row, f"{1e3 * s:,.1f}", f"{times[_BASE] / s:.2f}", f"{torch / s:.2f}"]
        for row, s in times.items()
    ]
    for row in rows:
        print(" | ".join(row), flush=True)
    return rows


class _Row:
    """A process that takes steps when it is asked to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.about: dict[str, Any] = json.loads(self._answer())

    @classmethod
    @contextmanager
    def started(cls, command: Sequence[object]) -> Iterator["_Row"]:
        threads = str(THREADS)
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": threads, "TF_CPP_MIN_LOG_LEVEL": "2"},
        )
        try:
            yield cls(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()

    def turn(self) -> float:
        """Seconds a step."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(map(str, self._process.args))}: no answer")
        return line


# --- the rows of Keras


def _serve(name: str, row: str) -> None:
    """The process of a row: see training_torch.py."""
    import keras
    import tensorflow as tf

    _two_threads()
    whose, precision = _KERAS_WAYS[row]
    work = WORK[name]
    make = _our_step if whose == "ours" else _plain_step
    parameters, step = make(name, work, precision)
    for _ in range(3):
        step()
    versions = f"TensorFlow {tf.__version__}, Keras {keras.__version__}"
    print(json.dumps({"parameters": parameters, "version": versions}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(work.steps):
            step()
        print((time.perf_counter() - start) / work.steps, flush=True)


def _two_threads() -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)


def _arrays(work: Work) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    images = random.normal(size=(work.batch, work.side, work.side, 3)).astype("float32")
    return images, random.integers(0, work.classes, work.batch)


def _plain_step(name: str, work: Work, precision: str) -> tuple[int, Callable[[], object]]:
    """Keras as it comes: its own layers and its own training step."""
    import keras
    import tensorflow as tf

    from keras_cls.architectures import build_model
    from keras_cls.architectures.layers import BatchNormalization

    def plain(layer: keras.layers.Layer) -> keras.layers.Layer:
        ours = isinstance(layer, BatchNormalization)
        kind = keras.layers.BatchNormalization if ours else type(layer)
        return kind.from_config(layer.get_config())

    if precision == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    model = build_model(name, input_shape=(work.side, work.side, 3))
    model = keras.models.clone_model(model, clone_function=plain)
    model.compile(
        keras.optimizers.SGD(RATE, momentum=MOMENTUM, weight_decay=DECAY),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    images, targets = map(tf.constant, _arrays(work))
    return _size(model.trainable_variables), lambda: model.train_on_batch(images, targets)


def _our_step(name: str, work: Work, precision: str) -> tuple[int, Callable[[], object]]:
    """The step that ``keras_cls.train`` takes."""
    import tensorflow as tf

    trainee = _trainee(name, work, precision)
    images, targets = _arrays(work)
    batch = tf.constant(images), tf.one_hot(targets, work.classes)
    return _size(trainee.network.trainable_variables), lambda: trainee.step(batch).numpy()


def _trainee(name: str, work: Work, precision: str) -> Any:
    from keras_cls.architectures import build_model
    from keras_cls.classifier import Classifier
    from keras_cls.training.recipes import RECIPES
    from keras_cls.training.trainee import Trainee

    model = build_model(name, work.classes, (work.side, work.side, 3))
    classifier = Classifier(model, [f"class {number}" for number in range(work.classes)])
    return Trainee(
        classifier, RECIPES["resnet"], steps=1_000_000, batch_size=work.batch, precision=precision
    )


def _size(variables: Sequence[Any]) -> int:
    return sum(int(np.prod(variable.shape)) for variable in variables)


# --- whole epochs

EPOCH_IMAGES = {"resnet50": 640, "resnet20_cifar10": 12_800}
EPOCH_CLASSES = 10
EPOCH_TURNS = 11
PHOTO = (500, 375)  # ImageNet's usual size


def epochs() -> None:
    rows = []
    for name in WORK:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.training", "--whole-epochs", name],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
        )
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(" | ".join(rows[-1]), flush=True)
    header = ["network", "input", "images/s, step alone", "images/s, with the input", "share"]
    table = markdown_table(header, rows, "|".join(header[2:]))
    note = f"\nMeasured on {machine()}, {THREADS} threads, bfloat16; medians of {EPOCH_TURNS} "
    note += "epochs, in turns."
    write_between("docs/speed.md", "epochs", table + "\n" + note)


def _whole_epochs(name: str) -> None:
    """The process of one network: epochs with the input and of the step alone, in turns."""
    from keras_cls.data.opening import open_training_data
    from keras_cls.data.pipeline import steps_per_epoch, training_batches
    from keras_cls.training.recipes import RECIPES

    _two_threads()
    work, images = WORK[name], EPOCH_IMAGES[name]
    recipe = RECIPES["resnext" if name == "resnet50" else "resnet_cifar"]
    with tempfile.TemporaryDirectory() as folder:
        if name == "resnet50":
            data, what = _write_photos(Path(folder), images), "JPEG files, held decoded"
        else:
            random = np.random.default_rng(0)
            pixels = random.integers(0, 256, (images, work.side, work.side, 3), dtype=np.uint8)
            data, what = (pixels, np.arange(images) % EPOCH_CLASSES), "arrays"
        opened = open_training_data(data, 0.1, cache=Path(folder) / "cache", seed=0)
        trainee = _trainee(name, replace(work, classes=EPOCH_CLASSES), "bfloat16")
        rule = trainee.classifier.preprocessing
        batches = iter(
            training_batches(opened.train, rule, recipe.augmentation, batch_size=work.batch, seed=0)
        )
        steps = steps_per_epoch(opened.train, work.batch)
        fixed = next(batches)
        trainee.step(fixed).numpy()

        def epoch(take: Callable[[], Any]) -> float:
            start = time.perf_counter()
            for _ in range(steps):
                found = trainee.step(take())
            found.numpy()
            return steps * work.batch / (time.perf_counter() - start)

        alone, whole = [], []
        for _ in range(EPOCH_TURNS):
            alone.append(epoch(lambda: fixed))
            whole.append(epoch(lambda: next(batches)))
    found, bare = statistics.median(whole), statistics.median(alone)
    print(json.dumps([name, what, f"{bare:,.1f}", f"{found:,.1f}", f"{found / bare:.1%}"]))


def _write_photos(folder: Path, count: int) -> Path:
    """JPEG photos of smooth noise, a folder a class."""
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(count):
        noise = random.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        place = folder / "photos" / f"class {number % EPOCH_CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        photo = Image.fromarray(noise).resize(PHOTO, Image.Resampling.BICUBIC)
        photo.save(place / f"{number:05}.jpg", quality=90)
    return folder / "photos"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--row", name, row]:
            _serve(name, row)
        case ["--whole-epochs", name]:
            _whole_epochs(name)
        case ["--epoch"]:
            epochs()
        case []:
            main()
        case other:
            raise SystemExit(f"expected --epoch or nothing, found {' '.join(other)}")
