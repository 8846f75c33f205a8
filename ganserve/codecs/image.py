"""Images: uint8 pixels → PNG, JPEG, WebP, raw bytes or NPY."""

import io
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec
import numpy as np
from PIL import Image

from ganserve.codecs import EncodeOptions, Media
from ganserve.codecs.array import npy_bytes, npy_header
from ganserve.codecs.png import encode_png, most_png_bytes
from ganserve.codecs.provenance import most_packet_bytes, packet_of
from ganserve.errors import InvalidArgument, SpecError
from ganserve.spec import Output, Tensor


class ImageEncoder:
    """Codec ``image``: one row uint8 ``[H, W, C]`` (C: 1 grey, 3 RGB, 4 RGBA) in one of :data:`FORMATS`, by default PNG.

    The attributes of the media are ``width``, ``height`` and ``channels``. Takes no options; raises :class:`SpecError` for
    any other tensor.
    """

    def __init__(self, output: Output, tensor: Tensor) -> None:
        where = f"output {output.tensor!r}, codec image"
        if tensor.dtype != "uint8" or len(tensor.shape) != 3 or tensor.shape[2] not in (1, 3, 4):
            raise SpecError(
                f"{where}: tensor is {tensor.dtype}{list(tensor.shape)}; expected uint8 [H, W, C] with 1, 3 or 4 channels, last"
            )
        if output.options:
            raise SpecError(f"{where}: takes no options, not {dict(output.options)}; remove them")
        self._channels = int(tensor.shape[2])

    def check(self, options: EncodeOptions) -> EncodeOptions:
        """``options`` with the defaults filled in, and without an origin where the format has no room for one.

        Raises :class:`InvalidArgument` for a format or quality that these images cannot have.
        """
        name = options.format or "png"
        if name not in FORMATS:
            raise InvalidArgument.of("format", f"{name!r} is unknown here: expected one of {', '.join(FORMATS)}")
        if name == "jpeg" and self._channels == 4:
            raise InvalidArgument.of(
                "format", "these images have an alpha channel, which jpeg cannot hold: ask for png or webp"
            )
        default = FORMATS[name].quality
        if not default and options.quality:
            raise InvalidArgument.of("quality", f"{name} is exact and takes no quality: leave it at 0")
        if not 0 <= options.quality <= 100:
            raise InvalidArgument.of(
                "quality", f"{options.quality} is out of range: expected 1 to 100, or 0 for {default}"
            )
        origin = options.origin if FORMATS[name].tells else None
        return msgspec.structs.replace(options, format=name, quality=options.quality or default, origin=origin)

    def encode(self, row: np.ndarray, options: EncodeOptions) -> Media:
        """``row`` as media."""
        height, width, channels = row.shape
        chosen = FORMATS[options.format]
        origin = options.origin
        data = chosen.encode(row, options.quality, b"" if origin is None else packet_of(origin))
        if origin is not None and options.signer is not None:
            data = options.signer.signed(data, options.format, origin)
        return Media(
            kind="image",
            format=options.format,
            data=data,
            attributes={"width": width, "height": height, "channels": channels},
        )

    def cheap(self, options: EncodeOptions) -> bool:
        """Whether the format is the pixels' own bytes."""
        return options.format == "raw"

    def most_bytes(self, shape: tuple[int, ...], options: EncodeOptions) -> int:
        """An upper bound of the encoded size of one image of ``shape`` [H, W, C]."""
        height, width, channels = shape
        chosen = FORMATS[options.format]
        most = chosen.most_bytes(height, width, channels)
        if options.origin is not None:
            most += most_packet_bytes(options.origin) + _XMP_CHUNK
            most += 0 if options.signer is None else options.signer.most_bytes(options.origin)
        return most


class Format(NamedTuple):
    """One image format: its default quality (0: it is exact), whether its files have room for an XMP packet, how to encode
    ``(pixels, quality, packet)``, and its bound ``(H, W, C)`` without a packet."""

    quality: int
    tells: bool
    encode: Callable[[np.ndarray, int, bytes], bytes]
    most_bytes: Callable[[int, int, int], int]


