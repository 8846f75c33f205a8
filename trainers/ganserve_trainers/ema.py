"""Moving averages of networks: the weights that are previewed and exported."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

RAMP = 0.05
"""While a run is young the half-life is at most this share of the images seen, so that the initial weights are soon forgotten
(the ramp-up of Karras et al., 2020, "Training Generative Adversarial Networks with Limited Data", appendix)."""

RUNNING = ("running_mean", "running_var")
"""Buffers that are averaged like weights (batch normalization's statistics belong to the weights); other buffers are copied."""


class Averages:
    """Exponential moving averages of some networks; ``half_lives`` gives each one's half-life in thousands of images."""

    def __init__(self, networks: Mapping[str, nn.Module], half_lives: Mapping[str, float]) -> None:
        """Start from the networks as they are."""
        self.half_lives = dict(half_lives)
        self.networks = {name: _frozen_copy(networks[name]) for name in half_lives}
        self._pairs = {name: _pairs(self.networks[name], networks[name]) for name in half_lives}

    @torch.no_grad()
    def update(self, images: int, seen: int) -> None:
        """Move by a step of ``images`` images, of which the run has now seen ``seen``."""
        for name, half_life in self.half_lives.items():
            images_to_half = max(min(half_life * 1000, seen * RAMP), 1e-8)
            towards = 1 - 0.5 ** (images / images_to_half)
            averaged, followed, copies, copied = self._pairs[name]
            torch._foreach_lerp_(averaged, followed, towards)
            if copies:
                torch._foreach_copy_(copies, copied)


def _frozen_copy(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).eval().requires_grad_(False)


def _pairs(average: nn.Module, network: nn.Module) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    averaged: list[Tensor] = list(average.parameters())
    followed: list[Tensor] = list(network.parameters())
    copies: list[Tensor] = []
    copied: list[Tensor] = []
    for (name, mine), theirs in zip(average.named_buffers(), network.buffers(), strict=True):
        if name.rpartition(".")[2] in RUNNING:
            averaged.append(mine)
            followed.append(theirs)
        else:
            copies.append(mine)
            copied.append(theirs)
    return averaged, followed, copies, copied
