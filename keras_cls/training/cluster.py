"""Devices to train on: one, the GPUs of a machine, TPUs, or several worker processes.

Several workers (one a machine, or a pod) run the same program, and each knows the others from
``TF_CONFIG``, see :mod:`keras_cls.training.tf_config`. They stay in step through collective
operations: what one calls, all must call, in the same order. TensorFlow cannot take a lost worker
back, so all end with :class:`WorkerLostError` and go on from the last checkpoint when they are
started again, see :mod:`keras_cls.training.supervisor`.
"""

import functools
import importlib.util
import logging
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.eager import context

from keras_cls.errors import ConfigError, WorkerLostError
from keras_cls.training.tf_config import Cluster, read_cluster

_LOG = logging.getLogger(__name__)

PATIENCE = 600.0
"""Seconds that workers wait for each other at the start."""

_HEARTBEAT = 10.0  # seconds; a worker that has not been heard of for so long is lost
_REMINDED = 30.0  # seconds between two notes on who is awaited

_TPU_VARIABLES = ("TPU_NAME", "COLAB_TPU_ADDR", "KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS")

# How TensorFlow says that another worker is gone.
_LOST_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.DeadlineExceededError,
    tf.errors.CancelledError,
)
_LOST_SIGNS = (
    "Collective ops is aborted",
    "CoordinationService",
    "coordination service",
    "different incarnation",
    "/tensorflow.WorkerService/",
)


def make_strategy(
    choice: str | tf.distribute.Strategy = "auto", patience: float = PATIENCE
) -> tf.distribute.Strategy:
    """The devices to train on.

    ``"auto"``: TPUs where the environment names one (unverified: none could be had), the workers
    that ``TF_CONFIG`` names, all GPUs of this machine, else its CPU or its one GPU.

    For several workers it must be called before TensorFlow has made anything, and it waits until
    all have come.

    Args:
        choice: ``"auto"``, or a strategy, which is returned as it is.
        patience: seconds to wait for other workers.

    Raises:
        ConfigError: there is no such choice; TF_CONFIG is malformed; TensorFlow is at work already.
        WorkerLostError: other workers did not come in time.
    """
    if isinstance(choice, tf.distribute.experimental.ParameterServerStrategy):
        raise ConfigError(
            "strategy: parameter servers are not supported; for several machines take "
            "MultiWorkerMirroredStrategy, or 'auto' with TF_CONFIG"
        )
    if isinstance(choice, tf.distribute.Strategy):
        return choice
    if choice != "auto":
        raise ConfigError(f"strategy must be 'auto' or a tf.distribute.Strategy, found {choice!r}")
    if (tpu := _tpu_address()) is not None:
        return _tpu_strategy(tpu)
    cluster = read_cluster(os.environ)
    if cluster is not None and cluster.count > 1:
        return _multi_worker_strategy(cluster, patience)
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def describe_strategy(strategy: tf.distribute.Strategy) -> str:
    """Such as ``"2 workers, 1 CPU each"``, ``"4 GPUs"``, ``"1 CPU"``."""
    workers = Workers(strategy).count
    kinds = Counter(tf.DeviceSpec.from_string(device).device_type for device in _devices(strategy))
    here = " and ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in sorted(kinds.items()))
    return here if workers == 1 else f"{workers} workers, {here} each"


