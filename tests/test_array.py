import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ganserve.codecs import EncodeOptions
from ganserve.codecs.array import ArrayEncoder
from ganserve.errors import InvalidArgument, SpecError
from ganserve.spec import Output, Tensor

DTYPES = ("float32", "float16", "uint8", "int32", "int64", "bool")


def encoder(dtype: Any = "float32", shape: tuple[int | str, ...] = (3,)) -> ArrayEncoder:
    return ArrayEncoder(Output(tensor="w", codec="array"), Tensor(name="w", dtype=dtype, shape=shape))


ROWS = st.sampled_from(DTYPES).flatmap(lambda dtype: arrays(dtype, array_shapes(min_dims=0, max_dims=4, max_side=5)))


@given(ROWS, st.sampled_from(["npy", "raw", ""]))
def test_any_row_comes_back_and_its_size_was_foretold(row: np.ndarray, name: str) -> None:
    codec = encoder(row.dtype.name, row.shape)
    options = codec.check(EncodeOptions(format=name))
    media = codec.encode(row, options)
    if options.format == "npy":
        back = np.load(io.BytesIO(media.data), allow_pickle=False)
        assert (back.dtype, back.shape) == (row.dtype, row.shape)
    else:
        back = np.frombuffer(media.data, row.dtype).reshape(row.shape)
    assert back.tobytes() == row.tobytes()
    assert len(media.data) == codec.most_bytes(row.shape, options)
    assert media.attributes == {f"size{axis}": size for axis, size in enumerate(row.shape)}
    assert (media.kind, media.format) == ("array", name or "npy")


def test_values_are_little_endian_and_in_c_order_whatever_they_were() -> None:
    codec, raw = encoder("int32", (2, 3)), EncodeOptions(format="raw")
    row = np.arange(6, dtype=">i4").reshape(3, 2).T
    assert codec.encode(row, raw).data == np.array([0, 2, 4, 1, 3, 5], "<i4").tobytes()
    loaded = np.load(io.BytesIO(codec.encode(row, EncodeOptions(format="npy")).data), allow_pickle=False)
    assert np.array_equal(loaded, row)


def test_npy_is_version_one() -> None:
    media = encoder().encode(np.zeros(3, np.float32), EncodeOptions(format="npy"))
    assert media.data[:8] == b"\x93NUMPY\x01\x00"
    assert (len(media.data) - 12) % 64 == 0


def test_both_formats_are_cheap() -> None:
    assert encoder().cheap(EncodeOptions(format="npy"))
    assert encoder().cheap(EncodeOptions(format="raw"))


@pytest.mark.parametrize(
    ("options", "field", "text"),
    [
        (EncodeOptions(format="png"), "format", "'png' is unknown here: expected npy or raw"),
        (EncodeOptions(quality=3), "quality", "npy is exact and takes no quality"),
    ],
)
def test_what_cannot_be_encoded_is_refused(options: EncodeOptions, field: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        encoder().check(options)
    assert caught.value.violations[0].field == field
    assert text in caught.value.violations[0].description


def test_options_are_refused() -> None:
    with pytest.raises(SpecError, match="takes no options"):
        ArrayEncoder(Output(tensor="w", codec="array", options={"x": 1}), Tensor(name="w", dtype="float32"))
