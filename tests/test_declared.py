"""What a picture says that it will take is what its decoder makes of it, or more than nothing only where it makes something."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganserve.codecs import SIZES, GivenImage, PictureLimits
from ganserve.codecs.declared import declared_bytes
from ganserve.codecs.picture import ImageDecoder
from ganserve.errors import InvalidArgument
from ganserve.spec import Input, Tensor

LIMITS = PictureLimits()
_INPUT = Input(tensor="image", codec="image", reads=("image",))
_PICTURE = np.random.default_rng(0).integers(0, 256, (13, 22, 3), np.uint8)


def _file(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_PICTURE).save(buffer, kind, **options)
    return buffer.getvalue()


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, _PICTURE)
    return buffer.getvalue()


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _file("JPEG", exif=exif)


GIVEN = {
    "png": {"data": _file("PNG")},
    "jpeg": {"data": _file("JPEG")},
    "webp": {"data": _file("WEBP")},
    "turned": {"data": _turned()},
    "npy": {"data": _npy(), "format": "npy"},
    "raw": {"data": _PICTURE.tobytes(), "format": "raw", "width": 22, "height": 13, "channels": 3},
}
SHAPES = [("height", "width", 3), ("height", "width", 1), (16, 24, 4)]


@pytest.mark.parametrize("size", ["", *SIZES])
@pytest.mark.parametrize("name", GIVEN)
def test_what_is_declared_is_what_is_made(name: str, size: str) -> None:
    given = GivenImage(**GIVEN[name], size=size)  # type: ignore[arg-type]
    for shape in SHAPES:
        for multiple in (1, 4):
            tensor = Tensor(name="image", dtype="uint8", shape=shape, multiple=multiple)
            declared = declared_bytes(given, tensor, LIMITS)
            try:
                made = ImageDecoder(_INPUT, tensor, Path()).picture(given, LIMITS).pixels.nbytes
            except InvalidArgument:
                # A size that is refused.
                assert declared in (0, 16 * 24 * 4)
            else:
                assert declared == made > 0


@pytest.mark.parametrize(
    "given",
    [
        GivenImage(data=b""),
        GivenImage(data=b"GIF89a"),
        GivenImage(data=_file("PNG")[:20]),
        GivenImage(data=b"no numbers", format="npy"),
        GivenImage(data=b"", format="raw"),
        GivenImage(data=_file("PNG"), size="nonsense"),
    ],
)
def test_what_will_be_refused_declares_nothing(given: GivenImage) -> None:
    assert declared_bytes(given, Tensor(name="image", dtype="uint8", shape=("h", "w", 3)), LIMITS) == 0


def test_what_is_beyond_the_limits_declares_nothing() -> None:
    given = GivenImage(data=_file("PNG"))
    tensor = Tensor(name="image", dtype="uint8", shape=("h", "w", 3))
    assert declared_bytes(given, tensor, PictureLimits(pixels=13 * 22)) == 13 * 22 * 3
    assert declared_bytes(given, tensor, PictureLimits(pixels=13 * 22 - 1)) == 0