_XMP_CHUNK = 64
"""More than what any format puts around a packet: a chunk's or segment's header, its key, and WebP's extended header."""


def _png(pixels: np.ndarray, quality: int, xmp: bytes) -> bytes:
    return encode_png(pixels, xmp)


def _jpeg(pixels: np.ndarray, quality: int, xmp: bytes) -> bytes:
    return _pillow(pixels, "JPEG", quality, xmp)


def _webp(pixels: np.ndarray, quality: int, xmp: bytes) -> bytes:
    return _pillow(pixels, "WEBP", quality, xmp)


def _raw(pixels: np.ndarray, quality: int, xmp: bytes) -> bytes:
    return pixels.tobytes()


def _npy(pixels: np.ndarray, quality: int, xmp: bytes) -> bytes:
    return npy_bytes(pixels)


def _npy_float(pixels: np.ndarray, quality: int, xmp: bytes) -> bytes:
    return npy_bytes((pixels / 127.5 - 1.0).astype("<f4"))


def _pillow(pixels: np.ndarray, name: str, quality: int, xmp: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, name, quality=quality, xmp=xmp)
    return buffer.getvalue()


def _most_jpeg_bytes(height: int, width: int, channels: int) -> int:
    # Baseline JPEG with the standard Huffman tables (ITU-T T.81, K.3), colour at 4:2:0. By Parseval the 64 coefficients of a
    # block have a mean square of at most 128². A coefficient of 8 bits or fewer takes at most 18 bits, one of 9 or 10 bits 25
    # or 26 and the energy of four: 64 coefficients of 8 bits are the dearest block, 1152 bits. With the DC difference, the
    # end of block and rounding to whole steps a block takes at most 148 bytes, and as many again if all need a stuffed zero.
    blocks = _cells(height, width, 8) if channels == 1 else 6 * _cells(height, width, 16)
    return 1024 + blocks * 2 * 148


def _most_webp_bytes(height: int, width: int, channels: int) -> int:
    # Lossy WebP is a VP8 key frame (RFC 6386): 400 coefficients and up to 16 modes a macroblock. libwebp fits the probabilities
    # to the frame, so each of the at most 7 branches to a coefficient's token takes a bit or less on average; with its sign
    # and the extra bits that a residual of 255 can need, 20 bits bound a coefficient and 100 bytes the modes. 4096 bytes hold
    # the headers and 1056 new probabilities. Alpha is never stored larger than its plane.
    alpha = height * width if channels == 4 else 0
    return 4096 + _cells(height, width, 16) * (400 * 20 // 8 + 100) + alpha


def _cells(height: int, width: int, side: int) -> int:
    """How many squares of ``side`` cover an image."""
    return -(-height // side) * -(-width // side)


FORMATS: Mapping[str, Format] = {
    "png": Format(0, True, _png, most_png_bytes),
    "jpeg": Format(90, True, _jpeg, _most_jpeg_bytes),
    "webp": Format(80, True, _webp, _most_webp_bytes),
    "raw": Format(0, False, _raw, lambda h, w, c: h * w * c),
    "npy": Format(0, False, _npy, lambda h, w, c: len(npy_header("|u1", (h, w, c))) + h * w * c),
    "npy-float": Format(0, False, _npy_float, lambda h, w, c: len(npy_header("<f4", (h, w, c))) + 4 * h * w * c),
}
"""The formats of images, by name.

Files of the first three say where their picture comes from (:mod:`ganserve.codecs.provenance`), if the options say so.
``png``: 8 bits a channel. ``jpeg``: not for RGBA. ``webp``: lossy. ``raw``: the bytes of the pixels, row by row, channels last.
``npy``: a NPY file of uint8 [H, W, C]. ``npy-float``: one of float32 in [-1, 1], x / 127.5 - 1.
"""
