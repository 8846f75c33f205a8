"""One combined geometric transformation of each image (Karras et al., 2020, appendix B, figure 10).

Images continue beyond their edges by reflection without end. Pixels that land on pixels are copied. Otherwise the image is
upsampled twofold by an orthogonal lowpass filter, looked up bilinearly, and downsampled by the same filter reversed in time, so
that the identity is exact.

The reflected image has a period, which the upsampled one keeps: one period of it holds all that can be looked up, however far
outside the image. Padding, upsampling and downsampling are thus two constant matrices for each size.
"""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
"""The lowpass filter of the wavelet sym6 (Daubechies, 1992, "least asymmetric"): 12 taps that sum to the square root of 2."""

DELAY = sum(tap * at for at, tap in enumerate(SYM6)) / math.sqrt(2)
"""The filter's centre of mass, in taps: pixel j is upsampled to around sample 2 j + DELAY."""

NEAR = 1e-6
"""So close to whole numbers, in pixels, a lookup is of whole pixels: what float64 loses in a product of matrices is far less."""


def transform(images: Tensor, matrices: Tensor) -> Tensor:
    """``images`` [n, C, H, W] with the pixel at x moved to ``matrices`` x.

    ``matrices`` are float64 [n, 3, 3] on the CPU, homogeneous, in pixels from the image's centre. Differentiable any number of
    times with respect to the images.
    """
    height, width = images.shape[2:]
    to_centre = torch.eye(3, dtype=torch.float64)
    to_centre[:2, 2] = torch.tensor([width - 1, height - 1]) / -2
    lookups = torch.linalg.inv(to_centre) @ torch.linalg.inv(matrices) @ to_centre
    whole = _near(lookups, lookups.round())
    same = _near(lookups, torch.eye(3, dtype=torch.float64))
    for rows, moved in ((whole & ~same, copy), (~whole, resample)):
        if rows.any():
            at = rows.nonzero().flatten()
            each = at.to(images.device)
            images = images.index_copy(0, each, moved(images[each], lookups[at]))
    return images


def _near(matrices: Tensor, others: Tensor) -> Tensor:
    return (matrices - others).abs().amax((1, 2)) < NEAR


def copy(images: Tensor, lookups: Tensor) -> Tensor:
    """Images whose pixel x is the pixel ``lookups`` x of ``images``: float64 [n, 3, 3] of whole numbers, in pixels."""
    height, width = images.shape[2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack((x, y, torch.ones_like(x))).flatten(1)
    columns, rows, _ = (lookups.round().long() @ places).unbind(1)
    flat = _fold(rows, height) * width + _fold(columns, width)
    return images.flatten(2).gather(2, flat.to(images.device)[:, None].expand(-1, images.shape[1], -1)).view_as(images)


def resample(images: Tensor, lookups: Tensor) -> Tensor:
    """Images whose content at x is that of ``images`` at ``lookups`` x: float64 [n, 3, 3], in pixels."""
    height, width = images.shape[2:]
    across, down = filters(width, images.dtype, images.device), filters(height, images.dtype, images.device)
    upsampled = down[0] @ (images @ across[0].T)
    found = lookup(upsampled, _grid(lookups, images))
    return down[1] @ (found @ across[1].T)


@lru_cache(maxsize=16)
def filters(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """How ``size`` pixels become a period of upsampled samples, and how samples become pixels.

    The first matrix, [4 (size - 1) + 1, size], continues the pixels by reflection and upsamples them to the samples
    0 … 4 (size - 1), of which the last is the first again. The second, [size, 2 size + 10], downsamples as many samples.
    """
    taps = torch.tensor(SYM6, dtype=torch.float64)
    period = 4 * (size - 1)
    up = torch.zeros(period + 1, size, dtype=torch.float64)
    samples = torch.arange(period + 1)
    for at, tap in enumerate(taps):  # sample m is the sum of sqrt(2) h[m - 2 j] x[j] over all pixels j
        met = samples[(samples - at) % 2 == 0]
        up.index_put_((met, _fold((met - at) // 2, size)), math.sqrt(2) * tap, accumulate=True)
    down = torch.zeros(size, 2 * size + len(SYM6) - 2, dtype=torch.float64)
    for pixel in range(size):  # pixel k is the sum of h[m - 2 k] / sqrt(2) z[m] over all samples m
        down[pixel, 2 * pixel : 2 * pixel + len(SYM6)] = taps / math.sqrt(2)
    return up.to(device, dtype), down.to(device, dtype)


def _fold(places: Tensor, size: int) -> Tensor:
    """The pixel 0 … size - 1 that any pixel of the endlessly reflected image shows; edges are not repeated."""
    places = places % (2 * (size - 1))
    return torch.minimum(places, 2 * (size - 1) - places)


def _grid(lookups: Tensor, like: Tensor) -> Tensor:
    """Where in the period of upsampled samples each sample of the result is found: [n, 2 H + 10, 2 W + 10, 2] in [-1, 1]."""
    sizes = like.shape[3], like.shape[2]
    x, y = ((torch.arange(2 * size + len(SYM6) - 2, dtype=torch.float64) - DELAY) / 2 for size in sizes)
    grid = like.new_empty(len(like), len(y), len(x), 2)
    for axis, size in enumerate(sizes):
        a, b, c = lookups[:, axis, :, None].unbind(1)
        across, down = (2 * (a * x + c) + DELAY) / (4 * (size - 1)), 2 * (b * y) / (4 * (size - 1))
        periods = (across - 0.5).to(like)[:, None, :] + down.to(like)[:, :, None]  # 0 in the middle of a period
        torch.mul(periods - periods.round(), 2, out=grid[..., axis])
    return grid


def lookup(images: Tensor, grid: Tensor) -> Tensor:
    """Bilinear lookups [n, C, h, w] in ``images`` [n, C, H, W] at ``grid`` [n, h, w, 2]; -1 and 1 are the outermost pixels' centres.

    Only ``images`` may need a gradient. Lookups are linear in them, so the gradient is the transposed operation, which torch
    does not differentiate again by itself: a gradient penalty behind the augmentation needs that.
    """
    found: Tensor = _Lookup.apply(images, grid)  # type: ignore[no-untyped-call]
    return found


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = images.shape
        return torch.grid_sampler_2d(images, grid, *BILINEAR)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _Transposed.apply(gradient, *ctx.saved_tensors, ctx.shape), None  # type: ignore[no-untyped-call]


class _Transposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, found: Tensor, grid: Tensor, shape: torch.Size) -> Any:
        ctx.save_for_backward(grid)
        images = found.new_empty(shape)  # only its shape matters where the grid needs no gradient
        return torch.ops.aten.grid_sampler_2d_backward(found, images, grid, *BILINEAR, [True, False])[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return lookup(gradient, *ctx.saved_tensors), None, None


BILINEAR = (0, 1, True)
"""torch's numbers for bilinear interpolation, the border's value outside, and corners that are pixels' centres."""
