"""The dataflow of one request: pieces of its rows move from segment to segment, each at its own pace.

A *piece* is some rows of the request at one point of its plan. Where the batcher splits or a loop lets rows go, the piece
splits; every part goes on alone. Nothing here waits: the executor's deliveries push the pieces on.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import msgspec
import numpy as np

from ganserve.codecs import LateRows
from ganserve.serving.edits import EditSegment
from ganserve.serving.executor import Executor
from ganserve.serving.jobs import Arrays, Batch, Feeds, Job
from ganserve.serving.plan import LoopSegment, Plan
from ganserve.serving.sharing import Wish
from ganserve.serving.stage import Stage
from ganserve.serving.tracing import Trace, running

Deliver: TypeAlias = Callable[[int, Arrays, int], None]
"""Takes the first row, the outputs and the number of rows that a batch made of a job."""

Watch: TypeAlias = Callable[[np.ndarray, np.ndarray, Arrays], np.ndarray]
"""Sees rows after each of their runs in a loop: takes their numbers in the request, how many runs each has had, and all outputs of the
graph; gives a mask of the rows that end now, with what they have. Its arrays are parts of a batch: copy what is kept."""


class Times(msgspec.Struct):
    """Seconds that a request's rows spent, summed over its batches; a batch shared with others counts whole.

    What is added is kept in the ``trace`` of the call that runs, if it is traced.
    """

    queue: float = 0.0
    engine: float = 0.0
    trace: Trace | None = msgspec.field(default_factory=running)

    def ran(self, submitted: float, batch: Batch, rows: int) -> None:
        """Add what ``rows`` spent that waited since ``submitted`` and were in ``batch``."""
        self.queue += batch.taken - submitted
        self.engine += batch.seconds
        if self.trace is not None:
            self.trace.ran(submitted, batch, rows)

    def took(self, part: str, started: float, ended: float) -> float:
        """The seconds from ``started`` to ``ended``, in which a ``part`` of the call's way was gone."""
        if self.trace is not None:
            self.trace.add(part, started, ended)
        return ended - started


class Piece(msgspec.Struct, frozen=True, eq=False):
    """Some rows of a request: their numbers in it, and their tensors so far."""

    rows: np.ndarray
    tensors: Arrays

    def part(self, start: int, stop: int) -> "Piece":
        """The rows ``start`` to ``stop`` of this piece."""
        if start == 0 and stop == len(self.rows):
            return self
        return Piece(self.rows[start:stop], {name: array[start:stop] for name, array in self.tensors.items()})

    def pick(self, mask: np.ndarray) -> "Piece":
        """The rows where ``mask`` is true."""
        return Piece(self.rows[mask], {name: array[mask] for name, array in self.tensors.items()})

    def plus(self, made: Arrays) -> "Piece":
        """This piece with more tensors."""
        return Piece(self.rows, {**self.tensors, **made})


class _Round(msgspec.Struct, frozen=True, eq=False):
    """Rows inside a loop: the stage's feeds for the next run, the run's number and the last one's, row by row."""

    feeds: Arrays
    counters: np.ndarray
    limits: np.ndarray