class Workers:
    """The processes that train together, and what they tell each other.

    Every method is a collective operation where there are several workers: all must call it, from
    their main thread, in the same order.

    Attributes:
        index: of this process; the chief has 0.
        count: of all.
        is_chief: whether this process is the one that writes.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        self.index, self.count = _place(strategy)
        self.is_chief = self.index == 0

    def sum(self, array: np.ndarray) -> np.ndarray:
        """The sum of all workers' arrays.

        Args:
            array: of the same shape and dtype (int32, int64, float32 or float64) in all.
        """
        if self.count == 1:
            return np.array(array)
        total = self._strategy.reduce(tf.distribute.ReduceOp.SUM, tf.constant(array), axis=None)
        return np.asarray(total)

    def any(self, flag: bool) -> bool:
        """Whether it is true for one of them."""
        return bool(self.sum(np.array([flag], np.int32))[0])

    def gathered(self, text: str) -> list[str]:
        """The texts of all workers, by index."""
        encoded = np.frombuffer(text.encode(), np.uint8)
        lengths = np.zeros(self.count, np.int64)
        lengths[self.index] = len(encoded)
        lengths = self.sum(lengths)
        rows = np.zeros((self.count, max(1, lengths.max())), np.int32)
        rows[self.index, : len(encoded)] = encoded
        every = self.sum(rows).astype(np.uint8)
        return [row[:length].tobytes().decode() for row, length in zip(every, lengths, strict=True)]

    def barrier(self, name: str) -> None:
        """Wait until all are here.

        Raises:
            RuntimeError: another worker waits at another barrier, which is a mistake in the code.
        """
        found = self.gathered(name)
        if set(found) != {name}:
            raise RuntimeError(f"workers wait for different things: {found}")

    def agreed(self, value: int | str, what: str = "the run folder and the data") -> int | str:
        """The value, which must be the same for all workers.

        Args:
            value: a number or a text.
            what: what messages call it.

        Raises:
            ConfigError: it is not.
        """
        found = self.gathered(str(value))
        for index, theirs in enumerate(found):
            if theirs != found[0]:
                raise ConfigError(
                    f"{what}: worker {index} sees {_shortened(theirs)}, the chief sees "
                    f"{_shortened(found[0])}. All workers need the same arguments, the same data "
                    "and the same run_dir, on a volume that they share"
                )
        return value


@contextmanager
def lost_peers_named() -> Iterator[None]:
    """What TensorFlow raises inside when another worker is gone becomes a WorkerLostError."""
    try:
        yield
    except _LOST_ERRORS as error:
        message = str(error.message)
        if not any(sign in message for sign in _LOST_SIGNS):
            raise
        raise WorkerLostError(
            f"another worker is gone ({_reason(message)}); once it is started again, the same "
            "command goes on from the last checkpoint"
        ) from error


# --- Several workers --------------------------------------------------------------------------


@functools.cache  # a process can join a cluster once
def _multi_worker_strategy(cluster: Cluster, patience: float) -> tf.distribute.Strategy:
    # TensorFlow's limit holds for workers that wait for the chief; the chief itself would wait for
    # ever. Heartbeats are stated, so that they are what is documented.
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=_leader(),
        cluster_register_timeout_in_ms=int(patience * 1000),
        heartbeat_timeout_in_ms=int(_HEARTBEAT * 1000),
        coordinated_jobs=[
            coordination_config_pb2.CoordinatedJob(name=name, num_tasks=len(tasks))
            for name, tasks in sorted(_cluster_spec().items())
        ],
    )
    if cluster.is_chief:
        _await_workers(cluster, patience)
    try:
        with _signal_handlers_kept():
            return tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.DeadlineExceededError as error:
        raise WorkerLostError(
            f"the chief, {cluster.addresses[0]}, did not answer within {patience:.0f} s, or waits "
            "itself for another worker; start all with the same command, and each with its "
            "TF_CONFIG"
        ) from error
    except tf.errors.UnknownError as error:
        if "Could not start gRPC server" not in str(error.message):
            raise
        address = cluster.addresses[cluster.index]
        raise ConfigError(
            f"TF_CONFIG: worker {cluster.index} cannot listen at {address}: another process has "
            "the port"
        ) from error
    except RuntimeError as error:
        if "program startup" not in str(error):
            raise
        raise ConfigError(
            "TF_CONFIG names several workers, but TensorFlow is at work already: call train "
            "before anything else is done with TensorFlow or Keras, or make a "
            "tf.distribute.MultiWorkerMirroredStrategy first and give it as strategy"
        ) from error


def _await_workers(cluster: Cluster, patience: float) -> None:
    """Return when all the others listen."""
    begun = reminded = time.monotonic()
    missing = dict(enumerate(cluster.addresses))
    del missing[cluster.index]
    while missing := {i: address for i, address in missing.items() if not _listens(address)}:
        now = time.monotonic()
        names = ", ".join(f"worker {i} ({address})" for i, address in missing.items())
        if now - begun > patience:
            raise WorkerLostError(
                f"{names} did not come within {patience:.0f} s; start all {cluster.count} workers "
                "with the same command, and each with its TF_CONFIG"
            )
        if now - reminded > _REMINDED:
            _LOG.warning("waiting for %s", names)
            reminded = now
        time.sleep(0.3)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with closing(socket.create_connection((host.strip("[]"), int(port)), timeout=3)):
            return True
    except OSError:
        return False


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Put this process's own handler of SIGTERM back in its place.

    TensorFlow's coordination service takes the signal for its notices of preemption; a process
    would outlive it.
    """
    earlier = signal.getsignal(signal.SIGTERM)
    yield
    if earlier is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, earlier)


def _cluster_spec() -> dict[str, list[str]]:
    return tf.distribute.cluster_resolver.TFConfigClusterResolver().cluster_spec().as_dict()


def _leader() -> str:
    return f"/job:{'chief' if 'chief' in _cluster_spec() else 'worker'}/replica:0/task:0"


def _place(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Index of this worker, and how many there are."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 0, 1
    resolver = strategy.cluster_resolver
    jobs = {name: len(tasks) for name, tasks in resolver.cluster_spec().as_dict().items()}
    if not jobs:
        return 0, 1
    before = jobs.get("chief", 0) if resolver.task_type == "worker" else 0
    return before + resolver.task_id, jobs.get("chief", 0) + jobs.get("worker", 0)


def _devices(strategy: tf.distribute.Strategy) -> tuple[str, ...]:
    """Those of this worker."""
    try:
        return strategy.extended.worker_devices
    except RuntimeError:  # the default strategy has none: TensorFlow takes a GPU where there is one
        return ("GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0",)


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 120 else f"{text[:117]}...")


def _reason(message: str) -> str:
    """The one line of TensorFlow's message that says what happened."""
    lines = [line.strip() for line in message.splitlines() if line.strip()] or ["no reason given"]
    said = next((line for line in lines if "aborted by: " in line), lines[0])
    return said.rpartition("aborted by: ")[2].rstrip(":. ")[:200]


# --- TPUs: none could be had to verify this -----------------------------------------------------


def _tpu_address() -> str | None:
    """What a resolver is asked for; None where nothing hints at a TPU (there is no waiting)."""
    if any(os.environ.get(name) for name in _TPU_VARIABLES):
        return ""
    if importlib.util.find_spec("libtpu") is not None and Path("/dev/accel0").exists():
        return "local"
    return None


def _tpu_strategy(address: str) -> tf.distribute.Strategy:
    named = ", ".join(name for name in _TPU_VARIABLES if os.environ.get(name)) or "libtpu"
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address or None)
        host = resolver.master().removeprefix("grpc://")
        if address != "local":
            if ":" in host and not _listens(host):  # TensorFlow would wait for minutes
                raise OSError(f"nothing listens at {host}")
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, OSError, RuntimeError, tf.errors.OpError) as error:
        raise ConfigError(
            f"there should be a TPU ({named}), which does not answer: {error}. Take that away, or "
            "give another strategy"
        ) from error
