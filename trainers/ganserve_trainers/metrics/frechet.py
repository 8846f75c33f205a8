"""The Fréchet distance between Gaussians fitted to two sets of features (Heusel et al. 2017, section 3 and eq. 6)."""

from dataclasses import dataclass

import numpy as np

from ganserve.errors import DataError


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution over features: ``mean`` float64 ``[d]`` and ``covariance`` float64 ``[d, d]``."""

    mean: np.ndarray
    covariance: np.ndarray


def fit(features: np.ndarray) -> Gaussian:
    """The Gaussian with the mean and the unbiased covariance of ``features`` ``[n, d]``.

    With ``n <= d`` the covariance is singular; distances stay defined but are biased upwards the more, the smaller ``n`` is.
    Compare distances only at equal ``n``. Raises :class:`DataError` for fewer than two rows, another shape or NaN.
    """
    if features.ndim != 2 or len(features) < 2:
        raise DataError(f"features of shape {list(features.shape)}: expected [n, d] with at least 2 rows")
    wide = features.astype(np.float64)
    if not np.isfinite(wide).all():
        raise DataError("features hold NaN or infinity: look at the images, or at the network that made the features")
    return Gaussian(wide.mean(axis=0), np.atleast_2d(np.cov(wide, rowvar=False)))


def distance(one: Gaussian, two: Gaussian) -> float:
    """The squared Fréchet (2-Wasserstein) distance d² = |m1 - m2|² + Tr(C1 + C2 - 2 (C1 C2)^½), at least 0.

    Tr (C1 C2)^½ is taken as the sum of the singular values of C1^½ C2^½, which are the square roots of the eigenvalues of
    the symmetric C1^½ C2 C1^½ and so of C1 C2. No square root of a matrix that is not symmetric is needed, none of a negative
    rounding error is taken, and the distance of a Gaussian to itself is 0 to rounding.
    """
    if one.mean.shape != two.mean.shape:
        raise DataError(
            f"features of {one.mean.size} and of {two.mean.size} dimensions: use one feature network for both"
        )
    cross = np.linalg.svd(_root(one.covariance) @ _root(two.covariance), compute_uv=False).sum()
    shift = one.mean - two.mean
    return max(0.0, float(shift @ shift + np.trace(one.covariance) + np.trace(two.covariance) - 2.0 * cross))


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    # A covariance has no negative eigenvalue; what eigh finds below zero is rounding.
    return np.asarray((vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T)
