"""Load that is offered, not taken: calls begin at their own times, however long those before them take. No call is tried again."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import msgspec
import numpy as np

from ganserve.v1 import generation_pb2, generation_pb2_grpc, media_pb2

BUNDLE = Path(__file__).parents[2] / "bundles" / "dcgan-emoji"
"""A real generator: a call of it costs the engine much more than the client."""

ROWS = 4
INDICES = 64
RAW = media_pb2.OutputOptions(image_format=media_pb2.IMAGE_FORMAT_RAW)


class Seen(msgspec.Struct):
    """What became of the calls: seconds of those that were answered and of those that were refused for room, wrong images, other ends."""

    answered: list[float] = []
    refused: list[float] = []
    wrong: int = 0
    others: Counter[str] = msgspec.field(default_factory=Counter)

    def __str__(self) -> str:
        told = [f"{len(self.answered)} answered", f"{len(self.refused)} refused", f"{self.wrong} wrong images"]
        return ", ".join([*told, *(f"{count}x {what}" for what, count in self.others.most_common(3))])


class Caller:
    """Calls one server; it knows the image of each index as it is made alone."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = generation_pb2_grpc.GenerationStub(channel)
        self._singles: list[bytes] = []

    async def begin(self) -> None:
        """Make every image alone."""
        self._singles = [(await self._ask(index, 1))[0] for index in range(INDICES + ROWS)]

    async def call(self, index: int, seen: Seen) -> None:
        """One call, noted in ``seen``."""
        began = time.perf_counter()
        try:
            images = await self._ask(index, ROWS)
        except grpc.aio.AioRpcError as error:
            took = time.perf_counter() - began
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                seen.refused.append(took)
            else:
                seen.others[f"{error.code().name} {error.details()}"] += 1
        else:
            seen.answered.append(time.perf_counter() - began)
            seen.wrong += images != self._singles[index : index + ROWS]

    async def saturated(self, callers: int, seconds: float) -> float:
        """Calls a second that ``callers`` get answered who ask again and again."""
        seen, began = Seen(), time.perf_counter()

        async def caller(number: int) -> None:
            while time.perf_counter() - began < seconds:
                await self.call(number % INDICES, seen)

        await asyncio.gather(*(caller(number) for number in range(callers)))
        return len(seen.answered) / (time.perf_counter() - began)

    async def offered(self, rate: float, seconds: float, seen: Seen, seed: int = 0) -> None:
        """Begin ``rate`` calls a second, at random times, for ``seconds``."""
        dice, loop = random.Random(seed), asyncio.get_running_loop()
        calls: set[asyncio.Task[None]] = set()
        at = began = loop.time()
        while (at := at + dice.expovariate(rate)) < began + seconds:
            await asyncio.sleep(max(0.0, at - loop.time()))
            task = asyncio.create_task(self.call(dice.randrange(INDICES), seen))
            calls.add(task)
            task.add_done_callback(calls.discard)
        await asyncio.gather(*calls)

    async def _ask(self, index: int, rows: int) -> list[bytes]:
        request = generation_pb2.SampleRequest(model=BUNDLE.name, count=rows, seed=7, first_index=index, output=RAW)
        reply = await self._stub.Sample(request, timeout=60)
        return [sample.media.image.data for sample in reply.samples]


@contextlib.asynccontextmanager
async def caller(address: str) -> AsyncIterator[Caller]:
    """A caller on a connection of its own, which is warm."""
    async with grpc.aio.insecure_channel(address, options=[("grpc.enable_retries", 0)]) as channel:
        found = Caller(channel)
        await found.begin()
        yield found


def quantile(seconds: list[float], part: float) -> float:
    """That quantile in milliseconds; NaN of nothing."""
    return float(np.quantile(seconds, part)) * 1000 if seconds else float("nan")
