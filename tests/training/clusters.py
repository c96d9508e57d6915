"""Workers for tests: real processes on this machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

PROGRAM = Path(__file__).with_name("cluster_program.py")


def free_addresses(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


class Worker:
    """A process that may be killed; its output is kept in a file."""

    def __init__(self, arguments, addresses, index, log):
        self.log = log
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(config), "TF_CPP_MIN_LOG_LEVEL": "2"}
        environment.pop("KERAS_CLS_SUPERVISED", None)
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, str(PROGRAM), *map(str, arguments)],
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )

    def kill(self):
        self.process.kill()
        self.process.wait()

    def child(self):
        """The process id of the training that a supervisor runs."""
        children = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        return int(Path(children).read_text().split()[0])

    def kill_child(self):
        os.kill(self.child(), signal.SIGKILL)

    def wait(self, seconds=150):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there:\n{self.output()}") from None

    def output(self):
        return self.log.read_text(errors="replace")


class Workers:
    """Starts workers, and leaves none behind."""

    def __init__(self, folder):
        self.folder = folder
        self._all = []

    def start(self, arguments, addresses, index):
        worker = Worker(arguments, addresses, index, self.folder / f"worker{index}.log")
        self._all.append(worker)
        return worker

    def end(self):
        for worker in self._all:
            if worker.process.poll() is None:
                worker.process.terminate()
                try:
                    worker.process.wait(5)
                except subprocess.TimeoutExpired:
                    worker.kill()


def wait_until(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
