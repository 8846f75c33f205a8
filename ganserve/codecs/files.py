"""PNG, JPEG and WebP files → pictures, upright, by PIL."""

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ganserve.codecs.colours import as_mode, rounded
from ganserve.codecs.headers import Fault, FileFormat, Header
from ganserve.codecs.jpeg_header import read_jpeg
from ganserve.codecs.orientation import upright, upright_size
from ganserve.codecs.png_header import PNG, read_png
from ganserve.codecs.webp_header import read_webp

# PIL's own `open` would choose a format by content once more, and warn of large pictures; both are decided by now.
_READERS: Mapping[FileFormat, Callable[[io.BytesIO], ImageFile]] = {
    "png": PngImageFile,
    "jpeg": JpegImageFile,
    "webp": WebPImageFile,
}

_NAMES: Mapping[FileFormat, str] = {"png": "PNG", "jpeg": "JPEG", "webp": "WebP"}

_SPARE = 2
"""How many times larger than wanted a JPEG file that is decoded at a part of its size still is."""


def read_header(data: bytes) -> Header:
    """The header of a file whose first bytes tell its format; :class:`Fault` for other formats, and for damage."""
    if data.startswith(PNG):
        return read_png(data)
    if data.startswith(b"\xff\xd8\xff"):
        return read_jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return read_webp(data)
    if not data:
        raise Fault("is empty: expected the bytes of a PNG, JPEG or WebP file")
    raise Fault(
        f"is no PNG, JPEG or WebP file: it begins with {data[:12]!r}; convert it, or send its pixels as raw or npy and say so in format"
    )


def read_picture(header: Header, wanted: tuple[int, int] | None) -> Image.Image:
    """The first picture of a file, upright: mode L, LA, RGB, RGBA or CMYK, in the file's own colours.

    ``wanted`` is the (width, height) that it will be scaled to; what is given back may be smaller than the file says, but not than
    that. :class:`Fault` for a file that is damaged or cut off.
    """

    def read() -> Image.Image:
        if header.depth == 16:
            samples = _samples(header)
            return Image.fromarray(rounded(samples)) if header.clear is None else _with_alpha(samples, header)
        image = _open(header)
        if wanted is not None:
            _reduce(image, upright_size(wanted, header.orientation))
        image.load()
        if image.mode == "P":
            if (last := np.asarray(image).max()) >= header.palette:
                raise Fault(f"is a damaged PNG file: a pixel has colour {last} of a palette of {header.palette}")
            return image.convert("RGBA" if "transparency" in image.info else "RGB")
        eight = as_mode(image, "L") if image.mode == "1" else image
        return eight if header.clear is None else _with_alpha(np.asarray(eight), header)

    return upright(_checked(header, read), header.orientation)


def _reduce(image: ImageFile, wanted: tuple[int, int]) -> None:
    """Have a JPEG file decoded at an eighth, a quarter or a half of its size, if that is exact and large enough for ``wanted``."""
    width, height = image.size
    for part in (8, 4, 2):
        if (
            width % part == height % part == 0
            and width >= part * _SPARE * wanted[0]
            and height >= part * _SPARE * wanted[1]
        ):
            image.draft(None, (width // part, height // part))
            return


def read_numbers(header: Header) -> Image.Image:
    """The first picture of a PNG file as class numbers, upright, mode L: a palette's indices, or grey samples as they are stored.

    :class:`Fault` for other files and for numbers above 255.
    """
    if header.format != "png" or header.colour not in (0, 3):
        raise Fault("is no picture of class numbers: expected a PNG file with a palette, or in grey without alpha")

    def read() -> Image.Image:
        image = _open(header)
        image.load()
        numbers = np.asarray(image)
        if header.colour == 0 and 1 < header.depth < 8:
            # PIL spreads the few levels over 0 to 255.
            numbers = numbers // (255 // ((1 << header.depth) - 1))
        if numbers.max() > 255:
            raise Fault(f"holds class number {numbers.max()}: expected 0 to 255")
        return Image.fromarray(numbers.astype(np.uint8))

    return upright(_checked(header, read), header.orientation)


def _checked(header: Header, read: Callable[[], Image.Image]) -> Image.Image:
    """What ``read`` gives; whatever PIL raises for a damaged file becomes a :class:`Fault`."""
    try:
        return read()
    except (Fault, MemoryError):
        raise
    except Exception as error:
        state = "cut off" if "truncated" in str(error) else "damaged, or of a rare kind"
        raise Fault(
            f"is a {_NAMES[header.format]} file whose pixels cannot be decoded: it is {state}; save it again"
        ) from error


def _open(header: Header) -> ImageFile:
    image = _READERS[header.format](io.BytesIO(header.file))
    if image.size != header.size:
        raise Fault(
            f"is a damaged {_NAMES[header.format]} file: its size is {header.size} in one place, {image.size} in another"
        )
    return image


def _samples(header: Header) -> np.ndarray:
    """The samples of a PNG file of 16 bits, uint16 ``[H, W]`` or ``[H, W, C]``."""
    if header.colour == 0:
        image = _open(header)
        image.load()
        return np.array(image, np.uint16)
    if header.colour == 4:
        # PIL cannot unpack grey and alpha of 16 bits without loss, but it can unpack four bytes a pixel.
        planes = _unpacked(header, "RGBA")
        return _joined(planes[..., 0::2], planes[..., 1::2])
    # PIL keeps the high byte of a sample: of these, which are big-endian, the first, or, told otherwise, the second.
    mode = "RGB" if header.colour == 2 else "RGBA"
    return _joined(_unpacked(header, f"{mode};16B"), _unpacked(header, f"{mode};16L"))


def _unpacked(header: Header, layout: str) -> np.ndarray:
    """The samples that PIL makes of a PNG file if told that its bytes have ``layout``."""
    image = _open(header)
    image.tile = [tile._replace(args=layout) for tile in image.tile]
    image.load()
    return np.asarray(image)


def _joined(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    samples = np.empty(high.shape, np.uint16)
    np.left_shift(high, 8, out=samples, dtype=np.uint16)
    samples |= low
    return samples


def _with_alpha(samples: np.ndarray, header: Header) -> Image.Image:
    """Grey or RGB ``samples`` of a PNG file in which the one colour ``header.clear`` is transparent: mode LA or RGBA."""
    # Grey of fewer than 8 bits was spread over 0 to 255, the colour was not.
    spread = 255 // ((1 << header.depth) - 1) if header.depth < 8 else 1
    opaque = samples.reshape(*header.size[::-1], -1) != np.array(header.clear) * spread
    image = Image.fromarray(rounded(samples) if header.depth == 16 else samples)
    image.putalpha(Image.fromarray(opaque.any(axis=-1).astype(np.uint8) * 255))
    return image
