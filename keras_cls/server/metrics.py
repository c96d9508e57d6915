"""What the server counts and times: Prometheus text for machines, a snapshot for the page.

TensorFlow Serving's metrics have its names, labels and bucket limits, so that dashboards and alerts
written for it go on working. What it cannot tell (version, signature, queue depth, readiness) is
named ``keras_cls_*``, in seconds as Prometheus wants it.

Each event is noted once, in plain lists of numbers; both kinds of metrics are views of them, made
when somebody asks. A label holds what is served, never what a client sent, and there are only so
many series: what comes after them is counted under the label ``other``.
"""

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

MOST_SERIES = 1000
"""How many combinations of model, version and signature are told apart."""

RING_SECONDS = 120
"""How far back the snapshot's figures by second go."""

OTHER = "other"
STATES = ("START", "LOADING", "AVAILABLE", "UNLOADING", "END")


def _exponential(scale: float, growth: float, count: int) -> tuple[float, ...]:
    """Limits of buckets as TensorFlow Serving prints them: six digits, which then are the limit."""
    return tuple(float(f"{scale * growth**n:g}") for n in range(count))


LATENCY_LIMITS = _exponential(10, 1.8, 33)
"""Upper limits of the buckets for latencies, in microseconds: 10 to about 25 minutes."""
QUEUE_LIMITS = _exponential(100, 1.2, 52)
"""The original's for the time in the queue, in microseconds: 100 to about a second."""
ROW_LIMITS = _exponential(1, 2, 15)

