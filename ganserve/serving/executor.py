"""One device's thread: takes batches from a :class:`Batcher`, runs them, and hands the rows back on the event loop.

The thread asks for its next batch itself, so a device never waits for the event loop. A batch that raises is run again row by
row: the rows that raise again fail alone, as do those of which an engine made NaN. Where batches end faster than the loop can
deliver them, it delivers for a few milliseconds at a time and looks after its calls in between.

A batch that does not come back is given up together with its thread, for nothing can end a call into an engine. Another thread goes
on; the batch's rows are run again one by one once the owner of their stage has replaced what hangs.

On a single core the two only take turns, so the loop goes first: after a batch it answers the callers and reads what they ask
next, and all of that meets in one batch, where a thread that did not give way would serve half of the callers at a time.
"""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import numpy as np

from ganserve.errors import EngineError, Unavailable
from ganserve.metrics import Metrics
from ganserve.serving.batcher import Batcher, Failures
from ganserve.serving.cores import has_one_core
from ganserve.serving.jobs import Arrays, Batch, Job, Stage
from ganserve.serving.sharing import Sharing
from ganserve.serving.untold import named

log = logging.getLogger(__name__)

Outcome = tuple[Batch, Arrays | Exception, Mapping[int, str]]
"""A batch, what came of it, and of which of its rows it is no number, by the tensor."""

Replace = Callable[[Stage, asyncio.Future[None]], Awaitable[None]]
"""Turns a stage that hangs unready at once, then has it run again or raise; the future is done if ever the call that hangs comes back."""

DELIVER_SECONDS = 0.005
"""How long the event loop delivers before it does something else."""

QUIET_YIELDS = 8
"""How often a thread that gives way yields without a new row before it goes on: a call passes several threads before it is one."""

LOOKS = 8
"""How often the running batch is looked at within the time after which it hangs."""

MOST_LOST = 0.05
"""How much time a thread that gives way may lose to other programs before it goes on, in parts of the batch before."""


class _Worker:
    """A thread that runs batches. ``at`` is the batch that it runs and since when; once ``given_up``, nobody hears of it.

    ``back`` is done when the thread has ended, ``over`` when nobody waits for it any more.
    """

    def __init__(self, work: Callable[["_Worker"], None], name: str) -> None:
        self.at: tuple[Batch, float] | None = None
        self.given_up = False
        loop = asyncio.get_running_loop()
        self.back: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[None] = loop.create_future()
        self.back.add_done_callback(lambda _: _done(self.over))
        self.thread = threading.Thread(target=work, args=(self,), name=name, daemon=True)
        self.thread.start()


