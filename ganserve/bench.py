"""Speed as ratios within one run: what the server adds to what the engine does alone on the same core.

The engine (in a process of its own) and the server are both pinned to the first core with one thread each; the client to the
last. Raw and served runs take turns, and the ratio is the median of those of each turn: a machine that slows down meanwhile slows
both halves of most turns.
"""

import asyncio
import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grpc
import msgspec
import numpy as np

from ganserve.bench_task import ENGINE, Measured, measured
from ganserve.codecs import EncodeOptions
from ganserve.codecs.image import ImageEncoder
from ganserve.commands.process import server, stop
from ganserve.errors import GanserveError
from ganserve.spec import Output, Tensor

BATCHES = (1, 2, 4, 8, 16, 32)
"""Batch sizes among which the raw engine's best is found."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """A closed loop of callers: each asks for ``rows`` rows, waits, and asks again. Batches have at most ``largest`` rows."""

    rows: int = 1
    concurrency: int = 16
    largest: int = max(BATCHES)


SAMPLE_LOADS = (Load(rows=1, concurrency=16), Load(rows=64, concurrency=4))
# A call is one picture, and a network for pictures is as fast alone as in a large batch, which would only take memory.
TRANSLATE_LOADS = (Load(rows=1, concurrency=4, largest=4),)


class Served(msgspec.Struct, frozen=True):
    """What a server did under a load, beside the raw engine in the same minutes: medians, and served rows over raw rows turn by turn."""

    load: Load
    raw_rows_per_second: float
    rows_per_second: float
    p50_ms: float
    p99_ms: float
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The median of the turns."""
        return statistics.median(self.ratios)


class Start(msgspec.Struct, frozen=True):
    """How a server starts."""

    ready_seconds: float
    resident_mib: float
    imports_torch: bool


def loads(folder: Path, task: str = "") -> tuple[Load, ...]:
    """The loads under which a task is measured: see :func:`ganserve.bench_task.measured`."""
    return TRANSLATE_LOADS if measured(folder, task).task.kind == "translate" else SAMPLE_LOADS


def served(folder: Path, load: Load, *, rounds: int, seconds: float, task: str = "", engine: str = ENGINE) -> Served:
    """Serve the bundle in ``folder`` under ``load``, in turns with the raw ``engine`` (NAME or NAME:PRECISION)."""
    target = measured(folder, task)
    raws, rates, latencies = [], [], []
    options = ("--engine", engine, "--max-batch", str(load.largest))
    with _server(folder, *options) as address:
        asyncio.run(_drive(address, target, load, 1.0))
        for _ in range(rounds):
            with _pinned(0):
                raws.append(_raw_in_own_process(folder, seconds, target.task.name, engine, load.largest))
            rate, waits = asyncio.run(_drive(address, target, load, seconds))
            rates.append(rate)
            latencies += waits
    p50, p99 = np.quantile(latencies, (0.5, 0.99)) * 1000
    ratios = tuple(rate / raw for raw, rate in zip(raws, rates, strict=True))
    return Served(load, statistics.median(raws), statistics.median(rates), float(p50), float(p99), ratios)


def start(folder: Path) -> Start:
    """Start a server on all bundles of ``folder`` and look at it when it is ready."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as logs, server(folder, Path(logs) / "log") as (process, address):
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(60)
            _wait_serving(channel)
        ready = time.monotonic() - began
        memory = int(Path(f"/proc/{process.pid}/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        stop(process, Path(logs) / "log")
    return Start(ready, memory, "libtorch" in maps)


def encode_ms(size: int = 64, repeats: int = 2000) -> float:
    """Milliseconds to encode one ``size`` x ``size`` RGB PNG (the median), on noise that is smooth like a picture."""
    tensor = Tensor(name="image", dtype="uint8", shape=(size, size, 3))
    encoder = ImageEncoder(Output(tensor="image", codec="image"), tensor)
    options = encoder.check(EncodeOptions(format="png"))
    coarse = np.random.default_rng(0).integers(0, 256, (size // 8, size // 8, 3)).repeat(8, 0).repeat(8, 1)
    picture = ((coarse + np.roll(coarse, 4, 0) + np.roll(coarse, 4, 1)) // 3).astype(np.uint8)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        encoder.encode(picture, options)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


def raw(folder: Path, seconds: float, task: str, engine: str, largest: int) -> float:
    """Rows a second of the engine alone, one thread, at its best batch size; runs in this process."""
    target = measured(folder, task)
    runs = target.runs(engine, threads=1)
    batches = [batch for batch in BATCHES if batch <= largest]

    def rate(batch: int, seconds: float) -> float:
        return batch * _rate(runs(batch), seconds)

    # Found in one half of the time and measured in the other: the largest of several readings is a lucky one.
    best = max(batches, key=lambda batch: rate(batch, seconds / 2 / len(batches)))
    return rate(best, seconds / 2)


def _rate(run: Callable[[], object], seconds: float) -> float:
    run()
    began, runs = time.perf_counter(), 0
    while (now := time.perf_counter()) - began < seconds or not runs:
        run()
        runs += 1
    return runs / (now - began) if now > began else float(runs)


def _raw_in_own_process(folder: Path, seconds: float, task: str, engine: str, largest: int) -> float:
    command = [sys.executable, "-m", "ganserve.bench", str(folder), str(seconds), task, engine, str(largest)]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


@contextlib.contextmanager
def _server(folder: Path, *options: str) -> Iterator[str]:
    """The address of a server on the first core; the block, and what it starts, is on the last."""
    with tempfile.TemporaryDirectory() as logs, contextlib.ExitStack() as stack:
        with _pinned(0):
            process, address = stack.enter_context(server(folder, Path(logs) / "log", "--threads", "1", *options))
        # Before the channel, whose threads stay where they were begun.
        with _pinned(-1):
            with grpc.insecure_channel(address) as channel:
                grpc.channel_ready_future(channel).result(60)
                _wait_serving(channel)
            yield address
            stop(process, Path(logs) / "log")


@contextlib.contextmanager
def _pinned(core: int) -> Iterator[None]:
    """A block on the core of that number among those that this process was given; what is started in it inherits that."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {_cores()[core]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@functools.cache
def _cores() -> Sequence[int]:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        raise GanserveError(
            f"this needs Linux and two cores, and finds {len(cores)}: one serves and the other one calls"
        )
    return cores


def _wait_serving(channel: grpc.Channel) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    health = health_pb2_grpc.HealthStub(channel)
    for reply in health.Watch(health_pb2.HealthCheckRequest(), timeout=60):
        if reply.status == health_pb2.HealthCheckResponse.SERVING:
            return


async def _drive(address: str, target: Measured, load: Load, seconds: float) -> tuple[float, list[float]]:
    waits: list[float] = []
    async with grpc.aio.insecure_channel(address, options=(("grpc.max_receive_message_length", -1),)) as channel:
        await channel.channel_ready()
        call = target.call(channel)
        began = time.perf_counter()

        async def caller(number: int) -> None:
            index = 0
            while (asked := time.perf_counter()) - began < seconds:
                await call(target.request(number, index, load.rows))
                waits.append(time.perf_counter() - asked)
                index += load.rows

        await asyncio.gather(*(caller(number) for number in range(load.concurrency)))
        return len(waits) * load.rows / (time.perf_counter() - began), waits


if __name__ == "__main__":
    _folder, _seconds, _task, _engine, _largest = sys.argv[1:]
    print(json.dumps(raw(Path(_folder), float(_seconds), _task, _engine, int(_largest))))
