"""Half an hour of steady load on the embedded server, then a hundred hot swaps under load.

``python -m benchmarks serving_soak``: LeNet-5 is asked by eight callers, by gRPC. What counts is
that no request fails and that memory does not grow (the resident memory of the server's process,
from the operating system). A swap publishes a new version, a copy of the one before, and takes the
older one away once the new one answers. ``BENCH_SECONDS=60`` makes the steady part shorter.
"""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.serving_load import resident_bytes, session_processes
from benchmarks.serving_models import write_artefacts
from benchmarks.serving_rows import (
    ROWS,
    Load,
    Ports,
    Server,
    cores_for_all,
    first_answer,
    free_ports,
    keras_cls_command,
    running,
)
from benchmarks.tables import markdown_table, write_between

NETWORK = "lenet5"
CALLERS = 8
SECONDS = 1800.0
SWAPS = 100
SAMPLE_SECONDS = 5.0
# What a server takes at first, for threads and caches, is no growth.
SETTLED = 0.1
SWAP_TIMEOUT = 60.0


def main() -> None:
    seconds = float(os.environ.get("BENCH_SECONDS", SECONDS))
    with tempfile.TemporaryDirectory() as folder:
        made = write_artefacts(NETWORK, Path(folder) / NETWORK, ["float32"], onnx=False)
        model, ports = made.model("float32"), free_ports()
        own, others = cores_for_all()
        row = ROWS["keras_cls"]
        target = row.target(ports, NETWORK)
        body = Path(folder) / "request"
        body.write_bytes(row.body(NETWORK, made.photos[0].read_bytes()))
        load = Load(others)
        try:
            with running(keras_cls_command(model, ports), own, Path(folder) / "log") as server:
                first_answer(load, server, target, [body])

                def under_load(work: Callable[[], list[int]]) -> tuple[dict[str, Any], list[int]]:
                    job = {"concurrency": CALLERS, "seconds": None, "warm": 0.0}
                    load.begin(target, [body], **job, session=server.session)
                    samples = work()
                    load.end()
                    server.check()
                    return load.found(), samples

                steady = under_load(lambda: _wait(server, seconds))
                swaps = under_load(lambda: _swap(server, model, ports))
        finally:
            load.close()
    header = ["load", "minutes", "answers", "failed", "p50 / p99 ms", "MiB, settled", "MiB, end"]
    header.append("growth")
    rows = [
        [f"{CALLERS} callers", *_cells(*steady)],
        [f"{CALLERS} callers and {SWAPS} hot swaps", *_cells(*swaps)],
    ]
    table = markdown_table(header, rows, "|".join(header[1:]))
    note = (
        f"\nLeNet-5 by gRPC, measured on {machine()}. Memory is settled after the first "
        f"{SETTLED:.0%} of the time; medians of the {SETTLED:.0%} that follows and of the last."
    )
    write_between("docs/serving.md", "soak", table + "\n" + note)


def _wait(server: Server, seconds: float) -> list[int]:
    """Memory again and again, for so long."""
    samples = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(SAMPLE_SECONDS)
        server.check()
        samples.append(_resident(server))
        print(f"{end - time.monotonic():,.0f} s to go, {samples[-1] >> 20} MiB", flush=True)
    return samples


def _swap(server: Server, model: Path, ports: Ports) -> list[int]:
    """Memory after each swap."""
    from keras_cls import Client

    samples = []
    with Client(f"127.0.0.1:{ports.grpc}", model=NETWORK) as client:
        for number in range(2, SWAPS + 2):
            # Beside its place first, as any publisher does.
            beside = model.parent / "beside"
            shutil.copytree(model / "1" if number == 2 else model / str(number - 1), beside)
            beside.rename(model / str(number))
            _until_served(client, number)
            shutil.rmtree(model / str(number - 1))
            samples.append(_resident(server))
            print(f"version {number}, {samples[-1] >> 20} MiB", flush=True)
    return samples


def _until_served(client: Any, version: int) -> None:
    end = time.monotonic() + SWAP_TIMEOUT
    while client.status().get(version) != "AVAILABLE":
        if time.monotonic() > end:
            raise SystemExit(f"version {version} is not served after {SWAP_TIMEOUT:g} s")
        time.sleep(0.05)


def _resident(server: Server) -> int:
    return resident_bytes(session_processes(server.session))


def _cells(found: dict[str, Any], samples: list[int]) -> list[str]:
    tenth = max(1, round(SETTLED * len(samples)))
    settled = statistics.median(samples[tenth : 2 * tenth] or samples)
    at_the_end = statistics.median(samples[-tenth:])
    if found.get("error"):
        print(found["error"], flush=True)
    return [
        f"{found['seconds'] / 60:.0f}",
        f"{found['answers']:,}",
        str(found["failed"]),
        f"{found['p50']:.1f} / {found['p99']:.1f}",
        f"{settled / 2**20:,.0f}",
        f"{at_the_end / 2**20:,.0f}",
        f"{at_the_end / settled - 1:+.1%}",
    ]
