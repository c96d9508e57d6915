"""Ask a server as hard as wanted, and say how it bears it.

    python -m serving.load_test --grpc=localhost:8500 --rest=localhost:8501 --model=pets \\
        --concurrency=32 --duration=10 --pid=$(pgrep -f tensorflow_model_server) photos/*.jpg

It works with TensorFlow Serving and the server of keras_cls alike: by gRPC, by REST, or by one
after the other. Requests are prepared beforehand and answers are not looked into, so that nearly
all of the time is the server's. Where both share a machine, they take each other's time: ``--pid``
adds the CPU time of the server's process, the figure to compare servers by there.
"""

import argparse
import asyncio
import base64
import io
import itertools
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

import aiohttp
import grpc
import numpy as np
from PIL import Image

from keras_cls.contract import INPUT_IMAGE_BYTES, SIGNATURE_DEFAULT
from keras_cls.contract.messages import PREDICTION_SERVICE, PredictRequest
from keras_cls.contract.tensors import encode_tensor

OK = "OK"
_PAUSE_AFTER_ERROR = 0.02
"""Seconds; otherwise a server that refuses at once would be asked as fast as this program can."""

Ask: TypeAlias = Callable[[bytes], Awaitable[str]]
"""Sends a prepared request; the code of the answer, ``OK`` for one that is what it should be."""


@dataclass(frozen=True)
class Plan:
    """What is asked, and how.

    Attributes:
        model: the model's name on the server.
        signature: which of its signatures.
        input_name: the signature's input, a vector of encoded images.
        concurrency: requests that are under way at the same time.
        duration: seconds that are measured.
        warm_up: seconds before them that are not.
        images: in each request.
        timeout: seconds for a request.
        pid: the server's process, None where it is not on this machine.
    """

    model: str
    signature: str = SIGNATURE_DEFAULT
    input_name: str = INPUT_IMAGE_BYTES
    concurrency: int = 8
    duration: float = 10.0
    warm_up: float = 2.0
    images: int = 1
    timeout: float = 30.0
    pid: int | None = None


@dataclass(frozen=True)
class Result:
    """How it went. Latencies are those of requests that were answered, None where there is none."""

    way: str
    address: str
    concurrency: int
    images_per_request: int
    seconds: float
    answered: int
    errors: dict[str, int]
    requests_per_second: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    cpu_ms_per_request: float | None

    def __str__(self) -> str:
        lines = [
            f"{self.way} {self.address}, {self.concurrency} at once, "
            f"{self.images_per_request} image(s) each, {self.seconds:.1f} s",
            f"  requests/s  {self.requests_per_second:.1f}",
        ]
        for name in ("p50", "p90", "p99"):
            value = getattr(self, f"{name}_ms")
            lines.append(f"  {name}         {'-' if value is None else f'{value:.2f} ms'}")
        if self.cpu_ms_per_request is not None:
            lines.append(f"  server CPU  {self.cpu_ms_per_request:.2f} ms a request")
        errors = ", ".join(f"{code} {count}" for code, count in sorted(self.errors.items()))
        lines.append(f"  errors      {errors or 'none'}")
        return "\n".join(lines)


def grpc_requests(plan: Plan, photos: Sequence[bytes]) -> list[bytes]:
    """Serialized Predict requests, one for each photo to begin with."""
    found = []
    for images in _groups(photos, plan.images):
        request = PredictRequest()
        request.model_spec.name = plan.model
        request.model_spec.signature_name = plan.signature
        tensor = encode_tensor(np.array([*images, None], object)[:-1])
        request.inputs[plan.input_name].CopyFrom(tensor)
        found.append(request.SerializeToString())
    return found


def rest_requests(plan: Plan, photos: Sequence[bytes]) -> list[bytes]:
    """The same as bodies of REST requests."""
    encoded = [{"b64": base64.b64encode(photo).decode()} for photo in photos]
    return [
        json.dumps({"signature_name": plan.signature, "instances": images}).encode()
        for images in _groups(encoded, plan.images)
    ]


@asynccontextmanager
async def grpc_asker(plan: Plan, address: str) -> AsyncIterator[Ask]:
    """Asks by gRPC, all on one channel."""
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(address, unlimited) as channel:
        call = channel.unary_unary(f"/{PREDICTION_SERVICE}/Predict")

        async def ask(request: bytes) -> str:
            try:
                await call(request, timeout=plan.timeout)
            except grpc.aio.AioRpcError as error:
                return str(error.code().name)
            return OK

        yield ask


@asynccontextmanager
async def rest_asker(plan: Plan, address: str) -> AsyncIterator[Ask]:
    """Asks by REST, with as many connections as requests at once."""
    url = f"http://{address}/v1/models/{plan.model}:predict"
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=plan.timeout),
    ) as session:

        async def ask(body: bytes) -> str:
            try:
                async with session.post(url, data=body) as answer:
                    await answer.read()
                    return OK if answer.status == 200 else f"HTTP {answer.status}"
            except TimeoutError:
                return "TIMEOUT"
            except aiohttp.ClientError:
                return "NO ANSWER"

        yield ask


