"""Pictures that a caller has, as Image messages."""

import io
import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps

from ganserve.client.tensors import AnyArray
from ganserve.errors import InvalidArgument
from ganserve.v1 import media_pb2

AnyPicture: TypeAlias = bytes | str | os.PathLike[str] | Image.Image | AnyArray
"""A picture: the bytes of a PNG, JPEG or WebP file, the path of one, a PIL image, or an array uint8 [H, W] or [H, W, C]."""

_CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}


def image_message(field: str, picture: AnyPicture) -> media_pb2.Image:
    """``picture`` as a message: files as they are, for the server reads orientation and colours of them better than a copy tells.

    Raises :class:`InvalidArgument` about ``field`` for what is no picture, and OSError where a file cannot be read.
    """
    if isinstance(picture, bytes):
        return media_pb2.Image(data=picture)
    if isinstance(picture, str | os.PathLike):
        return media_pb2.Image(data=Path(picture).read_bytes())
    if isinstance(picture, Image.Image):
        return _image_message(picture)
    array: AnyArray = np.asarray(picture)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InvalidArgument.of(
            field,
            f"it is {array.dtype.name}{list(array.shape)}; expected uint8 [H, W] or [H, W, C] with 1, 3 or 4 channels, "
            "a PIL image, the bytes of a file or its path",
        )
    return _raw(array if array.ndim == 3 else array[:, :, None])


def _image_message(image: Image.Image) -> media_pb2.Image:
    upright = ImageOps.exif_transpose(image)
    if upright.mode in _CHANNELS and "icc_profile" not in upright.info and "transparency" not in upright.info:
        return _raw(np.asarray(upright).reshape(upright.height, upright.width, _CHANNELS[upright.mode]))
    buffer = io.BytesIO()
    if upright.mode == "CMYK":
        # The only format of the three that holds it.
        upright.save(buffer, "JPEG", quality=95, icc_profile=upright.info.get("icc_profile"))
    else:
        upright.save(buffer, "PNG", compress_level=1, icc_profile=upright.info.get("icc_profile"))
    return media_pb2.Image(data=buffer.getvalue())


def _raw(pixels: AnyArray) -> media_pb2.Image:
    height, width, channels = pixels.shape
    return media_pb2.Image(
        format=media_pb2.IMAGE_FORMAT_RAW, width=width, height=height, channels=channels, data=pixels.tobytes()
    )
