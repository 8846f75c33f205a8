"""What a server computes, without one: latents and results of a bundle, made by an engine in this process."""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from ganserve.codecs import Signer
from ganserve.metrics import Metrics
from ganserve.serving import jobs
from ganserve.serving.batcher import Batcher
from ganserve.serving.call import Ask, Call, Workers
from ganserve.serving.compose import Points, Source
from ganserve.serving.executor import Executor
from ganserve.serving.frames import in_order
from ganserve.serving.lost import Lost
from ganserve.serving.model import Model
from ganserve.serving.results import Result
from ganserve.serving.stage import Stage
from ganserve.serving.task import LoadedTask

ASKS_AT_ONCE = 4
"""How many asks are under way together, so that the engine has rows while those of another are encoded."""


HANGS = "its engine has not come back for {:g} s; start again, with a longer --hang-seconds if a batch may take so long"


def latents_of(model: Model, task: LoadedTask, tensor: str, sources: Sequence[Source]) -> np.ndarray:
    """The latents ``tensor`` [n, ...] at ``sources``, by the engines of ``model``; :class:`ganserve.errors.InvalidArgument` about a source."""

    async def compute() -> np.ndarray:
        async with _workers(max_rows=len(sources), device="cpu") as workers:
            ask = Ask(model=model, task=task, rows=len(sources), values={}, tensors={})
            return await Points(ask, tensor, sources, workers).rows()

    return asyncio.run(compute())


async def results_of(
    asks: Iterable[Ask],
    *,
    max_rows: int,
    device: str,
    patience: float | None = None,
    provenance: bool = True,
    signer: Signer | None = None,
) -> AsyncGenerator[list[Result]]:
    """The results of each of ``asks``, in order, some of the asks (of at most ``max_rows`` rows each) under way at once. Close it.

    ``provenance`` and ``signer`` say what files tell of themselves, as in a server's settings.

    An ask that is wrong raises :class:`ganserve.errors.InvalidArgument` after the results before it, and ends it; so does a batch that
    takes more than ``patience`` seconds, with :class:`ganserve.errors.Unavailable`.
    """

    async def answer(ask: Ask) -> list[Result]:
        with contextlib.closing(Call(ask, workers).results()) as results:
            return [result async for result in results]

    async def each() -> AsyncIterator[Ask]:
        for ask in asks:
            yield ask

    rows = ASKS_AT_ONCE * max_rows
    async with _workers(
        max_rows=rows, device=device, patience=patience, provenance=provenance, signer=signer
    ) as workers:
        answers = in_order(each(), answer, window=ASKS_AT_ONCE, held=workers.metrics.stream_frames)
        async with contextlib.aclosing(answers):
            async for results in answers:
                yield results


@contextlib.asynccontextmanager
async def _workers(
    *,
    max_rows: int,
    device: str,
    patience: float | None = None,
    provenance: bool = True,
    signer: Signer | None = None,
) -> AsyncIterator[Workers]:
    metrics = Metrics()
    replace = None if patience is None else partial(_lose, HANGS.format(patience))
    executor = Executor(Batcher(max_rows=max_rows), metrics, device=device, patience=patience, replace=replace)
    try:
        with ThreadPoolExecutor(os.cpu_count() or 1, "encode") as pool:
            yield Workers(executor, pool, metrics, provenance=provenance, signer=signer)
    finally:
        await executor.close()


def _lose(reason: str, stage: jobs.Stage, back: asyncio.Future[None]) -> Awaitable[None]:
    """Have the rows of ``stage``, which hangs, fail for ``reason``."""
    assert isinstance(stage, Stage)
    for run in stage.runs:
        run.loaded.session = Lost(f"model {stage.model!r}: {reason}")
    return asyncio.sleep(0)
