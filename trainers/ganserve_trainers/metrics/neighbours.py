"""The nearest training image of a sample: does the generator make images, or repeat some it has seen?"""

from dataclasses import dataclass

import numpy as np
import torch

from ganserve.errors import DataError


@dataclass(frozen=True)
class Neighbours:
    """For each of n queries: ``index`` int64 ``[n]`` of the nearest reference row and ``distance`` float64 ``[n]`` (L2) to it."""

    index: np.ndarray
    distance: np.ndarray


def nearest(queries: np.ndarray, references: np.ndarray, *, skip_self: bool = False, rows: int = 2048) -> Neighbours:
    """The nearest of ``references`` ``[m, ...]`` to each of ``queries`` ``[n, ...]`` by L2 distance, exactly, ``rows`` at a time.

    Both may be pixels of any dtype or features; rows are flattened. ``skip_self`` leaves out the reference with the query's
    own row number: the distance of a data set to the rest of itself. The first of equals is taken.
    """
    if queries.shape[1:] != references.shape[1:] or len(references) < 1 + skip_self:
        raise DataError(
            f"queries {list(queries.shape)} and references {list(references.shape)}: expected rows of one shape and enough references"
        )
    wanted = _flat(queries)
    best = torch.full((len(wanted),), torch.inf, dtype=torch.float64)
    index = torch.zeros(len(wanted), dtype=torch.int64)
    for start in range(0, len(references), rows):
        # float64 holds the sums of squared pixel differences exactly, so that equal images have distance 0.
        block = _flat(references[start : start + rows])
        squared = wanted.square().sum(1)[:, None] + block.square().sum(1)[None] - 2.0 * (wanted @ block.T)
        if skip_self:
            own = torch.arange(start, max(start, min(start + len(block), len(wanted))))
            squared[own, own - start] = torch.inf
        closest, where = squared.min(dim=1)
        better = closest < best
        best[better], index[better] = closest[better], where[better] + start
    return Neighbours(index.numpy(), best.clamp(min=0.0).sqrt().numpy())


def _flat(rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rows.reshape(len(rows), -1).astype(np.float64))
