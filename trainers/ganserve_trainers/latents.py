"""Noise for training, drawn as the server will draw it (:class:`ganserve.spec.Noise`)."""

from collections.abc import Callable

from torch import Tensor

from ganserve.spec import Noise
from ganserve_trainers.recipe import Source
from ganserve_trainers.tables import Table

DRAWS: Table[Callable[[Noise, Source, tuple[int, ...]], Tensor]] = Table(
    "noise",
    {
        "normal": lambda noise, source, shape: source.normal(*shape),
        "uniform": lambda noise, source, shape: source.uniform(*shape, low=noise.low, high=noise.high),
    },
)
"""Distribution → how to draw it."""


def draw(noise: Noise, source: Source, *shape: int) -> Tensor:
    """One latent of ``shape`` for each row of ``source``: float32 [rows, *shape]."""
    return DRAWS[noise.distribution](noise, source, shape)
