import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganserve.codecs.number import NumberDecoder
from ganserve.errors import InvalidArgument, SpecError
from ganserve.spec import Input, Tensor


def decoder(
    dtype: Any = "float32", shape: tuple[int, ...] = (), reads: tuple[str, ...] = ("psi",), **options: Any
) -> NumberDecoder:
    options = {"low": 0.0, "high": 2.0} | options
    source = Input(tensor="t", codec="number", reads=reads, options=options)
    return NumberDecoder(source, Tensor(name="t", dtype=dtype, shape=shape), Path())


@given(st.lists(st.floats(0, 2), min_size=1, max_size=5))
def test_numbers_in_range_become_the_tensors_dtype(numbers: list[float]) -> None:
    decoded = decoder().decode({"psi": numbers}, len(numbers))
    assert decoded.dtype == np.float32
    assert np.array_equal(decoded, np.array(numbers, np.float32))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -0.001, 2.0001])
def test_numbers_out_of_range_are_named(number: float) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decoder().decode({"psi": [1.0, number]}, 2)
    (violation,) = caught.value.violations
    assert violation.field == "psi[1]"
    assert violation.description == f"{number:g} is refused: expected a number from 0 to 2"


@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_integers_must_be_whole(dtype: str) -> None:
    codec = decoder(dtype, high=10)
    decoded = codec.decode({"psi": [3.0, 10]}, 2)
    assert (decoded.dtype, decoded.tolist()) == (np.dtype(dtype), [3, 10])
    with pytest.raises(InvalidArgument, match=r"psi\[0\]: 2.5 is refused: expected a whole number from 0 to 10"):
        codec.decode({"psi": [2.5, 1]}, 2)


def test_the_default_stands_in_for_a_missing_value() -> None:
    assert decoder(default=0.7).decode({}, 3).tolist() == [float(np.float32(0.7))] * 3
    with pytest.raises(InvalidArgument, match="psi: is missing: expected a number from 0 to 2"):
        decoder().decode({}, 3)


def test_a_number_fills_a_tensor_with_a_shape() -> None:
    codec = decoder(shape=(2, 3), default=1.0)
    assert np.array_equal(codec.decode({"psi": [0.5, 2.0]}, 2), np.stack([np.full((2, 3), 0.5), np.full((2, 3), 2.0)]))
    assert np.array_equal(codec.decode({}, 2), np.ones((2, 2, 3)))
    assert codec.example(np.zeros((4, 2), np.uint64)).shape == (4, 2, 3)


def test_the_decoder_tells_its_range() -> None:
    assert decoder(default=1).describe() == {"psi": {"low": 0.0, "high": 2.0, "default": 1.0}}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"low": "x"}, "low"),
        ({"low": 3.0}, "low <= default <= high"),
        ({"default": 2.5}, "low <= default <= high"),
        ({"high": math.inf}, "option high is inf"),
        ({"high": 1e39}, "expected a finite float32"),
        ({"dtype": "int64", "default": 0.5}, "option default is 0.5"),
        ({"dtype": "int32", "high": 2**31}, "option high"),
        ({"dtype": "bool"}, "of a fixed shape"),
        ({"shape": ("length",)}, "of a fixed shape"),
        ({"reads": ("a", "b")}, "one value"),
        ({"step": 1}, "step"),
    ],
)
def test_a_decoder_that_cannot_work_is_refused_when_made(fault: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        decoder(**fault)
