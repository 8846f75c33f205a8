"""How a picture meets the size that a graph takes: the policies of :data:`ganserve.codecs.SIZES`."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from ganserve.codecs import SIZES, Frame
from ganserve.codecs.headers import Fault


class Fit(NamedTuple):
    """Where a picture goes: ``scaled`` (width, height), its left top corner ``at`` on a ``canvas``, and how the rest is filled."""

    scaled: tuple[int, int]
    at: tuple[int, int]
    canvas: tuple[int, int]
    mirrored: bool = False


class Target(NamedTuple):
    """The sizes that a graph takes: ``size`` (width, height), or None for any that are multiples of ``multiple``."""

    size: tuple[int, int] | None
    multiple: int = 1

    @property
    def policy(self) -> str:
        """The policy where a request names none."""
        return "native" if self.size is None else "resize"

    def fit(self, sent: tuple[int, int], policy: str) -> Fit:
        """How a picture of the size ``sent`` is fitted; :class:`Fault` if ``policy`` refuses it."""
        if policy not in SIZES:
            raise Fault(f"has the unknown size policy {policy!r}: expected one of {', '.join(SIZES)}")
        up = tuple(-(-side // self.multiple) * self.multiple for side in sent)
        canvas = self.size or (up[0], up[1])
        if policy == "resize":
            nearest = tuple(max(1, round(side / self.multiple)) * self.multiple for side in sent)
            canvas = self.size or (nearest[0], nearest[1])
            return Fit(canvas, (0, 0), canvas)
        if policy == "letterbox":
            scale = min(canvas[0] / sent[0], canvas[1] / sent[1]) if self.size else 1.0
            width, height = (min(most, max(1, round(side * scale))) for side, most in zip(sent, canvas, strict=True))
            return Fit((width, height), ((canvas[0] - width) // 2, (canvas[1] - height) // 2), canvas)
        if canvas != sent and (policy == "exact" or self.size):
            expected = f"{canvas[0]}x{canvas[1]}" if self.size else f"multiples of {self.multiple}"
            raise Fault(
                f"is {sent[0]}x{sent[1]}: size policy {policy} of this model expects {expected}; ask for resize or letterbox"
            )
        return Fit(sent, (0, 0), canvas, mirrored=True)


def scaled(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> np.ndarray:
    """``image`` (mode L, RGB or RGBA) of ``size`` (width, height): uint8 ``[H, W, C]``."""
    if image.size != size:
        image = image.resize(size, resample, reducing_gap=3.0)
    pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], -1)


def place(pixels: np.ndarray, fit: Fit, bars: np.ndarray) -> np.ndarray:
    """``pixels`` of the size ``fit.scaled`` on the canvas. What they do not cover is mirrored, or of the colour ``bars`` [C]."""
    if fit.canvas == fit.scaled:
        return pixels
    if fit.mirrored:
        for axis, more in enumerate((fit.canvas[1] - fit.scaled[1], fit.canvas[0] - fit.scaled[0])):
            widths = [(0, more if axis == padded else 0) for padded in range(3)]
            pixels = np.pad(pixels, widths, "reflect" if more < pixels.shape[axis] else "edge")
        return pixels
    canvas = np.empty((fit.canvas[1], fit.canvas[0], pixels.shape[2]), np.uint8)
    canvas[:] = bars
    (left, top), (width, height) = fit.at, fit.scaled
    canvas[top : top + height, left : left + width] = pixels
    return canvas


def frame(sent: tuple[int, int], fit: Fit, restore: bool, pictures: int) -> Frame:
    """The frame by which a result is put back. Mirrored borders are always cut off, bars only to ``restore``."""
    (left, top), (width, height) = fit.at, fit.scaled
    return Frame(
        canvas=fit.canvas,
        box=(left, top, left + width, top + height),
        cut=fit.canvas != fit.scaled and (fit.mirrored or restore),
        size=sent if restore else None,
        sent=sent,
        pictures=pictures,
    )
