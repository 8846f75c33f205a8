"""Resampling with a low-pass filter, so that signals beyond the lower resolution's band do not fold back into it.

The filter is the separable [1, 3, 3, 1] of StyleGAN2 (Karras et al., 2020, appendix B), as a depthwise convolution.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TAPS = (1.0, 3.0, 3.0, 1.0)
"""The filter along one axis, before it is normalized to a sum of 1."""


class Filter(nn.Module):
    """Base of the layers here: the filter for each of ``channels``, with sum ``gain``, as a constant ``[channels, 1, 4, 4]``."""

    kernel: Tensor

    def __init__(self, channels: int, gain: float = 1.0) -> None:
        super().__init__()
        taps = torch.tensor(TAPS) / sum(TAPS)
        kernel = (torch.outer(taps, taps) * gain).repeat(channels, 1, 1, 1)
        self.register_buffer("kernel", kernel, persistent=False)


class Smooth(Filter):
    """``[n, C, H, W]`` → filtered ``[n, C, H + 2 padding - 3, W + 2 padding - 3]``, zeros beyond the border."""

    def __init__(self, channels: int, padding: int, gain: float = 1.0) -> None:
        super().__init__(channels, gain)
        self.padding = padding

    def forward(self, features: Tensor) -> Tensor:
        """The filtered features, in the precision of ``features``."""
        return smooth(features, self.kernel, self.padding)


class Halve(Filter):
    """``[n, C, H, W]`` → ``[n, C, H/2, W/2]``: filtered, then every second pixel of both axes."""

    def forward(self, features: Tensor) -> Tensor:
        """The features at half the sides, in the precision of ``features``."""
        # Not a convolution of stride 2: its gradient takes ten times as long on a CPU.
        return smooth(features, self.kernel, 1)[:, :, ::2, ::2]


class Double(Filter):
    """``[n, C, H, W]`` → ``[n, C, 2H, 2W]``: zeros between pixels, then filtered with gain 4, which keeps the mean."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, gain=4.0)

    def forward(self, features: Tensor) -> Tensor:
        """The features at twice the sides, in the precision of ``features``."""
        kernel = self.kernel.to(features.dtype)
        return F.conv_transpose2d(features, kernel, stride=2, padding=1, groups=len(kernel))


def smooth(features: Tensor, kernel: Tensor, padding: int) -> Tensor:
    """``features`` convolved with ``kernel`` channel by channel."""
    filtered: Tensor = _Smooth.apply(features, kernel.to(features.dtype), padding)  # type: ignore[no-untyped-call]
    return filtered


class _Smooth(torch.autograd.Function):
    """A depthwise convolution with a symmetric constant kernel. It is linear: the gradient is the same filter, on the other padding.

    PyTorch's own second derivative would compute the kernel's gradient, one channel at a time, and throw it away.
    """

    @staticmethod
    def forward(features: Tensor, kernel: Tensor, padding: int) -> Tensor:
        return F.conv2d(features, kernel, padding=padding, groups=len(kernel))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        _, kernel, ctx.padding = inputs
        ctx.save_for_backward(kernel)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (kernel,) = ctx.saved_tensors
        return smooth(gradient, kernel, len(TAPS) - 1 - ctx.padding), None, None
