"""The multilayer perceptrons of Goodfellow et al., 2014, section 5."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ganserve_trainers.inversion import InversionStep
from ganserve_trainers.layers.denormalize import Denormalize


class Generator(nn.Module):
    """z ``[n, z]`` → images ``[n, C, H, W]`` in (-1, 1): rectifiers, then a sigmoid for each pixel's intensity."""

    def __init__(self, z: int, hidden: Sequence[int], image: Sequence[int]) -> None:
        """``hidden`` are the layers' units, ``image`` the (height, width, channels)."""
        super().__init__()
        height, width, channels = image
        self.shape = (channels, height, width)
        sizes = (z, *hidden)
        modules: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sizes):
            modules += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.layers = nn.Sequential(*modules, nn.Linear(sizes[-1], math.prod(self.shape)))

    def forward(self, z: Tensor) -> Tensor:
        """Images for latents ``z``."""
        intensities = torch.sigmoid(self.layers(z))
        return (2 * intensities - 1).view(-1, *self.shape)


class Maxout(nn.Module):
    """``[n, inputs]`` → ``[n, units]``: each unit is the largest of its own linear pieces (Goodfellow et al., 2013, eq. 1-2)."""

    def __init__(self, inputs: int, units: int, pieces: int) -> None:
        super().__init__()
        self.units, self.pieces = units, pieces
        self.linear = nn.Linear(inputs, units * pieces)

    def forward(self, values: Tensor) -> Tensor:
        """The units' values."""
        pieces: Tensor = self.linear(values)
        return pieces.view(-1, self.units, self.pieces).amax(2)


class Discriminator(nn.Module):
    """Images ``[n, C, H, W]`` → logits ``[n]``: maxout layers with dropout, no sigmoid (the losses take logits)."""

    def __init__(self, pixels: int, hidden: Sequence[tuple[int, int]], dropout: Sequence[float]) -> None:
        """``hidden`` are the layers' (units, pieces), ``dropout`` the shares of pixels and of hidden units that are dropped."""
        super().__init__()
        modules: list[nn.Module] = [nn.Dropout(dropout[0])]
        inputs = pixels
        for units, pieces in hidden:
            modules += [Maxout(inputs, units, pieces), nn.Dropout(dropout[1])]
            inputs = units
        self.layers = nn.Sequential(*modules, nn.Linear(inputs, 1))

    def forward(self, images: Tensor) -> Tensor:
        """How real each image looks."""
        # Intensities from 0 to 1 as in the paper, so that a dropped pixel is a black one.
        intensities = (images.flatten(1) + 1) / 2
        logits: Tensor = self.layers(intensities)
        return logits.flatten()


def build(config: Mapping[str, Any]) -> dict[str, nn.Module]:
    """``generator`` and ``discriminator`` with fresh weights from torch's global generator."""
    networks: dict[str, nn.Module] = {
        "generator": Generator(config["z"], config["generator"], config["image"]),
        "discriminator": Discriminator(math.prod(config["image"]), config["discriminator"], config["dropout"]),
    }
    for network in networks.values():
        network.apply(uniform_weights)
    return networks


def uniform_weights(module: nn.Module) -> None:
    """Start a linear layer at weights from U(-0.05, 0.05) and a bias of zero."""
    if isinstance(module, nn.Linear):
        nn.init.uniform_(module.weight, -0.05, 0.05)
        nn.init.zeros_(module.bias)


def export(config: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The graph ``generator``, z → uint8 ``[n, H, W, C]``, and ``invert``, in eval mode."""
    generator = networks["generator"]
    return {"generator": Denormalize(generator).eval(), "invert": InversionStep(generator).eval()}
