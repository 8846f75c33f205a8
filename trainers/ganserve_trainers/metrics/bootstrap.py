"""How sure a mean over a test set is: the percentile bootstrap (Efron 1979, Bootstrap methods: another look at the jackknife)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ganserve.errors import DataError


@dataclass(frozen=True)
class Estimate:
    """A mean, and the interval from ``low`` to ``high`` in which 95 % of the means of resampled data lie."""

    mean: float
    low: float
    high: float


def estimate(
    values: np.ndarray, groups: Sequence[str] | None = None, *, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """The mean of ``values`` ``[n]`` and its interval.

    Values that are not independent (variants of one picture) carry the same name in ``groups`` and are drawn together.
    """
    if not len(values) or (groups is not None and len(groups) != len(values)):
        raise DataError(
            f"{len(values)} values in {len(values) if groups is None else len(groups)} named places: expected one each"
        )
    _, group = np.unique(np.arange(len(values)) if groups is None else np.asarray(groups), return_inverse=True)
    sums, counts = np.bincount(group, weights=values), np.bincount(group)
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    for number in range(resamples):
        drawn = random.integers(len(sums), size=len(sums))
        means[number] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(np.mean(values)), float(low), float(high))