class Executor:
    """Runs the batches of one device until closed. ``submit`` and ``cancel`` belong to the event loop's thread."""

    def __init__(
        self,
        batcher: Batcher,
        metrics: Metrics,
        *,
        device: str = "cpu",
        clock: Callable[[], float] = time.monotonic,
        traced: bool = False,
        patience: float | None = None,
        replace: Replace | None = None,
    ) -> None:
        """Start the thread; must be called on the running event loop. ``traced`` has batches tell when each of their graphs ran.

        A batch that takes longer than ``patience`` seconds hangs: it is given up, and ``replace`` is asked for its stage.
        """
        self.batcher = batcher
        self.device = device
        self.clock = clock
        self.sharing = Sharing(self)
        self._metrics, self._traced = metrics, traced
        self._loop = asyncio.get_running_loop()
        self._wake = threading.Condition()
        self._closing = False
        self._idle = False
        self._news = 0
        self._again: deque[Batch] = deque()
        self._deliveries: deque[Callable[[], None]] = deque()
        self._delivering = False
        self._gives_way = device == "cpu" and has_one_core()
        self._replacing: set[asyncio.Task[None]] = set()
        self._patience, self._replace = patience, replace
        self._worker = _Worker(self._work, f"executor-{device}")
        self._look: asyncio.TimerHandle | None = None
        if patience is not None and replace is not None:
            self._watch(patience, replace)

    def submit(self, job: Job, *, admitted: bool = False) -> None:
        """Queue a job; :class:`ganserve.errors.QueueFull` when there is no room, :class:`Unavailable` once closed."""
        self._check_open()
        self.batcher.submit(job, self.clock(), admitted=admitted)
        self._news += 1
        # A thread that is at work looks for itself; waking one costs more than all else here.
        if self._idle:
            with self._wake:
                self._wake.notify()

    def check_room(self, rows: int) -> None:
        """Raise what :meth:`submit` would for ``rows`` more."""
        self._check_open()
        self.batcher.check_room(rows)

    def hold(self, count: int) -> None:
        """Take room for ``count`` bytes of pictures, from any thread; :class:`ganserve.errors.QueueFull` if there is not so much."""
        self._check_open()
        self.batcher.hold(count)

    def release(self, count: int) -> None:
        """Give back the room of ``count`` bytes, from any thread."""
        self.batcher.release(count)

    def cancel(self, job: Job) -> None:
        """Drop what is left of a job, whose caller has gone; it will hear nothing more."""
        job.ended = True
        if saved := self.batcher.cancel(job):
            self._metrics.cancelled_rows.inc(saved)

    async def close(self) -> None:
        """Let the batch that runs finish, then stop the thread. Jobs that still wait fail with :class:`Unavailable`."""
        self._closing = True
        self._rouse()
        await self._worker.over
        if not self._worker.given_up:
            await asyncio.to_thread(self._worker.thread.join)
        if self._look is not None:
            self._look.cancel()
        for task in self._replacing:
            task.cancel()
        while self._deliveries:
            self._deliveries.popleft()()
        waiting = [*self.batcher.clear(), *(piece.job for batch in self._again for piece in batch.slices)]
        self._fail([(job, Unavailable("the server has stopped; try another replica")) for job in waiting])

    def _check_open(self) -> None:
        if self._closing:
            raise Unavailable("the server has stopped; try another replica")

    def _rouse(self) -> None:
        """Have the thread look again for what it can run."""
        self._news += 1
        with self._wake:
            self._wake.notify()

    def _work(self, worker: _Worker) -> None:
        while not (self._closing or worker.given_up):
            seen = self._news
            batch, failed = self._next()
            if failed:
                self._hand_over(partial(self._fail, failed))
            if batch is not None:
                if (outcomes := self._run(worker, batch)) is None:
                    break
                if outcomes:
                    self._hand_over(partial(self._deliver, outcomes))
                if self._gives_way:
                    self._give_way(batch)
                continue
            with self._wake:
                # Said before the last look at the news: a job comes in time to be seen, or late enough to wake this thread.
                self._idle = True
                if not self._closing and self._news == seen:
                    self._wake.wait()
                self._idle = False
        # The loop may have ended, if this comes back from a batch that was given up long ago.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_done, worker.back)

    def _next(self) -> tuple[Batch | None, Failures]:
        """The batch to run next: first those that are run once more."""
        if self._again:
            with self._wake:
                self._again = deque(batch for batch in self._again if not batch.slices[0].job.ended)
                if batch := next((batch for batch in self._again if batch.stage.ready), None):
                    self._again.remove(batch)
                    return batch, []
        return self.batcher.take(self.clock())

    def _give_way(self, before: Batch) -> None:
        """Let the other threads run while that brings rows, up to a full batch; where none wants to run, a yield takes no time."""
        began, used, lost = self.clock(), time.process_time(), 0.0
        waiting, quiet = self.batcher.waiting, 0
        while waiting < before.stage.max_rows and quiet < QUIET_YIELDS and lost <= MOST_LOST * before.seconds:
            os.sched_yield()
            came = self.batcher.waiting - waiting
            waiting += came
            quiet = 0 if came else quiet + 1
            lost = self.clock() - began - (time.process_time() - used)

    def _run(self, worker: _Worker, batch: Batch) -> Sequence[Outcome] | None:
        """What came of ``batch``; None where this thread was given up meanwhile."""
        worker.at = (batch, self.clock())
        try:
            made = self._traced_run(batch) if self._traced else batch.stage.run(batch.feeds())
            outcome: Outcome = (batch, made, nan_rows(made))
        except Exception as error:
            outcome = (batch, error, {})
        with self._wake:
            if worker.given_up:
                return None
            _, began = worker.at
            worker.at = None
            self.batcher.ran(batch, self.clock() - began)
            if batch.rows == 1 or not isinstance(outcome[1], Exception):
                return [outcome]
            log.warning("a batch of %d rows raised %s: running its rows one by one", batch.rows, named(outcome[1]))
            self._again.extend(batch.singles())
            return []

    def _watch(self, patience: float, replace: Replace) -> None:
        """Look now and then whether the batch that runs has run for too long."""
        self._look = self._loop.call_later(patience / LOOKS, self._watch, patience, replace)
        worker = self._worker
        with self._wake:
            if worker.given_up or worker.at is None or self.clock() - worker.at[1] <= patience:
                return
            worker.given_up = True
            batch, _ = worker.at
            if batch.rows > 1:
                self._again.extend(batch.singles())
        log.error(
            "%s %d: a batch of %d rows has not come back from %s for %g s: it is given up, and the engine's session replaced",
            *(batch.stage.model, batch.stage.version, batch.rows, batch.stage.engine, patience),
        )
        self._metrics.engine_hangs.labels(batch.stage.model, batch.stage.engine).inc()
        if batch.rows == 1:
            error = EngineError(f"{batch.stage.engine} has not come back from this row for {patience:g} s")
            self._fail([(piece.job, error) for piece in batch.slices])
        task = self._loop.create_task(self._go_on(replace(batch.stage, worker.back)))
        self._replacing.add(task)
        task.add_done_callback(self._replacing.discard)
        _done(worker.over)
        if not self._closing:
            self._worker = _Worker(self._work, worker.thread.name)

    async def _go_on(self, replaced: Awaitable[None]) -> None:
        await replaced
        self._rouse()

    def _traced_run(self, batch: Batch) -> Arrays:
        ends: list[tuple[str, float]] = []
        feeds, started = batch.feeds(), self.clock()
        outputs = batch.stage.run(feeds, lambda graph: ends.append((graph, self.clock())))
        # Fetching the outputs is the last graph's, which may have been at work until then.
        ends[-1] = ends[-1][0], self.clock()
        begins = (started, *(end for _, end in ends))
        batch.graphs = [(graph, begin, end) for begin, (graph, end) in zip(begins, ends, strict=False)]
        return outputs

    def _hand_over(self, delivery: Callable[[], None]) -> None:
        self._deliveries.append(delivery)
        if not self._delivering:
            self._delivering = True
            self._loop.call_soon_threadsafe(self._deliver_some)

    def _deliver_some(self) -> None:
        until = time.monotonic() + DELIVER_SECONDS
        while self._deliveries:
            self._deliveries.popleft()()
            if time.monotonic() > until:
                self._loop.call_soon(self._deliver_some)
                return
        self._delivering = False
        if self._deliveries:
            # Handed over between the last look and the line above, by a thread that saw this still at work.
            self._deliver_some()

    def _deliver(self, outcomes: Sequence[Outcome]) -> None:
        for batch, outcome, nan in outcomes:
            if isinstance(outcome, Exception):
                self._fail([(piece.job, outcome) for piece in batch.slices])
                continue
            self._metrics.observe_batch(batch)
            start = 0
            for piece, outputs in batch.split(outcome):
                rows = range(start, start := start + piece.stop - piece.start)
                wrong = next((tensor for row, tensor in nan.items() if row in rows), None)
                if wrong is not None and not piece.job.takes_nan:
                    self._fail([(piece.job, EngineError(f"{batch.stage.engine} made NaN of a row of {wrong!r}"))])
                if not piece.job.ended:
                    try:
                        piece.job.deliver(piece.start, outputs, batch)
                    except Exception as error:
                        self._fail([(piece.job, error)])

    def _fail(self, failed: Sequence[tuple[Job, Exception]]) -> None:
        for job, error in failed:
            if not job.ended:
                job.ended = True
                self.batcher.cancel(job)
                job.fail(error)


def nan_rows(outputs: Arrays) -> dict[int, str]:
    """The rows that hold NaN, each with a tensor in which it does."""
    found: dict[int, str] = {}
    for name, array in outputs.items():
        # A minimum is NaN as soon as one number is, and takes no memory.
        if array.dtype.kind == "f" and np.isnan(array.min(initial=0)):
            rows = np.isnan(array.reshape(len(array), -1)).any(axis=1)
            found |= dict.fromkeys(np.flatnonzero(rows).tolist(), name)
    return found


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
