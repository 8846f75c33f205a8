"""What a PNG, JPEG or WebP file says of itself, read before any of its pixels are decoded.

The library that decodes pixels is shown only what it needs for them. Metadata is read here instead, in bounded time and
memory: a colour profile, the orientation, how many pictures there are. Everything else in a file (texts, previews,
animations, editors' private data) is passed over unread.
"""

from typing import Literal, NamedTuple, TypeAlias

FileFormat: TypeAlias = Literal["png", "jpeg", "webp"]

MOST_CHUNKS = 100_000
"""The most chunks (PNG, WebP) or segments (JPEG) of a file: each costs time, however small it is."""

MOST_SCANS = 32
"""The most scans of a JPEG file. Encoders make about ten; one of a few bytes costs a pass over all pixels."""

MOST_PROFILE_BYTES = 4 << 20
"""A colour profile larger than this is ignored; large ones of printers have about 3 MB."""


class Fault(Exception):
    """What is wrong with a picture, as a sentence without its subject (``is empty: …``)."""


class Header(NamedTuple):
    """What a file says of itself.

    ``size`` is (width, height) as stored, before ``orientation`` (EXIF's, 1 to 8) is applied. ``file`` holds what is needed to
    decode the first picture. ``profile`` is its ICC profile, ``pictures`` the number of pictures that the file holds. Only PNG
    has another ``depth`` than 8 bits a sample, a ``colour`` type, a ``palette`` of so many colours, and, in grey and RGB pictures,
    ``clear``: the samples of the one colour that is transparent.
    """

    format: FileFormat
    size: tuple[int, int]
    file: bytes
    orientation: int = 1
    profile: bytes | None = None
    pictures: int = 1
    depth: int = 8
    colour: int = 2
    palette: int = 0
    clear: tuple[int, ...] | None = None


def checked_size(width: int, height: int) -> tuple[int, int]:
    """(width, height); :class:`Fault` unless there are pixels."""
    if width < 1 or height < 1:
        raise Fault(f"says that it is {width}x{height} pixels: expected at least one")
    return width, height


def name_of(kind: bytes) -> str:
    """The name of a chunk, for people."""
    return repr(kind.decode("latin-1"))
