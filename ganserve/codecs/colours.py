"""Pictures of every kind of colour → grey, RGB or RGBA in sRGB, 8 bits a sample."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""PIL's name of a picture with so many channels."""

_ROWS = 16

_SAME = 1
"""A profile that moves no colour by more than this is taken for sRGB."""


def in_srgb(image: Image.Image, profile: bytes | None, channels: int, background: tuple[int, int, int]) -> Image.Image:
    """``image`` (mode L, LA, RGB, RGBA or CMYK) with ``channels`` channels, in sRGB.

    ``profile`` is the picture's ICC profile; one that is damaged, or of another kind of colour, is ignored. Four channels keep
    what is transparent, else it is laid on ``background``.
    """
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    if alpha is not None:
        image = as_mode(image, image.mode.removesuffix("A"))
    transform = _transform(profile, image.mode) if profile else None
    if transform is not None:
        image = transform.apply(as_mode(image, transform.input_mode))
    if alpha is not None and channels == 4:
        image = as_mode(image, "RGB")
        image.putalpha(alpha)
    elif alpha is not None:
        ground = Image.new("RGB", image.size, background)
        ground.paste(as_mode(image, "RGB"), mask=alpha)
        image = ground
    return as_mode(image, MODES[channels])


def as_mode(image: Image.Image, mode: str) -> Image.Image:
    """``image`` itself if it has the PIL mode ``mode``, else converted to it."""
    return image if image.mode == mode else image.convert(mode)


def rounded(samples: np.ndarray) -> np.ndarray:
    """uint16 samples as uint8, each the nearest to x / 257."""
    eight = np.empty(samples.shape, np.uint8)
    # By a few rows, so that what lies between is small. x / 257 is the high byte, and one more or less if the low one is more
    # than half of 257 above it or below.
    for row in range(0, len(samples), _ROWS):
        some = samples[row : row + _ROWS]
        eight[row : row + _ROWS] = some - (some >> 8) + (some >> 15) + 127 >> 8
    return eight


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What takes a picture of ``mode`` from ``profile`` to sRGB; None if the profile cannot be used, or is sRGB itself."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        # Grey pictures often carry the profile of the colour pictures that they were made from.
        taken = {("GRAY", "L"): "L", ("RGB", "RGB"): "RGB", ("RGB", "L"): "RGB", ("CMYK", "CMYK"): "CMYK"}
        if (space, mode) not in taken:
            return None
        transform = ImageCms.ImageCmsTransform(
            source,
            _srgb(),
            taken[space, mode],
            "RGB",
            ImageCms.Intent.PERCEPTUAL,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        return None if space != "CMYK" and _changes_nothing(transform) else transform
    except Exception:
        # Little CMS and PIL raise whatever a damaged profile leads to, and such a profile is as good as none.
        return None


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    levels = np.linspace(0, 255, 16).astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(64, 64, 3)
    probe = Image.fromarray(colours).convert(transform.input_mode)
    before, after = np.asarray(probe.convert("RGB"), np.int16), np.asarray(transform.apply(probe), np.int16)
    return bool(np.abs(after - before).max() <= _SAME)
