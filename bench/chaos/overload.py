"""Twice as many calls as a server can answer: those it takes are answered in time, the rest is refused at once."""

import asyncio
import contextlib
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.chaos.offered import BUNDLE, Seen, caller, quantile
from bench.chaos.process import Watched
from bench.chaos.scenario import Outcome, Scenario, sized
from bench.chaos.servers import Place, server

QUEUE_ROWS = 24
"""What waits at most: how long an accepted call takes under overload is this setting's to say. Three batches here."""

FLAT = 1.02


def run(scale: float) -> Outcome:
    """Overload a server."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_overload(Path(folder), float(sized(60, scale, 6))))


async def _overload(folder: Path, seconds: float) -> Outcome:
    place = Place.free(BUNDLE, folder / "log", "--queue-rows", str(QUEUE_ROWS))
    with server(place) as process:
        async with caller(place.address) as calls:
            await calls.saturated(8, 2.0)
            capacity = await calls.saturated(8, max(3.0, seconds / 10))
            normal, over = Seen(), Seen()
            await calls.offered(0.9 * capacity, seconds, normal)
            process_seen = Watched(process.pid, place.metrics_port)
            async with _watching(place.address) as health:
                await calls.offered(2 * capacity, seconds / 2, over, seed=1)
                before = process_seen.resident
                await calls.offered(2 * capacity, seconds / 2, over, seed=2)
                grown = process_seen.resident / before
    p99, p99_over = quantile(normal.answered, 0.99), quantile(over.answered, 0.99)
    p50_over, refusal = quantile(over.answered, 0.5), quantile(over.refused, 0.99)
    kept = p99_over <= 2 * p99 and refusal <= p50_over and grown < FLAT
    unready = health.total() - health["SERVING"]
    clean = (
        bool(health["SERVING"]) and not (unready or over.wrong or over.others or normal.others) and bool(over.refused)
    )
    told = f"capacity {capacity:.0f} calls/s; at 0.9: p99 {p99:.0f} ms ({len(normal.refused)} refused); at 2.0: {over}, p99 {p99_over:.0f} ms"
    return Outcome(
        clean,
        f"{told}, p50 {p50_over:.0f} ms, p99 of a refusal {refusal:.0f} ms; not ready {unready} times; memory x{grown:.3f} in the second half",
        calm=kept,
    )


@contextlib.asynccontextmanager
async def _watching(address: str) -> AsyncIterator[Counter[str]]:
    """What the server's health says until the block is left: one Watch hears what asking now and then would miss. Its end counts too."""
    told: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())

        async def listen() -> None:
            try:
                async for reply in watch:
                    told[health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)] += 1
                told["ended"] += 1
            except grpc.aio.AioRpcError as error:
                told[error.code().name] += 1

        listening = asyncio.create_task(listen())
        try:
            yield told
        finally:
            listening.cancel()
            await asyncio.wait((listening,))


SCENARIO = Scenario(
    "2x overload",
    "accepted: p99 <= 2x that at 0.9 load; the rest RESOURCE_EXHAUSTED, p99 of a refusal <= p50 of an answer; health true; memory flat",
    run,
)
