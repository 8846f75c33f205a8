"""What every reader gives: named images that are decoded one by one, and maybe a label for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps

from ganserve.errors import DataError


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
    def classes(self) -> tuple[str, ...]:
        """The names of the classes in order of index, none where the data does not say."""

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
    classes: tuple[str, ...] = ()
    black_border: bool = False

    @property
    def names(self) -> Sequence[str]:
        """``stem[index]`` for each image."""
        return [f"{self.stem}[{index}]" for index in range(len(self.pixels))]

    def image(self, index: int) -> Image.Image:
        """The image at ``index``."""
        return Image.fromarray(self.pixels[index])


@dataclass(frozen=True)
class Subset:
    """The :class:`Collection` of some images of another, without their labels."""

    whole: Collection
    indices: Sequence[int]
    labels: None = None
    classes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The whole's."""
        return self.whole.kind

    @cached_property
    def names(self) -> Sequence[str]:
        """Their names in the whole."""
        names = self.whole.names
        return [names[index] for index in self.indices]

    @property
    def black_border(self) -> bool:
        """The whole's."""
        return self.whole.black_border

    def image(self, index: int) -> Image.Image:
        """Decode the image at ``index`` of the subset."""
        return self.whole.image(self.indices[index])


@dataclass(frozen=True)
class Half:
    """The left or right half of every image of a :class:`Collection` of images that are twice as wide as high."""

    whole: Collection
    right: bool
    labels: None = None
    classes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The whole's."""
        return self.whole.kind

    @property
    def names(self) -> Sequence[str]:
        """The whole's."""
        return self.whole.names

    @property
    def black_border(self) -> bool:
        """The whole's."""
        return self.whole.black_border

    def image(self, index: int) -> Image.Image:
        """Decode one half; :class:`DataError` where the image is not twice as wide as high."""
        both = ImageOps.exif_transpose(self.whole.image(index))
        width, height = both.size
        if width != 2 * height:
            raise DataError(
                f"it has {width}x{height} pixels: a pair side by side is twice as wide as high, A left and B right"
            )
        return both.crop((height, 0, width, height) if self.right else (0, 0, height, height))


@dataclass(frozen=True)
class Rows:
    """The rows of a data set: for the name of each of its tensors the images; those at one index belong together.

    ``captions`` has the texts of every row, and ``more`` what was computed of them: further tensors by name, each ``[n, ...]``.
    """

    images: Mapping[str, Collection]
    labels: Sequence[int] | None = None
    classes: tuple[str, ...] = ()
    captions: Sequence[tuple[str, ...]] | None = None
    more: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        """The number of rows."""
        return len(next(iter(self.images.values())).names)

    @property
    def names(self) -> Sequence[str]:
        """A name for each row: that of its image, or those of its pair."""
        columns = (collection.names for collection in self.images.values())
        return [" + ".join(dict.fromkeys(row)) for row in zip(*columns, strict=True)]
