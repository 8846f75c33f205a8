"""One device's thread: takes batches from a :class:`Batcher`, runs them, and hands the rows back on the event loop.

The thread asks for its next batch itself, so a device never waits for the event loop. A batch that raises is run again row by
row: the rows that raise again fail alone. Where batches end faster than the loop can deliver them, it delivers for a few
milliseconds at a time and looks after its calls in between.

On a single core the two only take turns, so the loop goes first: after a batch it answers the callers and reads what they ask
next, and all of that meets in one batch, where a thread that did not give way would serve half of the callers at a time.
"""

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from ganserve.errors import Unavailable
from ganserve.metrics import Metrics
from ganserve.serving.batcher import Batcher
from ganserve.serving.jobs import Arrays, Batch, Job
from ganserve.serving.sharing import Sharing

log = logging.getLogger(__name__)

Outcome = tuple[Batch, Arrays | Exception]

DELIVER_SECONDS = 0.005
"""How long the event loop delivers before it does something else."""

QUIET_YIELDS = 8
"""How often a thread that gives way yields without a new row before it goes on: a call passes several threads before it is one."""

MOST_LOST = 0.05
"""How much time a thread that gives way may lose to other programs before it goes on, in parts of the batch before."""


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
    ) -> None:
        """Start the thread; must be called on the running event loop. ``traced`` has batches tell when each of their graphs ran."""
        self.batcher = batcher
        self.device = device
        self.clock = clock
        self.sharing = Sharing(self)
        self._metrics, self._traced = metrics, traced
        self._loop = asyncio.get_running_loop()
        self._wake = threading.Condition()
        self._closing = False
        self._idle = False
        self._deliveries: deque[Callable[[], None]] = deque()
        self._delivering = False
        self._gives_way = device == "cpu" and _has_one_core()
        self._thread = threading.Thread(target=self._work, name=f"executor-{device}", daemon=True)
        self._thread.start()

    def submit(self, job: Job, *, admitted: bool = False) -> None:
        """Queue a job; :class:`ganserve.errors.QueueFull` when there is no room, :class:`Unavailable` once closed."""
        self._check_open()
        self.batcher.submit(job, self.clock(), admitted=admitted)
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
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)
        while self._deliveries:
            self._deliveries.popleft()()
        self._fail([(job, Unavailable("the server has stopped; try another replica")) for job in self.batcher.clear()])

    def _check_open(self) -> None:
        if self._closing:
            raise Unavailable("the server has stopped; try another replica")

    def _work(self) -> None:
        while not self._closing:
            batch, failed = self.batcher.take(self.clock())
            if failed:
                self._hand_over(partial(self._fail, failed))
            if batch is not None:
                self._hand_over(partial(self._deliver, self._run(batch)))
                if self._gives_way:
                    self._give_way(batch)
                continue
            with self._wake:
                # Said before the last look at the queue: a job comes in time to be seen, or late enough to wake this thread.
                self._idle = True
                if not self._closing and not self.batcher.waiting:
                    self._wake.wait()
                self._idle = False

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

    def _run(self, batch: Batch) -> Sequence[Outcome]:
        outcome = self._attempt(batch)
        if batch.rows == 1 or not isinstance(outcome, Exception):
            return [(batch, outcome)]
        log.warning("a batch of %d rows raised %r: running its rows one by one", batch.rows, outcome)
        return [(single, self._attempt(single)) for single in batch.singles()]

    def _attempt(self, batch: Batch) -> Arrays | Exception:
        started = self.clock()
        try:
            if not self._traced:
                return batch.stage.run(batch.feeds())
            return self._traced_run(batch, started)
        except Exception as error:
            return error
        finally:
            self.batcher.ran(batch, self.clock() - started)

    def _traced_run(self, batch: Batch, started: float) -> Arrays:
        ends: list[tuple[str, float]] = []
        outputs = batch.stage.run(batch.feeds(), lambda graph: ends.append((graph, self.clock())))
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
        for batch, outcome in outcomes:
            if isinstance(outcome, Exception):
                self._fail([(piece.job, outcome) for piece in batch.slices])
                continue
            self._metrics.observe_batch(batch)
            for piece, outputs in batch.split(outcome):
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


def _has_one_core() -> bool:
    return hasattr(os, "sched_yield") and hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) == 1
