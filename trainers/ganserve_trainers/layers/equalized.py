"""Equalized learning rate (Karras et al., 2018, "Progressive Growing of GANs", section 4.1): weights scaled when they are used.

A stored weight starts from N(0, 1) and is multiplied at each call by He's constant 1 / sqrt(inputs), so that an optimizer which
is invariant to the scale of gradients (Adam) moves every layer equally fast. A ``rate`` other than 1 makes a layer learn slower
or faster by that factor, and leaves what it starts from alone (Karras et al., 2019, "A Style-Based Generator", section C: 0.01).
"""

import copy
import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganserve_trainers.layers.widening import widened

Network = TypeVar("Network", bound=nn.Module)


class EqualizedLinear(nn.Module):
    """``[n, inputs]`` → ``[n, outputs]``: x (gain W)^T + rate b. ``scale`` multiplies the result, ``start`` is what rate b starts from."""

    def __init__(
        self, inputs: int, outputs: int, *, rate: float = 1.0, scale: float = 1.0, start: float = 0.0, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), start / rate)) if bias else None
        self.gain, self.shift = scale * rate / math.sqrt(inputs), scale * rate

    def forward(self, features: Tensor) -> Tensor:
        """The layer's output, of the precision of ``features`` or autocast's."""
        return F.linear(features, *scaled(self))

    def widened(self, name: str, narrow: Tensor) -> Tensor:
        """See :class:`ganserve_trainers.layers.widening.Widens`."""
        return enlarged(getattr(self, name), narrow, 1 if name == "weight" else None)


class Embedding(EqualizedLinear):
    """One-hot labels ``[n, classes]`` → a vector for each, ``[n, outputs]``, with equalized learning rate."""

    @torch.no_grad()
    def relabelled(self, name: str, saved: Tensor, before: Sequence[int | None]) -> Tensor:
        """See :class:`ganserve_trainers.relabel.Relabels`."""
        if name != "weight":
            return saved
        made = self.weight.detach().clone()
        for now, then in enumerate(before):
            if then is not None:
                # An equalized learning rate uses a weight the smaller the more inputs there are.
                made[:, now] = saved[:, then] * math.sqrt(len(before) / saved.shape[1])
        return made


class EqualizedConv2d(nn.Module):
    """A convolution ``[n, inputs, H, W]`` → ``[n, outputs, H', W']`` with equalized learning rate; ``scale`` multiplies the result."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        scale: float = 1.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.gain, self.shift = scale / math.sqrt(inputs * kernel**2), scale
        self.stride, self.padding = stride, padding

    def forward(self, features: Tensor) -> Tensor:
        """The layer's output, of the precision of ``features`` or autocast's."""
        return F.conv2d(features, *scaled(self), self.stride, self.padding)

    def widened(self, name: str, narrow: Tensor) -> Tensor:
        """See :class:`ganserve_trainers.layers.widening.Widens`."""
        return enlarged(getattr(self, name), narrow, 1 if name == "weight" else None)


def enlarged(drawn: Tensor, narrow: Tensor, inputs: int | None) -> Tensor:
    """:func:`~ganserve_trainers.layers.widening.widened` for an equalized learning rate: a weight grows by as much as it is used smaller.

    ``inputs`` is the axis along which a weight counts its inputs, None for a bias.
    """
    scale = 1.0 if inputs is None else math.sqrt(drawn.shape[inputs] / narrow.shape[inputs])
    return widened(drawn, narrow, inputs, scale)


def scaled(layer: EqualizedLinear | EqualizedConv2d) -> tuple[Tensor, Tensor | None]:
    """The weight and the bias that ``layer`` uses."""
    bias = layer.bias
    return layer.weight * layer.gain, bias if bias is None or layer.shift == 1 else bias * layer.shift


@torch.no_grad()
def plain(network: Network) -> Network:
    """A copy of ``network`` whose equalized layers are plain linear and convolutional layers: constant weights, as export wants them."""
    copied = copy.deepcopy(network)
    for parent in list(copied.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, EqualizedLinear | EqualizedConv2d):
                setattr(parent, name, _plain(layer))
    return copied


def _plain(layer: EqualizedLinear | EqualizedConv2d) -> nn.Linear | nn.Conv2d:
    weight, bias = scaled(layer)
    made: nn.Linear | nn.Conv2d
    if isinstance(layer, EqualizedLinear):
        made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    else:
        made = nn.Conv2d(
            weight.shape[1], weight.shape[0], layer.weight.shape[2], layer.stride, layer.padding, bias=bias is not None
        )
    made.weight.copy_(weight)
    if made.bias is not None and bias is not None:
        made.bias.copy_(bias)
    return made.train(layer.training).requires_grad_(layer.weight.requires_grad)
