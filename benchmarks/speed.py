"""How long every network takes to build, to answer and to learn from one small batch.

Where keras.applications has the network, it is built and run in the same process, turn by turn
with ours: the ratio is theirs divided by ours. Each network has a process of its own, which prints
one line of JSON; medians of the rounds are shown. ``python -m benchmarks.speed NAME`` measures one.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks.tables import markdown_table, write_between
from keras_cls import list_models

BATCH = 4
ROUNDS = 5
BUILDS = 2

_PEERS = {
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    "inception_v3": "InceptionV3",
    "inception_resnet_v2": "InceptionResNetV2",
    "nasnet_mobile": "NASNetMobile",
    "nasnet_large": "NASNetLarge",
    **{
        f"resnet{depth}_v{version}": f"ResNet{depth}{'V2' if version == 2 else ''}"
        for depth in (50, 101, 152)
        for version in (1, 2)
    },
}
_MEASURES = ("build", "forward", "step")


# Networks that differ from another in how they count padding alone: their times are the other's.
_VARIANTS = ("_slim", "_timm", "_torch")


def main() -> None:
    rows = []
    for name in list_models():
        if name.endswith(_VARIANTS):
            continue
        print(f"{name}...", end=" ", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.speed", name],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        rows.append([f"`{name}`", *_cells(json.loads(done.stdout.splitlines()[-1]))])
        print(" | ".join(rows[-1][1:]), flush=True)
    header = ["network"]
    for title in ("build s", "forward ms", "training step ms"):
        header += [title, "keras.applications", "ratio"]
    table = markdown_table(header, rows, right="|".join(header[1:]))
    note = (
        f"\nMeasured on {os.cpu_count()} cores ({platform.machine()}, no GPU), float32, batch "
        f"{BATCH} at the network's own input size, SGD with momentum, without XLA; medians of "
        f"{ROUNDS} rounds ({BUILDS} for building)."
    )
    write_between("docs/speed.md", "networks", table + "\n" + note)


def _cells(measured: dict[str, list[float | None]]) -> list[str]:
    cells = []
    for measure in _MEASURES:
        ours, theirs = measured[measure]
        assert ours is not None
        unit = ".2f" if measure == "build" else ".0f"
        scale = 1 if measure == "build" else 1e3
        cells.append(f"{ours * scale:{unit}}")
        cells += (
            ["", ""] if theirs is None else [f"{theirs * scale:{unit}}", f"{theirs / ours:.2f}"]
        )
    return cells


def _measure(name: str) -> dict[str, list[float | None]]:
    import keras
    import numpy as np
    import tensorflow as tf

    from keras_cls import create_model, model_spec

    create_model("lenet5")  # starts TensorFlow
    builders: list[Callable[[], keras.Model]] = [lambda: create_model(name)]
    if name in _PEERS:
        peer = getattr(keras.applications, _PEERS[name])
        builders.append(lambda: peer(weights=None, classifier_activation=None))
    result = {"build": turn_by_turn(builders, BUILDS)}

    models = [build() for build in builders]
    spec = model_spec(name)
    rng = np.random.default_rng(0)
    images = tf.constant(rng.random((BATCH, *spec.input_shape), "float32"))
    classes = tf.constant(rng.integers(0, spec.num_classes, BATCH))
    graphs = [tf.function(lambda x, model=model: model(x, training=False)) for model in models]
    result["forward"] = turn_by_turn(
        [lambda graph=graph: graph(images).numpy() for graph in graphs], ROUNDS, warm=1
    )
    for model in models:
        model.compile(
            keras.optimizers.SGD(0.01, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
    steps = [lambda model=model: model.train_on_batch(images, classes) for model in models]
    result["step"] = turn_by_turn(steps, ROUNDS, warm=2)
    return {measure: [*times, None][:2] for measure, times in result.items()}


def turn_by_turn(runs: Sequence[Callable[[], object]], rounds: int, warm: int = 0) -> list[float]:
    """Median seconds of each, run in turns so that a busy moment meets them all."""
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(warm + rounds):
        for run, seconds in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            if turn >= warm:
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in list_models():
        raise SystemExit(f"expected one network of {', '.join(list_models())}")
    print(json.dumps(_measure(sys.argv[1])))
