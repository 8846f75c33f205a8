"""A stream answered in order, several requests at a time: what pipelines the frames of a video."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from prometheus_client import Gauge

Request = TypeVar("Request")
Answer = TypeVar("Answer")


async def in_order(
    requests: AsyncIterator[Request],
    answer: Callable[[Request], Coroutine[Any, Any, Answer]],
    *,
    window: int,
    held: Gauge,
) -> AsyncGenerator[Answer]:
    """The answers to ``requests`` in their order, each computed while others are; close it when the caller goes.

    At most ``window`` requests are read and not answered (``held`` counts them): while nobody takes the answers, no request is
    read. A request or an answer that raises ends the stream, after the answers before it.
    """
    working: deque[asyncio.Task[Answer]] = deque()
    reading: asyncio.Task[Request | None] | None = None
    ended = False
    try:
        while True:
            if reading is None and not ended and len(working) < window:
                reading = asyncio.create_task(_next(requests))
            waiting = [task for task in (reading, next(iter(working), None)) if task is not None]
            if not waiting:
                return
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if reading is not None and reading.done():
                read, reading = reading, None
                ended = not _start(read, answer, working, held)
            elif working and working[0].done():
                yield working[0].result()
                working.popleft()
                held.dec()
    finally:
        held.dec(len(working))
        for task in working:
            task.cancel()
        if reading is not None:
            # gRPC still writes to what a read waits for, so that is let be; it ends with the call.
            reading.add_done_callback(_forget)
        await asyncio.gather(*working, return_exceptions=True)


def _start(
    read: asyncio.Task[Request | None],
    answer: Callable[[Request], Coroutine[Any, Any, Answer]],
    working: deque[asyncio.Task[Answer]],
    held: Gauge,
) -> bool:
    """Begin to answer what was read; whether there may be more."""
    error = read.exception()
    request = None if error is not None else read.result()
    if error is not None:
        working.append(asyncio.create_task(_raise(error)))
    elif request is not None:
        working.append(asyncio.create_task(answer(request)))
    else:
        return False
    held.inc()
    return error is None


async def _next(requests: AsyncIterator[Request]) -> Request | None:
    return await anext(requests, None)


async def _raise(error: BaseException) -> Any:
    raise error


def _forget(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
