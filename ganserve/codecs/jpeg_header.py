"""What a JPEG file says of itself (ITU-T T.81, annex B)."""

import re
import struct
from collections.abc import Iterator

from ganserve.codecs.headers import MOST_CHUNKS, MOST_PROFILE_BYTES, MOST_SCANS, Fault, Header, checked_size
from ganserve.codecs.orientation import read_orientation

_MARKER = re.compile(rb"[^\xff]{0,1024}+\xff{1,1024}+[^\x00\xff]")
"""A marker, behind bytes of filling and a few of rubbish, which some cameras leave."""
_SCAN, _END_OF_IMAGE, _APP0, _APP1, _APP2, _APP14 = 0xDA, 0xD9, 0xE0, 0xE1, 0xE2, 0xEE
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Start of frame, in each process of coding."""
_NEEDED = _FRAMES | {0xC4, 0xCC, 0xDB, 0xDD, _SCAN}
"""Beside frames and scans: Huffman tables, arithmetic conditioning, quantization tables, restart interval."""
_NEEDED_BEGINNINGS = {_APP0: b"JFIF\0", _APP14: b"Adobe"}
"""What an application's segment begins with that tells how colours are coded."""
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a segment."""


def read_jpeg(data: bytes) -> Header:
    """The header of a JPEG file; :class:`Fault` if it is damaged."""
    kept: list[memoryview | bytes] = [b"\xff\xd8"]
    orientation, profile, size = 1, list[bytes](), None
    for marker, whole in _jpeg_segments(data):
        body = whole[4:]
        if marker in _FRAMES:
            if size is not None or len(body) < 6:
                raise Fault("is a damaged JPEG file: its header of the frame is repeated or too short")
            depth, height, width, components = struct.unpack(">BHHB", body[:6])
            if depth != 8 or components not in (1, 3, 4):
                raise Fault(
                    f"has {components} components of {depth} bits: expected a JPEG file of 1, 3 or 4 components of 8 bits; convert it"
                )
            size = checked_size(width, height)
        elif marker == _APP1 and bytes(body[:6]) == b"Exif\0\0":
            orientation = read_orientation(bytes(body[6:]))
        elif marker == _APP2 and bytes(body[:12]) == b"ICC_PROFILE\0":
            profile.append(bytes(body[12:]))
        if marker in _NEEDED or bytes(body[:5]) == _NEEDED_BEGINNINGS.get(marker):
            kept.append(whole)
    if size is None:
        raise Fault("is a damaged JPEG file: its pixels begin before their size is told")
    scans = data.count(b"\xff\xda", len(data) - len(kept[-1]))
    if scans > MOST_SCANS:
        raise Fault(f"has {scans} scans: at most {MOST_SCANS} are taken; save the JPEG file again")
    return Header("jpeg", size, b"".join(kept), orientation, _joined_profile(profile))


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, memoryview]]:
    """(marker, marker and segment) up to the first scan; the last one reaches to the end of the file."""
    view, at = memoryview(data), 2
    for _ in range(MOST_CHUNKS):
        found = _MARKER.match(data, at)
        if found is None:
            raise Fault(f"is cut off or damaged: after byte {at} of {len(data)} the JPEG file has no segment")
        start, marker = found.end() - 2, data[found.end() - 1]
        if marker == _SCAN:
            yield marker, view[start:]
            return
        if marker == _END_OF_IMAGE:
            raise Fault("is a damaged JPEG file: it ends before its pixels")
        at = found.end()
        if marker not in _ALONE:
            length = int.from_bytes(data[at : at + 2], "big")
            at += length
            if length < 2 or at > len(data):
                raise Fault(
                    f"is cut off or damaged: segment {marker:#x} of the JPEG file has {length} bytes and begins at {start} of {len(data)}"
                )
            yield marker, view[start:at]
    raise Fault(f"has more than {MOST_CHUNKS} segments: save the JPEG file again")


def _joined_profile(parts: list[bytes]) -> bytes | None:
    """The ICC profile of segments that each begin with their number from 1 and their count (ICC.1, annex B.4); None if one is missing."""
    parts.sort()
    if not parts or [tuple(part[:2]) for part in parts] != [
        (number, len(parts)) for number in range(1, len(parts) + 1)
    ]:
        return None
    profile = b"".join(part[2:] for part in parts)
    return profile if len(profile) <= MOST_PROFILE_BYTES else None
