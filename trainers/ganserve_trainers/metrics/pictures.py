"""Pictures of many images: a grid, samples above their nearest training images, and a named row for each class."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ganserve.errors import DataError


def grid(images: np.ndarray, columns: int, *, gap: int = 2, background: int = 255) -> np.ndarray:
    """``images`` uint8 ``[n, H, W, C]`` row by row as one image uint8 ``[h, w, C]``, ``gap`` pixels apart."""
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images) or columns < 1:
        raise DataError(
            f"a grid of {columns} columns of {images.dtype}{list(images.shape)}: expected uint8 [n, H, W, C]"
        )
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    canvas = np.full((gap + rows * (height + gap), gap + columns * (width + gap), channels), background, np.uint8)
    for number, image in enumerate(images):
        top, left = (
            gap + size * place for size, place in zip((height + gap, width + gap), divmod(number, columns), strict=True)
        )
        canvas[top : top + height, left : left + width] = image
    return canvas


def beside_neighbours(samples: np.ndarray, neighbours: np.ndarray, columns: int = 8) -> np.ndarray:
    """Rows of ``columns`` samples, each row followed by the row of their neighbours; both uint8 ``[n, H, W, C]``."""
    if samples.shape != neighbours.shape:
        raise DataError(f"{list(samples.shape)} samples and {list(neighbours.shape)} neighbours: expected one for each")
    if len(samples) % columns:
        raise DataError(f"{len(samples)} samples do not fill rows of {columns}")
    strips = [
        grid(row, columns, gap=2)
        for pair in zip(
            samples.reshape(-1, columns, *samples.shape[1:]),
            neighbours.reshape(-1, columns, *samples.shape[1:]),
            strict=True,
        )
        for row in pair
    ]
    return np.concatenate(strips)


def named_rows(rows: Mapping[str, np.ndarray], columns: int = 2, *, gap: int = 2) -> np.ndarray:
    """Each of ``rows``, uint8 ``[n, H, W, 1 or 3]`` for a class, beside its name; the rows in ``columns`` columns, down the first one first."""
    drawn = []
    for name, images in rows.items():
        strip = grid(images, len(images), gap=gap)
        strip = np.broadcast_to(strip, (*strip.shape[:2], 3))
        plate = Image.new("RGB", (NAME_WIDTH, len(strip)), "white")
        ImageDraw.Draw(plate).text((NAME_WIDTH - 4, len(strip) // 2), name, fill="black", anchor="rm")
        drawn.append(np.concatenate([np.asarray(plate), strip], axis=1))
    height = -(-len(drawn) // columns)
    drawn += [np.full_like(drawn[0], 255)] * (height * columns - len(drawn))
    return np.concatenate([np.concatenate(drawn[column * height :][:height]) for column in range(columns)], axis=1)


NAME_WIDTH = 150
"""Pixels for the name of a class."""


def save_webp(path: Path, image: np.ndarray) -> None:
    """Write ``image`` uint8 ``[h, w, 3]`` as WebP, nearly as it is in a third of a PNG's size, to a temporary name first."""
    temporary = path.with_name(f".{path.name}.part")
    Image.fromarray(image).save(temporary, format="WEBP", quality=90, method=6)
    temporary.replace(path)


def save_png(path: Path, image: np.ndarray, scale: int = 1) -> None:
    """Write ``image`` uint8 ``[h, w, 1 or 3]`` as PNG, each pixel ``scale`` times as large, to a temporary name first."""
    large = image.repeat(scale, axis=0).repeat(scale, axis=1)
    temporary = path.with_name(f".{path.name}.part")
    Image.fromarray(large[:, :, 0] if large.shape[-1] == 1 else large).save(temporary, format="PNG", optimize=True)
    temporary.replace(path)
