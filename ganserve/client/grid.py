"""Many images as one."""

import math
from collections.abc import Iterable, Sequence

from PIL import Image

from ganserve.client.latents import Mixture


def grid(images: Sequence[Image.Image], columns: int | None = None, *, gap: int = 2) -> Image.Image:
    """``images`` row by row on white, ``gap`` pixels apart; as square as can be unless ``columns`` says otherwise.

    Cells have the size of the largest image; smaller ones are centred. Grey images stay grey. ValueError for no images.
    """
    if not images:
        raise ValueError("a grid needs at least one image")
    columns = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    rows = math.ceil(len(images) / columns)
    width, height = max(image.width for image in images), max(image.height for image in images)
    mode = "L" if all(image.mode == "L" for image in images) else "RGB"
    sheet = Image.new(mode, (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for position, image in enumerate(images):
        row, column = divmod(position, columns)
        left = column * (width + gap) + (width - image.width) // 2
        top = row * (height + gap) + (height - image.height) // 2
        sheet.paste(image, (left, top), image if image.mode == "RGBA" else None)
    return sheet


def mixing_sheet(
    mixtures: Iterable[Mixture], bases: Sequence[Image.Image], styles: Sequence[Image.Image], *, gap: int = 2
) -> Image.Image:
    """The ``mixtures`` of a grid, their ``bases`` down the left and their ``styles`` along the top (Karras et al., 2019, figure 3)."""
    mixed = {(one.base, one.style): one.image() for one in mixtures}
    cells = [Image.new(styles[0].mode, styles[0].size, "white"), *styles]
    for row, base in enumerate(bases):
        cells += [base, *(mixed[row, column] for column in range(len(styles)))]
    return grid(cells, len(styles) + 1, gap=gap)
