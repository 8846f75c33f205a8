"""Clients that go: they cancel, let their deadline pass or vanish, while their call is in every stage. Nothing of them may stay."""

import asyncio
import contextlib
import random
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.chaos.process import Watched
from bench.chaos.scenario import Outcome, Scenario, sized
from bench.chaos.servers import Place, server
from ganserve import AsyncClient
from ganserve.errors import GanserveError
from ganserve.testing.echo import write_bundle

AT_ONCE = 25
LONGEST = 0.4
"""Seconds until a client goes: long enough that some are answered first, so that they go in every stage."""
QUEUE_BYTES = 1 << 22
PICTURE = np.random.default_rng(0).integers(0, 256, (192, 256, 3)).astype(np.uint8)
LEAK = 1.02
"""How much larger the process may be after all clients than after half of them."""


def run(scale: float) -> Outcome:
    """Lose clients."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_lose(Path(folder), sized(10_000, scale, 300)))


Ask = Callable[[AsyncClient, float], Awaitable[Any]]


async def _stream(client: AsyncClient, timeout: float) -> None:
    async for _ in client.sample_stream("echo", n=300, task="sample", timeout=timeout):
        await asyncio.sleep(0.001)


ASKS: dict[str, Ask] = {
    "queue": lambda client, timeout: client.sample("echo", n=200, task="alone", format="raw", timeout=timeout),
    "loop": lambda client, timeout: client.sample("echo", n=8, task="walk", numbers={"steps": 50}, timeout=timeout),
    "encode": lambda client, timeout: client.sample("echo", n=300, task="sample", format="webp", timeout=timeout),
    "decode": lambda client, timeout: client.translate("echo", PICTURE, task="negative", timeout=timeout),
    "stream": _stream,
}
"""Calls that spend their time in one stage each."""


async def _lose(folder: Path, clients: int) -> Outcome:
    place = Place.free(write_bundle(folder / "echo"), folder / "log", "--queue-bytes", str(QUEUE_BYTES))
    chance = random.Random(0)
    ends: Counter[str] = Counter()
    with server(place) as process:
        seen = Watched(process.pid, place.metrics_port)
        files, middle, late = 0, 0, 0
        for lost in range(0, clients, AT_ONCE):
            way = ("cancelled", "late", "vanished")[lost // AT_ONCE % 3]
            ends.update(await _some(place, way, chance))
            late = max(late, await _batches_after(seen))
            if lost // AT_ONCE == clients // AT_ONCE // 2:
                middle, files = seen.resident, seen.files
        grown, files = seen.resident / middle, seen.files - files
        async with AsyncClient(place.address) as client:
            # As large a picture as the queue's bytes allow: none is still held for those who have gone.
            side = int((QUEUE_BYTES / 6.5) ** 0.5)
            await client.translate("echo", np.zeros((side, side, 3), np.uint8), task="negative")
        idle = not seen.sum("ganserve_in_flight_requests") + seen.sum("ganserve_queue_rows")
    held = idle and late <= 1 and grown < LEAK and files <= 2 and ends["lost"] > 0
    told = ", ".join(f"{count} {what}" for what, count in ends.most_common())
    return Outcome(
        held,
        f"{told}; at most {late} batches after the last had gone; memory x{grown:.3f} in the second half; {files:+d} files",
    )


async def _some(place: Place, way: str, chance: random.Random) -> Counter[str]:
    """Clients that go in one way; how each ended: lost, or answered before it could go."""
    ends: Counter[str] = Counter()
    async with _cut(place.port) as (port, cut), AsyncClient(f"127.0.0.1:{port}") as client:

        async def one(ask: Ask, seconds: float) -> None:
            try:
                if way == "cancelled":
                    async with asyncio.timeout(seconds):
                        await ask(client, 60.0)
                else:
                    await ask(client, seconds if way == "late" else 60.0)
            except (GanserveError, TimeoutError):
                ends["lost"] += 1
            else:
                ends["answered"] += 1

        stages = [list(ASKS.values())[number % len(ASKS)] for number in range(AT_ONCE)]
        tasks = [asyncio.create_task(one(ask, chance.uniform(0.001, LONGEST))) for ask in stages]
        if way == "vanished":
            await asyncio.sleep(chance.uniform(0.001, LONGEST))
            cut()
        await asyncio.gather(*tasks)
    return ends


async def _batches_after(seen: Watched) -> int:
    """How many batches the engine still begins once the server holds no call."""
    async with asyncio.timeout(30):
        while await asyncio.to_thread(seen.sum, "ganserve_in_flight_requests"):
            await asyncio.sleep(0.002)
    before = await asyncio.to_thread(seen.sum, "ganserve_batch_rows_count")
    await asyncio.sleep(0.01)
    return round(await asyncio.to_thread(seen.sum, "ganserve_batch_rows_count") - before)


@contextlib.asynccontextmanager
async def _cut(port: int) -> AsyncIterator[tuple[int, Callable[[], None]]]:
    """A port that leads to ``port``, and what cuts its connections without a word, for good."""
    ends: list[asyncio.StreamWriter] = []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", port)
        ends.extend((writer, onward_writer))
        await asyncio.gather(pipe(reader, onward_writer), pipe(onward_reader, writer))

    def cut() -> None:
        listener.close()
        for writer in ends:
            writer.transport.abort()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1], cut
    finally:
        cut()


SCENARIO = Scenario(
    "client vanishes, cancels, or its deadline passes, in every stage",
    "its rows cost no engine time after one batch; no leak",
    run,
)
