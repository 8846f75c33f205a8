"""The generator and the discriminator of DF-GAN (Tao et al., 2022): pictures of a sentence's vector in one stage."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganserve_trainers.layers.denormalize import Denormalize

SLOPE = 0.2
"""Leaky ReLU's."""

START = 4
"""The side of the first feature maps, and of the last ones."""


class Affine(nn.Module):
    """Features ``[n, C, H, W]`` scaled and shifted channel by channel, as two networks of two layers make of a condition ``[n, k]`` (eq. 3 to 5).

    At the start every scale is 1 and every shift 0.
    """

    def __init__(self, condition: int, channels: int) -> None:
        super().__init__()
        self.scale, self.shift = (self._network(condition, channels, start) for start in (1.0, 0.0))

    @staticmethod
    def _network(condition: int, channels: int, start: float) -> nn.Sequential:
        last = nn.Linear(channels, channels)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, start)
        return nn.Sequential(nn.Linear(condition, channels), nn.ReLU(), last)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """The modulated features."""
        scale, shift = (network(condition)[:, :, None, None] for network in (self.scale, self.shift))
        return torch.addcmul(shift, features, scale)


class Fusion(nn.Module):
    """A deep text-image fusion block: two affine modulations with an activation behind each, then a convolution (figure 4)."""

    def __init__(self, condition: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.affines = nn.ModuleList(Affine(condition, inputs) for _ in range(2))
        self.convolution = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """The fused features ``[n, outputs, H, W]``."""
        for affine in self.affines:
            features = F.leaky_relu(affine(features, condition), SLOPE)
        fused: Tensor = self.convolution(features)
        return fused


class Up(nn.Module):
    """An UPBlock: features of twice the sides, then two fusion blocks beside a shortcut (figure 3)."""

    def __init__(self, condition: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = Fusion(condition, inputs, outputs), Fusion(condition, outputs, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Features ``[n, outputs, 2 H, 2 W]``."""
        features = F.interpolate(features, scale_factor=2.0, mode="nearest")
        fused: Tensor = self.shortcut(features) + self.second(self.first(features, condition), condition)
        return fused


class Generator(nn.Module):
    """z ``[n, z]`` and a sentence's vector ``[n, text]`` → images ``[n, 3, H, W]`` in (-1, 1) (figure 3).

    ``channels`` are those of the feature maps of 4x4, 8x8 and so on up to the image's size.
    """

    def __init__(self, z: int, text: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.start = nn.Linear(z, channels[0] * START**2)
        steps = itertools.pairwise(channels)
        self.blocks = nn.ModuleList(Up(z + text, inputs, outputs) for inputs, outputs in steps)
        self.image = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, z: Tensor, text: Tensor) -> Tensor:
        """Images of the sentences ``text``, one of many for each: the one that ``z`` chooses."""
        features = self.start(z).unflatten(1, (-1, START, START))
        condition = torch.cat((z, text), 1)
        for block in self.blocks:
            features = block(features, condition)
        return torch.tanh(self.image(F.leaky_relu(features, SLOPE)))


class Down(nn.Module):
    """A DownBlock: features of half the sides, by two convolutions beside a shortcut (figure 3)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.halve, self.convolution = nn.Conv2d(inputs, outputs, 4, 2, 1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """Features ``[n, outputs, H / 2, W / 2]``."""
        residual = F.leaky_relu(self.convolution(F.leaky_relu(self.halve(features), SLOPE)), SLOPE)
        shortcut: Tensor = self.shortcut(F.avg_pool2d(features, 2))
        return shortcut + residual


class Discriminator(nn.Module):
    """Images ``[n, 3, H, W]`` and sentences' vectors ``[n, text]`` → one logit a row, one-way: real and matching or not (section 3.3).

    ``channels`` are those of the feature maps of the image's size, half of it and so on down to 4x4.
    """

    def __init__(self, text: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.start = nn.Conv2d(3, channels[0], 3, padding=1)
        steps = itertools.pairwise(channels)
        self.blocks = nn.Sequential(*(Down(inputs, outputs) for inputs, outputs in steps))
        self.judge = nn.Sequential(
            nn.Conv2d(channels[-1] + text, 2 * channels[0], 3, padding=1, bias=False),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(2 * channels[0], 1, START, bias=False),
        )

    def features(self, images: Tensor) -> Tensor:
        """What images show ``[n, C, 4, 4]``, whatever the text."""
        features: Tensor = self.blocks(self.start(images))
        return features

    def match(self, features: Tensor, text: Tensor) -> Tensor:
        """The logits ``[n]`` of ``features`` with the sentences ``text``."""
        spread = text[:, :, None, None].expand(-1, -1, START, START)
        logits: Tensor = self.judge(torch.cat((features, spread.to(features.dtype)), 1))
        return logits.flatten()

    def forward(self, images: Tensor, text: Tensor) -> Tensor:
        """How real and how fitting ``images`` are to the sentences ``text``."""
        return self.match(self.features(images), text)


class OfSentences(nn.Module):
    """A generator that is given vectors as the encoder makes them, and scales them by ``gain`` as training does."""

    def __init__(self, generator: nn.Module, gain: float) -> None:
        super().__init__()
        self.generator, self.gain = generator, gain

    def forward(self, z: Tensor, text: Tensor) -> Tensor:
        """The generator's images."""
        images: Tensor = self.generator(z, text * self.gain)
        return images


def build(config: Mapping[str, Any]) -> dict[str, nn.Module]:
    """``generator`` and ``discriminator`` with fresh weights from torch's global generator."""
    return {
        "generator": Generator(config["z"], config["text"], config["generator"]),
        "discriminator": Discriminator(config["text"], config["discriminator"]),
    }


def export(config: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The graph ``generator``, z and a sentence's vector → uint8 ``[n, H, W, 3]``; that of the encoder comes from the trainers."""
    generator = OfSentences(networks["generator"], config["gain"])
    return {"generator": Denormalize(generator)}
