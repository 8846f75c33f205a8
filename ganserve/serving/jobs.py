"""What waits for a device: rows of requests as jobs, in lines for what they wait for, and the batches that they become."""

import heapq
import math
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Protocol, TypeAlias, TypeVar, cast

import msgspec
import numpy as np

from ganserve.codecs import LateDecoder, LateRows
from ganserve.errors import EngineError
from ganserve.serving.pace import Pace

Arrays: TypeAlias = Mapping[str, np.ndarray]
Feeds: TypeAlias = Mapping[str, np.ndarray | LateRows]


class Stage(Protocol):
    """What rows wait for: graphs that run as one batch. Compared by identity."""

    @property
    def model(self) -> str:
        """The model's name, for metrics."""

    @property
    def version(self) -> int:
        """The model's version, for metrics."""

    @property
    def engine(self) -> str:
        """The engine's name, for metrics."""

    @property
    def max_rows(self) -> int:
        """The most rows of one batch."""

    @property
    def ready(self) -> bool:
        """Whether it can run now; its rows wait meanwhile."""

    def run(self, feeds: Arrays, ran: Callable[[str], None] | None = None) -> Arrays:
        """Run the stage on a batch; every array has the rows first. ``ran`` is told each graph's name when it has run."""


class Job:
    """Rows of one request that wait for one stage.

    ``deliver(start, outputs, batch)`` gets the rows ``start ..`` of the job as they are made, possibly out of order over several
    batches; ``fail(error)`` is called at most once, and nothing is delivered after it. ``cancelled`` is the batcher's word for
    "take no more rows", ``ended`` the executor's for "tell no more". ``most_rows`` is what a batch of these shapes may have at most.
    A row of which an engine makes NaN fails the job, unless it ``takes_nan``.
    """

    __slots__ = (
        "caller",
        "cancelled",
        "deadline",
        "deliver",
        "ended",
        "fail",
        "feeds",
        "line",
        "most_rows",
        "number",
        "rows",
        "stage",
        "submitted",
        "taken",
        "takes_nan",
    )

    def __init__(
        self,
        stage: Stage,
        feeds: Feeds,
        *,
        rows: int,
        caller: Hashable,
        deliver: Callable[[int, Arrays, "Batch"], None],
        fail: Callable[[Exception], None],
        deadline: float = math.inf,
        most_rows: int | None = None,
        takes_nan: bool = False,
    ) -> None:
        self.stage, self.feeds, self.rows, self.caller = stage, feeds, rows, caller
        self.deliver, self.fail, self.deadline = deliver, fail, deadline
        self.taken, self.most_rows, self.takes_nan = 0, most_rows or stage.max_rows, takes_nan
        self.cancelled = self.ended = False
        self.submitted, self.number = 0.0, 0
        self.line: Line | None = None

    @property
    def waiting(self) -> int:
        """The rows that no batch has taken yet."""
        return 0 if self.cancelled else self.rows - self.taken


class Slice(msgspec.Struct, frozen=True):
    """The rows ``start`` to ``stop`` (excluded) of a job."""

    job: Job
    start: int
    stop: int


class Batch(msgspec.Struct, eq=False):
    """Rows that run together. ``seconds`` is set by the executor when they have run.

    So are the ``graphs``, if calls are traced: their names, and when each began and ended.
    """

    line: "Line"
    slices: Sequence[Slice]
    rows: int
    taken: float
    seconds: float = 0.0
    graphs: list[tuple[str, float, float]] = []

    @property
    def stage(self) -> Stage:
        """What the rows run through."""
        return self.line.stage

    def feeds(self) -> Arrays:
        """The rows' inputs, concatenated, and made where they come late; without a copy where one job fills the batch."""
        parts = [_cut(piece.job.feeds, piece.start, piece.stop, piece.job.rows) for piece in self.slices]
        return {name: _joined([part[name] for part in parts]) for name in parts[0]}

    def split(self, outputs: Arrays) -> Iterator[tuple[Slice, Arrays]]:
        """Each slice with its rows of ``outputs``."""
        offset = 0
        for piece in self.slices:
            end = offset + piece.stop - piece.start
            yield piece, _cut(outputs, offset, end, self.rows)
            offset = end

    def singles(self) -> Iterator["Batch"]:
        """One batch for each row, to find the row that broke this one."""
        for piece in self.slices:
            for row in range(piece.start, piece.stop):
                yield Batch(self.line, (Slice(piece.job, row, row + 1),), 1, self.taken)


class Line:
    """The jobs that wait for one stage with one set of row shapes."""

    __slots__ = ("callers", "due", "hurried", "jobs", "most_rows", "pace", "served", "stage", "waiting")

    def __init__(self, stage: Stage, most_rows: int) -> None:
        self.stage, self.most_rows, self.pace = stage, most_rows, Pace(most_rows)
        self.callers: dict[Hashable, deque[Job]] = {}
        self.due: list[tuple[float, int, Job]] = []
        self.jobs = 0
        self.waiting = 0
        self.hurried = 0
        self.served = 0.0

    def add(self, job: Job) -> None:
        """Append ``job`` behind its caller's others."""
        # Jobs that ran early or were cancelled leave when they surface; under a load that never ends they would pile up.
        if max(self.jobs, len(self.due)) > 64 + 2 * self.waiting:
            self._prune()
        self.jobs += 1
        self.waiting += job.rows
        self.callers.setdefault(job.caller, deque()).append(job)
        if job.deadline < math.inf:
            heapq.heappush(self.due, (job.deadline, job.number, job))

    def clear(self) -> None:
        """Let go of jobs that have nothing waiting; for a line that has none that does."""
        self.callers.clear()
        self.due.clear()
        self.jobs = self.hurried = 0

    def _prune(self) -> None:
        kept = {caller: deque(job for job in jobs if job.waiting) for caller, jobs in self.callers.items()}
        self.callers = {caller: jobs for caller, jobs in kept.items() if jobs}
        self.jobs = sum(map(len, self.callers.values()))
        self.due = [entry for entry in self.due if entry[2].waiting]
        heapq.heapify(self.due)


Rows = TypeVar("Rows", np.ndarray, np.ndarray | LateRows)


def _cut(tensors: Mapping[str, Rows], start: int, stop: int, rows: int) -> Mapping[str, Rows]:
    if start == 0 and stop == rows:
        return tensors
    return {name: array[start:stop] for name, array in tensors.items()}


def _joined(parts: Sequence[np.ndarray | LateRows]) -> np.ndarray:
    """The rows of ``parts`` in one array; neighbours that one decoder makes are made together."""
    arrays: list[np.ndarray] = []
    for decoder, group in groupby(parts, _decoder):
        if decoder is None:
            arrays += cast("Iterator[np.ndarray]", group)
        else:
            late = cast("list[LateRows]", list(group))
            made, rows = decoder.make(late), sum(part.shape[0] for part in late)
            if len(made) != rows:
                # Else callers would get each other's rows.
                raise EngineError(f"{type(decoder).__name__} made {len(made)} rows where {rows} were to be made")
            arrays.append(made)
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _decoder(part: np.ndarray | LateRows) -> LateDecoder | None:
    return None if isinstance(part, np.ndarray) else part.decoder
