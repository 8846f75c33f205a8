"""Which way up a picture is: EXIF's tag Orientation."""

import struct

from PIL import Image

_TAG = 0x0112
_FORMATS = {3: "H", 4: "I"}
"""EXIF's SHORT and LONG."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What puts a picture of each orientation upright (PIL turns to the left)."""


def read_orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, that ``exif`` (a TIFF header and directories) tells; 1, upright, if it tells none or is damaged."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, directory)
        for at in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(order + "HH", exif, at)
            if tag == _TAG:
                (orientation,) = struct.unpack_from(order + _FORMATS.get(kind, "H"), exif, at + 8)
                return orientation if orientation in _TURNS else 1
    except struct.error:
        pass
    return 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """``image`` turned and mirrored as ``orientation`` asks."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(width, height) of a picture that is stored with ``size``, once it is upright."""
    return (size[1], size[0]) if orientation >= 5 else size
