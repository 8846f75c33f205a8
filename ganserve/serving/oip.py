"""A request of the Open Inference Protocol at work: its rows in order, from calls and searches like any others."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, closing

import msgspec
import numpy as np

from ganserve.codecs import Media
from ganserve.errors import InvalidArgument, Violation
from ganserve.serving.call import SEED, Ask, Call, Workers
from ganserve.serving.front import check_reply
from ganserve.serving.inversion import Bounds, Found, InvertAsk, Search
from ganserve.serving.oip_ports import INDEX
from ganserve.serving.told import told_by
from ganserve.serving.wire_oip import Wish, field_of, row_field

INSTEAD = "ask for fewer rows, or for a smaller format"
"""What to do where a reply would be too large."""


class Made(msgspec.Struct, frozen=True, eq=False):
    """One finished row: its media, the tensors that were asked for, and the (seed, index) that it was drawn from, if it was."""

    media: Media
    tensors: Mapping[str, np.ndarray]
    pair: tuple[int, int] | None


class Run:
    """A :class:`Wish` that has been checked; its searches keep to ``bounds``. Making one raises :class:`InvalidArgument`; nothing has been computed then."""

    def __init__(self, wish: Wish, workers: Workers, bounds: Bounds) -> None:
        self._wish, self._workers, self._bounds = wish, workers, bounds
        field, asks = field_of(wish.model, wish.task), wish.asks
        self._fields = [row_field(field, row, len(asks)) if wish.task.pictures else field for row in range(len(asks))]
        self._reply_bytes = 0
        wrong: list[Violation] = []
        self._works: list[Call | Search] = []
        for ask, told in zip(asks, self._fields, strict=True):
            try:
                with told_by(told):
                    self._works.append(self._work(ask))
            except InvalidArgument as error:
                wrong += error.violations
        if wrong:
            # What is wrong with an output is so for every row.
            raise InvalidArgument(list(dict.fromkeys(wrong)))

    @property
    def engines(self) -> Sequence[str]:
        """The engine of each graph that runs for a row, in order."""
        return self._works[0].engines

    @property
    def bit_exact(self) -> bool:
        """Whether the same request gives the same bits next time."""
        return all(work.bit_exact for work in self._works)

    async def rows(self) -> AsyncGenerator[Made]:
        """The rows in order, each as soon as it and those before it are there. Close it when the caller goes."""
        if not self._wish.task.pictures:
            async with aclosing(self._whole()) as whole:
                async for made in whole:
                    yield made
            return
        self._workers.executor.check_room(len(self._works))
        running = [asyncio.create_task(self._row(row)) for row in range(len(self._works))]
        try:
            for task in running:
                yield await task
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _work(self, ask: Ask) -> Call | Search:
        if isinstance(ask, InvertAsk):
            return Search(ask, self._workers, self._bounds)
        call = Call(ask, self._workers)
        if call.seeds is None and (wrong := [name for name in (SEED, INDEX) if name in self._wish.outputs]):
            raise InvalidArgument([Violation(f"outputs[{name}]", "there is none: no noise is drawn") for name in wrong])
        return call

    async def _whole(self) -> AsyncGenerator[Made]:
        """The rows of the one call that has all of them."""
        (call,), (field,) = self._works, self._fields
        assert isinstance(call, Call), "searches have pictures"
        with told_by(field):
            self._check_reply(call)
            with closing(call.results()) as results:
                async for result in results:
                    yield Made(result.media, result.tensors, _pair(call, result.row))

    async def _row(self, row: int) -> Made:
        """The row of the call or search that has no other."""
        work = self._works[row]
        with told_by(self._fields[row]):
            if isinstance(work, Search):
                return await self._found(work)
            with closing(work):
                await work.read()
                self._check_reply(work)
                with closing(work.results()) as results:
                    (result,) = [result async for result in results]
        return Made(result.media, result.tensors, _pair(work, 0))

    async def _found(self, search: Search) -> Made:
        async with aclosing(search.messages()) as messages:
            (found,) = [said async for said in messages if isinstance(said, Found)]
        numbers = {"loss": found.loss, "psnr": found.quality.psnr, "ssim": found.quality.ssim}
        tensors = {name: np.array(number, np.float32) for name, number in numbers.items()}
        return Made(found.media, {search.latent: found.latent, **tensors}, search.pair)

    def _check_reply(self, call: Call) -> None:
        """Refuse what would make the reply too large, as far as its size is known; each row of a stream is a reply of its own."""
        parameters = self._wish.parameters
        most = call.most_reply_bytes()
        if most is not None and not parameters.response_per_row:
            self._reply_bytes += most
            check_reply(self._reply_bytes, parameters.max_reply_bytes, INSTEAD)


def _pair(call: Call, row: int) -> tuple[int, int] | None:
    if call.seeds is None:
        return None
    seed, index = call.seeds[row]
    return int(seed), int(index)
