"""Pictures that are numbers: raw bytes and NPY files → uint8 [H, W, C]. Nothing is evaluated or unpickled."""

import re
import struct

import numpy as np

from ganserve.codecs.headers import Fault

CHANNELS = (1, 3, 4)
"""Grey, RGB, RGBA."""

_MOST_HEADER_BYTES = 4096
_MAGIC = b"\x93NUMPY"
_TYPE = re.compile(rb"['\"]descr['\"]\s*:\s*['\"]([^'\"]{1,16})['\"]")
_ORDER = re.compile(rb"['\"]fortran_order['\"]\s*:\s*(True|False)")
_SHAPE = re.compile(rb"['\"]shape['\"]\s*:\s*\(([\d\s,]*)\)")
_NUMBER = re.compile(rb"\d{1,10}")


def raw_pixels(data: bytes, width: int, height: int, channels: int) -> np.ndarray:
    """``data`` as uint8 ``[height, width, channels]``; :class:`Fault` unless it has just that many bytes."""
    if width < 1 or height < 1 or channels not in CHANNELS:
        raise Fault(
            f"is raw and {width}x{height} with {channels} channels: expected its width, height and channels (1, 3 or 4)"
        )
    if len(data) != width * height * channels:
        raise Fault(
            f"is raw and has {len(data)} bytes: {width}x{height} with {channels} channels are {width * height * channels}"
        )
    return np.frombuffer(data, np.uint8).reshape(height, width, channels)


def npy_pixels(data: bytes) -> np.ndarray:
    """The picture in a NPY file of uint8 [H, W, C] or [H, W], as ``[H, W, C]``; :class:`Fault` for any other."""
    if not data.startswith(_MAGIC) or len(data) < 12 or data[6] not in (1, 2, 3):
        raise Fault(f"is no NPY file: it begins with {data[:8]!r}; send what numpy.save writes")
    start = 10 if data[6] == 1 else 12
    (length,) = struct.unpack_from("<H" if data[6] == 1 else "<I", data, 8)
    header = data[start : start + length]
    if length > _MOST_HEADER_BYTES or len(header) < length:
        raise Fault(f"is no NPY file of a picture: its header says {length} bytes")
    kind, order, shape = _TYPE.search(header), _ORDER.search(header), _SHAPE.search(header)
    if kind is None or order is None or shape is None:
        raise Fault(f"is no NPY file of a picture: its header is {header.strip()[:80]!r}")
    if kind[1].lstrip(b"|<>=") != b"u1":
        raise Fault(
            f"holds numbers of type {kind[1].decode('latin-1')!r}: expected uint8 from 0 to 255; "
            "of floats x in [-1, 1] send numpy.rint((x + 1) * 127.5).astype('uint8')"
        )
    sizes = tuple(int(size) for size in _NUMBER.findall(shape[1]))
    if len(sizes) == 2:
        sizes += (1,)
    if len(sizes) != 3 or min(sizes) < 1 or sizes[2] not in CHANNELS:
        raise Fault(
            f"has shape {list(sizes)}: expected [height, width, channels] with 1, 3 or 4 channels, or [height, width]"
        )
    height, width, channels = sizes
    values = len(data) - start - length
    if values != height * width * channels:
        raise Fault(f"has {values} values: its header says {height}x{width}x{channels}")
    pixels = np.frombuffer(data, np.uint8, offset=start + length)
    return pixels.reshape(sizes, order="F" if order[1] == b"True" else "C")
