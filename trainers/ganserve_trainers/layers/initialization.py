"""How weights start."""

from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def normal_weights(layer: Layer, std: float = 0.02) -> Layer:
    """``layer`` with weights from N(0, std^2) and a bias of zero (Radford et al., 2016, section 4)."""
    nn.init.normal_(layer.weight, 0.0, std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
