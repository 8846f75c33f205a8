"""How much a picture is going to take, by what it says of itself: read before any of its pixels are decoded."""

import math

from ganserve.codecs import GivenImage, PictureLimits
from ganserve.codecs.files import read_header
from ganserve.codecs.fitting import Target
from ganserve.codecs.headers import Fault
from ganserve.codecs.npy import npy_pixels
from ganserve.codecs.orientation import upright_size
from ganserve.spec import Tensor


def declared_bytes(given: GivenImage, tensor: Tensor, limits: PictureLimits) -> int:
    """The bytes of ``given``, decoded and fitted to ``tensor`` (uint8 [H, W, C]); 0 for what its decoder is going to refuse."""
    fixed = tuple(size for size in tensor.shape if isinstance(size, int))
    if len(fixed) == len(tensor.shape):
        return math.prod(fixed)
    target = Target(None, tensor.multiple)
    try:
        width, height = target.fit(_size(given), given.size or target.policy).canvas
    except Fault:
        return 0
    return width * height * math.prod(fixed) if width * height <= limits.pixels else 0


def _size(given: GivenImage) -> tuple[int, int]:
    """(width, height), upright; :class:`Fault` where the picture tells none."""
    if given.format == "raw":
        return given.width, given.height
    if given.format == "npy":
        height, width, _ = npy_pixels(given.data).shape
        return width, height
    header = read_header(given.data)
    return upright_size(header.size, header.orientation)