class Flow:
    """One request on its way. Iterate :meth:`pieces` for the finished rows; :meth:`cancel` when the caller has gone."""

    def __init__(
        self,
        plan: Plan,
        executor: Executor,
        *,
        rows: int,
        tensors: Arrays,
        seeds: np.ndarray | None,
        times: Times,
        caller: Hashable,
        late: Mapping[str, LateRows] = MappingProxyType({}),
        deadline: float = math.inf,
        watch: Watch | None = None,
        admitted: bool = False,
    ) -> None:
        """``tensors`` are those given or decoded, ``[rows, ...]``; ``seeds`` is ``[rows, 2]`` (seed, index) where the plan reads it.

        ``late`` are rows of tensors that the plan lets come late.

        ``times`` is added to as the batches run. Where rows of the same request have been let in before, these are ``admitted`` too.
        """
        self._times = times
        self._watch, self._admitted = watch, admitted
        self._plan, self._executor, self._rows = plan, executor, rows
        self._missing = rows
        self._seeds, self._caller, self._deadline = seeds, caller, deadline
        self._tensors, self._late = tensors, late
        self._finished: deque[Piece | Exception] = deque()
        self._arrival: asyncio.Future[None] | None = None
        self._jobs: set[Job] = set()
        self._wishes: set[Wish] = set()

    def pieces(self) -> AsyncIterator[Piece]:
        """Start, and give the finished rows as they come, in any order, with the plan's wanted tensors; once only."""
        self._advance(Piece(np.arange(self._rows), self._tensors), 0, admitted=self._admitted)
        return self

    # An iterator, since an event loop keeps account of every generator, which costs a small call more than all of this does.

    def __aiter__(self) -> "Flow":
        return self

    async def __anext__(self) -> Piece:
        if not self._missing:
            raise StopAsyncIteration
        if not self._finished:
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        piece = self._finished.popleft()
        if isinstance(piece, Exception):
            self.cancel()
            raise piece
        self._missing -= len(piece.rows)
        return piece

    def cancel(self) -> None:
        """Drop every row that still waits."""
        for job in self._jobs:
            self._executor.cancel(job)
        self._jobs.clear()
        for wish in self._wishes:
            self._executor.sharing.cancel(wish)
        self._wishes.clear()

    def _advance(self, piece: Piece, segment: int, *, admitted: bool = True) -> None:
        if segment == len(self._plan.segments):
            self._finish(piece)
            return
        stop = self._plan.segments[segment]
        if isinstance(stop, LoopSegment):
            feeds, limits = stop.start(piece.tensors, len(piece.rows))
            self._loop(stop, piece, segment, _Round(feeds, np.zeros(len(limits), np.int64), limits), admitted)
        elif isinstance(stop, EditSegment):
            self._advance(piece.plus(stop.moved(piece.tensors)), segment + 1, admitted=admitted)
        else:
            self._stage(stop, piece, segment, admitted)

    def _stage(self, stage: Stage, piece: Piece, segment: int, admitted: bool) -> None:
        def deliver(start: int, outputs: Arrays, rows: int) -> None:
            self._advance(piece.part(start, start + rows).plus(outputs), segment + 1)

        if stage.shared:
            feeds = {name: piece.tensors[name] for name in stage.reads}
            self._share(stage, feeds, len(piece.rows), deliver, admitted)
        else:
            some = {name: self._rows_of(name, piece) for name in stage.reads}
            self._submit(stage, some, len(piece.rows), deliver, admitted)

    def _rows_of(self, name: str, piece: Piece) -> np.ndarray | LateRows:
        """What ``piece`` has of a tensor, made or late."""
        if (late := self._late.get(name)) is None:
            return piece.tensors[name]
        # The rows of a piece are in order, so as many are the same.
        return late if len(piece.rows) == self._rows else late[piece.rows]

    def _loop(self, segment: LoopSegment, piece: Piece, position: int, turn: _Round, admitted: bool = True) -> None:
        seeds = None if self._seeds is None else self._seeds[piece.rows]

        def deliver(start: int, outputs: Arrays, rows: int) -> None:
            part, cut = piece.part(start, start + rows), slice(start, start + rows)
            counters, limits = turn.counters[cut], turn.limits[cut]
            over = segment.finished(outputs, counters, limits)
            if self._watch is not None:
                over = over | self._watch(part.rows, counters + 1, outputs)
            if over.any():
                ended = part.plus({name: outputs[port] for port, name in segment.outputs.items()})
                self._advance(ended.pick(over), position + 1)
            if not over.all():
                on = ~over
                feeds = {port: array[cut][on] for port, array in turn.feeds.items()}
                feeds |= {port: outputs[made][on] for made, port in segment.loop.state.items()}
                self._loop(segment, part.pick(on), position, _Round(feeds, counters[on] + 1, limits[on]))

        feeds = segment.feeds(turn.feeds, turn.counters, turn.limits, seeds)
        self._submit(segment.stage, feeds, len(piece.rows), deliver, admitted)

    def _finish(self, what: Piece | Exception) -> None:
        self._finished.append(what)
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def _submit(self, stage: Stage, feeds: Feeds, rows: int, deliver: Deliver, admitted: bool) -> None:
        left = rows

        def delivered(start: int, outputs: Arrays, batch: Batch) -> None:
            nonlocal left
            count = len(next(iter(outputs.values())))
            self._times.ran(job.submitted, batch, count)
            left -= count
            if not left:
                self._jobs.discard(job)
            deliver(start, outputs, count)

        job = Job(
            stage,
            feeds,
            rows=rows,
            caller=self._caller,
            deliver=delivered,
            fail=self._finish,
            deadline=self._deadline,
            most_rows=stage.most_rows(feeds),
            # Who watches a loop judges its numbers: a search lets a start go of which nothing comes.
            takes_nan=self._watch is not None,
        )
        self._executor.submit(job, admitted=admitted)
        self._jobs.add(job)

    def _share(self, stage: Stage, feeds: Arrays, rows: int, deliver: Deliver, admitted: bool) -> None:
        left = rows

        def delivered(start: int, outputs: Arrays, batch: Batch) -> None:
            nonlocal left
            count = len(next(iter(outputs.values())))
            # Whoever joins rows that a batch has taken already does not wait.
            self._times.ran(min(wish.submitted, batch.taken), batch, count)
            left -= count
            if not left:
                self._wishes.discard(wish)
            deliver(start, outputs, count)

        wish = Wish(stage, feeds, rows, self._caller, delivered, self._finish, self._deadline)
        self._executor.sharing.submit(wish, admitted=admitted)
        self._wishes.add(wish)
