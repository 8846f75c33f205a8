"""Directions learned from labelled latents: the normal of the plane that parts them (InterFaceGAN; Shen et al., 2020, section 3.1)."""

import msgspec
import numpy as np

from ganserve.errors import DataError

LEAST = 5
"""The fewest latents of a kind: of fewer, a plane says nothing."""

_HELD_OUT = 5
"""One latent in so many is kept from the fit, to be judged by it."""

_SHRINKAGE = 1e-2
"""Weight of the squared length of the normal beside the mean loss, for latents of variance 1: keeps it finite where they part cleanly."""

_MOST_STEPS = 100
_ENOUGH = 1e-9


class Boundary(msgspec.Struct, frozen=True, eq=False):
    """A plane between two kinds of latents.

    ``vector`` points from those without to those with, as long as one standard deviation of the latents along it. ``accuracy`` is the
    share of ``held_out`` latents, which the fit has not seen, on their right side.
    """

    vector: np.ndarray
    accuracy: float
    held_out: int


def learn_boundary(latents: np.ndarray, labels: np.ndarray) -> Boundary:
    """The boundary of ``latents`` [n, *shape] by ``labels`` bool [n], float32 of the shape; :class:`DataError` for too few of either kind.

    It is found by logistic regression with a penalty on its length (Newton's method): the same data give the same vector.
    """
    for kind, count in (("with", int(labels.sum())), ("without", int((~labels).sum()))):
        if count < LEAST:
            raise DataError(f"{count} samples are labelled {kind} it, at least {LEAST} are needed: label more of them")
    rows = latents.reshape(len(latents), -1).astype(np.float64)
    held = _held_out(labels)
    centre, spread = rows[~held].mean(axis=0), rows[~held].std()
    if not spread:
        raise DataError("all latents are equal: label samples of different seeds")
    seen = (rows - centre) / spread
    # The penalty does not care how the axes lie, so the fit has as many of them as there are latents, at most.
    _, _, axes = np.linalg.svd(seen[~held], full_matrices=False)
    normal, offset = _fit(seen[~held] @ axes.T, labels[~held])
    whole = axes.T @ normal
    accuracy = float(((seen[held] @ whole + offset > 0) == labels[held]).mean())
    if not (length := np.linalg.norm(whole)):
        raise DataError("the labels have nothing to do with the latents: no plane parts them better than a guess")
    unit = whole / length
    vector = unit * (rows @ unit).std()
    return Boundary(vector.astype(np.float32).reshape(latents.shape[1:]), accuracy, int(held.sum()))


def _held_out(labels: np.ndarray) -> np.ndarray:
    """Which latents the fit does not see: the same share of both kinds, spread evenly over their order after a fixed shuffle."""
    held = np.zeros(len(labels), bool)
    shuffle = np.random.default_rng(0)
    for kind in (True, False):
        held[shuffle.permutation(np.flatnonzero(labels == kind))[::_HELD_OUT]] = True
    return held


def _fit(rows: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """The normal and the offset with the least mean logistic loss and penalty."""
    wide = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    penalty = np.full(wide.shape[1], _SHRINKAGE)
    penalty[-1] = 0
    signs = np.where(labels, 1.0, -1.0)
    weights = np.zeros(wide.shape[1])

    def loss(weights: np.ndarray) -> float:
        return float(np.logaddexp(0, -signs * (wide @ weights)).mean() + (penalty * weights**2).sum() / 2)

    for _ in range(_MOST_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(wide @ weights, -500, 500)))
        slope = wide.T @ (chance - labels) / len(wide) + penalty * weights
        if np.abs(slope).max() < _ENOUGH:
            break
        curve = (wide * (chance * (1 - chance))[:, None]).T @ wide / len(wide) + np.diag(penalty)
        step = np.linalg.lstsq(curve, slope, rcond=None)[0]
        size = 1.0
        while size > _ENOUGH and loss(weights - size * step) > loss(weights):
            size /= 2
        weights = weights - size * step
    return weights[:-1], float(weights[-1])
