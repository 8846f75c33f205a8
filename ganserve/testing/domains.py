"""Two domains of tiny pictures, made of scikit-learn's handwritten digits, for families that learn to translate."""

from pathlib import Path

import numpy as np
from PIL import Image

SPLITS = {"train": range(24), "test": range(24, 32)}
"""Split → its digits, by number; unpaired ones of B are others."""

UNPAIRED = 100

TINT = (1.0, 0.75, 0.5)
"""What the red, green and blue of a picture of B are of its grey."""

SIDE = 16


def write_domains(folder: Path, *, paired: bool) -> Path:
    """Write ``trainA``, ``trainB``, ``testA`` and ``testB`` into ``folder``, RGB PNGs of 16x16, and return it.

    A holds digits, light on dark; B holds them dark on a light tint: the same ones under the same names if ``paired``, else others.
    """
    from sklearn.datasets import load_digits

    digits = load_digits().images * (255 / 16)
    for split, numbers in SPLITS.items():
        for number in numbers:
            other = number if paired else number + UNPAIRED
            _write(folder / f"{split}A" / f"{number:03}.png", np.multiply.outer(digits[number], np.ones(3)))
            _write(folder / f"{split}B" / f"{other:03}.png", np.multiply.outer(255 - digits[other], TINT))
    return folder


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels.round().astype(np.uint8))
    picture.resize((SIDE, SIDE), Image.Resampling.NEAREST).save(path)
