"""Which rows meet in a batch, and which batch runs next on a device.

Pure bookkeeping under one lock: no threads, no clock, no engine (:mod:`ganserve.serving.executor` has those). Rows of many
requests wait in one *line* for each (stage, row shapes). :meth:`Batcher.take` picks a line and rows of it:

- The line: one whose soonest deadline has become urgent goes first, the least slack before the others; else the line that has
  had the least engine time (start-time fair queueing), so a busy model cannot starve a quiet one.
- The rows: urgent jobs first, then the callers in turn, each the same share; so a request of a thousand rows is split over
  many batches and lets single rows through between them.
- Both times, after a few urgent choices in a row one is made fairly: who is always in a hurry cannot starve who is not.
- Rows whose caller has gone are dropped; a job that can no longer meet its deadline fails with DEADLINE_EXCEEDED before any
  more of its rows are run.
"""

import heapq
import itertools
import math
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator

from ganserve.errors import DeadlineExceeded, QueueFull, RequestError
from ganserve.serving.jobs import Batch, Job, Line, Slice, Stage

_MAX_LINES = 256
"""Empty lines are kept for their timings, but not without end: row shapes may be the caller's choice."""

_URGENT_IN_A_ROW = 3
"""How often urgency may decide before fairness does once."""

Failures = list[tuple[Job, RequestError]]


