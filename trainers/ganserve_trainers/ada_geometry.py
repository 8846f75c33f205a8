"""ADA's pixel blitting and general geometric transformations as matrices (Karras et al., 2020, appendix B, figure 10).

Each is homogeneous, float64 [n, 3, 3], takes a pixel (x, y, 1) of the image to its new place, in pixels from the image's
centre, and is the identity in the rows that skip it.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ganserve_trainers.ada_draws import Draws

Size = tuple[int, int]
"""An image's height and width."""

Transformation = Callable[[Draws, Size], Tensor]


def x_flip(draws: Draws, size: Size) -> Tensor:
    """Mirror left and right, or do not: both equally likely."""
    sign = 1 - 2 * draws.whole(2)
    return scale(sign, torch.ones_like(sign))


def quarter_turns(draws: Draws, size: Size) -> Tensor:
    """Turn by 0, 90, 180 or 270 degrees."""
    return rotate(-math.pi / 2 * draws.whole(4))


def whole_translation(draws: Draws, size: Size) -> Tensor:
    """Move by whole pixels, up to an eighth of the image."""
    height, width = size
    x, y = draws.uniform(-0.125, 0.125, 2).unbind(1)
    return translate((x * width).round(), (y * height).round())


def isotropic_scaling(draws: Draws, size: Size) -> Tensor:
    """Scale by a log-normal factor: most within a fifth of an octave."""
    factor = draws.normal(0.2 * math.log(2)).exp()
    return scale(factor, factor)


def rotation(draws: Draws, size: Size) -> Tensor:
    """Turn by any angle. It is applied before and after the anisotropic scaling, so that one of both happens with probability p."""
    return rotate(-draws.uniform(-math.pi, math.pi, p=1 - math.sqrt(1 - draws.p)))


def anisotropic_scaling(draws: Draws, size: Size) -> Tensor:
    """Stretch the width by a log-normal factor and the height by its inverse."""
    factor = draws.normal(0.2 * math.log(2)).exp()
    return scale(factor, 1 / factor)


def fractional_translation(draws: Draws, size: Size) -> Tensor:
    """Move by any distance: normal, with a deviation of an eighth of the image."""
    height, width = size
    x, y = draws.normal(0.125, 2).unbind(1)
    return translate(x * width, y * height)


BLIT: tuple[Transformation, ...] = (x_flip, quarter_turns, whole_translation)
"""Pixel blitting: pixels are copied as they are."""

SHIFT: tuple[Transformation, ...] = (whole_translation,)
"""What of pixel blitting leaves a picture upright. Where nearly all are turned, a generator need not say which way is up."""

STRETCH: tuple[Transformation, ...] = (isotropic_scaling, anisotropic_scaling)
"""What of the general transformations leaves a picture upright and in its place."""

GEOMETRY: tuple[Transformation, ...] = (
    isotropic_scaling,
    rotation,
    anisotropic_scaling,
    rotation,
    fractional_translation,
)
"""General geometric transformations, in the paper's order."""


def scale(x: Tensor, y: Tensor) -> Tensor:
    """The matrix that multiplies by ``x`` [n] and ``y`` [n]."""
    return torch.diag_embed(torch.stack((x, y, torch.ones_like(x)), dim=1))


def rotate(angle: Tensor) -> Tensor:
    """The matrix that turns by ``angle`` [n], in radians, from the x axis towards the y axis."""
    cosine, sine, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return _rows((cosine, -sine, zero), (sine, cosine, zero), (zero, zero, one))


def translate(x: Tensor, y: Tensor) -> Tensor:
    """The matrix that adds ``x`` [n] and ``y`` [n]."""
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _rows((one, zero, x), (zero, one, y), (zero, zero, one))


def _rows(*rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
