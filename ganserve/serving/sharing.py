"""Rows of shared stages that are under way: who asks for what is being made already waits for it, and nothing is made twice.

A row is led by the request that asked first. Where that is given up, those that wait for it are not; where it cannot meet its
deadline, those with more time go on without it. All of this happens on the event loop.
"""

import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Protocol, TypeAlias

import msgspec
import numpy as np

from ganserve.errors import DeadlineExceeded
from ganserve.serving.jobs import Arrays, Batch, Job
from ganserve.serving.stage import Stage

Key: TypeAlias = tuple[Hashable, ...]


class Queue(Protocol):
    """What runs jobs (:class:`ganserve.serving.executor.Executor`)."""

    def submit(self, job: Job, *, admitted: bool = False) -> None:
        """Queue a job."""

    def cancel(self, job: Job) -> None:
        """Forget a job."""

    def check_room(self, rows: int) -> None:
        """Raise where ``rows`` more have no room."""

    def clock(self) -> float:
        """Now, in seconds."""


class Wish(msgspec.Struct, eq=False):
    """Rows of one request that wait for a shared stage; ``deliver`` and ``fail`` are as of a :class:`Job`."""

    stage: Stage
    feeds: Arrays
    rows: int
    caller: Hashable
    deliver: Callable[[int, Arrays, Batch], None]
    fail: Callable[[Exception], None]
    deadline: float = math.inf
    submitted: float = 0.0
    over: bool = False


class _Led(msgspec.Struct, eq=False):
    """One row that is being made, and who waits for it: wishes with their rows."""

    key: Key
    deadline: float
    waiting: list[tuple[Wish, int]]
    job: Job | None = None


class Sharing:
    """The rows under way on one queue."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._led: dict[Key, _Led] = {}

    def submit(self, wish: Wish, *, admitted: bool) -> None:
        """Wait for the rows of ``wish``; raises as a queue does where they are not ``admitted`` and the new ones have no room."""
        wish.submitted = self._queue.clock()
        keys = [_key(wish, row) for row in range(wish.rows)]
        if not admitted:
            self._queue.check_room(len({key for key in keys if self._joins(wish, key) is None}))
        self._wait(wish, range(wish.rows), keys)

    def cancel(self, wish: Wish) -> None:
        """Forget ``wish``; what nobody waits for any more is not made."""
        wish.over = True
        for led in [led for led in self._led.values() if any(one is wish for one, _ in led.waiting)]:
            led.waiting = [(one, row) for one, row in led.waiting if one is not wish]
            if not led.waiting and led.job is not None:
                self._forget(led)
                self._queue.cancel(led.job)

    def _joins(self, wish: Wish, key: Key) -> _Led | None:
        """What ``wish`` can wait for: nothing that is made in less of a hurry."""
        led = self._led.get(key)
        return led if led is not None and led.deadline <= wish.deadline else None

    def _wait(self, wish: Wish, rows: Sequence[int], keys: Sequence[Key]) -> None:
        for row, key in zip(rows, keys, strict=True):
            if led := self._joins(wish, key):
                led.waiting.append((wish, row))
            else:
                self._lead(wish, row, key)

    def _lead(self, wish: Wish, row: int, key: Key) -> None:
        led = self._led[key] = _Led(key, wish.deadline, [(wish, row)])

        def deliver(_: int, outputs: Arrays, batch: Batch) -> None:
            self._forget(led)
            for one, start, stop in _runs(led.waiting):
                if not one.over:
                    made = {
                        name: np.broadcast_to(array, (stop - start, *array.shape[1:]))
                        for name, array in outputs.items()
                    }
                    one.deliver(start, made, batch)

        led.job = Job(
            wish.stage,
            {name: array[row : row + 1] for name, array in wish.feeds.items()},
            rows=1,
            caller=wish.caller,
            deliver=deliver,
            fail=lambda error: self._fail(led, error),
            deadline=wish.deadline,
            most_rows=wish.stage.most_rows(wish.feeds),
        )
        self._queue.submit(led.job, admitted=True)

    def _fail(self, led: _Led, error: Exception) -> None:
        self._forget(led)
        for wish, row in led.waiting:
            if wish.over:
                continue
            if isinstance(error, DeadlineExceeded) and wish.deadline > led.deadline:
                self._wait(wish, [row], [led.key])
            else:
                wish.over = True
                wish.fail(error)

    def _forget(self, led: _Led) -> None:
        if self._led.get(led.key) is led:
            del self._led[led.key]


def _key(wish: Wish, row: int) -> Key:
    """What makes the row: the stage, and all that goes in."""
    return (wish.stage, *((name, array.shape[1:], array[row].tobytes()) for name, array in wish.feeds.items()))


def _runs(waiting: Sequence[tuple[Wish, int]]) -> Iterator[tuple[Wish, int, int]]:
    """Neighbouring rows of one wish as one: the wish, the first row, and the row behind the last."""

    def follows(numbered: tuple[int, tuple[Wish, int]]) -> tuple[int, int]:
        number, (wish, row) = numbered
        return id(wish), row - number

    for _, group in itertools.groupby(enumerate(waiting), follows):
        run = [one for _, one in group]
        yield run[0][0], run[0][1], run[-1][1] + 1
