"""scikit-learn's 1,797 handwritten digits, 8×8 with values 0 to 16: real images that need no download."""

import numpy as np

from ganserve.errors import DataError
from ganserve_trainers.data.collection import ArrayImages


def open_digits() -> ArrayImages:
    """The digits and their labels; :class:`DataError` where scikit-learn is not installed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("digits: needs scikit-learn; install it with `pip install scikit-learn`") from error
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return ArrayImages("digits", "digits", pixels, digits.target.tolist(), black_border=True)
