"""Watching a search: what it tells on the way, and when time ends it."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from ganserve.codecs import Media
from ganserve.serving.jobs import Arrays
from ganserve.serving.plan import LoopSegment
from ganserve.serving.runner import Watch

if TYPE_CHECKING:
    from ganserve.serving.inversion import InvertAsk

PENDING = 4
"""The most messages of progress that wait for a reader; beyond it the oldest go."""

FAREWELL = 0.1
"""Seconds before the call's deadline or the server's end at which a search should be over, so that its result arrives in time."""

COMPARED = 1e-6
"""Seconds besides for each number of the picture, which is encoded and compared with the target: several times what it takes."""

STEPS_AFTER = 2
"""The time of how many steps is kept for what follows the last one, which is to make that picture."""

_LOSS, _PERCEPTUAL = "loss", "perceptual"
"""What the graph of a step calls the loss of the picture of the moment, and its perceptual distance where it has one."""


class Progress(msgspec.Struct, frozen=True, eq=False):
    """How far a search is: steps done and in all, the loss of the picture of the moment, seconds since the request came."""

    step: int
    steps: int
    loss: float
    seconds: float
    latent: np.ndarray | None
    preview: Media | None


class Lookout:
    """Watches the loop of one search: tells of its progress, and ends it when its time is nearly over.

    ``steps`` of ``most_steps`` are done; ``told`` holds progress that nobody has read, each with its picture, and ``news`` is set
    when there is any.
    """

    def __init__(
        self, ask: "InvertAsk", clock: Callable[[], float], counted: Callable[[], None], ends: Callable[[], float]
    ) -> None:
        """``counted`` is called for each step; ``ends`` tells when the server ends, infinity while it is not stopping."""
        self._ask, self._clock, self._counted, self._ends = ask, clock, counted, ends
        self._came = self._ended = clock()
        self._step_seconds = self._farewell = 0.0
        self.steps = self.most_steps = 0
        self.stopped_early = False
        self.perceptual: float | None = None
        self.told: deque[tuple[Progress, np.ndarray | None]] = deque(maxlen=PENDING)
        self.news = asyncio.Event()

    def begin(self, loop: LoopSegment, most_steps: int, size: int) -> Watch:
        """Watch ``loop``, of which one row runs ``most_steps`` times, from now; its picture is of ``size`` numbers."""
        inversion = self._ask.task.task.inversion
        assert inversion is not None, "a task of kind invert has one"
        ports = {name: port for port, name in loop.loop.makes(loop.graph).items()}
        self._best_loss, self._best = ports[inversion.loss], ports[inversion.latent]
        self._preview = ports[inversion.preview]
        self._farewell = FAREWELL + COMPARED * size
        self._until = min(self._came + self._ask.seconds, self._ask.deadline - self._farewell)
        self.most_steps, self._ended = most_steps, self._clock()
        return self._see

    def _see(self, rows: np.ndarray, runs: np.ndarray, outputs: Arrays) -> np.ndarray:
        self._counted()
        now = self._clock()
        took, self._ended = now - self._ended, now
        self._step_seconds += (took - self._step_seconds) * (0.2 if self.steps else 1.0)
        self.steps = int(runs[0])
        if _PERCEPTUAL in outputs and outputs[_LOSS][0] == outputs[self._best_loss][0]:
            # The picture of the moment is the best so far.
            self.perceptual = float(outputs[_PERCEPTUAL][0])
        goes_on = self.steps < self.most_steps
        until = min(self._until, self._ends() - self._farewell)
        self.stopped_early = goes_on and now + STEPS_AFTER * self._step_seconds > until
        if goes_on and not self.stopped_early and self._ask.every and self.steps % self._ask.every == 0:
            self._tell(now, outputs)
        return np.array([self.stopped_early])

    def _tell(self, now: float, outputs: Arrays) -> None:
        latent = outputs[self._best][0].copy() if self._ask.latents else None
        preview = outputs[self._preview][0].copy() if self._ask.previews else None
        loss = float(outputs[_LOSS][0])
        self.told.append((Progress(self.steps, self.most_steps, loss, now - self._came, latent, None), preview))
        self.news.set()
