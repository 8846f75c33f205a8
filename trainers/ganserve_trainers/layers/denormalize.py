"""The last step of every exported generator: images become bytes."""

import torch
from torch import Tensor, nn


class ToBytes(nn.Module):
    """:func:`to_bytes` as a module: export looks at what goes in, and compares that with torch."""

    def forward(self, images: Tensor) -> Tensor:
        """``images`` as bytes."""
        return to_bytes(images)


class Denormalize(nn.Module):
    """A generator whose images leave as bytes: its [-1, 1] float ``[n, C, H, W]`` → uint8 ``[n, H, W, C]``.

    -1 becomes 0 and 1 becomes 255; values between are rounded to the nearest step (ties to even), values outside are clipped.
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator
        self.to_bytes = ToBytes()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Run the generator on ``inputs``."""
        image: Tensor = self.to_bytes(self.generator(*inputs))
        return image


def to_bytes(images: Tensor) -> Tensor:
    """Images [-1, 1] ``[n, C, H, W]`` as uint8 ``[n, H, W, C]``."""
    levels = torch.round((images.float() + 1) * 127.5).clamp(0, 255)
    return levels.permute(0, 2, 3, 1).to(torch.uint8)
