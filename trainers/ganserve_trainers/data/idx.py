"""The idx files of MNIST and Fashion-MNIST, gzipped or not.

An idx file is big-endian: two zero bytes, the type (8: uint8), the number of axes, a uint32 for each axis, then the data
(http://yann.lecun.com/exdb/mnist/, "THE IDX FILE FORMAT").
"""

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from ganserve.errors import DataError
from ganserve_trainers.data.collection import ArrayImages

IMAGES = re.compile(r"images([.-])idx3-ubyte(\.gz)?$")
"""What the name of a file of images ends in; that of its labels has ``labels`` and ``idx1`` there."""


def find_idx(folder: Path) -> Path | None:
    """The training images among the idx files of ``folder``, or None if it has none."""
    return next((path for path in sorted(folder.glob("train-*")) if IMAGES.search(path.name)), None)


def open_idx(path: Path) -> ArrayImages:
    """The images in the idx file at ``path`` with the labels of the file beside it, if there is one."""
    pixels = read_idx(path, axes=3)
    beside = [path.with_name(IMAGES.sub(rf"labels\1idx1-ubyte{ending}", path.name)) for ending in ("", ".gz")]
    labels = next((read_idx(file, axes=1) for file in beside if file.is_file()), None)
    if labels is not None and len(labels) != len(pixels):
        raise DataError(
            f"{path} has {len(pixels)} images but its labels file has {len(labels)} labels: fetch both again"
        )
    return ArrayImages("idx", path.name, pixels, None if labels is None else labels.tolist(), black_border=True)


def read_idx(path: Path, axes: int) -> np.ndarray:
    """The uint8 array in the idx file at ``path``; :class:`DataError` unless it has ``axes`` axes and exactly its declared length."""
    try:
        with open(path, "rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with cast(BinaryIO, gzip.open(path) if zipped else open(path, "rb")) as file:
            magic = file.read(4)
            if magic != bytes([0, 0, 8, axes]):
                raise DataError(
                    f"{path} begins with {magic.hex()}: an idx file of uint8 with {axes} axes begins with 000008{axes:02x}"
                )
            shape = struct.unpack(f">{axes}I", file.read(4 * axes))
            data = file.read(math.prod(shape) + 1)
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}; fetch it again") from error
    if len(data) != math.prod(shape):
        have = f"{len(data)} bytes" if len(data) < math.prod(shape) else "more"
        raise DataError(f"{path} declares {list(shape)} = {math.prod(shape)} bytes but holds {have}: fetch it again")
    return np.frombuffer(data, np.uint8).reshape(shape)
