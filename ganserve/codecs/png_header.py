"""What a PNG file says of itself (W3C, Portable Network Graphics, third edition)."""

import struct
import zlib
from collections.abc import Iterator

from isal import isal_zlib

from ganserve.codecs.headers import MOST_CHUNKS, MOST_PROFILE_BYTES, Fault, Header, checked_size, name_of
from ganserve.codecs.orientation import read_orientation

PNG = b"\x89PNG\r\n\x1a\n"
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""The bits a sample may have, by colour type: grey, RGB, palette, grey with alpha, RGB with alpha."""
_PALETTE = 3
_CLEAR_BYTES = {0: 2, 2: 6}


def read_png(data: bytes) -> Header:
    """The header of a PNG file; :class:`Fault` if it is damaged."""
    found: dict[bytes, memoryview] = {}
    pixels: list[memoryview] = []
    frames = frames_before_pixels = 0
    for kind, whole in _png_chunks(data):
        body = whole[8:-4]
        if kind == b"IDAT":
            pixels.append(_undamaged(kind, whole))
        elif kind == b"fcTL":
            frames += 1
            frames_before_pixels += not pixels
        elif kind in (b"IHDR", b"PLTE"):
            if kind in found:
                raise Fault(f"is a damaged PNG file: it has two chunks {name_of(kind)}")
            found[kind] = _undamaged(kind, whole)
        elif kind in (b"tRNS", b"iCCP", b"eXIf", b"acTL"):
            found.setdefault(kind, body if kind == b"acTL" else _undamaged(kind, whole))
        elif kind[0] < ord("a") and kind != b"IEND":
            raise Fault(f"is no PNG file that can be read here: it needs the extension {name_of(kind)}")
    header = found[b"IHDR"][8:-4]
    if len(header) != 13:
        raise Fault(f"is a damaged PNG file: its header has {len(header)} bytes instead of 13")
    width, height, depth, colour, deflate, filters, interlace = struct.unpack(">IIBBBBB", header)
    if depth not in _DEPTHS.get(colour, ()) or deflate or filters or interlace > 1:
        raise Fault(
            f"is a damaged PNG file: its header says colour type {colour}, {depth} bits, methods {deflate}, {filters} and {interlace}"
        )
    if not pixels:
        raise Fault("is a damaged PNG file: it holds no pixels")
    if colour == _PALETTE and (b"PLTE" not in found or (len(found[b"PLTE"]) - 12) % 3):
        raise Fault("is a damaged PNG file: its palette is missing or incomplete")
    transparency = found.get(b"tRNS")
    clear = None
    if transparency is not None and colour in _CLEAR_BYTES:
        if len(transparency) - 12 != _CLEAR_BYTES[colour]:
            raise Fault(f"is a damaged PNG file: its transparent colour has {len(transparency) - 12} bytes")
        samples = struct.unpack(f">{_CLEAR_BYTES[colour] // 2}H", transparency[8:-4])
        clear = tuple(sample & (1 << depth) - 1 for sample in samples)
    colours = [found[kind] for kind in (b"PLTE", b"tRNS") if colour == _PALETTE and kind in found]
    animated = b"acTL" in found and frames > 0
    return Header(
        format="png",
        size=checked_size(width, height),
        file=b"".join([PNG, found[b"IHDR"], *colours, *pixels, _END]),
        orientation=read_orientation(bytes(found[b"eXIf"][8:-4])) if b"eXIf" in found else 1,
        profile=_inflated_profile(found[b"iCCP"][8:-4]) if b"iCCP" in found else None,
        # Pixels that no frame announces are a picture of their own, for readers that know no animations.
        pictures=frames + (frames_before_pixels == 0) if animated else 1,
        depth=depth,
        colour=colour,
        palette=(len(found[b"PLTE"]) - 12) // 3 if b"PLTE" in found else 0,
        clear=clear,
    )


_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """(type, whole chunk) up to the end chunk, which must be there."""
    view, at = memoryview(data), len(PNG)
    for number in range(MOST_CHUNKS):
        if at + 12 > len(data):
            raise Fault(f"is cut off: its {len(data)} bytes end before the PNG file does; send the whole file")
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 12 + length
        if not kind.isalpha() or (number == 0 and kind != b"IHDR"):
            raise Fault(f"is a damaged PNG file: chunk {number} is called {name_of(kind)}")
        if end > len(data):
            raise Fault(
                f"is cut off or damaged: chunk {name_of(kind)} of the PNG file should end at byte {end}, the file has {len(data)}"
            )
        yield kind, view[at:end]
        if kind == b"IEND":
            return
        at = end
    raise Fault(f"has more than {MOST_CHUNKS} chunks: save the PNG file again with larger ones")


def _undamaged(kind: bytes, whole: memoryview) -> memoryview:
    (checksum,) = struct.unpack(">I", whole[-4:])
    if isal_zlib.crc32(whole[4:-4]) != checksum:
        raise Fault(f"is a damaged PNG file: the checksum of chunk {name_of(kind)} is wrong; send the file again")
    return whole


def _inflated_profile(body: memoryview) -> bytes | None:
    """The profile of a chunk iCCP: a name, a zero, the method (0) and a zlib stream. None if it is damaged or too large."""
    _, found, packed = bytes(body).partition(b"\0")
    if not found or packed[:1] != b"\0":
        return None
    stream = zlib.decompressobj()
    try:
        profile = stream.decompress(packed[1:], MOST_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if stream.eof else None
