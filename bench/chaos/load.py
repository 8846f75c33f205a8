"""Callers that never stop asking, through the shipped client, and look at every image they get."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable

import grpc
import msgspec
import numpy as np

from ganserve import AsyncClient
from ganserve.client import Samples
from ganserve.client.channel import MAX_REPLY_BYTES, channel_options, stubs
from ganserve.errors import GanserveError


class Once(AsyncClient):
    """The shipped client without its retries: what fails is seen, even if it would have succeeded a moment later."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        options = [*channel_options(MAX_REPLY_BYTES), ("grpc.enable_retries", 0)]
        self._channel = grpc.aio.insecure_channel(address, options)
        self._stubs = stubs(self._channel)


class Tally(msgspec.Struct):
    """What callers got: calls that were answered, answers that were wrong, and the failures by what they said."""

    answered: int = 0
    wrong: int = 0
    failed: Counter[str] = msgspec.field(default_factory=Counter)

    @property
    def clean(self) -> bool:
        """Whether there were answers, and nothing but right ones."""
        return bool(self.answered) and not self.wrong and not self.failed

    def __str__(self) -> str:
        told = f"{self.answered} calls answered, {self.failed.total()} failed, {self.wrong} images wrong"
        return "; ".join([told, *(f"{count}x {what}" for what, count in self.failed.most_common(3))])


@contextlib.asynccontextmanager
async def callers(
    client: AsyncClient, count: int, right: Callable[[Samples], bool], seeds: int = 64, model: str = "echo"
) -> AsyncIterator[Tally]:
    """``count`` callers in a closed loop, each a row a call, until the block is left; ``right`` judges every answer."""
    tally, over = Tally(), asyncio.Event()

    async def caller(number: int) -> None:
        index = number
        while not over.is_set():
            index += count
            try:
                samples = await one(client, index % seeds, model)
            except GanserveError as error:
                tally.failed[f"{type(error).__name__}: {str(error)[:200]}"] += 1
            else:
                tally.answered += 1
                tally.wrong += not right(samples)

    work = [asyncio.create_task(caller(number)) for number in range(count)]
    try:
        yield tally
    finally:
        over.set()
        await asyncio.gather(*work)


async def one(client: AsyncClient, index: int, model: str = "echo") -> Samples:
    """The row ``index`` of the one seed that all of this asks for, with its latents."""
    return await client.sample(
        model, n=1, task="sample", seed=7, first_index=index, labels=0, format="raw", returns=["z", "w"]
    )


async def singles(client: AsyncClient, seeds: int = 64, model: str = "echo") -> np.ndarray:
    """The image of each index, made alone: what every later one is compared with."""
    return np.concatenate([(await one(client, index, model)).arrays() for index in range(seeds)])
