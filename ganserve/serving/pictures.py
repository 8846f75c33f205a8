"""Pictures on their way from requests to rows: room is taken for each before it is decoded, off the event loop and once only."""

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

from ganserve.codecs import GivenImage, Picture, PictureDecoder
from ganserve.codecs.declared import declared_bytes
from ganserve.errors import InvalidArgument
from ganserve.spec import Tensor

if TYPE_CHECKING:
    from ganserve.serving.call import Workers


class Reader:
    """Reads the pictures of one request, or those that the requests of a stream have in common, and holds room for them until closed.

    A picture takes room as it was sent, from when it is asked for, and as the graph takes it, from before it is decoded.
    """

    def __init__(self, workers: "Workers") -> None:
        self._workers = workers
        self._reading: dict[str, asyncio.Future[Picture]] = {}
        self._held: deque[int] = deque()
        self._closed = False

    def read(self, tensor: Tensor, decoder: PictureDecoder, given: GivenImage) -> asyncio.Future[Picture]:
        """``given`` for ``tensor``: decoded by the first who asks for that tensor, the same picture for all others.

        Fails, before anything is decoded, with :class:`ganserve.errors.QueueFull` or, if there can never be room,
        :class:`InvalidArgument`; else with what its decoder raises.
        """
        if (reading := self._reading.get(tensor.name)) is None:
            self._hold(len(given.data), decoder)
            loop = asyncio.get_running_loop()
            reading = loop.run_in_executor(self._workers.pool, self._decode, tensor, decoder, given)
            self._reading[tensor.name] = reading
        return reading

    def close(self) -> None:
        """Give back the room; what has not been decoded is not any more."""
        self._closed = True
        if self._reading:
            for reading in self._reading.values():
                reading.cancel()
            self._release()

    def _decode(self, tensor: Tensor, decoder: PictureDecoder, given: GivenImage) -> Picture:
        metrics, limits = self._workers.metrics, self._workers.limits
        self._hold(declared_bytes(given, tensor, limits), decoder)
        started = time.monotonic()
        picture = decoder.picture(given, limits)
        metrics.child(metrics.decode_time, given.format or "file").observe(time.monotonic() - started)
        return picture

    def _hold(self, count: int, decoder: PictureDecoder) -> None:
        executor = self._workers.executor
        if (total := sum(self._held) + count) > executor.batcher.max_bytes:
            raise InvalidArgument.of(
                f"images[{decoder.value}]",
                f"takes {total} bytes as sent and decoded: this server holds {executor.batcher.max_bytes} for all pictures; "
                "send a smaller one",
            )
        executor.hold(count)
        self._held.append(count)
        if self._closed:
            # Meanwhile, by the event loop; this is a thread of the pool.
            self._release()

    def _release(self) -> None:
        # Two threads may do this at once: each gives back what it has popped.
        while self._held:
            try:
                count = self._held.pop()
            except IndexError:
                return
            self._workers.executor.release(count)
