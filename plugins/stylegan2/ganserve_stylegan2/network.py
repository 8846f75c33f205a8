"""The networks of StyleGAN2 by name, drawn from a preset, and the graphs that are exported."""

from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from ganserve_stylegan2 import channels, layers, resolutions
from ganserve_stylegan2.discriminator import Discriminator
from ganserve_stylegan2.mapping import MappingNetwork, Truncation
from ganserve_stylegan2.synthesis import Layer, Synthesis
from ganserve_trainers.ada import AdaptiveAugmentation
from ganserve_trainers.directions import Found, sefa
from ganserve_trainers.inversion import InversionStep
from ganserve_trainers.layers.denormalize import Denormalize
from ganserve_trainers.layers.equalized import plain


def build(config: Mapping[str, Any]) -> dict[str, nn.Module]:
    """``mapping``, ``synthesis`` and ``discriminator`` with fresh weights, and ``ada`` if the preset augments."""
    widths = [(side, channels(config, side)) for side in resolutions(config)]
    colours, classes = config["image"][2], config["classes"]
    alike = config.get("alike", False)  # older runs and bundles do not say
    networks: dict[str, nn.Module] = {
        "mapping": MappingNetwork(config["z"], config["w"], config["mapping"], classes),
        "synthesis": Synthesis(widths, colours, config["w"], config["noise"], config["rgb"]),
        "discriminator": Discriminator(widths[::-1], colours, config["group"], config["residual"], classes, alike),
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
