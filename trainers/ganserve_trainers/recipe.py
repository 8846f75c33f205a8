"""How a family says what training is: networks move in phases, each with a loss over a batch.

The loop (:mod:`ganserve_trainers.loop`) knows nothing of GANs: in every step it runs a recipe's phases in order, each
``repeats`` times, each only every ``every``-th step. A critic that is trained five times a step, lazy regularization, two
generators under one optimizer or a plain autoencoder are all phases.
"""

from collections.abc import Callable, Mapping, Sequence
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
    """The real data of one update, by name, and its random numbers.

    Pictures are float ``[n, C, H, W]`` in [-1, 1], labels int64 ``[n]``. A preset's ``data`` says which there are: ``image``
    and, where the data has it, ``label`` (``"images"``); ``a`` and ``b``, whose rows belong together (``"pairs"``) or not
    (``"domains"``).
    """

    tensors: Mapping[str, Tensor]
    source: Source

    @property
    def images(self) -> Tensor:
        """The tensor ``image``."""
        return self.tensors["image"]

    @property
    def labels(self) -> Tensor | None:
        """The tensor ``label``, or None where the data has no labels."""
        return self.tensors.get("label")

    @property
    def rows(self) -> int:
        """The number n of rows of every tensor."""
        return self.source.rows


@dataclass(frozen=True)
class Phase:
    """One kind of update: ``loss(batch)`` gives the scalar to minimise and what to log; ``optimizer`` moves ``networks``.

    Networks outside ``networks`` are frozen meanwhile. The k-th repeat of a step sees the step's k-th batch. ``after`` runs
    behind every optimizer step (weight clipping). ``clip`` bounds the gradient's norm, whatever the run's settings say of it.
    ``rate(progress)`` is a factor on the optimizer's learning rates, where progress in [0, 1] is the share of the run's images
    that were seen before the step; it must be a pure function, since a resumed run asks it again.
    """

    name: str
    networks: tuple[str, ...]
    optimizer: torch.optim.Optimizer
    loss: Callable[[Batch], tuple[Tensor, Logs]]
    repeats: int = 1
    every: int = 1
    clip: float | None = None
    after: Callable[[], None] | None = None
    rate: Callable[[float], float] | None = None


@dataclass(frozen=True)
class Recipe:
    """All of a family's training: its phases, the networks of which a moving average is kept, and a preview.

    ``averaged`` maps a network's name to the half-life of its exponential moving average, in thousands of images.
    ``preview(networks, batch)`` gives generated images ``[n, C, H, W]`` in [-1, 1] from networks in eval mode, with the
    averages in place. ``compares`` names the batch's tensor that they should resemble: it is ``reals.png``, and a run whose
    previews vary far less than it counts as collapsed. ``shows(networks, batch, previews)`` gives the columns of the sample
    grid, each ``[n, C, H, W]``, where it has more to show than the previews: a translation's input, output and target.
    """

    phases: tuple[Phase, ...]
    averaged: Mapping[str, float]
    preview: Callable[[Mapping[str, nn.Module], Batch], Tensor]
    compares: str = "image"
    shows: Callable[[Mapping[str, nn.Module], Batch, Tensor], Sequence[Tensor]] | None = None
