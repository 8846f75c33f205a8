"""One device's thread: takes batches from a :class:`Batcher`, runs them, and hands the rows back on the event loop.

The thread asks for its next batch itself, so a device never waits for the event loop. A batch that raises is run again row by
row: the rows that raise again fail alone. Deliveries reach the loop once a batch, not once a row.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence

from ganserve.errors import Unavailable
from ganserve.metrics import Metrics
from ganserve.serving.batcher import Arrays, Batch, Batcher, Job

log = logging.getLogger(__name__)

Outcome = tuple[Batch, Arrays | Exception]


class Executor:
    """Runs the batches of one device until closed. ``submit`` and ``cancel`` belong to the event loop's thread."""

    def __init__(
        self,
        batcher: Batcher,
        metrics: Metrics,
        *,
        device: str = "cpu",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the thread; must be called on the running event loop."""
        self.batcher = batcher
        self.device = device
        self.clock = clock
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=f"executor-{device}", daemon=True)
        self._thread.start()

    def submit(self, job: Job, *, admitted: bool = False) -> None:
        """Queue a job; :class:`ganserve.errors.QueueFull` when there is no room, :class:`Unavailable` once closed."""
        self._check_open()
        self.batcher.submit(job, self.clock(), admitted=admitted)
        with self._wake:
            self._wake.notify()

    def check_room(self, rows: int) -> None:
        """Raise what :meth:`submit` would for ``rows`` more."""
        self._check_open()
        self.batcher.check_room(rows)

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
        self._fail([(job, Unavailable("the server has stopped; try another replica")) for job in self.batcher.clear()])

    def _check_open(self) -> None:
        if self._closing:
            raise Unavailable("the server has stopped; try another replica")

    def _work(self) -> None:
        while not self._closing:
            batch, failed = self.batcher.take(self.clock())
            if failed:
                self._loop.call_soon_threadsafe(self._fail, failed)
            if batch is not None:
                self._loop.call_soon_threadsafe(self._deliver, self._run(batch))
                continue
            with self._wake:
                # Checked again under the lock that `submit` notifies under, so no wake-up is lost.
                if not self._closing and not self.batcher.waiting:
                    self._wake.wait()

    def _run(self, batch: Batch) -> Sequence[Outcome]:
        outcome = self._attempt(batch)
        if batch.rows == 1 or not isinstance(outcome, Exception):
            return [(batch, outcome)]
        log.warning("a batch of %d rows raised %r: running its rows one by one", batch.rows, outcome)
        return [(single, self._attempt(single)) for single in batch.singles()]

    def _attempt(self, batch: Batch) -> Arrays | Exception:
        started = self.clock()
        try:
            return batch.stage.run(batch.feeds())
        except Exception as error:
            return error
        finally:
            self.batcher.ran(batch, self.clock() - started)

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
