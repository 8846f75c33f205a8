"""The executor's thread on a core of its own and on one that it shares with the event loop."""

import asyncio
import os
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from ganserve.metrics import Metrics
from ganserve.serving.batcher import Batcher
from ganserve.serving.executor import MOST_LOST, QUIET_YIELDS, Executor
from ganserve.serving.jobs import Arrays, Batch, Job

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux's affinity")


class Stage:
    """A stage whose batches take a second of the clock it carries."""

    model, version, engine, max_rows, ready = "model", 1, "engine", 4, True

    def __init__(self) -> None:
        self.now = 0.0
        self.batches: list[int] = []

    def run(self, feeds: Arrays) -> Arrays:
        self.now += 1.0
        self.batches.append(len(feeds["x"]))
        return feeds


class Callers:
    """Callers of one row each; ``done`` is set when all have their row."""

    def __init__(self, stage: Stage, batcher: Batcher, number: int) -> None:
        self.stage, self.batcher, self.left, self.missing = stage, batcher, number, number
        self.done = asyncio.Event()

    def ask(self) -> None:
        """One more asks."""
        self.left -= 1
        rows = {"x": np.zeros((1, 2), np.float32)}
        job = Job(
            self.stage, rows, rows=1, caller="a", deliver=self._deliver, fail=lambda error: pytest.fail(str(error))
        )
        self.batcher.submit(job, self.stage.now)

    def _deliver(self, start: int, outputs: Arrays, batch: Batch) -> None:
        self.missing -= 1
        if not self.missing:
            self.done.set()


@pytest.fixture
def one_core() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


async def serve(number: int, at_yield: Callable[[Callers], None], monkeypatch: pytest.MonkeyPatch) -> tuple[Stage, int]:
    """Serve ``number`` callers, one of whom asks first; ``at_yield`` is what other threads do each time the executor's yields."""
    stage, batcher = Stage(), Batcher()
    callers = Callers(stage, batcher, number)
    yields = 0

    def sched_yield() -> None:
        nonlocal yields
        yields += 1
        at_yield(callers)

    monkeypatch.setattr("ganserve.serving.executor.os.sched_yield", sched_yield)
    callers.ask()
    executor = Executor(batcher, Metrics(), clock=lambda: stage.now)
    await asyncio.wait_for(callers.done.wait(), 10)
    await executor.close()
    return stage, yields


async def test_on_a_shared_core_rows_come_first_until_a_batch_is_full(
    one_core: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(callers: Callers) -> None:
        if callers.left:
            callers.ask()

    stage, yields = await serve(7, ask, monkeypatch)
    assert stage.batches == [1, 4, 2]
    # One for each row, then in vain: before the last batch, which was not full, and after it.
    assert yields == 6 + 2 * QUIET_YIELDS


async def test_other_programs_on_the_core_take_little_of_its_time(
    one_core: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(callers: Callers) -> None:
        callers.stage.now += 0.6 * MOST_LOST
        if callers.left:
            callers.ask()

    stage, _ = await serve(5, lose, monkeypatch)
    assert stage.batches == [1, 2, 2]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
async def test_on_a_core_of_its_own_it_gives_way_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    _, yields = await serve(1, lambda callers: None, monkeypatch)
    assert yields == 0
