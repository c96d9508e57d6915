"""Time to accuracy on CIFAR-10: ``keras_cls.train`` beside the speed run airbench94 in PyTorch.

``python -m benchmarks time_to_accuracy`` trains ``airbench94_cifar10`` with the recipe of its name,
and its port (``time_to_accuracy_torch.py``), one after the other, on all 50,000 training images, in
bfloat16 on two threads: a run for each goal, as long as the goal needs, since what passes 90 % on
its way to 94 % is not the fastest way to 90 %. Seconds are those of the epochs with their data,
without judging, saving and the whitening of the first layer; accuracy is that on the public test
images: of one view after every epoch, and of six views (mirrored, shifted by one pixel) of the last
epoch's weights, be they the best or not. It needs the images beside the repository (../shared/data,
or KERAS_CLS_DATA).

``python -m benchmarks.time_to_accuracy --check`` compares the two networks instead: the parameters
and, given equal weights, the logits; then two epochs of each on 5,120 images.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import environment
from benchmarks.real_images import data_folder, read_cifar
from benchmarks.tables import ROOT, markdown_table, write_between

NETWORK = "airbench94_cifar10"
RECIPE = "airbench94"
# Epochs for each goal. The source stops after 9.9; ours counts whole ones, as the port does here.
EPOCHS = {0.90: 4, 0.94: 10}
THREADS = 2
BATCH = 1024
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
TORCH = ("torch==2.13.0", "numpy")
CURVES = "docs/time_to_accuracy.json"

Curve = list[dict[str, float]]


@dataclass(frozen=True)
class Run:
    """One training: who trained, towards which accuracy, and a line for each epoch."""

    how: str
    goal: float
    curve: Curve


def main() -> None:
    data = read_cifar(data_folder("cifar10"))
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cifar10.npz"
        np.savez(file, **data)
        for goal, epochs in EPOCHS.items():
            runs.append(Run("PyTorch, airbench94", goal, _torch_curve(file, epochs)))
            runs.append(Run("keras_cls", goal, _our_curve(file, epochs)))
    (ROOT / CURVES).write_text(json.dumps([asdict(run) for run in runs], indent=1) + "\n")
    print(f"wrote {CURVES}")
    note = (
        f"\nTraining in bfloat16 on {os.cpu_count()} cores, {THREADS} threads, one run each; the "
        f"test images are {len(data['test_labels']):,}. All curves, epoch by epoch: "
        f"[time_to_accuracy.json]({Path(CURVES).name})."
    )
    write_between("docs/speed.md", "time to accuracy", table(runs) + "\n" + note)


def table(runs: list[Run]) -> str:
    header = ["goal", "how", "minutes to it", "epochs", "minutes in all", "one view", "six views"]
    rows = []
    for run in runs:
        last, found = run.curve[-1], minutes_to(run.goal, run.curve)
        rows.append(
            [
                f"{run.goal:.0%}",
                run.how,
                "not reached" if found is None else f"{found:.1f}",
                str(last["epoch"]),
                f"{last['seconds'] / 60:.1f}",
                f"{last['accuracy']:.2%}",
                f"{last['accuracy of six views']:.2%}",
            ]
        )
    return markdown_table(header, rows, "|".join(header[2:]))


def minutes_to(goal: float, curve: Curve) -> float | None:
    """When an epoch ended that reached it, by one view or, at the end, by six."""
    for line in curve:
        if max(line["accuracy"], line.get("accuracy of six views", 0.0)) >= goal:
            return line["seconds"] / 60
    return None


def six_views(images: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """Views of images [N, H, W, C] and what they count: mirrored, and shifted to and fro."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    shifted = {1 / 4: [images], 1 / 8: [padded[:, :-2, :-2], padded[:, 2:, 2:]]}
    return [
        (share, view)
        for share, views in shifted.items()
        for straight in views
        for view in (straight, straight[:, :, ::-1])
    ]


def six_view_logits(model: Any, images: np.ndarray) -> np.ndarray:
    """Of images scaled as the network takes them."""
    return sum(
        share * model.predict(np.ascontiguousarray(view), batch_size=1000, verbose=0)
        for share, view in six_views(images)
    )