async def measure(plan: Plan, way: str, address: str, photos: Sequence[bytes]) -> Result:
    """Warm up, ask, and sum up.

    Args:
        plan: what is asked.
        way: ``grpc`` or ``rest``.
        address: host and port.
        photos: encoded images, which take turns; at least one.

    Raises:
        OSError: there is no process ``plan.pid``.
    """
    asker, prepare = {
        "grpc": (grpc_asker, grpc_requests),
        "rest": (rest_asker, rest_requests),
    }[way]
    requests = itertools.cycle(prepare(plan, photos))
    async with asker(plan, address) as ask:
        await _ask_for(plan.warm_up, plan.concurrency, ask, requests)
        cpu_before = None if plan.pid is None else cpu_seconds(plan.pid)
        start = time.perf_counter()
        latencies, errors = await _ask_for(plan.duration, plan.concurrency, ask, requests)
        seconds = time.perf_counter() - start
        cpu = None if cpu_before is None else cpu_seconds(plan.pid or 0) - cpu_before
    latencies.sort()
    asked = len(latencies) + sum(errors.values())
    p50, p90, p99 = (percentile(latencies, share) for share in (0.5, 0.9, 0.99))
    return Result(
        way=way,
        address=address,
        concurrency=plan.concurrency,
        images_per_request=plan.images,
        seconds=seconds,
        answered=len(latencies),
        errors=dict(errors),
        requests_per_second=len(latencies) / seconds,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        cpu_ms_per_request=None if cpu is None or not asked else cpu / asked * 1e3,
    )


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The least of these seconds that a share of them does not exceed, in milliseconds."""
    if not ordered:
        return None
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] * 1e3


def cpu_seconds(process: int) -> float:
    """User and system time of a process so far (Linux).

    Raises:
        OSError: there is none.
    """
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def made_up_photo() -> bytes:
    """A JPEG of 500 x 375 pixels, for those who have none at hand."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Returns:
        0, or 1 where a request was not answered as it should be.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    ways = [(way, getattr(options, way)) for way in ("grpc", "rest") if getattr(options, way)]
    if not ways:
        parser.error("give --grpc=HOST:PORT, --rest=HOST:PORT, or both")
    plan = Plan(
        model=options.model,
        signature=options.signature,
        input_name=options.input,
        concurrency=options.concurrency,
        duration=options.duration,
        warm_up=options.warm_up,
        images=options.images,
        timeout=options.timeout,
        pid=options.pid,
    )
    try:
        photos = [path.read_bytes() for path in options.photos] or [made_up_photo()]
        results = [asyncio.run(measure(plan, way, address, photos)) for way, address in ways]
    except OSError as error:
        parser.error(str(error))
    for result in results:
        print(result)
    if options.json is not None:
        text = json.dumps([asdict(result) for result in results], indent=2)
        options.json.write_text(text + "\n")
    return int(any(result.errors or not result.answered for result in results))


async def _ask_for(
    seconds: float, callers: int, ask: Ask, requests: "itertools.cycle[bytes]"
) -> tuple[list[float], Counter[str]]:
    """Ask for so long; the seconds of each answer, and the other codes."""
    latencies: list[float] = []
    errors: Counter[str] = Counter()
    end = time.perf_counter() + seconds

    async def keep_asking() -> None:
        while (start := time.perf_counter()) < end:
            code = await ask(next(requests))
            if code == OK:
                latencies.append(time.perf_counter() - start)
            else:
                errors[code] += 1
                await asyncio.sleep(_PAUSE_AFTER_ERROR)

    await asyncio.gather(*(keep_asking() for _ in range(callers)))
    return latencies, errors


def _groups(photos: Sequence, size: int) -> list[list]:
    """As many groups as photos; each begins with another photo and goes on with those behind."""
    return [
        [photos[(start + place) % len(photos)] for place in range(size)]
        for start in range(len(photos))
    ]


def _parser() -> argparse.ArgumentParser:
    plan = Plan("")
    parser = argparse.ArgumentParser(
        prog="python -m serving.load_test",
        description="Ask a server for a while; say how many requests it answers and how fast.",
    )
    add = parser.add_argument
    add("photos", nargs="*", type=Path, help="image files, which take turns (default: one made up)")
    add("--grpc", metavar="HOST:PORT", help="ask by gRPC")
    add("--rest", metavar="HOST:PORT", help="ask by REST (after gRPC, where both are given)")
    add("--model", required=True, help="the model's name on the server")
    add("--signature", default=plan.signature, help="(default: %(default)s)")
    add("--input", default=plan.input_name, help="the signature's input (default: %(default)s)")
    add(
        "--concurrency",
        type=_at_least_one,
        default=plan.concurrency,
        help="requests at the same time (default: %(default)s)",
    )
    add(
        "--images",
        type=_at_least_one,
        default=plan.images,
        help="in each request (default: %(default)s)",
    )
    add(
        "--duration",
        type=_seconds,
        default=plan.duration,
        help="seconds to measure (default: %(default)g)",
    )
    add(
        "--warm-up",
        type=_seconds,
        default=plan.warm_up,
        help="seconds before, not measured (default: %(default)g)",
    )
    add(
        "--timeout",
        type=_seconds,
        default=plan.timeout,
        help="seconds for a request (default: %(default)g)",
    )
    add("--pid", type=_at_least_one, help="the server's process, for its CPU time")
    add("--json", type=Path, metavar="FILE", help="write the results there as well")
    return parser


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, not {text!r}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
