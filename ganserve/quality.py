"""How near two pictures are: PSNR, SSIM at one scale and MS-SSIM over five.

Wang, Bovik, Sheikh, Simoncelli 2004: Image quality assessment: from error visibility to structural similarity (SSIM).
Wang, Simoncelli, Bovik 2003: Multi-scale structural similarity for image quality assessment (MS-SSIM).
Both papers measure luminance; of pictures with several channels each channel is measured, and the mean is taken.
"""

import math

import msgspec
import numpy as np

WINDOW = 11
SIGMA = 1.5
"""Side and standard deviation, in pixels, of the Gaussian window (2004, section III-C)."""

WHITE = 255.0
"""The largest level of a pixel, L in both papers."""

C1, C2 = (0.01 * WHITE) ** 2, (0.03 * WHITE) ** 2
"""The stabilizing constants (2004, eq. 7 and 11)."""

EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""β = γ of scales 1 to 5, and α of scale 5 (2003, section 3.2)."""

LEAST_SIDE = WINDOW * 2 ** (len(EXPONENTS) - 1)
"""The smallest side that the window still fits into at MS-SSIM's last scale: 176 pixels."""


STRIP = 16
"""Rows of windows that are measured at a time: their planes should stay in the processor's cache."""


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """How near one picture is to another.

    ``psnr`` is in dB, infinity where they are equal. ``ssim`` and ``ms_ssim`` are at most 1; None below 11 and 176 pixels a side.
    """

    psnr: float
    ssim: float | None = None
    ms_ssim: float | None = None


def quality_of(picture: np.ndarray, target: np.ndarray) -> Quality:
    """How near ``picture`` is to ``target``, both uint8 ``[H, W, C]``; ValueError where their shapes differ."""
    side = min(target.shape[:2])
    if side < WINDOW:
        return Quality(psnr=psnr(picture, target))
    first = _similarities(_planes(picture, target, WINDOW))
    several = _ms_ssim(picture, target, first) if side >= LEAST_SIDE else None
    return Quality(psnr=psnr(picture, target), ssim=float(first[:, 0].mean()), ms_ssim=several)


def psnr(x: np.ndarray, y: np.ndarray) -> float:
    """Peak signal-to-noise ratio of ``x`` and ``y`` uint8 ``[H, W, C]`` in dB: 10·log10(255² / mean squared error)."""
    _check(x, y, 1)
    error = float(np.mean((x.astype(np.float64) - y) ** 2))
    return 10.0 * math.log10(WHITE**2 / error) if error else math.inf


def ssim(x: np.ndarray, y: np.ndarray) -> float:
    """The mean SSIM of ``x`` and ``y`` uint8 ``[H, W, C]``, at most 1, which it is for equal pictures.

    Only windows that lie wholly in the picture count, so each side must have at least 11 pixels (ValueError).
    """
    return float(_similarities(_planes(x, y, WINDOW))[:, 0].mean())


def ms_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """The MS-SSIM of ``x`` and ``y`` uint8 ``[H, W, C]``, from 0 to 1 for equal pictures; sides of at least 176 pixels (ValueError).

    A negative mean of a scale, which has no real power, counts as 0.
    """
    return _ms_ssim(x, y, _similarities(_planes(x, y, LEAST_SIDE)))


def _ms_ssim(x: np.ndarray, y: np.ndarray, first: np.ndarray) -> float:
    """MS-SSIM, of which ``first`` is the first scale."""
    planes = _planes(x, y, LEAST_SIDE)
    # 2003, eq. 7: luminance is compared at the last scale only.
    product = np.maximum(first[:, 1], 0.0) ** EXPONENTS[0]
    for scale, exponent in enumerate(EXPONENTS[1:], start=1):
        # Low-pass filter and downsampling by 2 (2003, figure 1).
        planes = _halved(planes)
        both = _similarities(planes)
        product *= np.maximum(both[:, 0 if scale == len(EXPONENTS) - 1 else 1], 0.0) ** exponent
    return float(product.mean())


def _planes(x: np.ndarray, y: np.ndarray, least: int) -> np.ndarray:
    """Both pictures, channel by channel: float64 ``[C, 2, H, W]``."""
    _check(x, y, least)
    return np.stack([x, y]).transpose(3, 0, 1, 2).astype(np.float64, order="C")


def _similarities(planes: np.ndarray) -> np.ndarray:
    """Of each channel of ``planes`` ``[C, 2, H, W]`` the mean SSIM, and the mean of its contrast and structure alone: ``[C, 2]``."""
    return np.array([_similarity(x, y) for x, y in planes])


def _similarity(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    places, whole, partial = 0, 0.0, 0.0
    for top in range(0, x.shape[0] - WINDOW + 1, STRIP):
        luminance, contrast_structure = _terms(*(plane[top : top + STRIP + WINDOW - 1] for plane in (x, y)))
        places += luminance.size
        whole += float(np.sum(luminance * contrast_structure))
        partial += float(np.sum(contrast_structure))
    return whole / places, partial / places


def _terms(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At each window: luminance l (2004, eq. 6), and contrast times structure c·s with C3 = C2 / 2 (eq. 9 and 10)."""
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _windowed(np.stack([x, y, x * x, y * y, x * y]))
    # Rounding must not make a flat window's variance negative.
    variances = np.maximum(mean_xx - mean_x**2, 0.0) + np.maximum(mean_yy - mean_y**2, 0.0)
    covariance = mean_xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    return luminance, (2 * covariance + C2) / (variances + C2)


def _windowed(planes: np.ndarray) -> np.ndarray:
    """The Gaussian-weighted mean of every window of ``planes`` ``[k, H, W]`` (2004, eq. 14): a column, then a row."""
    weights = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    weights /= weights.sum()
    for axis in (1, 2):
        count, middle = planes.shape[axis] - WINDOW + 1, WINDOW // 2
        shifted = [_cut(planes, axis, place, count) for place in range(WINDOW)]
        total = shifted[middle] * weights[middle]
        for place in range(middle):
            # Two places have one weight, for the window is symmetrical.
            pair = shifted[place] + shifted[WINDOW - 1 - place]
            pair *= weights[place]
            total += pair
        planes = total
    return planes


def _cut(planes: np.ndarray, axis: int, start: int, count: int) -> np.ndarray:
    return planes[:, start : start + count] if axis == 1 else planes[:, :, start : start + count]


def _halved(planes: np.ndarray) -> np.ndarray:
    """The means of 2x2 pixels; a last odd row or column is left out."""
    even = planes[..., : planes.shape[-2] // 2 * 2, : planes.shape[-1] // 2 * 2]
    halves: np.ndarray = (
        even[..., 0::2, 0::2] + even[..., 1::2, 0::2] + even[..., 0::2, 1::2] + even[..., 1::2, 1::2]
    ) / 4
    return halves


def _check(x: np.ndarray, y: np.ndarray, least: int) -> None:
    if x.shape != y.shape or x.ndim != 3 or x.dtype != np.uint8 or y.dtype != np.uint8:
        raise ValueError(
            f"pictures {x.dtype}{list(x.shape)} and {y.dtype}{list(y.shape)}: expected two uint8 [H, W, C] of one shape"
        )
    if min(x.shape[:2]) < least:
        raise ValueError(f"pictures of {x.shape[0]}x{x.shape[1]} pixels: expected at least {least} a side")