def set_to_checkpoint(model: Any, checkpoint: Path) -> None:
    """Give the model the weights of a run's checkpoint, which begins with the network's."""
    with np.load(checkpoint) as arrays:
        model.set_weights([arrays[name] for name in sorted(arrays.files)[: len(model.weights)]])


def _torch_curve(data: Path, epochs: float, *more: str) -> Curve:
    script = ROOT / "benchmarks/time_to_accuracy_torch.py"
    command = [environment("torch", TORCH), script, data, f"--epochs={epochs}", *more]
    return _curve([*command, f"--threads={THREADS}"])


def _our_curve(data: Path, epochs: int) -> Curve:
    """In a process of its own, as a training is."""
    command = [sys.executable, "-m", "benchmarks.time_to_accuracy", "--ours", data, epochs]
    return _curve(command)


def _curve(command: list[object]) -> Curve:
    lines = []
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(THREADS), "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        if line.startswith("{"):
            lines.append(json.loads(line))
    if process.wait():
        raise SystemExit(f"{' '.join(map(str, command))}: failed")
    return lines


def _ours(file: Path, epochs: int) -> None:
    """Train with ``keras_cls.train`` and print the curve."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    import keras_cls
    from keras_cls.preprocessing import normalize
    from keras_cls.training.run_folder import RunFolder

    data = dict(np.load(file))
    with tempfile.TemporaryDirectory() as folder:
        run = keras_cls.train(
            NETWORK,
            (data["train_images"], data["train_labels"]),
            validation=(data["test_images"], data["test_labels"]),
            epochs=epochs,
            batch_size=BATCH,
            recipe=RECIPE,
            precision="bfloat16",
            labels=CLASSES,
            run_dir=folder,
        )
        seconds, curve = 0.0, []
        for row in run.history:
            seconds += row["seconds"] - row["validation_seconds"]
            curve.append(
                {
                    "epoch": int(row["epoch"]),
                    "seconds": round(seconds, 2),
                    "loss": row["loss"],
                    "accuracy": row["val_accuracy"],
                }
            )
        images = tf.cast(data["test_images"], tf.float32)
        scaled = normalize(images, run.classifier.preprocessing).numpy()
        model = run.classifier.model  # the best epoch's
        run_folder = RunFolder(run.directory)
        set_to_checkpoint(model, run.directory / str(run_folder.read_state().checkpoint))
        logits = six_view_logits(model, scaled)
        right = (logits.argmax(1) == data["test_labels"]).mean()
        curve[-1]["accuracy of six views"] = float(right)
    for line in curve:
        print(json.dumps(line), flush=True)


def check() -> None:
    """The two networks are one, and both learn."""
    import keras

    from keras_cls.architectures import build_model, model_spec

    full = read_cifar(data_folder("cifar10"))
    data = {name: values[: 5 * BATCH if "train" in name else 500] for name, values in full.items()}
    random = np.random.default_rng(0)
    model = build_model(NETWORK)
    for variable in model.variables:
        if variable.name != "kernel":
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
    weights = {v.path: keras.ops.convert_to_numpy(v) for v in model.variables}
    rule = model_spec(NETWORK).preprocessing
    scaled = (data["test_images"] / 255 - np.array(rule.mean)) / np.array(rule.std)
    ours = six_view_logits(model, scaled.astype("float32"))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        np.savez(place / "data.npz", **data)
        np.savez(place / "weights.npz", **weights)
        more = (f"--weights={place / 'weights.npz'}", f"--logits={place / 'logits.npy'}")
        (about,) = _torch_curve(place / "data.npz", 1, *more)
        theirs = np.load(place / "logits.npy")
        expected = model_spec(NETWORK).params_trainable
        if about["parameters"] != expected:
            raise SystemExit(f"parameters: ours {expected:,}, theirs {about['parameters']:,}")
        worst = np.abs(ours - theirs).max() / np.abs(theirs).max()
        print(f"parameters {expected:,} in both; logits differ by {worst:.1e} of the largest")
        if worst > 1e-4:
            raise SystemExit("the networks differ")
        _torch_curve(place / "data.npz", 2)
        _our_curve(place / "data.npz", 2)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--ours", file, epochs]:
            _ours(Path(file), int(epochs))
        case ["--check"]:
            check()
        case []:
            main()
        case other:
            raise SystemExit(f"expected --check or nothing, found {' '.join(other)}")
