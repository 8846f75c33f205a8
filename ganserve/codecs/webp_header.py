"""What a WebP file says of itself (RFC 9649)."""

import struct
from collections.abc import Iterator

from ganserve.codecs.headers import MOST_CHUNKS, MOST_PROFILE_BYTES, Fault, Header, checked_size, name_of
from ganserve.codecs.orientation import read_orientation


def read_webp(data: bytes) -> Header:
    """The header of a WebP file; :class:`Fault` if it is damaged."""
    chunks = dict[bytes, memoryview]()
    frames, size = 0, None
    for kind, body in _webp_chunks(data):
        if size is None:
            size = _webp_size(kind, body)
        frames += kind == b"ANMF"
        if kind in (b"EXIF", b"ICCP"):
            chunks.setdefault(kind, body)
    if size is None:
        raise Fault("is a damaged WebP file: it holds no picture")
    return Header(
        format="webp",
        size=checked_size(*size),
        file=data,
        orientation=read_orientation(bytes(chunks.get(b"EXIF", b"")).removeprefix(b"Exif\0\0")),
        profile=bytes(chunks[b"ICCP"]) if 0 < len(chunks.get(b"ICCP", b"")) <= MOST_PROFILE_BYTES else None,
        pictures=max(1, frames),
    )


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """(type, body) of each chunk of the file."""
    view, at = memoryview(data), 12
    if len(data) < at:
        raise Fault(f"is cut off: a WebP file has more than {len(data)} bytes")
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    if end > len(data):
        raise Fault(f"is cut off: the WebP file should have {end} bytes, not {len(data)}; send the whole file")
    for _ in range(MOST_CHUNKS):
        if at + 8 > end:
            return
        (length,) = struct.unpack_from("<I", data, at + 4)
        if at + 8 + length > end:
            raise Fault(
                f"is a damaged WebP file: chunk {name_of(data[at : at + 4])} says {length} bytes, beyond its end"
            )
        yield data[at : at + 4], view[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    raise Fault(f"has more than {MOST_CHUNKS} chunks: save the WebP file again")


def _webp_size(kind: bytes, body: memoryview) -> tuple[int, int]:
    """(width, height) of the canvas that the first chunk tells."""
    if kind == b"VP8X" and len(body) >= 10:
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L" and len(body) >= 5 and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and len(body) >= 10 and bytes(body[3:6]) == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", body[6:10])
        return width & 0x3FFF, height & 0x3FFF
    raise Fault(f"is a damaged WebP file: its first chunk is {name_of(kind)} of {len(body)} bytes")
