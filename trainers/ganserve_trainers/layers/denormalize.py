"""The last step of every exported generator."""

import torch
from torch import Tensor, nn


class Denormalize(nn.Module):
    """A generator whose images leave as bytes: its [-1, 1] float ``[n, C, H, W]`` → uint8 ``[n, H, W, C]``.

    -1 becomes 0 and 1 becomes 255; values between are rounded to the nearest step (ties to even), values outside are clipped.
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, *inputs: Tensor) -> Tensor:
        """Run the generator on ``inputs``."""
        return to_bytes(self.generator(*inputs))


def to_bytes(images: Tensor) -> Tensor:
    """Images [-1, 1] ``[n, C, H, W]`` as uint8 ``[n, H, W, C]``."""
    levels = torch.round((images.float() + 1) * 127.5).clamp(0, 255)
    return levels.permute(0, 2, 3, 1).to(torch.uint8)
