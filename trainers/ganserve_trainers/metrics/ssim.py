"""Structural similarity of two images: SSIM at one scale and MS-SSIM over five.

Wang, Bovik, Sheikh, Simoncelli 2004: Image quality assessment: from error visibility to structural similarity (SSIM).
Wang, Simoncelli, Bovik 2003: Multi-scale structural similarity for image quality assessment (MS-SSIM).
Both papers measure luminance; of images with several channels each channel is measured, and the mean is taken.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ganserve.errors import DataError

WINDOW = 11
SIGMA = 1.5
"""Side and standard deviation, in pixels, of the Gaussian window (2004, section III-C)."""

K1, K2 = 0.01, 0.03
"""The stabilizing constants are C1 = (K1 L)² and C2 = (K2 L)², where L is the data range (2004, eq. 7 and 11)."""

EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""β = γ of scales 1 to 5, and α of scale 5 (2003, section 3.2)."""

LEAST_SIDE = WINDOW * 2 ** (len(EXPONENTS) - 1)
"""The smallest side that the window still fits into at MS-SSIM's last scale: 176 pixels."""

ROWS = 16
"""Images measured at a time: their intermediate planes should stay in the processor's cache."""


def ssim(x: Tensor, y: Tensor, data_range: float) -> Tensor:
    """The mean SSIM of each pair of ``x`` and ``y`` ``[n, C, H, W]``: float64 ``[n]``, 1 for equal images, at most 1.

    Any dtype; computed in float64. ``data_range`` is the largest possible value minus the smallest: 255 for uint8, 2 for [-1, 1].
    Only windows that lie wholly in the image count, so each side must have at least 11 pixels (:class:`DataError`).
    """
    _check(x, y, data_range)
    if min(x.shape[2:]) < WINDOW:
        raise DataError(
            f"images of {x.shape[2]}×{x.shape[3]} pixels: the window of SSIM has {WINDOW}×{WINDOW}; give images at least as large"
        )
    return _in_parts(_ssim, x, y, data_range)


def ms_ssim(x: Tensor, y: Tensor, data_range: float) -> Tensor:
    """The MS-SSIM of each pair of ``x`` and ``y`` ``[n, C, H, W]``: float64 ``[n]`` from 0 to 1 for equal images.

    See :func:`ssim` for dtypes and ``data_range``. Each side must have at least 176 pixels (:class:`DataError`). A negative mean
    of a scale, which has no real power, counts as 0.
    """
    _check(x, y, data_range)
    if min(x.shape[2:]) < LEAST_SIDE:
        raise DataError(
            f"images of {x.shape[2]}×{x.shape[3]} pixels: MS-SSIM halves them {len(EXPONENTS) - 1} times and its window has "
            f"{WINDOW} pixels, so that each side must have at least {LEAST_SIDE}; use SSIM for smaller images"
        )
    return _in_parts(_ms_ssim, x, y, data_range)


def _in_parts(measure: Callable[[Tensor, Tensor, float], Tensor], x: Tensor, y: Tensor, data_range: float) -> Tensor:
    parts = (slice(start, start + ROWS) for start in range(0, len(x), ROWS))
    return torch.cat([measure(x[part].double(), y[part].double(), data_range) for part in parts])


def _ssim(x: Tensor, y: Tensor, data_range: float) -> Tensor:
    luminance, contrast_structure = _terms(x, y, data_range)
    return (luminance * contrast_structure).mean(dim=(1, 2, 3))


def _ms_ssim(x: Tensor, y: Tensor, data_range: float) -> Tensor:
    product = torch.ones(x.shape[:2], dtype=x.dtype, device=x.device)
    for scale, exponent in enumerate(EXPONENTS):
        if scale:
            # Low-pass filter and downsampling by 2 (2003, figure 1).
            x, y = functional.avg_pool2d(x, 2), functional.avg_pool2d(y, 2)
        luminance, contrast_structure = _terms(x, y, data_range)
        # 2003, eq. 7: luminance is compared at the last scale only.
        similarity = luminance * contrast_structure if scale == len(EXPONENTS) - 1 else contrast_structure
        product = product * similarity.mean(dim=(2, 3)).clamp(min=0.0) ** exponent
    return product.mean(dim=1)


def _terms(x: Tensor, y: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    """At each window: luminance l (2004, eq. 6), and contrast times structure c·s with C3 = C2 / 2 (eq. 9 and 10)."""
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = (_windowed(plane) for plane in (x, y, x * x, y * y, x * y))
    # Rounding must not make a flat window's variance negative.
    variances = (mean_xx - mean_x**2).clamp(min=0.0) + (mean_yy - mean_y**2).clamp(min=0.0)
    covariance = mean_xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * covariance + c2) / (variances + c2)


def _windowed(x: Tensor) -> Tensor:
    """The Gaussian-weighted mean of every window of ``x`` ``[n, C, H, W]`` (2004, eq. 14): a column, then a row."""
    weights = torch.exp(-((torch.arange(WINDOW, dtype=x.dtype) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    for axis in (2, 3):
        # A convolution would do the same, but torch's is slow in float64.
        places = x.shape[axis] - WINDOW + 1
        shifted = (weight * x.narrow(axis, k, places) for k, weight in enumerate((weights / weights.sum()).tolist()))
        x = functools.reduce(torch.add, shifted)
    return x


def _check(x: Tensor, y: Tensor, data_range: float) -> None:
    if x.ndim != 4 or x.shape != y.shape or not len(x):
        raise DataError(
            f"images {list(x.shape)} and {list(y.shape)}: expected two batches of one shape [n, C, H, W], n at least 1"
        )
    if not data_range > 0:
        raise DataError(
            f"data range {data_range}: expected the largest value minus the smallest, such as 255 for uint8"
        )
