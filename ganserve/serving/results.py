"""What a call gives: its rows in their order."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from ganserve.codecs import Media
from ganserve.serving.runner import Flow

if TYPE_CHECKING:
    from ganserve.serving.call import Call


class Result(msgspec.Struct, frozen=True, eq=False):
    """One finished row: its number, its media, and the tensors asked for."""

    row: int
    media: Media
    tensors: Mapping[str, np.ndarray]


class Results:
    """The rows of a call in their order: iterate it once, and close it."""

    # No generator: an event loop keeps account of each, which costs a small call more than all of this does.

    def __init__(self, call: "Call") -> None:
        self._call = call
        self._flow: Flow | None = None
        self._ready: dict[int, Result] = {}
        self._wanted = 0

    def __aiter__(self) -> "Results":
        return self

    async def __anext__(self) -> Result:
        """The next row; what :meth:`Call.results` raises, before the first."""
        if self._wanted == self._call.rows:
            self._call._done()
            raise StopAsyncIteration
        if self._flow is None:
            self._flow = await self._call._begin()
            self._flow.pieces()
        while self._wanted not in self._ready:
            for result in await self._call._finish(await anext(self._flow)):
                self._ready[result.row] = result
        self._wanted += 1
        return self._ready.pop(self._wanted - 1)

    def close(self) -> None:
        """Drop the rows that still wait, and give back the room of pictures."""
        if self._flow is not None:
            self._flow.cancel()
        self._call.close()
