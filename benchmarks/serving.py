"""What an answer by gRPC costs beside the same signature in process.

The embedded server runs in a process of its own; its CPU time (user and system, from the operating
system's accounts) divided by the requests is the figure that lasts on a busy machine. The raw row
runs the same signature of the same SavedModel in a v1 Session of its own process, at its best batch
size. Both get the same JPEG bytes, in one run, one after the other, three times; medians are shown.
"""

import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.tables import markdown_table, write_between

ROUNDS = 3
SECONDS = 4.0
CONCURRENCY = (1, 8, 32)
MODELS = {"lenet5": (28, 28), "resnet50": (500, 375)}

_RAW = """
import os, sys, time
import numpy as np
import tensorflow as tf
from pathlib import Path
version, photo, batch, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
graph = tf.Graph()
with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
    meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], version)
    signature = meta.signature_def["serving_default"]
    call = session.make_callable(
        [o.name for o in signature.outputs.values()], [signature.inputs["image_bytes"].name]
    )
    images = np.array([Path(photo).read_bytes()] * batch, dtype=object)
    for _ in range(3):
        call(images)
    cpu, start, done = time.process_time(), time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        call(images)
        done += batch
    elapsed = time.perf_counter() - start
    print((time.process_time() - cpu) / done * 1e3, done / elapsed)
"""


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, size in MODELS.items():
            model, photo = _prepare(Path(folder), name, size)
            rows += _measure(name, model, photo)
    header = ["model", "how", "CPU ms an image", "images/s", "CPU time against raw"]
    machine = f"{os.cpu_count()} cores, {platform.machine()}, TensorFlow on the CPU"
    note = f"\nMeasured on {machine}; medians of {ROUNDS} rounds of {SECONDS:g} s."
    table = markdown_table(header, rows, "CPU ms an image|images/s|CPU time against raw")
    write_between("docs/serving.md", "serving", table + "\n" + note)


def _prepare(folder: Path, name: str, size: tuple[int, int]) -> tuple[Path, Path]:
    """A model with fresh weights, exported, and a JPEG photo of smooth noise."""
    code = f"""
import numpy as np, keras_cls
from PIL import Image
model = keras_cls.create_model({name!r})
labels = [str(i) for i in range(model.output_shape[-1])]
keras_cls.export(keras_cls.Classifier(model, labels), {str(folder / name)!r})
noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
Image.fromarray(noise).resize({size!r}, Image.BICUBIC).save({str(folder / f"{name}.jpg")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)
    return folder / name, folder / f"{name}.jpg"


def _measure(name: str, model: Path, photo: Path) -> list[list[str]]:
    batches = (1, 8, 32)
    raw: dict[int, list[tuple[float, float]]] = {batch: [] for batch in batches}
    served: dict[int, list[tuple[float, float]]] = {n: [] for n in CONCURRENCY}
    for _ in range(ROUNDS):
        for batch in batches:
            raw[batch].append(_run_raw(model, photo, batch))
        for callers in CONCURRENCY:
            served[callers].append(_run_served(model, photo, callers))
    best = min(batches, key=lambda batch: _medians(raw[batch])[0])
    cost, rate = _medians(raw[best])
    rows = [[name, f"raw, in process, batch {best}", f"{cost:.2f}", f"{rate:,.0f}", "1.00"]]
    for callers in CONCURRENCY:
        found, rate = _medians(served[callers])
        how = f"keras_cls server, {callers} at once"
        rows.append([name, how, f"{found:.2f}", f"{rate:,.0f}", f"{found / cost:.2f}"])
    for row in rows:
        print("  ".join(row), flush=True)
    return rows


def _medians(runs: list[tuple[float, float]]) -> tuple[float, float]:
    return statistics.median(r[0] for r in runs), statistics.median(r[1] for r in runs)


def _run_raw(model: Path, photo: Path, batch: int) -> tuple[float, float]:
    arguments = [str(model / "1"), str(photo), str(batch), str(SECONDS)]
    done = subprocess.run(
        [sys.executable, "-c", _RAW, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    cost, rate = map(float, done.stdout.split())
    return cost, rate


def _run_served(model: Path, photo: Path, callers: int) -> tuple[float, float]:
    from keras_cls.client import Client

    command = [sys.executable, "-m", "keras_cls", "serve", "--port=0", "--host=127.0.0.1"]
    server = subprocess.Popen(
        [*command, f"--model_base_path={model}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        found = re.search(r":(\d+)$", line.strip())
        if found is None:
            raise SystemExit(f"the server did not start: {line}")
        data = photo.read_bytes()
        with Client(f"127.0.0.1:{found.group(1)}", model=model.name, timeout=60) as client:

            def ask_until(end: float) -> int:
                count = 0
                while time.perf_counter() < end:
                    client.classify(data)
                    count += 1
                return count

            with ThreadPoolExecutor(callers) as pool:
                list(pool.map(ask_until, [time.perf_counter() + 0.5] * callers))  # warm
                cpu, start = _cpu_seconds(server.pid), time.perf_counter()
                asked = sum(pool.map(ask_until, [start + SECONDS] * callers))
                used, elapsed = _cpu_seconds(server.pid) - cpu, time.perf_counter() - start
        return used / asked * 1e3, asked / elapsed
    finally:
        server.terminate()
        server.wait()


def _cpu_seconds(process: int) -> float:
    """User and system time of a process so far (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
