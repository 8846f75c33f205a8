"""How far images lie from one another, against how far real ones do: mode collapse as a number.

Odena et al. 2017 (section 4.2) compare the mean MS-SSIM of random pairs; its five scales do not fit into images of 32 or 64
pixels, so the mean L2 distance takes its place, in pixels or in the features of a network.
"""

import numpy as np
import torch

from ganserve.errors import DataError


def mean_pairwise_distance(rows: np.ndarray, *, most: int = 2000) -> float:
    """The mean L2 distance over all pairs of different rows among the first ``most`` of ``rows`` ``[n, ...]``."""
    if len(rows) < 2:
        raise DataError(f"{len(rows)} rows have no pair; give at least 2")
    flat = torch.from_numpy(rows[:most].reshape(min(len(rows), most), -1).astype(np.float64))
    # In float64 the products of pixels are exact, so that equal images are at distance 0.
    apart = torch.cdist(flat, flat, compute_mode="use_mm_for_euclid_dist").fill_diagonal_(0.0)
    return float(apart.sum() / (len(flat) * (len(flat) - 1)))


def diversity_ratio(samples: np.ndarray, real: np.ndarray, *, most: int = 2000) -> float:
    """Mean pairwise distance of ``samples`` over that of ``real``: 1 is as diverse as the data, 0 is one image over and over."""
    count = min(len(samples), len(real))
    return mean_pairwise_distance(samples[:count], most=most) / mean_pairwise_distance(real[:count], most=most)
