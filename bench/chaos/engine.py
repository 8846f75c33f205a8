"""An engine that raises, hangs, or makes NaN of one row in a thousand: that row fails, and nobody else."""

import asyncio
import contextlib
import random
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
from grpc_health.v1 import health_pb2

from bench.chaos import faulty
from bench.chaos.scenario import Outcome, Scenario, sized
from ganserve import AsyncClient
from ganserve.client import Samples
from ganserve.errors import GanserveError, InternalError
from ganserve.plugins import load
from ganserve.serving.model import EngineChoice, Settings
from ganserve.testing.echo import image_of, write_bundle
from ganserve.testing.server import Serving, serving

PATIENCE = 1.0
"""Seconds after which a batch hangs; what hangs comes back after twice as long, on a busy machine too late all the same."""

SOON = 30.0
"""Seconds within which the model is ready again."""

ONE_IN = 1000
FAULTS = {"raised": faulty.RAISES, "NaN": faulty.NAN, "hung": faulty.HANGS}
CALLERS = 16
STATES = {health_pb2.HealthCheckResponse.SERVING: "ready", health_pb2.HealthCheckResponse.NOT_SERVING: "unready"}


def run(scale: float) -> Outcome:
    """Serve bad rows among good ones."""
    faulty.released.clear()
    faulty.longest = 2 * PATIENCE
    models = Settings(threads=1, max_batch=8, engines=(EngineChoice("faulty"),), hang_seconds=PATIENCE)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a", "b"):
            write_bundle(Path(folder) / name, name=name, tasks=("sample",))
        with serving(Path(folder), plugins=load(extra=[faulty]), models=models, encode_threads=1) as server:
            return asyncio.run(_serve(server, sized(20_000, scale, 2000)))


async def _serve(server: Serving, rows: int) -> Outcome:
    chance = random.Random(0)
    marks = dict.fromkeys(range(rows), 0.0)
    for number in chance.sample(range(rows), rows * len(FAULTS) // ONE_IN):
        marks[number] = list(FAULTS.values())[number % len(FAULTS)]
    failed: Counter[str] = Counter()
    wrong: list[str] = []
    other = 0
    async with AsyncClient(server.address) as client, _watching(client) as seen:
        numbers = iter(marks.items())

        async def caller() -> None:
            for number, mark in numbers:
                try:
                    right = _right(await _ask(client, number, mark), number, mark)
                except GanserveError as error:
                    expected = isinstance(error, InternalError) and mark
                    failed["as they should" if expected else "though nothing was wrong with them"] += 1
                    if not expected:
                        wrong.append(f"row {number}: {type(error).__name__} {error}")
                else:
                    if mark or not right:
                        wrong.append(f"row {number} of mark {mark} was answered{'' if right else ' wrongly'}")

        async def others(work: asyncio.Future[list[None]]) -> None:
            nonlocal other
            while not work.done():
                await client.sample("b", task="sample", n=1, seed=1, format="raw")
                other += 1

        work = asyncio.gather(*(caller() for _ in range(CALLERS)))
        await asyncio.gather(work, others(work))
    hangs = server.server.metrics.registry.get_sample_value(
        "ganserve_engine_hangs_total", {"model": "a", "engine": "faulty"}
    )
    bad = Counter(name for mark in marks.values() for name, value in FAULTS.items() if mark == value)
    told = f"{rows} rows, of which {dict(bad)}: {dict(failed)}; {hangs:g} batches hung; health {' '.join(seen[:4])} …"
    held = not wrong and failed["as they should"] == bad.total() and "unready" in seen and seen[-1] == "ready"
    return Outcome(held, "; ".join([told, f"another model answered {other} calls", *wrong[:3]]))


async def _ask(client: AsyncClient, number: int, mark: float) -> Samples:
    return await client.sample(
        "a", task="sample", tensors={"z": _z(number, mark)}, labels=0, format="raw", returns=["w"]
    )


def _right(samples: Samples, number: int, mark: float) -> bool:
    return bool((samples.arrays() == image_of(_z(number, mark))).all())


def _z(number: int, mark: float) -> np.ndarray:
    return np.array([[mark, number % 7, number % 11, number % 13]], np.float32) - np.float32(3) * (np.arange(4) > 0)


@contextlib.asynccontextmanager
async def _watching(client: AsyncClient) -> AsyncIterator[list[str]]:
    """What health says of the model, change by change, until it is ready at the end."""
    seen: list[str] = []

    async def watch() -> None:
        async for reply in client._stubs.health.Watch(health_pb2.HealthCheckRequest(service="a")):
            seen.append(STATES[reply.status])

    task = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SOON):
                while seen[-1:] != ["ready"]:
                    await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


SCENARIO = Scenario(
    "engine raises, hangs, or returns NaN on one row in 1,000",
    "neighbours unaffected; what hangs is replaced; readiness follows",
    run,
)
