"""Speed as ratios within one run: what the server adds to what the engine does alone on the same core.

The engine (in a process of its own) and the server are both pinned to the first core with one thread each; the client to the
last. Raw and served runs take turns, and the ratio is that of their medians, so that a machine which slows down meanwhile
slows both.
"""

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import msgspec
import numpy as np

from ganserve.bundle import Bundle, read
from ganserve.codecs import EncodeOptions
from ganserve.codecs.image import ImageEncoder
from ganserve.commands.process import server, stop
from ganserve.engines import Options, Session
from ganserve.errors import GanserveError
from ganserve.plugins import installed, resolve
from ganserve.spec import Output, Tensor
from ganserve.v1 import generation_pb2 as pb
from ganserve.v1 import generation_pb2_grpc, media_pb2

BATCHES = (1, 2, 4, 8, 16, 32)
"""Batch sizes among which the raw engine's best is found."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """A closed loop of callers: each asks for ``rows`` rows, waits, and asks again."""

    rows: int = 1
    concurrency: int = 16


class Served(msgspec.Struct, frozen=True):
    """What a server did under a load, beside the raw engine in the same minutes."""

    load: Load
    raw_rows_per_second: float
    rows_per_second: float
    p50_ms: float
    p99_ms: float

    @property
    def ratio(self) -> float:
        """Served rows over raw rows."""
        return self.rows_per_second / self.raw_rows_per_second


class Start(msgspec.Struct, frozen=True):
    """How a server starts."""

    ready_seconds: float
    resident_mib: float
    imports_torch: bool


def served(folder: Path, load: Load, *, rounds: int, seconds: float) -> Served:
    """Serve the bundle in ``folder`` under ``load``, in turns with the raw engine."""
    name = read(folder).manifest.name
    raws, rates, latencies = [], [], []
    with _pinned_server(folder) as address:
        asyncio.run(_drive(address, name, load, 1.0))
        for _ in range(rounds):
            raws.append(_raw_in_own_process(folder, seconds))
            rate, waits = asyncio.run(_drive(address, name, load, seconds))
            rates.append(rate)
            latencies += waits
    p50, p99 = np.quantile(latencies, (0.5, 0.99)) * 1000
    return Served(load, statistics.median(raws), statistics.median(rates), float(p50), float(p99))


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


def raw(folder: Path, seconds: float) -> float:
    """Rows a second of the engine alone, one thread, at its best batch size; runs in this process, on the first core."""
    _pin(0)
    bundle = read(folder)
    session = _session(bundle)
    graph = bundle.manifest.graphs[0]
    best = 0.0
    for batch in BATCHES:
        feeds = {tensor.name: session.upload(_noise(tensor, batch)) for tensor in graph.inputs}
        names = [tensor.name for tensor in graph.outputs]

        def run(feeds: dict[str, object] = feeds, names: list[str] = names) -> None:
            made = session.run(feeds, names)
            session.download(made[names[0]])

        best = max(best, batch * _rate(run, seconds / len(BATCHES)))
    return best


def _rate(run: Callable[[], None], seconds: float) -> float:
    run()
    began, runs = time.perf_counter(), 0
    while (now := time.perf_counter()) - began < seconds or not runs:
        run()
        runs += 1
    return runs / (now - began) if now > began else float(runs)


def _session(bundle: Bundle) -> Session:
    if len(bundle.manifest.graphs) != 1:
        raise GanserveError(
            f"bundle {bundle.manifest.name!r} has several graphs: bench takes one whose task is a single graph"
        )
    graph = bundle.manifest.graphs[0]
    session: Session = resolve(installed().engine("onnxruntime").load)(
        bundle.path(graph.file), Options(graph=graph, threads=1)
    )
    return session


def _noise(tensor: Tensor, rows: int) -> np.ndarray:
    shape = tuple(size for size in tensor.shape if isinstance(size, int))
    return np.random.default_rng(0).standard_normal((rows, *shape)).astype(tensor.dtype)


def _raw_in_own_process(folder: Path, seconds: float) -> float:
    command = [sys.executable, "-m", "ganserve.bench", str(folder), str(seconds)]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


@contextlib.contextmanager
def _pinned_server(folder: Path) -> Iterator[str]:
    before = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as logs:
        # Affinity is inherited: the server starts on the first core, then this process moves to the last.
        _pin(0)
        try:
            with server(folder, Path(logs) / "log", "--threads", "1") as (process, address):
                _pin(-1)
                with grpc.insecure_channel(address) as channel:
                    grpc.channel_ready_future(channel).result(60)
                    _wait_serving(channel)
                yield address
                stop(process, Path(logs) / "log")
        finally:
            os.sched_setaffinity(0, before)


def _pin(core: int) -> None:
    os.sched_setaffinity(0, {sorted(range(os.cpu_count() or 1))[core]})


def _wait_serving(channel: grpc.Channel) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    health = health_pb2_grpc.HealthStub(channel)
    for reply in health.Watch(health_pb2.HealthCheckRequest(), timeout=60):
        if reply.status == health_pb2.HealthCheckResponse.SERVING:
            return


async def _drive(address: str, model: str, load: Load, seconds: float) -> tuple[float, list[float]]:
    waits: list[float] = []
    output = media_pb2.OutputOptions(image_format=media_pb2.IMAGE_FORMAT_RAW)
    async with grpc.aio.insecure_channel(address, options=(("grpc.max_receive_message_length", -1),)) as channel:
        stub = generation_pb2_grpc.GenerationStub(channel)
        began = time.perf_counter()

        async def caller(number: int) -> None:
            index = 0
            while (asked := time.perf_counter()) - began < seconds:
                request = pb.SampleRequest(
                    model=model,
                    count=load.rows,
                    seed=number,
                    first_index=index,
                    output=output,
                    max_reply_bytes=1 << 30,
                )
                await stub.Sample(request)
                waits.append(time.perf_counter() - asked)
                index += load.rows

        await asyncio.gather(*(caller(number) for number in range(load.concurrency)))
        return len(waits) * load.rows / (time.perf_counter() - began), waits


if __name__ == "__main__":
    print(json.dumps(raw(Path(sys.argv[1]), float(sys.argv[2]))))
