"""The history of generated images that a discriminator also sees (Shrivastava et al., 2017, section 2.3)."""

import torch
from torch import Tensor, nn

from ganserve_trainers.recipe import Source


class History(nn.Module):
    """The last generated images, as buffers: a checkpoint carries them, and a resumed run goes on with the same ones.

    ``images`` is ``[size, C, H, W]`` and ``filled`` the int64 number of its images that are there. Size 0 keeps none.
    """

    def __init__(self, size: int, shape: tuple[int, int, int]) -> None:
        """Empty, with room for ``size`` images of ``shape`` (C, H, W)."""
        super().__init__()
        self.images: Tensor
        self.filled: Tensor
        self.register_buffer("images", torch.zeros(size, *shape))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, generated: Tensor, source: Source) -> Tensor:
        """What the discriminator sees instead of ``generated`` ``[n, C, H, W]``: the same rows, some replaced by older ones.

        While there is room an image is kept and returned. Afterwards an image is returned with probability 1/2; else it takes
        the place of a random kept one, which is returned (Zhu et al., 2017, section 4, with its 50 images).
        """
        size = len(self.images)
        if not size:
            return generated
        swaps, places = source.uniform() < 0.5, (source.uniform() * size).long()
        returned = []
        rows = generated.to(self.images.dtype)[:, None]
        for image, swap, place in zip(rows, swaps, places, strict=True):
            room = self.filled < size  # a tensor of one element, not a bool: the device need not be waited for
            slot = torch.where(room, self.filled, place)[None]
            kept = self.images[slot]
            self.images[slot] = torch.where(room | swap, image, kept)
            self.filled += room
            returned.append(torch.where(swap & ~room, kept, image))
        return torch.cat(returned)
