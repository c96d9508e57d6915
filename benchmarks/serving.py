"""The embedded server beside others, and beside the same signature without any server.

``python -m benchmarks serving``: LeNet-5 and ResNet-50 are served by this project from SavedModels,
and by FastAPI, LitServe, KServe and MLServer with ONNX Runtime, each in an environment of its own.
A load generator in a process of its own sends JPEG bytes, so many requests at a time. All servers
are up, and stand still but for the one that is asked; they take turns, several times, and medians
are shown. A server's CPU time (user and system, of all its processes, from the operating system's
accounts) divided by the answers is the figure that lasts on a busy machine.

``BENCH_ROWS=keras_cls,fastapi`` leaves the other rows out, ``BENCH_MODELS=lenet5`` the other
network.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.machine import machine
from benchmarks.serving_load import Target
from benchmarks.serving_models import Artefacts, photos_are_real, write_artefacts
from benchmarks.serving_rows import (
    ROWS,
    Best,
    Load,
    Row,
    Server,
    cores_for_all,
    first_answer,
    free_ports,
    running,
    server_command,
)
from benchmarks.tables import ROOT, markdown_table, write_between

CONCURRENCY = (1, 8, 32)
ROUNDS = 3
WARM_SECONDS = 1.0
SECONDS = {"lenet5": 3.0, "resnet50": 5.0}
RAW_BATCHES = (1, 8, 32)
TITLES = {"lenet5": "LeNet-5", "resnet50": "ResNet-50"}
# Pillow and TensorFlow resize a little differently, and int8 rounds.
_FAR_APART = 0.1

Measure: TypeAlias = Callable[[int, float], dict[str, Any]]


@dataclass(frozen=True)
class _Line:
    """One row of the table: what it is called, and how it is measured at some concurrency."""

    title: str
    measure: Measure


def main() -> None:
    rows = os.environ.get("BENCH_ROWS", ",".join(ROWS)).split(",")
    for network in os.environ.get("BENCH_MODELS", ",".join(SECONDS)).split(","):
        table = _section(network, rows)
        servers, load = cores_for_all()
        note = (
            f"Measured on {machine()}; servers on {len(servers)} cores, the load generator "
            f"{'beside them' if servers == load else 'on others'}; medians of {ROUNDS} windows of "
            f"{SECONDS[network]:g} s. Weights are random, photos "
            f"{'real' if photos_are_real(network) else 'smooth noise'}."
        )
        write_between("docs/serving.md", f"serving {network}", f"{table}\n\n{note}")


def _section(network: str, names: Sequence[str]) -> str:
    rows = {name: ROWS[name] for name in names if network in ROWS[name].models}
    precisions = {
        row.server.split()[1] for row in rows.values() if row.server.startswith("keras_cls")
    }
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        made = write_artefacts(
            network, Path(folder) / network, sorted(precisions | {"float32"}), onnx=True
        )
        lines = [_raw_line(made, stack), *_served_lines(made, rows, stack)]
        found = _in_turns(lines, SECONDS[network])
    header = [TITLES[network], *(f"CPU ms, {n} at once" for n in CONCURRENCY)]
    header += [f"answers/s, {n}" for n in CONCURRENCY]
    header += [f"p50 / p99 ms, {n}" for n in CONCURRENCY]
    table = [[line.title, *_cells(runs)] for line, runs in zip(lines, found, strict=True)]
    return markdown_table(header, table, "|".join(header[1:]))


def _in_turns(lines: Sequence[_Line], seconds: float) -> list[dict[int, list[dict[str, Any]]]]:
    """For each line and concurrency, what each round found."""
    found: list[dict[int, list[dict[str, Any]]]] = [{n: [] for n in CONCURRENCY} for _ in lines]
    for turn in range(ROUNDS):
        for line, runs in zip(lines, found, strict=True):
            for concurrency in CONCURRENCY:
                run = line.measure(concurrency, seconds)
                runs[concurrency].append(run)
                said = "  ".join(f"{key}={value}" for key, value in run.items())
                print(f"{turn} {line.title} {concurrency}: {said}", flush=True)
    return found


def _cells(runs: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[str]:
    def median(concurrency: int, of: Callable[[Mapping[str, Any]], float]) -> float:
        return statistics.median(map(of, runs[concurrency]))

    cells = [f"{1e3 * median(n, lambda run: run['cpu'] / run['answers']):.2f}" for n in CONCURRENCY]
    rates = [median(n, lambda run: run["answers"] / run["seconds"]) for n in CONCURRENCY]
    cells += [f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" for rate in rates]
    for n in CONCURRENCY:
        if "p50" in runs[n][0]:
            cells.append(
                " / ".join(f"{median(n, lambda r, k=k: r[k]):.1f}" for k in ("p50", "p99"))
            )
        else:
            cells.append("")
    return cells


# --- the signature alone


def _raw_line(made: Artefacts, stack: ExitStack) -> _Line:
    """Batches of as many images as there are callers: the best that any server could reach."""
    command = [sys.executable, "-m", "benchmarks.serving_raw", made.model("float32") / "1"]
    cores, _ = cores_for_all()
    process = subprocess.Popen(
        [str(part) for part in [*command, *made.photos]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)

    def measure(batch: int, seconds: float) -> dict[str, Any]:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps({"batch": batch, "seconds": seconds}) + "\n")
        process.stdin.flush()
        answer: dict[str, Any] = json.loads(process.stdout.readline())
        return answer

    measure(1, 0.0)  # it is up
    return _Line("the signature in process, in such batches", measure)


# --- servers


def _served_lines(made: Artefacts, rows: Mapping[str, Row], stack: ExitStack) -> list[_Line]:
    cores, others = cores_for_all()
    load = Load(others)
    stack.callback(load.close)
    servers: dict[str, tuple[Server, Any]] = {}
    lines = []
    answers: dict[str, Best] = {}
    for name, row in rows.items():
        if row.server not in servers:
            ports = free_ports()
            log = made.folder / f"{row.server.replace(' ', '-')}.log"
            command = server_command(row.server, made, ports)
            server = stack.enter_context(running(command, cores, log))
            servers[row.server] = (server, ports)
        server, ports = servers[row.server]
        server.work()
        target = row.target(ports, made.name)
        bodies = _bodies(made, name, row)
        answer = first_answer(load, server, target, bodies[:1])
        server.rest()
        print(f"{row.title} answers", flush=True)
        if row.read is not None:
            answers[row.title] = row.read(answer)
        lines.append(_Line(row.title, _asking(load, server, target, bodies)))
    _check_alike(answers)
    return lines


def _bodies(made: Artefacts, name: str, row: Row) -> list[Path]:
    """A file for each photo's request."""
    folder = made.folder / "requests" / name
    folder.mkdir(parents=True)
    written = []
    for photo in made.photos:
        written.append(folder / photo.stem)
        written[-1].write_bytes(row.body(made.name, photo.read_bytes()))
    return written


def _asking(load: Load, server: Server, target: Target, bodies: Sequence[Path]) -> Measure:
    def measure(concurrency: int, seconds: float) -> dict[str, Any]:
        server.work()
        load.begin(
            target,
            bodies,
            concurrency=concurrency,
            seconds=seconds,
            warm=WARM_SECONDS,
            session=server.session,
        )
        found = load.found()
        server.check()
        server.rest()
        if found.get("failed", 1):
            raise SystemExit(f"{target}: {found}")
        return found | {"cpu": found["server_cpu"]}

    return measure


def _check_alike(answers: Mapping[str, Best]) -> None:
    """SystemExit if servers do not say the same of the first photo."""
    if not answers:
        return
    (first, expected), *others = answers.items()
    wanted = dict(zip(*expected, strict=True))
    for title, (classes, scores) in others:
        found = dict(zip(classes, scores, strict=True))
        known = set(found) & set(wanted)
        if not known or max(abs(found[each] - wanted[each]) for each in known) > _FAR_APART:
            raise SystemExit(f"{first} says {wanted}, and {title} says {found}")
