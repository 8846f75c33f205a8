"""Which images a step sees: a pure function of the run's seed and the batch's number, whatever came before."""

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from ganserve_trainers.seeding import generator


def batches(
    seed: int, images: int, batch: int, start: int = 0, rank: int = 0, world: int = 1, walk: int = 0
) -> Iterator[Tensor]:
    """The indices ``[batch]`` of process ``rank`` in batch ``start`` and after, for ever.

    The data is walked through in a new permutation each epoch. The batch of all ``world`` processes is one stretch of that
    walk, so two processes see together what one would see with twice the batch. Walks of different numbers are independent:
    two domains meet in new pairs all the time, and the smaller one begins its next epoch earlier.
    """
    together = batch * world
    number = start
    while True:
        first = number * together + rank * batch
        yield _stretch(_place(seed, "order", walk), images, first, first + batch)
        number += 1


def mirrored(seed: int, number: int, rows: int, rank: int = 0, world: int = 1, walk: int = 0) -> Tensor:
    """Which rows ``[rows]`` of batch ``number`` are flipped left to right: each with probability one half."""
    flips = torch.rand(rows * world, generator=generator(*_place(seed, "mirror", walk), number)) < 0.5
    return flips[rank * rows : (rank + 1) * rows]


def _place(seed: int, use: str, walk: int) -> tuple[int | str, ...]:
    return (seed, use, walk) if walk else (seed, use)


def _stretch(place: tuple[int | str, ...], images: int, first: int, end: int) -> Tensor:
    epochs = range(first // images, (end - 1) // images + 1)
    walk = torch.cat([_permutation(place, images, epoch) for epoch in epochs])
    offset = epochs.start * images
    return walk[first - offset : end - offset]


@lru_cache(maxsize=4)
def _permutation(place: tuple[int | str, ...], images: int, epoch: int) -> Tensor:
    return torch.randperm(images, generator=generator(*place, epoch))