# Quartering each step of the latencies gives percentiles that are right within some 8 percent.
_PARTS = 4
_FINE_LIMITS = tuple(
    LATENCY_LIMITS[step // _PARTS]
    if step % _PARTS == 0
    else LATENCY_LIMITS[step // _PARTS] * 1.8 ** (step % _PARTS / _PARTS)
    for step in range(_PARTS * (len(LATENCY_LIMITS) - 1) + 1)
)

_RUNTIME = "TF1"  # what the original calls a session that runs a graph
_THREAD_POOL = "model_server_batch_threads"  # and its pool, unless told otherwise

Version: TypeAlias = int | str | None
_Key: TypeAlias = tuple[str, Version, str]
_Labels: TypeAlias = tuple[str, ...]


class Histogram:
    """Counts of values in buckets; each value belongs to the first limit that it does not exceed.

    There is one bucket more than limits, for what exceeds all.
    """

    __slots__ = ("counts", "limits", "total")

    def __init__(self, limits: Sequence[float]) -> None:
        self.limits = limits
        self.counts = [0] * (len(limits) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.limits, value)] += 1
        self.total += value

    def merge(self, other: "Histogram") -> None:
        """Count what another histogram with the same limits has counted."""
        self.counts = [mine + more for mine, more in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def scaled(self, factor: float) -> "Histogram":
        """The same counts in another unit."""
        found = Histogram([limit * factor for limit in self.limits])
        found.counts = list(self.counts)
        found.total = self.total * factor
        return found


def quantile(counts: Mapping[int, int], limits: Sequence[float], share: float) -> float | None:
    """The value that a share of the counted values does not exceed, estimated within its bucket.

    Args:
        counts: how many values are in which bucket, by the bucket's place.
        limits: the buckets' upper limits.
        share: 0 to 1.

    Returns:
        The estimate; beyond the last limit, that limit. None when nothing was counted.
    """
    total = sum(counts.values())
    if not total:
        return None
    rank, below = share * total, 0
    for place in sorted(counts):
        held = counts[place]
        if held and below + held >= rank:
            if place == len(limits):
                break
            least = limits[place - 1] if place else 0.0
            return least + (limits[place] - least) * max(rank - below, 0) / held
        below += held
    return limits[-1]


class _Second:
    """What happened within a second; ``latencies`` counts by fine bucket."""

    __slots__ = ("errors", "latencies", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.latencies: dict[int, int] = {}

    def merge(self, other: "_Second") -> None:
        self.requests += other.requests
        self.errors += other.errors
        for place, count in other.latencies.items():
            self.latencies[place] = self.latencies.get(place, 0) + count


class _Series:
    """All that is known of a signature of a version of a model."""

    __slots__ = ("latencies", "own", "queue", "recent", "row_sum", "rows", "runs", "statuses")

    def __init__(self) -> None:
        self.statuses: dict[str, int] = {}
        self.own: dict[str, int] = {}  # of these, those that the original does not count
        self.latencies: dict[tuple[str, str], Histogram] = {}  # by API and entrypoint
        self.runs: dict[str, Histogram] = {}  # by API
        self.rows = Histogram(ROW_LIMITS)
        self.row_sum = 0
        self.queue = Histogram(LATENCY_LIMITS)
        self.recent: dict[int, _Second] = {}

    def second(self, now: int) -> _Second:
        """The present second's place in the ring."""
        found = self.recent.get(now)
        if found is None:
            found = self.recent[now] = _Second()
            for old in [second for second in self.recent if second < now - RING_SECONDS]:
                del self.recent[old]
        return found

    def merge(self, other: "_Series") -> None:
        for status, count in other.statuses.items():
            self.statuses[status] = self.statuses.get(status, 0) + count
        for status, count in other.own.items():
            self.own[status] = self.own.get(status, 0) + count
        for kind, histogram in other.latencies.items():
            self.latencies.setdefault(kind, Histogram(_FINE_LIMITS)).merge(histogram)
        for api, histogram in other.runs.items():
            self.runs.setdefault(api, Histogram(LATENCY_LIMITS)).merge(histogram)
        self.rows.merge(other.rows)
        self.row_sum += other.row_sum
        self.queue.merge(other.queue)
        for now, second in other.recent.items():
            self.recent.setdefault(now, _Second()).merge(second)


@dataclass(slots=True)
class _Family:
    """A metric as the text shows it: its points by the values of its labels."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    numbers: dict[_Labels, float] = field(default_factory=dict)
    histograms: dict[_Labels, Histogram] = field(default_factory=dict)

    def count(self, labels: _Labels, number: float) -> None:
        self.numbers[labels] = self.numbers.get(labels, 0) + number

    def merge(self, labels: _Labels, histogram: Histogram) -> None:
        if labels not in self.histograms:
            self.histograms[labels] = Histogram(histogram.limits)
        self.histograms[labels].merge(histogram)

    def lines(self) -> Iterable[str]:
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        for values, number in self.numbers.items():
            yield f"{self.name}{_label_text(self.labels, values)} {number}"
        for values, histogram in self.histograms.items():
            limits = [*(f"{limit:g}" for limit in histogram.limits), "+Inf"]
            below = list(accumulate(histogram.counts))
            for limit, count in zip(limits, below, strict=True):
                labels = _label_text((*self.labels, "le"), (*values, limit))
                yield f"{self.name}_bucket{labels} {count}"
            labels = _label_text(self.labels, values)
            yield f"{self.name}_sum{labels} {histogram.total}"
            yield f"{self.name}_count{labels} {below[-1]}"


class Metrics:
    """The figures of one server. Every method may be called from any thread.

    The ``count_*`` and ``observe_*`` methods take about a microsecond. Times are in microseconds;
    ``version`` is None where a request fails before it is known which version it means. Callers
    name models, versions and signatures that are served; an unknown model is ``""``.
    """

    def __init__(
        self, most_series: int = MOST_SERIES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Nothing is counted yet.

        Args:
            most_series: how many combinations of model, version and signature, and how many
                versions and model folders, are told apart.
            clock: seconds, for the figures by second.
        """
        self._most = most_series
        self._clock = clock
        self._lock = threading.Lock()
        self._series: dict[_Key, _Series] = {}
        self._queuing = Histogram(QUEUE_LIMITS)
        self._examples: dict[_Labels, Histogram] = {}
        self._warmups: dict[_Labels, Histogram] = {}
        self._loads: dict[_Labels, int] = {}
        self._states: dict[tuple[str, int], str] = {}
        self._depths: dict[tuple[str, int], int] = {}
        self._build: _Labels | None = None
        self._ready = False
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)

    def count_request(
        self,
        model: str,
        version: int | None,
        signature: str,
        status: str,
        *,
        in_original: bool = True,
    ) -> None:
        """A request has ended; ``status`` is the name of its code, ``OK`` where it was answered.

        ``in_original``: TensorFlow Serving counts such requests too, in its ``request_count``.
        """
        with self._lock:
            series = self._series.get((model, version, signature)) or self._new_series(
                (model, version, signature)
            )
            series.statuses[status] = series.statuses.get(status, 0) + 1
            if not in_original:
                series.own[status] = series.own.get(status, 0) + 1
            second = series.second(int(self._clock()))
            second.requests += 1
            if status != "OK":
                second.errors += 1

    def observe_latency(
        self,
        model: str,
        version: int | None,
        signature: str,
        api: str,
        entrypoint: str,
        microseconds: float,
    ) -> None:
        """How long a request took from its arrival to its answer.

        Args:
            model: the model that answered, as served.
            version: its version.
            signature: its signature.
            api: ``Predict``, ``Classify``, ``Regress`` or ``MultiInference``.
            entrypoint: ``GRPC`` or ``REST``.
            microseconds: the time.
        """
        with self._lock:
            series = self._series.get((model, version, signature)) or self._new_series(
                (model, version, signature)
            )
            histogram = series.latencies.get((api, entrypoint))
            if histogram is None:
                histogram = series.latencies[api, entrypoint] = Histogram(_FINE_LIMITS)
            place = bisect_left(_FINE_LIMITS, microseconds)
            histogram.counts[place] += 1
            histogram.total += microseconds
            latencies = series.second(int(self._clock())).latencies
            latencies[place] = latencies.get(place, 0) + 1

    def observe_run(
        self,
        model: str,
        version: int | None,
        signature: str,
        microseconds: float,
        rows: int,
        api: str = "Predict",
    ) -> None:
        """How long the model took for a batch, and how many rows it had.

        Requests of several APIs may share a batch: ``api`` is the first one's.
        """
        with self._lock:
            series = self._series.get((model, version, signature)) or self._new_series(
                (model, version, signature)
            )
            histogram = series.runs.get(api)
            if histogram is None:
                histogram = series.runs[api] = Histogram(LATENCY_LIMITS)
            histogram.add(microseconds)
            series.rows.add(rows)
            series.row_sum += rows

    def observe_queue(
        self, model: str, version: int | None, signature: str, microseconds: float
    ) -> None:
        """How long a request waited before its run began."""
        with self._lock:
            series = self._series.get((model, version, signature)) or self._new_series(
                (model, version, signature)
            )
            series.queue.add(microseconds)
            self._queuing.add(microseconds)

    def observe_examples(self, model: str, count: int) -> None:
        """How many ``tf.Example`` a Classify or Regress request brought."""
        with self._lock:
            key = self._bounded(self._examples, (model,))
            self._examples.setdefault(key, Histogram(ROW_LIMITS)).add(count)

    def observe_warmup(self, model_path: str, status: str, microseconds: float) -> None:
        """How long the warm-up of a version took; ``status`` is ``OK`` or the code's name."""
        with self._lock:
            key = self._bounded(self._warmups, (model_path, status))
            self._warmups.setdefault(key, Histogram(LATENCY_LIMITS)).add(microseconds)

    def count_load(self, model: str, version: int, outcome: str) -> None:
        """A version was loaded, or was not: ``outcome`` is ``loaded`` or ``failed``."""
        with self._lock:
            key = self._bounded(self._loads, (model, str(version), outcome))
            self._loads[key] = self._loads.get(key, 0) + 1

    def set_queue_depth(self, model: str, version: int, depth: int) -> None:
        """How many requests wait before a version."""
        with self._lock:
            if (model, version) in self._depths or len(self._depths) < self._most:
                self._depths[model, version] = depth

    def set_state(self, model: str, version: int, state: str) -> None:
        """What has become of a version: one of ``STATES``.

        The figures of a version that has ended are added to those without a version, so that a
        server that sees many versions does not run out of series, and no sum shrinks.

        Raises:
            ValueError: there is no such state.
        """
        if state not in STATES:
            raise ValueError(f"{state!r} is none of the states {', '.join(STATES)}")
        with self._lock:
            if state == "END":
                self._retire(model, version)
            self._states.pop((model, version), None)
            if len(self._states) >= self._most:
                ended = (key for key, known in self._states.items() if known == "END")
                oldest = next(ended, None)
                if oldest is None:
                    return
                del self._states[oldest]
            self._states[model, version] = state

    def set_ready(self, ready: bool) -> None:
        """Whether the server would answer for every model that it is to serve."""
        self._ready = ready

    def set_build_info(self, version: str, tensorflow: str) -> None:
        """The versions of the package and of TensorFlow."""
        self._build = (version, tensorflow)

    def value(self, name: str) -> int:
        """The total over all labels of one of TensorFlow Serving's counters.

        Args:
            name: as in the text, or with slashes, as the original names its metrics itself.

        Returns:
            The total; of a histogram, how many values it has; 0 for a name that is not known.
        """
        return self.values([name])[0]

    def values(self, names: Sequence[str]) -> list[int]:
        """The totals of several counters, as :meth:`value` tells one."""
        totals = {}
        for family in self._families():
            counts = (sum(found.counts) for found in family.histograms.values())
            totals[family.name] = int(sum(family.numbers.values()) + sum(counts))
        return [totals.get(name.replace("/", ":"), 0) for name in names]

    def text(self) -> bytes:
        """All metrics in Prometheus' text format (``text/plain; version=0.0.4``)."""
        lines = [line for family in self._families() for line in family.lines()]
        # "replace": the path of a model may hold bytes that are no text.
        text = "\n".join([*lines, ""]).encode(errors="replace")
        return text + generate_latest(self._process)

    def snapshot(self) -> dict[str, Any]:
        """The same figures as JSON for the page.

        Returns:
            ``total``, and ``series`` for each model, version (None: not known, or ended) and
            signature, each with ``requests``, ``errors``, ``rows``, ``runs``; ``p50_ms``,
            ``p90_ms`` and ``p99_ms``, estimated from the buckets (None without an answer);
            ``histogram``, the number of answers in the buckets whose upper limits are
            ``limits_ms``, and beyond the last; ``recent``, the last 120 whole seconds, oldest
            first: ``requests`` and ``errors`` by second, and ``p50_ms`` and ``p99_ms``, None in
            seconds without an answer. ``recent`` itself is None where nothing happened.
            Besides, ``queue_depths`` for each model and version. Versions are strings: they may be
            larger than the numbers of JavaScript.
        """
        with self._lock:
            now = int(self._clock())
            total = _Series()
            found = []
            for (model, version, signature), series in sorted(self._series.items(), key=_order):
                total.merge(series)
                number = None if version is None else str(version)
                name = {"model": model, "version": number, "signature": signature}
                found.append({**name, **_figures(series, now)})
            depths = [
                {"model": model, "version": str(version), "depth": depth}
                for (model, version), depth in self._depths.items()
            ]
            return {
                "limits_ms": [limit / 1000 for limit in LATENCY_LIMITS],
                "total": _figures(total, now),
                "series": found,
                "queue_depths": depths,
            }

    def _bounded(self, table: Mapping[Any, Any], key: _Labels) -> _Labels:
        """The key itself while there is room for one more, else that of all others."""
        return key if key in table or len(table) < self._most else (OTHER,) * len(key)

    def _new_series(self, key: _Key) -> _Series:
        if len(self._series) >= self._most:
            key = (OTHER, OTHER, OTHER)
        return self._series.setdefault(key, _Series())

    def _retire(self, model: str, version: int) -> None:
        self._depths.pop((model, version), None)
        for key in [key for key in self._series if key[:2] == (model, version)]:
            ended = self._series.pop(key)
            self._new_series((model, None, key[2])).merge(ended)

    def _families(self) -> list[_Family]:
        """All metrics, copied so that they can be written while counting goes on."""
        with self._lock:
            families = [*self._original_families(), *self._own_families()]
        return families

    def _original_families(self) -> list[_Family]:
        """TensorFlow Serving's."""
        served = ":tensorflow:serving"
        requests = _Family(
            f"{served}:request_count",
            "counter",
            "The total number of requests.",
            ("model_name", "status"),
        )
        latency = _Family(
            f"{served}:request_latency",
            "histogram",
            "Distribution of the time from a request to its answer, in microseconds.",
            ("model_name", "API", "entrypoint"),
        )
        runtime = _Family(
            f"{served}:runtime_latency",
            "histogram",
            "Distribution of the time that TensorFlow takes for a batch, in microseconds.",
            ("model_name", "API", "runtime"),
        )
        queuing = _Family(
            f"{served}:batching_session:queuing_latency",
            "histogram",
            "Distribution of the time that requests wait in the queue, in microseconds.",
            ("thread_pool_name",),
        )
        runs = _Family(
            f"{served}:batching_session:wrapped_run_count",
            "counter",
            "How many batches were run.",
            (),
        )
        examples = _Family(
            f"{served}:request_example_counts",
            "histogram",
            "The number of tensorflow.Examples per request.",
            ("model",),
        )
        example_total = _Family(
            f"{served}:request_example_count_total",
            "counter",
            "The total number of tensorflow.Examples.",
            ("model",),
        )
        warmup = _Family(
            f"{served}:model_warmup_latency",
            "histogram",
            "Distribution of the time that the warm-up of a model takes, in microseconds.",
            ("model_path", "status"),
        )
        runs.count((), 0)
        for (model, _, _), series in self._series.items():
            for status, count in series.statuses.items():
                counted = count - series.own.get(status, 0)
                if counted:
                    requests.count((model, status), counted)
            for (api, entrypoint), histogram in series.latencies.items():
                latency.merge((model, api, entrypoint), _coarse(histogram))
            for api, histogram in series.runs.items():
                runtime.merge((model, api, _RUNTIME), histogram)
                runs.count((), sum(histogram.counts))
        queuing.merge((_THREAD_POOL,), self._queuing)
        for labels, histogram in self._examples.items():
            examples.merge(labels, histogram)
            example_total.count(labels, int(histogram.total))
        for labels, histogram in self._warmups.items():
            warmup.merge(labels, histogram)
        return [requests, latency, runtime, queuing, runs, examples, example_total, warmup]

    def _own_families(self) -> list[_Family]:
        """What the original does not tell."""
        served = ("model", "version", "signature")
        requests = _Family(
            "keras_cls_requests_total", "counter", "Requests by outcome.", (*served, "status")
        )
        latency = _Family(
            "keras_cls_request_seconds",
            "histogram",
            "Time from a request to its answer.",
            served,
        )
        runs = _Family(
            "keras_cls_run_seconds", "histogram", "Time that the model takes for a batch.", served
        )
        queue = _Family(
            "keras_cls_queue_seconds", "histogram", "Time that requests wait in the queue.", served
        )
        rows = _Family(
            "keras_cls_batch_rows", "histogram", "Rows that go through the model at once.", served
        )
        depth = _Family(
            "keras_cls_queue_depth", "gauge", "Requests that wait.", ("model", "version")
        )
        state = _Family(
            "keras_cls_model_state",
            "gauge",
            "1 for the state that a version is in, 0 for the others.",
            ("model", "version", "state"),
        )
        loads = _Family(
            "keras_cls_model_loads_total",
            "counter",
            "Attempts to load a version.",
            ("model", "version", "outcome"),
        )
        ready = _Family("keras_cls_ready", "gauge", "1 when every model can be asked, else 0.", ())
        build = _Family(
            "keras_cls_build_info", "gauge", "Versions; always 1.", ("version", "tensorflow")
        )
        for (model, version, signature), series in self._series.items():
            labels = (model, "" if version is None else str(version), signature)
            for status, count in series.statuses.items():
                requests.count((*labels, status), count)
            for histogram in series.latencies.values():
                latency.merge(labels, _coarse(histogram).scaled(1e-6))
            for histogram in series.runs.values():
                runs.merge(labels, histogram.scaled(1e-6))
            if any(series.queue.counts):
                queue.merge(labels, series.queue.scaled(1e-6))
            if any(series.rows.counts):
                rows.merge(labels, series.rows)
        for (model, number), waiting in self._depths.items():
            depth.count((model, str(number)), waiting)
        for (model, number), known in self._states.items():
            for name in STATES:
                state.count((model, str(number), name), int(name == known))
        for load, count in self._loads.items():
            loads.count(load, count)
        ready.count((), int(self._ready))
        if self._build is not None:
            build.count(self._build, 1)
        return [requests, latency, runs, queue, rows, depth, state, loads, ready, build]


def _coarse(histogram: Histogram) -> Histogram:
    """A latency histogram with the limits that are published."""
    found = Histogram(LATENCY_LIMITS)
    for place, count in enumerate(histogram.counts):
        found.counts[-(-place // _PARTS)] += count
    found.total = histogram.total
    return found


def _order(named: tuple[_Key, _Series]) -> tuple[str, int, str]:
    """By model, version (unknown and others first) and signature."""
    (model, version, signature), _ = named
    return model, version if isinstance(version, int) else -1, signature


def _figures(series: _Series, now: int) -> dict[str, Any]:
    latencies = Histogram(_FINE_LIMITS)
    for histogram in series.latencies.values():
        latencies.merge(histogram)
    counts = dict(enumerate(latencies.counts))
    requests = sum(series.statuses.values())
    return {
        "requests": requests,
        "errors": requests - series.statuses.get("OK", 0),
        "rows": series.row_sum,
        "runs": sum(series.rows.counts),
        "p50_ms": _milliseconds(counts, 0.5),
        "p90_ms": _milliseconds(counts, 0.9),
        "p99_ms": _milliseconds(counts, 0.99),
        "histogram": _coarse(latencies).counts,
        "recent": _recent(series, now),
    }


def _recent(series: _Series, now: int) -> dict[str, list[Any]] | None:
    """The whole seconds before ``now``, which has not ended yet."""
    nothing = _Second()
    seconds = [series.recent.get(second, nothing) for second in range(now - RING_SECONDS, now)]
    if all(second is nothing for second in seconds):
        return None
    return {
        "requests": [second.requests for second in seconds],
        "errors": [second.errors for second in seconds],
        "p50_ms": [_milliseconds(second.latencies, 0.5) for second in seconds],
        "p99_ms": [_milliseconds(second.latencies, 0.99) for second in seconds],
    }


def _milliseconds(counts: Mapping[int, int], share: float) -> float | None:
    found = quantile(counts, _FINE_LIMITS, share)
    return None if found is None else round(found / 1000, 4)


def _label_text(names: Iterable[str], values: Iterable[str]) -> str:
    pairs = (f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    text = ",".join(pairs)
    return f"{{{text}}}" if text else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
