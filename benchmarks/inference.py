"""Answers a second of small exports, beside Keras' own and the int8 of other runtimes.

``python -m benchmarks inference``: one network is written as Keras' SavedModel and as ours in
float32, bfloat16 and int8, and converted for OpenVINO, ONNX Runtime and LiteRT from Keras' one, by
each one's own quantization and calibrated on the same images. Each has a process of its own with
two threads, which answers some batches when it is its turn, while the others wait. Our rows take
pixels and prepare them, as a server does; the peers' take prepared images. Torch runs torchvision's
network of the same design. All weights are random: accuracy is measured elsewhere, on real weights.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inference_peers import BATCHES, THREADS, answer_lines
from benchmarks.peers import convert_to_onnx, environment
from benchmarks.tables import ROOT, markdown_table, write_between
from keras_cls.processor import BFLOAT16_FLAGS, BYTE_FLAGS, cpu_flags

ROUNDS = 15
NETWORKS = ("resnet50", "inception_v3")
CALIBRATION = 64
PEERS = (
    "openvino",
    "nncf",
    "onnx==1.23.2",
    "onnxruntime==1.31.1",
    "sympy",
    "tf2onnx==1.17.0",
    "ai-edge-litert==2.3.0",
)
TORCH = ("torch==2.15.0", "torchvision==0.29.2")
_BASE = "Keras 3, SavedModel float32"
OURS = {
    _BASE: "keras",
    "keras_cls, SavedModel float32": "float32",
    "keras_cls, SavedModel bfloat16": "bfloat16",
    "keras_cls, SavedModel int8": "int8",
}
THEIRS = {
    "OpenVINO int8 (NNCF)": "openvino",
    "ONNX Runtime int8 (QDQ)": "onnxruntime",
    "LiteRT int8 (XNNPACK)": "litert",
}
TORCH_ROW = "torch.compile bfloat16"


def main() -> None:
    rows: list[list[str]] = []
    versions: list[str] = []
    for network in NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            sizes = _artefacts(network, Path(folder))
            found, versions = _turns(network, Path(folder))
        base = found[_BASE]
        for name, each in found.items():
            times = [f"{1000 * each[batch]:.1f}" for batch in BATCHES]
            ratios = [f"{base[batch] / each[batch]:.2f}" for batch in BATCHES]
            size = f"{sizes[name] / 1e6:.0f}" if name in sizes else ""
            rows.append([network, name, *times, *ratios, size])
    header = ["network", "what"]
    header += [f"ms, batch {batch}" for batch in BATCHES]
    header += [f"times as fast, batch {batch}" for batch in BATCHES]
    header += ["MB"]
    table = markdown_table(header, rows, right="|".join(header[2:]))
    note = (
        f"\nTurn by turn, medians of {ROUNDS} rounds, {THREADS} threads each ({platform.machine()}"
        f", {_processor()}). {', '.join(versions)}."
    )
    write_between("docs/speed.md", "inference", table + "\n" + note)


def _processor() -> str:
    """What matters of it: whether it has the instructions for bytes and bfloat16."""
    found = sorted(cpu_flags() & (BYTE_FLAGS | BFLOAT16_FLAGS))
    return ", ".join(found).upper().replace("_", "-") or "no VNNI"


def _artefacts(network: str, folder: Path) -> dict[str, int]:
    """Write every model; bytes by row."""
    subprocess.run(
        [sys.executable, "-m", "benchmarks.inference", "--write", network, str(folder)],
        check=True,
        cwd=ROOT,
    )
    python = environment("int8", PEERS)
    convert_to_onnx(python, folder / "keras", folder / "network.onnx")
    convert = [python, ROOT / "benchmarks/inference_peers.py", "convert", folder]
    subprocess.run(convert, check=True)
    sizes = {name: bytes_in(folder / kind) for name, kind in OURS.items()}
    return sizes | {name: bytes_in(folder / kind) for name, kind in THEIRS.items()}


def bytes_in(path: Path) -> int:
    """Of all files of a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _turns(network: str, folder: Path) -> tuple[dict[str, dict[int, float]], list[str]]:
    """Median seconds by row and batch."""
    peers, torch = environment("int8", PEERS), environment("torch_vision", TORCH)
    script = ROOT / "benchmarks/inference_peers.py"
    commands: dict[str, Sequence[str | Path]] = {
        name: [sys.executable, "-m", "benchmarks.inference", "--row", kind, str(folder)]
        for name, kind in OURS.items()
    }
    commands |= {name: [peers, script, kind, folder] for name, kind in THEIRS.items()}
    commands[TORCH_ROW] = [torch, script, "torch", folder, network]
    found: dict[str, dict[int, list[float]]] = {
        name: {batch: [] for batch in BATCHES} for name in commands
    }
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(_started(command)) for name, command in commands.items()
        }
        versions = [_answer(process) for process in processes.values()]
        for number in range(ROUNDS):
            for name, process in processes.items():
                for batch in BATCHES:
                    assert process.stdin is not None
                    process.stdin.write(f"{batch}\n")
                    process.stdin.flush()
                    found[name][batch].append(_answer(process))
            print(f"{network}: round {number + 1} of {ROUNDS}", flush=True)
        for process in processes.values():
            assert process.stdin is not None
            process.stdin.close()
    medians = {
        name: {batch: statistics.median(times) for batch, times in each.items()}
        for name, each in found.items()
    }
    return medians, list(dict.fromkeys(versions))


