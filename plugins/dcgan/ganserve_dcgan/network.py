"""The convolutional generator and discriminator of DCGAN (Radford et al., 2016), drawn from a preset's layer tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ganserve_trainers.inversion import InversionStep
from ganserve_trainers.layers.denormalize import Denormalize
from ganserve_trainers.layers.initialization import normal_weights
from ganserve_trainers.layers.normalization import NORMALIZATIONS, Normalization
from ganserve_trainers.layers.spectral import fold

Layer = Sequence[int]
"""Channels, kernel, stride, padding."""


class Generator(nn.Module):
    """z ``[n, z]`` → images ``[n, C, H, W]`` in (-1, 1): transposed convolutions, ReLU, tanh at the end (figure 1).

    Batch normalization stands behind every layer but the last (section 3).
    """

    def __init__(self, z: int, layers: Sequence[Layer]) -> None:
        super().__init__()
        batch = NORMALIZATIONS["batch"]
        modules: list[nn.Module] = []
        inputs = z
        for layer in layers[:-1]:
            modules += [*batch.around(transposed(inputs, layer, bias=False), layer[0], {}), nn.ReLU()]
            inputs = layer[0]
        self.layers = nn.Sequential(*modules, transposed(inputs, layers[-1], bias=True), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        """Images for latents ``z``."""
        images: Tensor = self.layers(z[:, :, None, None])
        return images


class Discriminator(nn.Module):
    """Images ``[n, C, H, W]`` → logits ``[n]``: strided convolutions and leaky ReLU, no sigmoid (the losses take logits).

    Batch normalization stands behind every layer but the first and the last (section 3); a normalization of weights is
    applied to every layer.
    """

    def __init__(
        self,
        channels: int,
        layers: Sequence[Layer],
        slope: float,
        normalization: Normalization,
        options: Mapping[str, Any],
    ) -> None:
        """``slope`` is leaky ReLU's; ``options`` are the normalization's own."""
        super().__init__()
        outer = Normalization(weight=normalization.weight)
        modules: list[nn.Module] = []
        inputs = channels
        for number, layer in enumerate(layers):
            around = outer if number in (0, len(layers) - 1) else normalization
            modules += around.around(convolution(inputs, layer, bias=not around.centres), layer[0], options)
            modules.append(nn.LeakyReLU(slope))
            inputs = layer[0]
        self.layers = nn.Sequential(*modules[:-1])

    def forward(self, images: Tensor) -> Tensor:
        """How real each image looks."""
        logits: Tensor = self.layers(images)
        return logits.flatten()


def transposed(inputs: int, layer: Layer, bias: bool) -> nn.ConvTranspose2d:
    """A fractionally-strided convolution whose output is exactly ``stride`` times as large as its input (4x4 from 1x1)."""
    channels, kernel, stride, padding = layer
    missing = max(0, stride + 2 * padding - kernel)
    return normal_weights(
        nn.ConvTranspose2d(inputs, channels, kernel, stride, padding, output_padding=missing, bias=bias)
    )


def convolution(inputs: int, layer: Layer, bias: bool) -> nn.Conv2d:
    """A strided convolution."""
    channels, kernel, stride, padding = layer
    return normal_weights(nn.Conv2d(inputs, channels, kernel, stride, padding, bias=bias))


def build(config: Mapping[str, Any]) -> dict[str, nn.Module]:
    """``generator`` and ``discriminator`` with fresh weights from torch's global generator."""
    return {
        "generator": Generator(config["z"], config["generator"]),
        "discriminator": Discriminator(
            config["image"][2],
            config["discriminator"],
            config["slope"],
            NORMALIZATIONS[config["d_norm"]],
            config["d_options"],
        ),
    }


def export(config: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The graph ``generator``, z → uint8 ``[n, H, W, C]``, and ``invert``, in eval mode, with constant weights."""
    generator = fold(networks["generator"])
    return {"generator": Denormalize(generator).eval(), "invert": InversionStep(generator).eval()}
