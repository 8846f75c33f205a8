"""ADA's colour transformations as matrices (Karras et al., 2020, appendix B, figure 10).

Each is homogeneous, float64 [n, 4, 4], takes a colour (r, g, b, 1) to its new one, and is the identity in the rows that skip it.
"""

import math

import torch
from torch import Tensor

from ganserve_trainers.ada_draws import Draws
from ganserve_trainers.ada_geometry import Size, Transformation

LUMA = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64) / math.sqrt(3)
"""The luma axis v: the direction of grey."""

ALONG = torch.outer(LUMA, LUMA)
"""What projects onto the luma axis: v^T v."""

ONE = torch.diag(torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64))
"""What keeps the homogeneous coordinate."""

ACROSS = torch.eye(4, dtype=torch.float64) - ALONG - ONE
"""What projects onto the chroma plane, orthogonal to the luma axis."""

CROSS = torch.zeros(4, 4, dtype=torch.float64)
"""The cross product with the luma axis: a quarter turn of the chroma plane."""
CROSS[:3, :3] = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)


def brightness(draws: Draws, size: Size) -> Tensor:
    """Add a normal number."""
    added = draws.normal(0.2).view(-1, 1, 1) * torch.tensor([1.0, 1.0, 1.0, 0.0]).view(4, 1)
    return torch.eye(4, dtype=torch.float64) + torch.nn.functional.pad(added, (3, 0))


def contrast(draws: Draws, size: Size) -> Tensor:
    """Scale by a log-normal factor."""
    return _each(draws.normal(0.5 * math.log(2)).exp()) * (ALONG + ACROSS) + ONE


def luma_flip(draws: Draws, size: Size) -> Tensor:
    """Turn light into dark and keep the chroma (a Householder reflection), or do not: both equally likely."""
    return torch.eye(4, dtype=torch.float64) - 2 * _each(draws.whole(2)) * ALONG


def hue_rotation(draws: Draws, size: Size) -> Tensor:
    """Turn about the luma axis by any angle (Rodrigues' formula)."""
    angle = _each(draws.uniform(-math.pi, math.pi))
    return ALONG + angle.cos() * ACROSS + angle.sin() * CROSS + ONE


def saturation(draws: Draws, size: Size) -> Tensor:
    """Scale the distance from grey by a log-normal factor."""
    return ALONG + _each(draws.normal(math.log(2)).exp()) * ACROSS + ONE


COLOR: tuple[Transformation, ...] = (brightness, contrast, luma_flip, hue_rotation, saturation)
"""Colour transformations, in the paper's order."""


def recolor(images: Tensor, matrices: Tensor) -> Tensor:
    """``images`` [n, C, H, W] with every colour taken through its row's matrix [n, 4, 4]. C is 3, or 1 for grey.

    A grey image is the colour image whose channels are equal, and its result is that image's mean over the channels: hue and
    saturation leave it as it is.
    """
    channels = images.shape[1]
    to_color = torch.eye(3, dtype=torch.float64) if channels == 3 else torch.ones(3, 1, dtype=torch.float64)
    from_color = to_color.T / to_color.sum(0).view(-1, 1)
    linear = from_color @ matrices[:, :3, :3] @ to_color
    offset = from_color @ matrices[:, :3, 3:]
    return torch.baddbmm(offset.to(images), linear.to(images), images.flatten(2)).view_as(images)


def _each(numbers: Tensor) -> Tensor:
    return numbers.view(-1, 1, 1)
