"""The first step of every exported generator that translates a picture."""

from torch import Tensor, nn


class Normalize(nn.Module):
    """A generator whose picture comes as bytes: uint8 ``[n, H, W, C]`` → float ``[n, C, H, W]`` in [-1, 1], then the generator.

    0 becomes -1 and 255 becomes 1. Inputs behind the picture reach the generator as they are.
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, pixels: Tensor, *others: Tensor) -> Tensor:
        """Run the generator on ``pixels`` and ``others``."""
        images: Tensor = self.generator(from_bytes(pixels), *others)
        return images


def from_bytes(pixels: Tensor) -> Tensor:
    """Pictures uint8 ``[n, H, W, C]`` as floats [-1, 1] ``[n, C, H, W]``."""
    # Floats first: TensorRT moves no axes of bytes.
    return pixels.float().permute(0, 3, 1, 2) / 127.5 - 1
