"""The normalizations a preset can name. Some normalize a layer's weight, some what comes out of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ganserve_trainers.layers.spectral import spectral_norm, stable_rank_norm
from ganserve_trainers.tables import Table


@dataclass(frozen=True)
class Normalization:
    """``weight(layer, **options)`` is the layer with its weight normalized; ``output(channels, **options)`` the module behind it."""

    weight: Callable[..., nn.Module] | None = None
    output: Callable[..., nn.Module] | None = None

    @property
    def centres(self) -> bool:
        """Whether the output is centred, so that a bias in the layer before would be lost."""
        return self.output is not None

    def around(self, layer: nn.Module, channels: int, options: Mapping[str, Any]) -> list[nn.Module]:
        """``layer`` with ``channels`` outputs and what belongs around it, in order."""
        modules = [self.weight(layer, **options) if self.weight else layer]
        return modules + ([self.output(channels, **options)] if self.output else [])


NORMALIZATIONS: Table[Normalization] = Table(
    "normalization",
    {
        "none": Normalization(),
        "batch": Normalization(output=nn.BatchNorm2d),  # Ioffe & Szegedy, 2015
        "spectral": Normalization(weight=spectral_norm),  # Miyato et al., 2018
        "stable_rank": Normalization(weight=stable_rank_norm),  # Sanyal et al., 2020; option c
    },
)
"""Name → normalization, as presets name them."""
