"""The discriminator of StyleGAN2: residual, with a low-pass filter wherever it halves (Karras et al., 2020, sections 4.1 and B)."""

import itertools
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganserve_stylegan2.mapping import SLOPE, normalized, one_hot
from ganserve_trainers.layers.equalized import Embedding, EqualizedConv2d, EqualizedLinear
from ganserve_trainers.layers.fir import Halve, Smooth
from ganserve_trainers.layers.minibatch import MinibatchDeviation

GAIN = 2**0.5
"""The activation's, applied to the layer in front of it: leaky ReLU has no scale of its own."""


class Block(nn.Module):
    """``[n, inputs, H, W]`` → ``[n, outputs, H/2, W/2]``: two 3x3 convolutions, and a 1x1 convolution past them if ``residual``."""

    def __init__(self, inputs: int, outputs: int, residual: bool) -> None:
        super().__init__()
        share = 0.5**0.5 if residual else 1.0  # both paths have variance 1, and so has their scaled sum
        self.first = EqualizedConv2d(inputs, inputs, 3, padding=1, scale=GAIN)
        self.second = EqualizedConv2d(inputs, outputs, 3, stride=2, scale=GAIN * share)
        self.smooth = Smooth(inputs, padding=2)
        past = nn.Sequential(Halve(inputs), EqualizedConv2d(inputs, outputs, 1, scale=share, bias=False))
        self.past = past if residual else None

    def forward(self, features: Tensor) -> Tensor:
        """The features at the next lower resolution."""
        made = F.leaky_relu(self.first(features), SLOPE)
        made = F.leaky_relu(self.second(self.smooth(made)), SLOPE)
        return made if self.past is None else made + self.past(features)


class Discriminator(nn.Module):
    """Images ``[n, C, H, W]`` and, with classes, labels int64 ``[n]`` → logits float32 ``[n]``.

    With classes, the logit is the projection of the last features on the label's embedding (Miyato & Koyama, 2018), which is
    normalized as in the mapping network (Karras et al., 2020, ADA, appendix D).
    """

    def __init__(
        self,
        widths: Sequence[tuple[int, int]],
        channels: int,
        group: int,
        residual: bool = True,
        classes: int = 0,
        alike: bool = False,
    ) -> None:
        """``widths`` are (side, feature maps) from the highest resolution down; ``group`` is that of the minibatch's deviation.

        ``alike`` puts images of one label into one group, as far as that goes.
        """
        super().__init__()
        (_, first), (side, last) = widths[0], widths[-1]
        self.picture = EqualizedConv2d(channels, first, 1, scale=GAIN)
        # Named by their resolution, so that those of a lower one are found again in a larger network.
        self.blocks = nn.Sequential(
            OrderedDict(
                (str(above), Block(inputs, outputs, residual))
                for (above, inputs), (_, outputs) in itertools.pairwise(widths)
            )
        )
        self.deviation = MinibatchDeviation(group)
        self.convolution = EqualizedConv2d(last + 1, last, 3, padding=1, scale=GAIN)
        self.dense = EqualizedLinear(last * side**2, last, scale=GAIN)
        self.logit = EqualizedLinear(last, last if classes else 1)
        self.embedding = Embedding(classes, last) if classes else None
        self.classes, self.alike = classes, alike

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """How real each image looks."""
        features = F.leaky_relu(self.picture(images), SLOPE)
        features = self.deviation(self.blocks(features), labels if self.alike else None)
        with torch.autocast(images.device.type, enabled=False):
            features = F.leaky_relu(self.convolution(features.float()), SLOPE)
            logits: Tensor = self.logit(F.leaky_relu(self.dense(features.flatten(1)), SLOPE))
            if self.embedding is not None and labels is not None:
                embedded = normalized(self.embedding(one_hot(labels, self.classes)))
                logits = (logits * embedded).sum(1, keepdim=True) * logits.shape[1] ** -0.5
        return logits[:, 0]