def _started(command: Sequence[str | Path]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def _answer(process: "subprocess.Popen[str]") -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{process.args} ended before it answered")
    return json.loads(line)


def _write(network: str, folder: Path) -> None:
    """All SavedModels, and the images to calibrate with."""
    import keras
    import tensorflow as tf

    import keras_cls
    from keras_cls.preprocessing import normalize

    keras.utils.set_random_seed(0)
    model = keras_cls.create_model(network)
    _train_statistics(model)
    labels = [f"class {number}" for number in range(model.output_shape[-1])]
    classifier = keras_cls.Classifier(model, labels)
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (CALIBRATION, 8, 8, 3)).astype(np.float32)
    smooth = tf.image.resize(coarse, classifier.input_size, method="bicubic").numpy()
    pixels = np.clip(np.rint(smooth), 0, 255).astype(np.uint8)
    np.save(folder / "pixels.npy", pixels)
    np.save(folder / "prepared.npy", normalize(pixels, classifier.preprocessing).numpy())
    model.export(folder / "keras", verbose=False)
    for precision in ("float32", "bfloat16", "int8"):
        # Random weights: how far the answers are apart says nothing.
        keras_cls.export(
            classifier,
            folder / precision,
            precision=precision,
            calibration=pixels,
            verify="report",
        )
    (folder / "litert").mkdir()
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "keras"))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    prepared = np.load(folder / "prepared.npy")
    converter.representative_dataset = lambda: ([image[None]] for image in prepared)
    (folder / "litert/model.tflite").write_bytes(converter.convert())


def _train_statistics(model: Any) -> None:
    """Such as training leaves: TensorFlow's optimizer removes what adds zero."""
    random = np.random.default_rng(0)
    for layer in model.layers:
        if hasattr(layer, "moving_mean"):
            for variable, low, high in (
                (layer.moving_mean, -0.2, 0.2),
                (layer.moving_variance, 0.5, 1.5),
                (layer.beta, -0.2, 0.2),
            ):
                variable.assign(random.uniform(low, high, variable.shape))


def _row(kind: str, folder: Path) -> None:
    """One of ours: answers each line, a batch's size, with the seconds that a batch took."""
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=THREADS, inter_op_parallelism_threads=1
    )
    path, signature, images = folder / kind / "1", "images", np.load(folder / "pixels.npy")
    if kind == "keras":
        path, signature = folder / kind, "serving_default"
        images = np.load(folder / "prepared.npy")
    with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
        meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(path))
        definition = meta.signature_def[signature]
        (given,) = definition.inputs.values()
        (answer,) = definition.outputs.values()
        run = session.make_callable([answer.name], feed_list=[given.name])
        answer_lines(lambda batch: run(images[:batch]), f"TensorFlow {tf.__version__}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", nargs=2, metavar=("NETWORK", "FOLDER"))
    parser.add_argument("--row", nargs=2, metavar=("KIND", "FOLDER"))
    options = parser.parse_args()
    if options.write:
        _write(options.write[0], Path(options.write[1]))
    elif options.row:
        _row(options.row[0], Path(options.row[1]))
    else:
        main()