class Batcher:
    """The waiting rows of one device. Thread-safe; times are seconds of one monotonic clock that the caller reads."""

    def __init__(self, max_rows: int = 4096, max_bytes: int = 1 << 30) -> None:
        """``max_rows`` bounds the rows that wait, ``max_bytes`` what is held for them; a request beyond is refused, never queued without end."""
        self.max_rows, self.max_bytes = max_rows, max_bytes
        self._held = 0
        self._lines: dict[Hashable, Line] = {}
        self._waiting = 0
        self._served = 0.0
        self._hurried = 0
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """The rows that wait."""
        return self._waiting

    def check_room(self, rows: int) -> None:
        """Raise :class:`QueueFull` if ``rows`` more do not fit; a caller with work to do before it submits asks first."""
        with self._lock:
            self._check_room(rows)

    def hold(self, count: int) -> None:
        """Take room for ``count`` bytes of pictures, until :meth:`release`; :class:`QueueFull` if there is not so much."""
        with self._lock:
            if self._held + count > self.max_bytes:
                raise QueueFull(
                    f"{self._held} bytes of pictures are waiting and {count} more exceed the queue's {self.max_bytes}; "
                    "retry later or send smaller ones",
                    retry_after=self._drain_seconds(),
                )
            self._held += count

    def release(self, count: int) -> None:
        """Give back the room of ``count`` bytes."""
        with self._lock:
            self._held -= count

    def submit(self, job: Job, now: float, *, admitted: bool = False) -> None:
        """Queue ``job``; :class:`QueueFull` if it does not fit. ``admitted`` rows (a later stage, a loop's next run) always fit."""
        with self._lock:
            if not admitted:
                self._check_room(job.rows)
            key = (job.stage, *((name, array.shape[1:]) for name, array in job.feeds.items()))
            line = self._lines.get(key)
            if line is None:
                line = self._lines[key] = Line(job.stage, job.most_rows)
            if not line.waiting:
                # A line that was empty gets no credit for the time it did not ask for.
                line.served = max(line.served, self._served)
            job.line, job.submitted, job.number = line, now, next(self._numbers)
            line.add(job)
            self._waiting += job.rows

    def cancel(self, job: Job) -> int:
        """Forget the rows of ``job`` that no batch has taken; how many those were."""
        with self._lock:
            saved = self._drop(job)
            self._tidy()
            return saved

    def clear(self) -> list[Job]:
        """Forget every row that waits; the jobs they were of, which have not been told."""
        with self._lock:
            jobs = list(self._jobs())
            for job in jobs:
                self._drop(job)
            self._tidy()
            return jobs

    def pending(self) -> Counter[tuple[str, int]]:
        """How many jobs have rows that wait, by their model and version: counted anew, for who asks now and then."""
        with self._lock:
            return Counter((job.stage.model, job.stage.version) for job in self._jobs())

    def forget(self, owns: Callable[[Stage], bool]) -> None:
        """Let go of the stages that are somebody's, for which no row will come any more."""
        with self._lock:
            self._lines = {key: line for key, line in self._lines.items() if line.waiting or not owns(line.stage)}

    def take(self, now: float) -> tuple[Batch | None, Failures]:
        """The batch to run next, if rows wait, and the jobs that have failed meanwhile (the caller tells them, outside the lock)."""
        with self._lock:
            failed: Failures = []
            for line in self._lines.values():
                self._expire(line, now, failed)
            batch = None
            while batch is None and (
                lines := [line for line in self._lines.values() if line.waiting and line.stage.ready]
            ):
                line = self._choose(lines, now)
                if slices := self._slices(line, now, failed):
                    rows = sum(piece.stop - piece.start for piece in slices)
                    batch = Batch(line, slices, rows, now)
                    self._left(line, rows)
                    self._served = max(self._served, line.served)
            self._tidy()
            return batch, failed

    def ran(self, batch: Batch, seconds: float) -> None:
        """Record that ``batch`` took ``seconds`` of the device."""
        with self._lock:
            batch.seconds = seconds
            batch.line.served += seconds
            batch.line.pace.observe(batch.rows, seconds)

    def _check_room(self, rows: int) -> None:
        if self._waiting + rows > self.max_rows:
            raise QueueFull(
                f"{self._waiting} rows are waiting and {rows} more exceed the queue's {self.max_rows}; retry later or ask for fewer",
                retry_after=self._drain_seconds(),
            )

    def _drain_seconds(self) -> float:
        return max(0.05, min(sum(line.pace.needs(line.waiting) for line in self._lines.values()), 30.0))

    def _jobs(self) -> Iterator[Job]:
        """The jobs of which rows wait."""
        return (job for line in self._lines.values() for jobs in line.callers.values() for job in jobs if job.waiting)

    def _drop(self, job: Job) -> int:
        saved = job.waiting
        job.cancelled = True
        if job.line is not None:
            self._left(job.line, saved)
        return saved

    def _left(self, line: Line, rows: int) -> None:
        line.waiting -= rows
        self._waiting -= rows

    def _tidy(self) -> None:
        for line in self._lines.values():
            if not line.waiting:
                line.clear()
        if len(self._lines) > _MAX_LINES:
            self._lines = {key: kept for key, kept in self._lines.items() if kept.waiting}

    def _expire(self, line: Line, now: float, failed: Failures) -> None:
        """Fail the jobs at the head of ``line.due`` that are late; what lies behind them is judged when its turn comes."""
        while line.due and (not line.due[0][2].waiting or self._is_late(line.due[0][2], now, failed)):
            heapq.heappop(line.due)

    def _is_late(self, job: Job, now: float, failed: Failures) -> bool:
        """Whether ``job``, which waits, can no longer end by its deadline; it has failed then."""
        line = job.line
        assert line is not None, "a job that waits has a line"
        left = job.deadline - now
        if left > (needed := line.pace.needs(job.waiting)):
            return False
        late = f"{job.waiting} of {job.rows} rows still wait {left:.3f} s before the deadline and need {needed:.3f} s"
        if left > 0:
            line.pace.doubt()
        self._drop(job)
        failed.append((job, DeadlineExceeded(f"{late}; allow more time or ask for fewer rows")))
        return True

    def _choose(self, lines: list[Line], now: float) -> Line:
        horizon = now + sum(line.pace.estimate(min(line.waiting, line.most_rows)) for line in lines)
        urgent = [line for line in lines if line.due and line.due[0][0] <= horizon]
        if urgent and self._hurried < _URGENT_IN_A_ROW:
            self._hurried += 1
            return min(urgent, key=lambda line: line.due[0][0] - line.pace.estimate(line.most_rows))
        self._hurried = 0
        return min(lines, key=lambda line: line.served)

    def _slices(self, line: Line, now: float, failed: Failures) -> list[Slice]:
        """Rows for one batch, taken; empty if all that waited was late."""
        room = line.most_rows
        slices: list[Slice] = []
        horizon = now + 2 * line.pace.estimate(room)
        while room and line.hurried < _URGENT_IN_A_ROW and line.due and line.due[0][0] <= horizon:
            job = line.due[0][2]
            room -= self._take(job, room, slices, now, failed)
            if not job.waiting:
                heapq.heappop(line.due)
        line.hurried = 0 if room else line.hurried + 1
        while room and line.callers:
            share = max(1, room // len(line.callers))
            for caller in list(line.callers):
                jobs = line.callers.pop(caller)
                quota = min(share, room)
                while quota and jobs:
                    taken = self._take(jobs[0], quota, slices, now, failed)
                    quota -= taken
                    room -= taken
                    if not jobs[0].waiting:
                        jobs.popleft()
                        line.jobs -= 1
                if jobs:
                    # To the back: the next batch starts with the callers that have waited longest.
                    line.callers[caller] = jobs
                if not room:
                    break
        return slices

    def _take(self, job: Job, most: int, slices: list[Slice], now: float, failed: Failures) -> int:
        if not job.waiting or (job.deadline < math.inf and self._is_late(job, now, failed)):
            return 0
        count = min(most, job.waiting)
        if slices and slices[-1].job is job:
            slices[-1] = Slice(job, slices[-1].start, slices[-1].stop + count)
        else:
            slices.append(Slice(job, job.taken, job.taken + count))
        job.taken += count
        return count
