"""The mapping network f: z → w, its truncation trick, and style mixing (Karras et al., 2019, sections 2, 3.1 and B; 2020)."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganserve_trainers.distributed import mean_over_processes
from ganserve_trainers.layers.equalized import Embedding, EqualizedLinear

SLOPE = 0.2
"""Leaky ReLU's, in all networks."""

RATE = 0.01
"""How much slower the mapping network learns than the others (Karras et al., 2019, appendix C)."""

EPSILON = 1e-7
"""Keeps divisions finite; the exporter takes anything up to 1e-8 for zero, and drops it."""

DECAY = 0.998
"""What remains of w_avg after each update."""


class MappingNetwork(nn.Module):
    """z ``[n, z]`` and, with classes, labels int64 ``[n]`` → w ``[n, w]``.

    ``w_avg`` ``[w]`` follows the mean of w. It moves in :meth:`follow` alone, so that neither previews nor export touch it.
    """

    w_avg: Tensor

    def __init__(self, z: int, w: int, layers: int, classes: int = 0) -> None:
        super().__init__()
        # Karras et al., 2020 (ADA), appendix D: the label's embedding is as long as w, and both are normalized, then joined.
        self.embedding = Embedding(classes, w) if classes else None
        self.classes = classes
        sizes = [z + (w if classes else 0), *[w] * layers]
        self.layers = nn.ModuleList(
            EqualizedLinear(inputs, outputs, rate=RATE, scale=2**0.5) for inputs, outputs in itertools.pairwise(sizes)
        )
        self.register_buffer("w_avg", torch.zeros(w))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """w, in float32 whatever the precision of the other networks."""
        with torch.autocast(z.device.type, enabled=False):
            features = normalized(z)
            if self.embedding is not None and labels is not None:
                embedded = self.embedding(one_hot(labels, self.classes))
                features = torch.cat([features, normalized(embedded)], 1)
            for layer in self.layers:
                features = F.leaky_relu(layer(features), SLOPE)
            return features

    @torch.no_grad()
    def follow(self, w: Tensor) -> None:
        """Move ``w_avg`` towards the mean of ``w`` ``[n, w]``, that of all processes."""
        self.w_avg.lerp_(mean_over_processes(w.detach().mean(0)), 1 - DECAY)


class Truncation(nn.Module):
    """The graph ``mapping``: z (and label), psi ``[n]``, cutoff int64 ``[n]`` → w ``[n, layers, w]`` and w_avg of the same shape.

    The truncation trick (Karras et al., 2019, appendix B): w' = w_avg + psi (w - w_avg), in the first ``cutoff`` layers only.
    """

    def __init__(self, mapping: MappingNetwork, layers: int) -> None:
        super().__init__()
        self.mapping, self.layers = mapping, layers

    def forward(self, z: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        """``others`` are the label, if there are classes, psi and cutoff."""
        *label, psi, cutoff = others
        w, average = self.mapping(z, *label), self.mapping.w_avg
        truncated = torch.arange(self.layers, device=z.device) < cutoff[:, None]
        psi = torch.where(truncated, psi[:, None], 1.0)[:, :, None]
        # Written so that psi = 1 gives w, and psi = 0 gives w_avg, to the bit.
        rows = psi * w[:, None] + (1 - psi) * average
        return rows, average.expand(z.shape[0], self.layers, -1)


def mixed(one: Tensor, two: Tensor, crossover: Tensor, layers: int) -> Tensor:
    """w ``[n, layers, w]``: rows of ``one`` ``[n, w]`` below each row's ``crossover`` int64 ``[n]``, of ``two`` from there on."""
    first = torch.arange(layers, device=one.device) < crossover[:, None]
    return torch.where(first[:, :, None], one[:, None], two[:, None])


def normalized(vectors: Tensor) -> Tensor:
    """``vectors`` ``[n, k]`` scaled to a mean square of 1 (Karras et al., 2018, section 4.2)."""
    return vectors * (vectors.square().mean(1, keepdim=True) + EPSILON).rsqrt()


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Labels int64 ``[n]`` as float32 ``[n, classes]``."""
    return (labels[:, None] == torch.arange(classes, device=labels.device)).float()
