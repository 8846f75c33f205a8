"""Mean absolute difference of images on [-1, 1]: the L1 of pix2pix (Isola et al. 2017, eq. 3) and CycleGAN (Zhu et al. 2017, eq. 2)."""

from collections.abc import Iterable

import numpy as np

from ganserve.errors import DataError

_HALF_RANGE = 127.5
"""The grey levels in a difference of 1."""


def mean_l1(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The mean |x - y| of each pair of images uint8 ``[n, H, W, C]``, as if on [-1, 1]: float64 ``[n]`` from 0 to 2."""
    if x.dtype != np.uint8 or y.dtype != np.uint8 or x.shape != y.shape or x.ndim != 4:
        raise DataError(
            f"images {x.dtype}{list(x.shape)} and {y.dtype}{list(y.shape)}: expected two batches uint8 [n, H, W, C]"
        )
    return _l1(zip(x, y, strict=True))


def random_pairs_l1(images: np.ndarray, *, pairs: int = 2000, seed: int = 0) -> np.ndarray:
    """The :func:`mean_l1` of ``pairs`` random pairs of different ones of ``images`` uint8 ``[n, H, W, C]``: float64 ``[pairs]``."""
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) < 2:
        raise DataError(f"images {images.dtype}{list(images.shape)}: expected two or more as uint8 [n, H, W, C]")
    random = np.random.default_rng(seed)
    first = random.integers(len(images), size=pairs)
    second = (first + random.integers(1, len(images), size=pairs)) % len(images)
    return _l1((images[i], images[j]) for i, j in zip(first, second, strict=True))


def _l1(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    return np.array([np.abs(x.astype(np.int16) - y).mean() / _HALF_RANGE for x, y in pairs])
