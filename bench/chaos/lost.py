"""Clients that go: they cancel, let their deadline pass or vanish, while their call is in every stage. Nothing of them may stay."""

import asyncio
import contextlib
import itertools
import random
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.chaos.live import live
from bench.chaos.load import Once
from bench.chaos.process import Watched
from bench.chaos.scenario import Outcome, Scenario, sized
from bench.chaos.servers import Place, server
from ganserve import AsyncClient
from ganserve.commands.process import free_port
from ganserve.errors import DeadlineExceeded, GanserveError, Unavailable
from ganserve.testing.echo import write_bundle

AT_ONCE = 25
WAYS = ("cancelled", "late", "vanished")
PART = 0.05
"""How much of what their calls would have taken may still be run after the last client has gone: a server notices a moment later."""
QUIET = 0.02
"""Seconds that a batch takes at most, where nothing else runs."""
BATCHES = "ganserve_batch_rows_count"
LONGEST = 0.4
"""Seconds until a client goes: long enough that some are answered first, so that they go in every stage."""
QUEUE_BYTES = 1 << 22
PICTURE = np.random.default_rng(0).integers(0, 256, (192, 256, 3)).astype(np.uint8)
LEAK = 1.02
"""How much more memory the server may use after all clients than after half of them."""


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
    memory = free_port()
    place = Place.free(write_bundle(folder / "echo"), folder / "log", "--queue-bytes", str(QUEUE_BYTES))
    place = msgspec.structs.replace(place, live_port=memory)
    chance = random.Random(0)
    ends: Counter[str] = Counter()
    with server(place) as process:
        seen = Watched(process.pid, place.metrics_port)
        whole = await _whole(place, seen)
        files, middle, after = 0, 0, Counter[str]()
        for number in itertools.count():
            found, batches = await _some(place, WAYS[number % len(WAYS)], chance, seen)
            ends.update(found)
            after.update(batches)
            if not middle and ends["lost"] >= clients / 2:
                middle, files = await asyncio.to_thread(live, memory), seen.files
            if ends["lost"] >= clients:
                break
        grown, files = await asyncio.to_thread(live, memory) / middle, seen.files - files
        async with AsyncClient(place.address) as client:
            # As large a picture as the queue's bytes allow: none is still held for those who have gone.
            side = int((QUEUE_BYTES / 6.5) ** 0.5)
            await client.translate("echo", np.zeros((side, side, 3), np.uint8), task="negative")
        idle = not seen.sum("ganserve_in_flight_requests") + seen.sum("ganserve_queue_rows")
    rounds = number + 1
    part = after["until the server held no call"] / (whole * rounds)
    # The batch that runs when the last call ends may take longer on a machine that does other things as well.
    right = idle and part <= PART and after["then"] <= rounds and files <= 2 and not ends["refused"]
    told = ", ".join(f"{count} {what}" for what, count in ends.most_common())
    return Outcome(
        right,
        f"{told}; batches after the last of {AT_ONCE} had gone: {part:.2%} of those that their calls take when nobody goes, "
        f"{after['then']} once the server held no call; memory in use x{grown:.3f} in the second half; {files:+d} files",
        calm=not after["then"] and grown < LEAK,
    )


async def _whole(place: Place, seen: Watched) -> int:
    """The batches of as many calls as go at once, if none of them does."""
    before = await asyncio.to_thread(seen.sum, BATCHES)
    async with Once(place.address) as client:
        await asyncio.gather(*(_stage(number)(client, 60.0) for number in range(AT_ONCE)))
    return round(await asyncio.to_thread(seen.sum, BATCHES) - before)


def _stage(number: int) -> Ask:
    return list(ASKS.values())[number % len(ASKS)]


async def _some(place: Place, way: str, chance: random.Random, seen: Watched) -> tuple[Counter[str], Counter[str]]:
    """Clients that go in one way: how each ended, lost or answered before it could go; and the batches after the last of them."""
    ends: Counter[str] = Counter()
    async with _cut(place.port) as (port, cut), Once(f"127.0.0.1:{port}") as client:

        async def one(ask: Ask, seconds: float) -> None:
            try:
                if way == "cancelled":
                    async with asyncio.timeout(seconds):
                        await ask(client, 60.0)
                else:
                    await ask(client, seconds if way == "late" else 60.0)
            except (DeadlineExceeded, Unavailable, TimeoutError):
                ends["lost"] += 1
            except GanserveError:
                ends["refused"] += 1
            else:
                ends["answered"] += 1

        going = ((_stage(number), chance.uniform(0.001, LONGEST)) for number in range(AT_ONCE))
        tasks = [asyncio.create_task(one(ask, seconds)) for ask, seconds in going]
        if way == "vanished":
            await asyncio.sleep(chance.uniform(0.001, LONGEST))
            cut()
        await asyncio.gather(*tasks)
        return ends, await _batches(seen)


async def _batches(seen: Watched) -> Counter[str]:
    """The batches that the engine runs from now on: until the server has noticed that everyone has gone, and then."""
    gone = await asyncio.to_thread(seen.sum, BATCHES)
    async with asyncio.timeout(60):
        while await asyncio.to_thread(seen.sum, "ganserve_in_flight_requests"):
            await asyncio.sleep(0.002)
    # The batch that ran then is over.
    await asyncio.sleep(QUIET)
    noticed = await asyncio.to_thread(seen.sum, BATCHES)
    over = await _at_rest(noticed, seen)
    return Counter({"until the server held no call": round(noticed - gone), "then": round(over - noticed)})


async def _at_rest(batches: float, seen: Watched) -> float:
    """How many batches there are, which were ``batches`` a moment ago, once no more are run."""
    async with asyncio.timeout(60):
        while True:
            await asyncio.sleep(QUIET)
            before, batches = batches, await asyncio.to_thread(seen.sum, BATCHES)
            if batches == before:
                return batches


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
    f"after the last has gone, at most {PART:.0%} of the batches that their calls take when nobody goes; none once the server holds no call; no leak",
    run,
)
