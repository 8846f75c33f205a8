"""Encoded results: a picture in some format, or an array."""

import io
from typing import Any, Literal

import msgspec
import numpy as np
from PIL import Image

from ganserve.client.enums import name_of
from ganserve.client.tensors import AnyArray
from ganserve.v1 import media_pb2

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class Media(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One encoded result: ``data`` in ``format``."""

    kind: Literal["image", "array"]
    format: str
    """Of an image: png, jpeg, webp, raw, npy or npy-float; of an array: npy."""
    data: bytes
    shape: tuple[int, ...] = ()
    """Of an image: height, width, channels; () for an array, whose data tell it."""

    def array(self) -> AnyArray:
        """The result as an array: of an image uint8 [H, W, C], or float32 in [-1, 1] for npy-float."""
        if self.format in ("npy", "npy-float"):
            array: AnyArray = np.load(io.BytesIO(self.data), allow_pickle=False)
            return array
        if self.format == "raw":
            return np.frombuffer(self.data, np.uint8).reshape(self.shape)
        return np.asarray(self.image()).reshape(self.shape)

    def image(self) -> Image.Image:
        """The result as a picture; ValueError for an array that is none."""
        if self.kind != "image":
            raise ValueError("this result is an array, not an image; use array()")
        if self.format in ("raw", "npy", "npy-float"):
            pixels = self.array()
            if self.format == "npy-float":
                pixels = np.rint((pixels + 1) * 127.5).astype(np.uint8)
            return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        with Image.open(io.BytesIO(self.data)) as image:
            # WebP knows no grey, and drops an alpha channel that hides nothing.
            return image.convert(_MODES[self.shape[2]])


def media_fields(message: media_pb2.Media) -> dict[str, Any]:
    """The fields of a :class:`Media` that ``message`` has."""
    if message.WhichOneof("kind") == "image":
        image = message.image
        name = name_of("IMAGE_FORMAT_", media_pb2.ImageFormat, image.format)
        shape = (image.height, image.width, image.channels)
        return {"kind": "image", "format": name, "data": image.data, "shape": shape}
    return {"kind": "array", "format": "npy", "data": message.array.npy}
