"""One image of any size and mode → uint8 ``[C, H, W]``."""

import numpy as np
from PIL import Image, ImageOps

from ganserve.errors import DataError

LEAST_PADDED = 0.75
"""An image on black whose sides are at least this share of the size wanted is padded with zeros; a smaller one is enlarged."""


def fit(
    image: Image.Image, size: tuple[int, int], channels: int, background: tuple[int, int, int], pad: bool
) -> np.ndarray:
    """``image`` as uint8 ``[channels, height, width]`` for ``size`` (height, width).

    Turned upright by its EXIF tag, flattened on ``background`` where it is transparent, cut to the aspect ratio around its
    centre and resized with Lanczos' filter, or padded with zeros if ``pad`` and it is only a little smaller (28 → 32).
    """
    height, width = size
    image = _flatten(ImageOps.exif_transpose(image), "L" if channels == 1 else "RGB", background)
    if pad and LEAST_PADDED * width <= image.width <= width and LEAST_PADDED * height <= image.height <= height:
        image = _pad(image, height, width)
    elif image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _pad(image: Image.Image, height: int, width: int) -> Image.Image:
    sheet = Image.new(image.mode, (width, height))
    sheet.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return sheet


def _flatten(image: Image.Image, mode: str, background: tuple[int, int, int]) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow would clip 16-bit grey at 255 instead of scaling it.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError(f"its pixels are {image.mode} (32 bits, range unknown): save it with 8 or 16 bits a channel")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (*background, 255)), layer)
    return image.convert(mode)
