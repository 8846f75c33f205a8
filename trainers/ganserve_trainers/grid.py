"""Sample grids: images side by side in one PNG."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ganserve_trainers.written import replacing


def to_uint8(images: Tensor) -> np.ndarray:
    """Images ``[n, C, H, W]`` in [-1, 1] as uint8 ``[n, H, W, C]``: scaled by 127.5, rounded to nearest, clipped."""
    scaled = (images.detach().float().cpu() * 127.5 + 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).numpy()


def as_grid(images: Tensor, group: int = 1) -> Image.Image:
    """Images ``[n, C, H, W]`` in [-1, 1], row by row in as square a grid as n allows; a last row may be short.

    Every ``group`` consecutive images stay side by side.
    """
    pixels = to_uint8(images)
    count, height, width, channels = pixels.shape
    columns = group * int(np.ceil(np.sqrt(count) / group))
    rows = -(-count // columns)
    sheet = np.zeros((rows * columns, height, width, channels), np.uint8)
    sheet[:count] = pixels
    sheet = sheet.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    sheet = sheet.reshape(rows * height, columns * width, channels)
    return Image.fromarray(sheet[..., 0] if channels == 1 else sheet)


def save_grid(images: Tensor, path: Path, group: int = 1) -> None:
    """Write :func:`as_grid` of ``images`` to ``path`` as PNG, all at once or not at all.

    Raises :class:`~ganserve.errors.TrainingError` where the disk is full.
    """
    with replacing(path) as temporary:
        as_grid(images, group).save(temporary, format="PNG")
