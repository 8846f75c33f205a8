"""Latents without a server: points of a bundle's own latent space, computed by an engine in this process."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ganserve.metrics import Metrics
from ganserve.serving.batcher import Batcher
from ganserve.serving.call import Ask, Workers
from ganserve.serving.compose import Points, Source
from ganserve.serving.executor import Executor
from ganserve.serving.model import LoadedTask, Model


def latents_of(model: Model, task: LoadedTask, tensor: str, sources: Sequence[Source]) -> np.ndarray:
    """The latents ``tensor`` [n, ...] at ``sources``, by the engines of ``model``; :class:`ganserve.errors.InvalidArgument` about a source."""

    async def compute() -> np.ndarray:
        metrics = Metrics()
        executor = Executor(Batcher(max_rows=len(sources)), metrics)
        try:
            with ThreadPoolExecutor(1) as pool:
                ask = Ask(model=model, task=task, rows=len(sources), values={}, tensors={})
                return await Points(ask, tensor, sources, Workers(executor, pool, metrics)).rows()
        finally:
            await executor.close()

    return asyncio.run(compute())
