"""Rows of tensors as NPY files or raw bytes."""

import io
from functools import lru_cache

import msgspec
import numpy as np

from ganserve.codecs import EncodeOptions, Media
from ganserve.errors import InvalidArgument, SpecError
from ganserve.spec import Output, Tensor

FORMATS = ("npy", "raw")
"""``npy``: NumPy's format, version 1.0; ``raw``: the values alone. Both little-endian, in C order."""


class ArrayEncoder:
    """Codec ``array``: one row of any tensor as a ``npy`` file (the default) or ``raw`` bytes.

    The attributes of the media are the row's sizes, ``size0``, ``size1`` … . Takes no options.
    """

    def __init__(self, output: Output, tensor: Tensor) -> None:
        if output.options:
            raise SpecError(
                f"output {output.tensor!r}: codec array takes no options, not {dict(output.options)}; remove them"
            )
        self._dtype = np.dtype(tensor.dtype).newbyteorder("<")

    def check(self, options: EncodeOptions) -> EncodeOptions:
        """``options`` with the default format filled in; :class:`InvalidArgument` for an unknown format or a quality."""
        checked = msgspec.structs.replace(options, format=options.format or "npy")
        if checked.format not in FORMATS:
            raise InvalidArgument.of("format", f"{checked.format!r} is unknown here: expected {' or '.join(FORMATS)}")
        if checked.quality:
            raise InvalidArgument.of("quality", f"{checked.format} is exact and takes no quality: leave it at 0")
        return checked

    def encode(self, row: np.ndarray, options: EncodeOptions) -> Media:
        """``row`` as media."""
        row = row.astype(self._dtype, copy=False)
        data = npy_bytes(row) if options.format == "npy" else row.tobytes()
        return Media(
            kind="array",
            format=options.format,
            data=data,
            attributes={f"size{axis}": size for axis, size in enumerate(row.shape)},
        )

    def cheap(self, options: EncodeOptions) -> bool:
        """True: both formats are copies."""
        return True

    def most_bytes(self, shape: tuple[int, ...], options: EncodeOptions) -> int:
        """The exact size of one encoded row of ``shape``."""
        values = int(np.prod(shape, dtype=np.int64)) * self._dtype.itemsize
        return values + (len(npy_header(self._dtype.str, shape)) if options.format == "npy" else 0)


def npy_bytes(array: np.ndarray) -> bytes:
    """``array`` as a NPY 1.0 file in C order."""
    return npy_header(array.dtype.str, array.shape) + array.tobytes()


@lru_cache(maxsize=256)
def npy_header(descr: str, shape: tuple[int, ...]) -> bytes:
    """The header of a NPY 1.0 file of values ``descr`` (such as ``<f4``) and ``shape``, a multiple of 64 bytes."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()
