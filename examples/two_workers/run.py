"""Two workers on this machine train LeNet-5 on handwritten digits, together.

    python examples/two_workers/run.py [RUN_DIR]

Each is a process of its own with the same command and a TF_CONFIG of its own, as two machines or
two pods would have it. Kill one while they train (the process ids are shown): the other one begins
anew and waits; this script starts the killed one again, and both go on from the last checkpoint.
Started again on the same RUN_DIR, the script goes on where it was, too.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

WORKERS = 2


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(index: int, addresses: list[str], run_dir: Path) -> subprocess.Popen:
    """One worker: the same command for all, and TF_CONFIG says which one it is."""
    command = [sys.executable, "-m", "keras_cls", "train", "lenet5"]
    command += ["--data", "digits", "--epochs", "20", "--run-dir", str(run_dir)]
    config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    worker = subprocess.Popen(
        command,
        env={**os.environ, "TF_CONFIG": json.dumps(config), "TF_CPP_MIN_LOG_LEVEL": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    threading.Thread(target=show, args=(index, worker)).start()
    print(f"worker {index}: process {worker.pid}", flush=True)
    return worker


def show(index: int, worker: subprocess.Popen) -> None:
    """Print a worker's lines, marked with its number."""
    for line in worker.stdout:
        print(f"[{index}] {line}", end="", flush=True)


def main() -> int:
    """Start both; start those again that are killed."""
    run_dir = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/two_workers")
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(WORKERS)]
    workers = [start(index, addresses, run_dir) for index in range(WORKERS)]
    try:
        while any(worker.poll() is None for worker in workers):
            for index, worker in enumerate(workers):
                if worker.poll() == -signal.SIGKILL:  # what a cluster's scheduler would do
                    workers[index] = start(index, addresses, run_dir)
            time.sleep(0.5)
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.terminate()
    return max(abs(worker.wait()) for worker in workers)


if __name__ == "__main__":
    sys.exit(main())
