"""What every reader gives: named images that are decoded one by one, and maybe a label for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image


class Collection(Protocol):
    """Images of any size and mode, in a fixed order."""

    @property
    def kind(self) -> str:
        """The layout they were found in: ``folder``, ``zip``, ``idx``, ``cifar10`` or ``digits``."""

    @property
    def names(self) -> Sequence[str]:
        """A name for each image, for messages."""

    @property
    def labels(self) -> Sequence[int] | None:
        """A class index for each image, or None if the data has none."""

    @property
    def black_border(self) -> bool:
        """Whether the images lie on black, so that a slightly larger size may be had by padding with zeros."""

    def image(self, index: int) -> Image.Image:
        """Decode one image. Raises whatever the decoder raises on a broken file."""


@dataclass(frozen=True)
class ArrayImages:
    """A :class:`Collection` over one uint8 array ``[n, H, W]`` (grey) or ``[n, H, W, 3]`` (RGB)."""

    kind: str
    stem: str
    pixels: np.ndarray
    labels: Sequence[int] | None
    black_border: bool = False

    @property
    def names(self) -> Sequence[str]:
        """``stem[index]`` for each image."""
        return [f"{self.stem}[{index}]" for index in range(len(self.pixels))]

    def image(self, index: int) -> Image.Image:
        """The image at ``index``."""
        return Image.fromarray(self.pixels[index])
