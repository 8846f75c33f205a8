"""Weights normalized by their singular values: spectral normalization, stable rank normalization, folding.

A normalized layer keeps its raw weight as ``parametrizations.weight.original`` and computes the weight it uses at each call.
"""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

Network = TypeVar("Network", bound=nn.Module)

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""The layers whose weight counts its outputs along axis 1; all others do so along axis 0."""


class SpectralNorm(nn.Module):
    """W / sigma(W) of Miyato et al., 2018, eq. 8: the weight as a matrix [outputs, the rest] then has spectral norm 1.

    sigma = u^T W v is estimated by power iteration (algorithm 1): one step a call in training mode; in eval mode the stored
    u and v serve. Gradients flow through sigma with u and v held constant (eq. 12).
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, axis: int = 0) -> None:
        """Start u and v at random and let ``STARTING_STEPS`` power iterations bring them close."""
        super().__init__()
        self.axis = axis
        matrix = self.as_matrix(weight.detach())
        self.register_buffer("u", F.normalize(torch.randn(matrix.shape[0]), dim=0))
        self.register_buffer("v", F.normalize(torch.randn(matrix.shape[1]), dim=0))
        for _ in range(STARTING_STEPS):
            self.iterate(matrix)

    def forward(self, weight: Tensor) -> Tensor:
        """The normalized weight, of ``weight``'s shape."""
        matrix = self.as_matrix(weight)
        sigma, _, _ = self.singular(matrix)
        return weight / sigma

    def singular(self, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The largest singular value of ``matrix`` and its vectors u, v; a step of power iteration first in training mode."""
        if self.training:
            self.iterate(matrix.detach())
        # Copies: a second call before the backward pass must not change what the first one's graph remembers.
        u, v = self.u.clone(), self.v.clone()
        return (torch.outer(u, v) * matrix).sum(), u, v

    @torch.no_grad()
    def iterate(self, matrix: Tensor) -> None:
        """One step of power iteration (Miyato et al., 2018, algorithm 1, line 1), in full precision even under autocast."""
        with torch.autocast(matrix.device.type, enabled=False):
            self.v.copy_(F.normalize(matrix.T @ self.u, dim=0, eps=EPSILON))
            self.u.copy_(F.normalize(matrix @ self.v, dim=0, eps=EPSILON))

    def widened(self, name: str, narrow: Tensor) -> Tensor:
        """See :class:`ganserve_trainers.layers.widening.Widens`: u and v, without a part in what is new."""
        return F.pad(narrow, (0, getattr(self, name).numel() - narrow.numel()))

    def as_matrix(self, weight: Tensor) -> Tensor:
        """``weight`` as [outputs, inputs * kernel], as in Miyato et al., 2018, section 2.1."""
        return weight.transpose(0, self.axis).flatten(1)

    def as_weight(self, matrix: Tensor, like: Tensor) -> Tensor:
        """The inverse of :meth:`as_matrix`, in the shape of ``like``."""
        return matrix.reshape(like.transpose(0, self.axis).shape).transpose(0, self.axis)


class StableRankNorm(SpectralNorm):
    """Spectral norm 1 and stable rank at most r (Sanyal et al., 2020, algorithm 2 with one preserved singular value).

    The stable rank ||W||_F^2 / ||W||_2^2 is at most the rank; its bound is r = c * min(outputs, inputs * kernel), at least 1.
    With W / sigma = u v^T + S, the rest S is scaled by min(1, sqrt(r - 1) / ||S||_F) (theorem 1).
    """

    def __init__(self, weight: Tensor, axis: int = 0, c: float = 0.7) -> None:
        """``c`` in (0, 1] is the fraction of the full rank to allow."""
        super().__init__(weight, axis)
        self.bound = max(1.0, c * min(self.u.numel(), self.v.numel()))

    def forward(self, weight: Tensor) -> Tensor:
        """The normalized weight, of ``weight``'s shape."""
        matrix = self.as_matrix(weight)
        sigma, u, v = self.singular(matrix)
        leading = torch.outer(u, v)
        rest = matrix / sigma - leading
        scale = ((self.bound - 1) ** 0.5 / rest.norm().clamp_min(EPSILON)).clamp_max(1.0)
        return self.as_weight(leading + scale * rest, weight)


def spectral_norm(layer: Network) -> Network:
    """``layer`` with its weight under :class:`SpectralNorm`."""
    parametrize.register_parametrization(layer, "weight", SpectralNorm(*_weight(layer)))
    return layer


def stable_rank_norm(layer: Network, c: float = 0.7) -> Network:
    """``layer`` with its weight under :class:`StableRankNorm`."""
    parametrize.register_parametrization(layer, "weight", StableRankNorm(*_weight(layer), c))
    return layer


def fold(network: Network) -> Network:
    """A copy of ``network`` in eval mode whose normalized weights are constants: plain linear and convolutional layers."""
    folded = copy.deepcopy(network).eval()
    for layer in folded.modules():
        if parametrize.is_parametrized(layer, "weight"):
            # Not parametrize.remove_parametrizations: it also strips the class, which the copy shares with the original.
            weight, _ = _weight(layer)
            layer.__class__ = parametrize.type_before_parametrizations(layer)
            del layer.parametrizations
            layer.weight = nn.Parameter(weight.detach())
    return folded


def _weight(layer: nn.Module) -> tuple[Tensor, int]:
    """The weight of ``layer`` and the axis along which it counts outputs."""
    if not isinstance(layer.weight, Tensor):
        raise TypeError(
            f"{type(layer).__name__} has no weight tensor to normalize: give a linear or convolutional layer"
        )
    return layer.weight, 1 if isinstance(layer, TRANSPOSED) else 0


STARTING_STEPS = 15
"""Power iterations before the first call, so that the first updates already see weights of norm about 1."""

EPSILON = 1e-12
"""Keeps a division by a zero norm finite."""
