"""The networks of StyleGAN2 by name, drawn from a preset, and the graphs that are exported."""

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import nn

from ganserve_stylegan2 import channels, kind, layers, opponent, resolutions, width
from ganserve_stylegan2.discriminator import Discriminator
from ganserve_stylegan2.mapping import MappingNetwork, Truncation
from ganserve_stylegan2.sngan import SpectralDiscriminator
from ganserve_stylegan2.synthesis import Layer, Synthesis
from ganserve_trainers.ada import AdaptiveAugmentation
from ganserve_trainers.directions import Found, sefa
from ganserve_trainers.inversion import InversionStep
from ganserve_trainers.layers.denormalize import Denormalize
from ganserve_trainers.layers.equalized import plain
from ganserve_trainers.tables import Table

MOST = 512
"""The most feature maps of SNGAN's discriminator (Miyato et al., 2018, table 3)."""


def stylegan2(config: Mapping[str, Any]) -> nn.Module:
    """The paper's discriminator, as wide as the generator at each resolution."""
    widths = [(side, channels(config, side)) for side in resolutions(config)[::-1]]
    alike = config.get("alike", False)  # older runs and bundles do not say
    return Discriminator(widths, config["image"][2], config["group"], config["residual"], config["classes"], alike)


def sngan(config: Mapping[str, Any]) -> nn.Module:
    """That of SNGAN, with min(``d_base`` / r, 512) feature maps at resolution r."""
    widths = [(side, width("d_base", config["d_base"], MOST, side)) for side in resolutions(config)[-2::-1]]
    return SpectralDiscriminator(widths, config["image"][2], config["classes"])


DISCRIMINATORS: Table[Callable[[Mapping[str, Any]], nn.Module]] = Table(
    "discriminator", {"stylegan2": stylegan2, "sngan": sngan}
)
"""Name → what builds it, as presets name them."""


def build(config: Mapping[str, Any]) -> dict[str, nn.Module]:
    """``mapping``, ``synthesis`` and the :func:`opponent` with fresh weights, and ``ada`` if the preset augments."""
    widths = [(side, channels(config, side)) for side in resolutions(config)]
    colours, classes = config["image"][2], config["classes"]
    networks: dict[str, nn.Module] = {
        "mapping": MappingNetwork(config["z"], config["w"], config["mapping"], classes),
        "synthesis": Synthesis(widths, colours, config["w"], config["noise"], config["rgb"]),
        opponent(config): DISCRIMINATORS[kind(config)](config),
    }
    if config["augment"]:
        networks["ada"] = AdaptiveAugmentation(config["augment"], kimg=config["p_kimg"])
    return networks


def export(config: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The graphs ``mapping``, ``synthesis`` and ``invert``, in eval mode, with constant weights."""
    mapping, synthesis = plain(cast(MappingNetwork, networks["mapping"])), plain(cast(Synthesis, networks["synthesis"]))
    synthesis.freeze()
    return {
        "mapping": Truncation(mapping, layers(config)).eval(),
        "synthesis": Denormalize(synthesis).eval(),
        "invert": InversionStep(synthesis, tied=True).eval(),
    }


def directions(config: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> dict[str, Found]:
    """The directions in w that change the styles of all convolutions most."""
    styled = [module for module in networks["synthesis"].modules() if isinstance(module, Layer)]
    return sefa([layer.convolution.style.weight for layer in styled], "w", layers(config))
