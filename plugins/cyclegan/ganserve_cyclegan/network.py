"""The generators and discriminators of CycleGAN (Zhu et al., 2017, appendix 7.2), drawn from a preset's layer tables."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ganserve_cyclegan import DIRECTIONS
from ganserve_cyclegan.history import History
from ganserve_trainers.layers.denormalize import Denormalize
from ganserve_trainers.layers.initialization import normal_weights
from ganserve_trainers.layers.normalize import Normalize

SLOPE = 0.2
"""Leaky ReLU's, in the discriminators."""

Convolution = TypeVar("Convolution", nn.Conv2d, nn.ConvTranspose2d)


class Generator(nn.Module):
    """Images ``[n, C, H, W]`` of one domain → images ``[n, C, H, W]`` of the other, all in [-1, 1].

    H and W are multiples of 4 (of 2 for each d layer) from 8 on. The last layer of the table ends in tanh instead of instance
    normalization and ReLU.
    """

    def __init__(self, channels: int, layers: Sequence[tuple[str, int]]) -> None:
        """``channels`` of the image; ``layers`` are (kind, channels) in the paper's notation."""
        super().__init__()
        modules: list[nn.Module] = []
        inputs = channels
        for kind, outputs in layers[:-1]:
            modules += KINDS[kind](inputs, outputs)
            inputs = outputs
        # c7s1-3
        modules += [ReflectionPad(3), normal_weights(nn.Conv2d(inputs, layers[-1][1], 7)), nn.Tanh()]
        self.layers = nn.Sequential(*modules)

    def forward(self, images: Tensor) -> Tensor:
        """The translations of ``images``."""
        translations: Tensor = self.layers(images)
        return translations


class ReflectionPad(nn.ReflectionPad2d):
    """Reflection padding in the precision of what it is given: autocast would widen bfloat16 to float32, which takes longer."""

    def forward(self, features: Tensor) -> Tensor:
        """``features`` ``[n, C, H, W]`` with a mirrored border."""
        if not torch.is_autocast_enabled(features.device.type):
            return super().forward(features)
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features)


class Logits(nn.Conv2d):
    """The convolution to one channel of logits, in float32: a CPU has no fast bfloat16 gradient for a single channel."""

    def forward(self, features: Tensor) -> Tensor:
        """``features`` ``[n, C, H, W]`` → ``[n, 1, h, w]``."""
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.float())


class ResidualBlock(nn.Module):
    """Rk: two 3x3 convolutions with k filters each, and the input added to what they make."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ReflectionPad(1),
            *normalized(nn.Conv2d(channels, channels, 3)),
            nn.ReLU(),
            ReflectionPad(1),
            *normalized(nn.Conv2d(channels, channels, 3)),
        )

    def forward(self, features: Tensor) -> Tensor:
        """``features`` ``[n, k, H, W]`` with the block's correction added."""
        corrected: Tensor = features + self.layers(features)
        return corrected


class Discriminator(nn.Module):
    """Images ``[n, C, H, W]`` → a map of logits ``[n, 1, h, w]``, one for each overlapping patch (PatchGAN; 70x70 in the paper).

    Leaky ReLU behind every layer but the last, instance normalization behind every layer but the first and the last.
    """

    def __init__(self, channels: int, layers: Sequence[tuple[int, int]]) -> None:
        """``layers`` are (channels, stride) of each Ck: a 4x4 convolution.

        The paper gives every Ck stride 2; patches of 70x70 pixels result if C512 and the layer of the logits have stride 1.
        """
        super().__init__()
        modules: list[nn.Module] = []
        inputs = channels
        for number, (outputs, stride) in enumerate(layers):
            convolution = nn.Conv2d(inputs, outputs, 4, stride, padding=1)
            modules += normalized(convolution) if number else [normal_weights(convolution)]
            modules.append(nn.LeakyReLU(SLOPE))
            inputs = outputs
        self.layers = nn.Sequential(*modules, normal_weights(Logits(inputs, 1, 4, padding=1)))

    def forward(self, images: Tensor) -> Tensor:
        """How real each patch looks."""
        logits: Tensor = self.layers(images)
        return logits


def normalized(layer: Convolution) -> list[nn.Module]:
    """``layer`` with fresh weights from N(0, 0.02^2), and instance normalization without weights of its own behind it.

    The convolution's bias, which the normalization takes out again, belongs to the paper's 11.38 million parameters.
    """
    return [normal_weights(layer), nn.InstanceNorm2d(layer.out_channels)]


def wide(inputs: int, outputs: int) -> list[nn.Module]:
    """c7s1-k: a 7x7 convolution of stride 1."""
    return [ReflectionPad(3), *normalized(nn.Conv2d(inputs, outputs, 7)), nn.ReLU()]


def down(inputs: int, outputs: int) -> list[nn.Module]:
    """dk: a 3x3 convolution of stride 2."""
    return [*normalized(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)), nn.ReLU()]


def residual(inputs: int, outputs: int) -> list[nn.Module]:
    """Rk: a :class:`ResidualBlock`, which keeps the number of channels."""
    assert inputs == outputs, f"R{outputs} behind {inputs} channels: a residual block adds its input to its output"
    return [ResidualBlock(outputs)]


def up(inputs: int, outputs: int) -> list[nn.Module]:
    """uk: a 3x3 fractional-strided convolution of stride 1/2, whose output is exactly twice as large as its input."""
    layer = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
    return [*normalized(layer), nn.ReLU()]


KINDS = {"c7s1": wide, "d": down, "R": residual, "u": up}
"""The kinds of layer of appendix 7.2, each from (input channels, output channels)."""


def build(config: Mapping[str, Any]) -> dict[str, nn.Module]:
    """Generators ``a2b`` and ``b2a``, discriminators ``discriminator_a`` and ``_b``, histories ``history_a`` and ``_b``."""
    height, width, channels = config["image"]
    networks: dict[str, nn.Module] = {}
    for direction in DIRECTIONS:
        networks[direction] = Generator(channels, config["generator"])
    for _, domain in DIRECTIONS.values():
        networks[f"discriminator_{domain}"] = Discriminator(channels, config["discriminator"])
        networks[f"history_{domain}"] = History(config["history"], (channels, height, width))
    return networks


def export(config: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The graphs ``a2b`` and ``b2a``: uint8 ``[n, H, W, C]`` → uint8 ``[n, H, W, C]``, in eval mode."""
    return {name: Denormalize(Normalize(networks[name])).eval() for name in DIRECTIONS}
