"""DiffAugment (Zhao et al., 2020): differentiable augmentation of all that the discriminator sees, real and generated.

Images are ``[n, C, H, W]`` in [-1, 1]; each row draws its own numbers from the batch's :class:`Source`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ganserve_trainers.recipe import Source
from ganserve_trainers.tables import Table

Augmentation = Callable[[Tensor, Source], Tensor]


def brightness(images: Tensor, source: Source) -> Tensor:
    """Add a number from [-0.5, 0.5) to each image."""
    return images + _each(source.uniform(low=-0.5, high=0.5))


def saturation(images: Tensor, source: Source) -> Tensor:
    """Scale each image's distance from its grey version by a number from [0, 2)."""
    grey = images.mean(1, keepdim=True)
    return grey + (images - grey) * _each(source.uniform(low=0.0, high=2.0))


def contrast(images: Tensor, source: Source) -> Tensor:
    """Scale each image's distance from its mean by a number from [0.5, 1.5)."""
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * _each(source.uniform(low=0.5, high=1.5))


def color(images: Tensor, source: Source) -> Tensor:
    """Brightness, saturation and contrast, in this order."""
    return contrast(saturation(brightness(images, source), source), source)


def translation(images: Tensor, source: Source, ratio: float = 0.125) -> Tensor:
    """Move each image by up to ``ratio`` of its size in both directions; zeros (grey) come in at the edges."""
    height, width = images.shape[2:]
    down, right = _whole(source, int(height * ratio + 0.5)), _whole(source, int(width * ratio + 0.5))
    rows = torch.arange(height, device=images.device) - down[:, None]
    columns = torch.arange(width, device=images.device) - right[:, None]
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None, :]
    each = torch.arange(len(images), device=images.device)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[
        each, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]
    ]
    return moved.permute(0, 3, 1, 2) * inside


def cutout(images: Tensor, source: Source, ratio: float = 0.5) -> Tensor:
    """Set a square of ``ratio`` of the image's size to zero (grey), its centre anywhere in the image."""
    height, width = images.shape[2:]
    rows = _hidden(source, height, ratio, images.device)[:, None, :, None]
    columns = _hidden(source, width, ratio, images.device)[:, None, None, :]
    return images * ~(rows & columns)


AUGMENTATIONS: Table[Augmentation] = Table(
    "augmentation", {"color": color, "translation": translation, "cutout": cutout}
)
"""Name → augmentation, as a preset's policy names them."""


def augment(images: Tensor, source: Source, policy: Sequence[str]) -> Tensor:
    """``images`` after every augmentation that ``policy`` names, in order; an empty policy changes nothing."""
    for name in policy:
        images = AUGMENTATIONS[name](images, source)
    return images


def _each(numbers: Tensor) -> Tensor:
    return numbers.view(-1, 1, 1, 1)


def _whole(source: Source, most: int) -> Tensor:
    """A whole number from [-most, most] for each row."""
    return source.uniform(low=-most, high=most + 1).floor().long().clamp(-most, most)


def _hidden(source: Source, size: int, ratio: float, device: torch.device) -> Tensor:
    """Which of ``size`` positions lie in a window of ``ratio * size`` around a random centre: bool [n, size]."""
    window = int(size * ratio + 0.5)
    centre = source.uniform(low=0, high=size + 1 - window % 2).floor().long()
    offset = torch.arange(size, device=device) - (centre - window // 2)[:, None]
    return (offset >= 0) & (offset < window)
