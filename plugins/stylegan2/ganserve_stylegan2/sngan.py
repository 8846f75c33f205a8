"""The discriminator of DCGAN under spectral normalization, with a projection on labels: a run may choose it for its StyleGAN2.

Miyato et al., 2018 (SNGAN): every weight has spectral norm 1. Miyato & Koyama, 2018: the label's part of the logit is the inner product of its
embedding and the sum of the last features over all places.
"""

import itertools
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ganserve_stylegan2.mapping import SLOPE, one_hot
from ganserve_trainers.layers.initialization import normal_weights
from ganserve_trainers.layers.spectral import spectral_norm

STD = 0.02
"""Of the weights that are drawn (Radford et al., 2016, section 4)."""


class Embedding(nn.Linear):
    """One-hot labels ``[n, classes]`` → a vector for each, ``[n, outputs]``, under spectral normalization."""

    def __init__(self, classes: int, outputs: int) -> None:
        super().__init__(classes, outputs, bias=False)
        spectral_norm(normal_weights(self, STD))

    @torch.no_grad()
    def relabelled(self, name: str, saved: Tensor, before: Sequence[int | None]) -> Tensor:
        """See :class:`ganserve_trainers.relabel.Relabels`."""
        if name.endswith(".u"):
            return saved
        made: Tensor = self.state_dict()[name].clone()
        if name.endswith(".original"):  # v, the other one, follows from it and u at the next step
            for now, then in enumerate(before):
                if then is not None:
                    made[:, now] = saved[:, then]
        return made


class SpectralDiscriminator(nn.Module):
    """Images ``[n, C, H, W]`` and, with classes, labels int64 ``[n]`` → logits float32 ``[n]``: strided convolutions down to 4x4."""

    def __init__(self, widths: Sequence[tuple[int, int]], channels: int, classes: int = 0) -> None:
        """``widths`` are (side, feature maps) from half of the images' side down."""
        super().__init__()
        steps = itertools.pairwise([channels, *(width for _, width in widths)])
        # Named by their resolution, so that those of a lower one are found again in a larger network.
        self.layers = nn.Sequential(
            OrderedDict(
                (str(side), nn.Sequential(_convolution(inputs, outputs, stride=2, padding=1), nn.LeakyReLU(SLOPE)))
                for (side, _), (inputs, outputs) in zip(widths, steps, strict=True)
            )
        )
        side, last = widths[-1]
        self.logit = _convolution(last, 1, side)
        self.embedding = Embedding(classes, last) if classes else None
        self.classes = classes

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """How real each image looks."""
        features = self.layers(images)
        logits: Tensor = self.logit(features).flatten().float()
        if self.embedding is not None and labels is not None:
            embedded = self.embedding(one_hot(labels, self.classes))
            logits = logits + (features.float().sum((2, 3)) * embedded.float()).sum(1)
        return logits


def _convolution(inputs: int, outputs: int, kernel: int = 4, stride: int = 1, padding: int = 0) -> nn.Module:
    return spectral_norm(normal_weights(nn.Conv2d(inputs, outputs, kernel, stride, padding), STD))
