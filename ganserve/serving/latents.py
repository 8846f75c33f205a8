"""The arithmetic of latents: walks, mixtures and weighted sums. Small enough to be done on the host, row by row.

A latent is an array of one row's shape, float32; points and results are ``[n, *shape]``. A latent with layers is a vector a layer,
any other is one vector: angles and lengths are those of these vectors. All is computed in float64 and rounded once, by operations
whose result for one row does not depend on the rows beside it.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from ganserve.spec import Walk

Normalization: TypeAlias = Literal["none", "mean", "length"]

_PARALLEL = 1e-6
"""The angle below which two directions are one, and above pi less it opposite: float32 tells them apart no better."""


def frames_of(keys: int, frames: int, *, loop: bool) -> list[tuple[int, float]]:
    """The places of a walk over ``keys`` points with ``frames`` frames from each up to the next: (key, part of the way), in order.

    A loop goes on from the last key to the first, without repeating it; else the last key ends the walk.
    """
    ways = keys if loop else keys - 1
    places = [(key, frame / frames) for key in range(ways) for frame in range(frames)]
    return places if loop else [*places, (keys - 1, 0.0)]


def interpolate(
    points: np.ndarray, places: Sequence[tuple[int, float]], walk: Walk, *, layers: bool = False
) -> np.ndarray:
    """The latent at each of ``places`` between ``points``, where the first point follows the last; at 0 the point itself, bit for bit."""
    rows = np.empty((len(places), *points.shape[1:]), np.float32)
    # One way at a time: the latents of a thousand keys are many, their ways several times as many.
    for key, frames in itertools.groupby(enumerate(places), lambda frame: frame[1][0]):
        way = _way(points[key], points[(key + 1) % len(points)], walk, layers)
        for row, (_, part) in frames:
            rows[row] = way.at(part) if part else points[key]
    return rows


def mix(points: np.ndarray, bases: Sequence[int], styles: Sequence[int], layers: Sequence[int]) -> np.ndarray:
    """For each pair of numbers of ``points``, the base with ``layers`` of the style."""
    mixed = points[list(bases)]
    mixed[:, list(layers)] = points[list(styles)][:, list(layers)]
    return mixed


def combine(
    points: np.ndarray, weights: Sequence[float], normalization: Normalization = "none", *, layers: bool = False
) -> np.ndarray:
    """The sum of ``points``, each times its weight: ``[1, *shape]``.

    ``mean`` divides it by the sum of the weights, ``length`` scales it to the mean length of the points. ValueError where that
    cannot be done, or where the sum is too large for float32. Weights are at most 1e6 or so: float64 must hold the sum.
    """
    vectors = _vectors(points, layers)
    total = np.zeros(vectors.shape[1:])
    for weight, vector in zip(weights, vectors, strict=True):
        total += weight * vector
    if normalization == "mean":
        if not (sum_ := math.fsum(weights)):
            raise ValueError("the weights add up to 0, by which nothing can be divided")
        total /= sum_
    if normalization == "length":
        lengths = _length(total)
        if not lengths.all():
            raise ValueError("the sum is 0, which has no direction in which it could be scaled")
        total *= _length(vectors).mean(axis=0) / lengths
    if not np.abs(total).max() <= np.finfo(np.float32).max:
        raise ValueError("the sum is too large for float32")
    return total.astype(np.float32).reshape(1, *points.shape[1:])


class _Way:
    """The way from one point to another: ``near`` and ``far`` [layers, numbers], one row where the latent has no layers."""

    def __init__(self, near: np.ndarray, far: np.ndarray, shape: tuple[int, ...]) -> None:
        self.near, self.far, self.shape = near, far, shape

    def at(self, part: float) -> np.ndarray:
        """The point after ``part`` of the way."""
        return self.straight(part).reshape(self.shape).astype(np.float32)

    def straight(self, part: float) -> np.ndarray:
        """The point on the straight line, in float64."""
        return (1 - part) * self.near + part * self.far


class _Arc(_Way):
    """The great circle of each layer (Shoemake, 1985), with the lengths interpolated.

    ``angles`` are walked from ``near`` towards ``aside``, which is perpendicular to it and of length 1. Where one of two vectors is
    0 or their directions are equal, there is no such circle and the way is straight; where they are opposite there are many, and
    the way leads over the axis that is least along ``near``.
    """

    def __init__(self, near: np.ndarray, far: np.ndarray, shape: tuple[int, ...]) -> None:
        super().__init__(near, far, shape)
        self.lengths = _length(near), _length(far)
        self.turns = np.logical_and(*self.lengths)[:, 0]
        self.forward, self.aside = np.zeros_like(near), np.zeros_like(near)
        self.angles = np.zeros(len(near))
        for layer in np.flatnonzero(self.turns).tolist():
            self._turn(layer)

    def straight(self, part: float) -> np.ndarray:
        line = super().straight(part)
        # math's functions and not numpy's: the latter may round otherwise at other places of an array.
        along, across = (
            np.array([[one(angle * part)] for angle in self.angles.tolist()]) for one in (math.cos, math.sin)
        )
        length = (1 - part) * self.lengths[0] + part * self.lengths[1]
        return np.where(self.turns[:, None], length * (along * self.forward + across * self.aside), line)

    def _turn(self, layer: int) -> None:
        near, far = (
            vectors[layer] / length[layer] for vectors, length in zip((self.near, self.far), self.lengths, strict=True)
        )
        # Exact for small angles and for large ones, unlike the arc cosine of the product (Kahan).
        angle = 2 * math.atan2(math.sqrt(((near - far) ** 2).sum()), math.sqrt(((near + far) ** 2).sum()))
        opposite = angle > math.pi - _PARALLEL
        if opposite:
            far = np.zeros_like(near)
            far[np.abs(near).argmin()] = 1
        aside = far - (near * far).sum() * near
        length = math.sqrt((aside**2).sum())
        # One number alone has no direction but its sign's.
        if angle < _PARALLEL or length < _PARALLEL:
            self.turns[layer] = False
            return
        self.forward[layer], self.aside[layer] = near, aside / length
        self.angles[layer] = math.pi if opposite else angle


def _way(near: np.ndarray, far: np.ndarray, walk: Walk, layers: bool) -> _Way:
    kind = _Arc if walk == "slerp" else _Way
    first, last = _vectors(np.stack([near, far]), layers)
    return kind(first, last, near.shape)


def _vectors(points: np.ndarray, layers: bool) -> np.ndarray:
    """``points`` as float64 [n, layers, numbers]."""
    vectors: np.ndarray = points.reshape(len(points), points.shape[1] if layers else 1, -1).astype(np.float64)
    return vectors


def _length(vectors: np.ndarray) -> np.ndarray:
    """The lengths of the last axis, which stays as one number."""
    lengths: np.ndarray = np.sqrt((vectors * vectors).sum(axis=-1, keepdims=True))
    return lengths
