"""How a family says what training is: networks move in phases, each with a loss over a batch.

The loop (:mod:`ganserve_trainers.loop`) knows nothing of GANs: in every step it runs a recipe's phases in order, each
``repeats`` times, each only every ``every``-th step. A critic that is trained five times a step, lazy regularization, two
generators under one optimizer or a plain autoencoder are all phases.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

Logs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Source:
    """The random numbers of one update. Drawn for the whole batch of all processes and cut to this one's rows.

    A run of two processes therefore sees the numbers that one process with twice the batch would see.
    """

    generator: torch.Generator
    rows: int
    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def normal(self, *shape: int) -> Tensor:
        """N(0, 1) numbers ``[rows, *shape]``."""
        return self._own(torch.randn(self.rows * self.world, *shape, generator=self.generator))

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Numbers uniform in [low, high) ``[rows, *shape]``."""
        return self._own(torch.rand(self.rows * self.world, *shape, generator=self.generator) * (high - low) + low)

    def _own(self, everyone: Tensor) -> Tensor:
        return everyone[self.rank * self.rows : (self.rank + 1) * self.rows].to(self.device)


@dataclass(frozen=True)
class Batch:
    """Real images ``[n, C, H, W]`` in [-1, 1], their int64 labels ``[n]`` if the data has any, and this update's random numbers."""

    images: Tensor
    labels: Tensor | None
    source: Source

    @property
    def rows(self) -> int:
        """The number of images."""
        return self.images.shape[0]


@dataclass(frozen=True)
class Phase:
    """One kind of update: ``loss(batch)`` gives the scalar to minimise and what to log; ``optimizer`` moves ``networks``.

    Networks outside ``networks`` are frozen meanwhile. The k-th repeat of a step sees the step's k-th batch. ``after`` runs
    behind every optimizer step (weight clipping). ``clip`` bounds the gradient's norm.
    """

    name: str
    networks: tuple[str, ...]
    optimizer: torch.optim.Optimizer
    loss: Callable[[Batch], tuple[Tensor, Logs]]
    repeats: int = 1
    every: int = 1
    clip: float | None = None
    after: Callable[[], None] | None = None


@dataclass(frozen=True)
class Recipe:
    """All of a family's training: its phases, the networks of which a moving average is kept, and a preview.

    ``averaged`` maps a network's name to the half-life of its exponential moving average, in thousands of images.
    ``preview(networks, batch)`` gives images ``[n, C, H, W]`` in [-1, 1] from networks in eval mode, with the averages in place.
    """

    phases: tuple[Phase, ...]
    averaged: Mapping[str, float]
    preview: Callable[[Mapping[str, nn.Module], Batch], Tensor]
