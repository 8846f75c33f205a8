"""The U-Net and the PatchGAN of pix2pix (Isola et al., 2017, section 6.1), drawn from a preset's layer tables."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganserve.errors import TrainingError
from ganserve_pix2pix import DISCRIMINATORS, dropped
from ganserve_trainers.layers.denormalize import Denormalize
from ganserve_trainers.layers.initialization import normal_weights
from ganserve_trainers.layers.normalize import Normalize
from ganserve_trainers.tables import Table

SLOPE = 0.2
"""Leaky ReLU's slope (section 6.1)."""

Layer = Sequence[int]
"""Channels, kernel, stride, padding."""


class InstanceNorm(nn.InstanceNorm2d):
    """Each channel of each image ``[n, C, H, W]`` at mean 0 and variance 1, then a gain and a shift of its own.

    It is the paper's batch normalization by the statistics of the test batch, at its batch size of 1 (section 3.3); rows do not
    meet in it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True)

    def forward(self, images: Tensor) -> Tensor:
        """Normalize ``images``."""
        if not self.training:
            return super().forward(images)
        # The same as group normalization with one channel a group, which trains several times faster on a CPU if its input is
        # contiguous and in full precision.
        with torch.autocast(images.device.type, enabled=False):
            whole = images.to(torch.float32, memory_format=torch.contiguous_format)
            return F.group_norm(whole, self.num_features, self.weight, self.bias, self.eps)


class Generator(nn.Module):
    """Images ``[n, C, H, W]`` in [-1, 1] and dropout's noise ``[n, K]`` in [0, 1) → images ``[n, C, H, W]`` in (-1, 1): a U-Net.

    Figure 3, section 6.1.1. Skips join the activations of encoder layer i to those of the decoder layer of equal size. A
    decoder layer of dropout rate r keeps the activations whose number of ``noise`` is at least r, 1 / (1 - r) times as large.
    """

    def __init__(
        self,
        channels: int,
        encoder: Sequence[int],
        decoder: Sequence[tuple[int, float]],
        dropout: Sequence[tuple[int, int, int]],
    ) -> None:
        """``dropout`` is the shape of every decoder layer that has dropout, in order."""
        super().__init__()
        last = len(encoder) - 1
        # No normalization behind the first layer (section 6.1.1), nor behind the innermost: of 1x1 activations a batch of one
        # would leave nothing but zeros (section 6.3, errata).
        self.encoder = nn.ModuleList(
            _down(inputs, outputs, normalized=0 < number < last)
            for number, (inputs, outputs) in enumerate(zip((channels, *encoder), encoder, strict=False))
        )
        # A decoder layer reads the one before it joined by the skip of its size; the innermost has no skip.
        skips = list(reversed(encoder[:-1]))
        widths = [encoder[-1], *(width + skip for (width, _), skip in zip(decoder, skips, strict=True))]
        self.decoder = nn.ModuleList(
            nn.Sequential(_up(inputs, outputs), InstanceNorm(outputs))
            for inputs, (outputs, _) in zip(widths, decoder, strict=False)
        )
        self.image = _up(widths[-1], channels, bias=True)
        self.rates = tuple(rate for _, rate in decoder)
        self.dropout = tuple(tuple(shape) for shape in dropout)

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """Translate ``images``."""
        x, skips = images, []
        for down in self.encoder:
            x = down(x)
            skips.append(x)
        skips.pop()
        parts = torch.split(noise, [prod(shape) for shape in self.dropout], 1)
        numbers = iter([part.reshape(-1, *shape) for part, shape in zip(parts, self.dropout, strict=True)])
        for up, rate in zip(self.decoder, self.rates, strict=True):
            x = up(x)
            if rate:
                x = x * (next(numbers) >= rate) / (1 - rate)
            x = torch.cat((F.relu(x), skips.pop()), 1)
        return torch.tanh(self.image(x))


class Discriminator(nn.Module):
    """Pairs of images ``[n, C, H, W]`` → logits ``[n, 1, h, w]``, one for each overlapping patch: a PatchGAN (section 3.2.2).

    Convolutions and leaky ReLU, instance normalization behind all but the first and the last (section 6.1.2), no sigmoid (the
    losses take logits).
    """

    def __init__(self, channels: int, layers: Sequence[Layer]) -> None:
        """``channels`` are those of a pair."""
        super().__init__()
        modules: list[nn.Module] = []
        inputs, last = channels, len(layers) - 1
        for number, (outputs, kernel, stride, padding) in enumerate(layers):
            normalized = 0 < number < last
            modules.append(normal_weights(nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=not normalized)))
            modules += [InstanceNorm(outputs)] if normalized else []
            modules += [nn.LeakyReLU(SLOPE)] if number < last else []
            inputs = outputs
        self.layers = nn.Sequential(*modules)

    def forward(self, inputs: Tensor, results: Tensor) -> Tensor:
        """How real each patch of ``results`` looks as a translation of ``inputs``."""
        logits: Tensor = self.layers(torch.cat((inputs, results), 1))
        return logits


def build(config: Mapping[str, Any]) -> dict[str, nn.Module]:
    """``generator`` and ``discriminator`` with fresh weights from torch's global generator.

    Raises :class:`TrainingError` for a configuration that fits no network.
    """
    height, width, channels = config["image"]
    layers = TABLES[config["discriminator"]]
    if not _logits(layers, min(height, width)):
        raise TrainingError(
            f"discriminator {config['discriminator']!r} leaves no logit of a {height}x{width} image: choose one with smaller patches"
        )
    return {
        "generator": Generator(channels, config["encoder"], config["decoder"], dropped(config)),
        "discriminator": Discriminator(2 * channels, layers),
    }


def export(config: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The graph ``generator``: uint8 ``[n, H, W, C]`` and noise → uint8 ``[n, H, W, C]``."""
    return {"generator": Denormalize(Normalize(networks["generator"]))}


TABLES: Table[Sequence[Layer]] = Table("discriminator", DISCRIMINATORS)
"""Name → the layers of a discriminator."""


def _logits(layers: Sequence[Layer], size: int) -> int:
    """How many logits a side ``layers`` make of an image's side of ``size`` pixels."""
    for _, kernel, stride, padding in layers:
        size = max(0, (size + 2 * padding - kernel) // stride + 1)
    return size


def _down(inputs: int, outputs: int, normalized: bool) -> nn.Sequential:
    """Half the size: convolution, normalization, leaky ReLU."""
    convolution = normal_weights(nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False))
    return nn.Sequential(convolution, *([InstanceNorm(outputs)] if normalized else []), nn.LeakyReLU(SLOPE))


def _up(inputs: int, outputs: int, bias: bool = False) -> nn.ConvTranspose2d:
    """Twice the size."""
    return normal_weights(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=bias))
