"""What it costs to import a client: time and memory, beside TensorFlow Serving's stubs.

The stubs come with TensorFlow, whose ``make_tensor_proto`` their examples use. Each way is imported
in a fresh interpreter, all in turn, ten times after one that fills the disk cache; medians are
shown. Memory is the most that the process ever held (Linux tells it).
"""

import os
import platform
import statistics
import subprocess
import sys

from benchmarks.tables import markdown_table, write_between

ROUNDS = 10
WAYS = {
    "Python alone": "pass",
    "`keras_cls.Client`": "import keras_cls; keras_cls.Client",
    '`keras_cls.Client`, `decode="client"`': (
        "import keras_cls; keras_cls.Client; keras_cls.Preprocessing; "
        "import keras_cls.client.decoding"
    ),
    "`tensorflow_serving.apis` and `tensorflow`": (
        "import tensorflow; "
        "from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc"
    ),
}

_MEASURE = """
import sys, time
start = time.perf_counter()
exec(sys.argv[1])
seconds = time.perf_counter() - start
with open("/proc/self/status") as status:
    (peak,) = (line.split()[1] for line in status if line.startswith("VmHWM"))
print(seconds, int(peak) / 1024)
"""


def main() -> None:
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for turn in range(ROUNDS + 1):
        for way, code in WAYS.items():
            cost = _import(code)
            if turn:
                found[way].append(cost)
    rows = [_row(way, costs) for way, costs in found.items()]
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    note = f"\nMeasured on {machine}; medians of {ROUNDS} imports each."
    table = markdown_table(["import", "seconds", "MiB"], rows, "seconds|MiB")
    write_between("docs/serving.md", "client", table + "\n" + note)


def _import(code: str) -> tuple[float, float]:
    """Seconds, and MiB at the most."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, code],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    seconds, peak = map(float, done.stdout.split())
    return seconds, peak


def _row(way: str, costs: list[tuple[float, float]]) -> list[str]:
    seconds, peak = (statistics.median(cost[i] for cost in costs) for i in range(2))
    row = [way, f"{seconds:.2f}", f"{peak:,.0f}"]
    print("  ".join(row), flush=True)
    return row
