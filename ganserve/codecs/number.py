"""A number a row: truncation psi, guidance, a weight; for a tensor with a shape, the one number fills it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ganserve.codecs import refused
from ganserve.errors import InvalidArgument, SpecError
from ganserve.spec import Input, Tensor

_DTYPES = ("float32", "float16", "int32", "int64")


class NumberOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of codec ``number``: numbers lie in [low, high]; without a ``default`` the caller must give one."""

    low: float
    high: float
    default: float | None = None


class NumberDecoder:
    """Codec ``number``: the one request value that the input reads → a tensor ``[n, ...]`` of the declared dtype, filled with it.

    Raises :class:`SpecError` when made with options that are incomplete or contradict themselves, or for a tensor that is not of
    numbers or whose shape is free.
    """

    def __init__(self, source: Input, tensor: Tensor, folder: Path) -> None:
        where = f"input {source.tensor!r}, codec number"
        try:
            self._options = msgspec.convert(dict(source.options), NumberOptions)
        except msgspec.ValidationError as error:
            raise SpecError(f"{where}: options {dict(source.options)}: {error}") from error
        if len(source.reads) != 1:
            raise SpecError(f"{where}: reads {list(source.reads)}; expected the name of one value")
        self._shape = tuple(size for size in tensor.shape if isinstance(size, int))
        if tensor.dtype not in _DTYPES or len(self._shape) != len(tensor.shape):
            raise SpecError(
                f"{where}: tensor is {tensor.dtype}{list(tensor.shape)}; expected {' or '.join(_DTYPES)} of a fixed shape"
            )
        self._name = source.reads[0]
        self._dtype = np.dtype(tensor.dtype)
        low, high, default = self._options.low, self._options.high, self._options.default
        for option, number in (("low", low), ("high", high), ("default", default)):
            if number is not None and not (math.isfinite(number) and _fits(number, self._dtype)):
                raise SpecError(f"{where}: option {option} is {number}; expected a finite {tensor.dtype}")
        if not low <= high or (default is not None and not low <= default <= high):
            raise SpecError(f"{where}: expected low <= default <= high, got low {low}, default {default}, high {high}")

    def decode(self, values: Mapping[str, Sequence[Any]], rows: int) -> np.ndarray:
        """The numbers ``[rows, ...]``; :class:`InvalidArgument` for one that is missing, not finite, out of range or, for integers, not whole."""
        given = values.get(self._name)
        if given is None:
            if self._options.default is None:
                raise InvalidArgument.of(self._name, f"is missing: expected {self._expected()}")
            return np.full((rows, *self._shape), self._options.default, self._dtype)
        numbers = np.array(given, dtype=np.float64)
        fits = (numbers >= self._options.low) & (numbers <= self._options.high)
        if self._dtype.kind == "i":
            fits &= numbers == np.floor(numbers)
        if wrong := np.flatnonzero(~fits).tolist():
            raise refused(self._name, wrong, lambda row: f"{numbers[row]:g} is refused: expected {self._expected()}")
        return self._filled(numbers.astype(self._dtype))

    def example(self, pairs: np.ndarray) -> np.ndarray:
        """The default, or the lowest number where there is none."""
        number = self._options.low if self._options.default is None else self._options.default
        return np.full((len(pairs), *self._shape), number, self._dtype)

    def describe(self) -> Mapping[str, Any]:
        """The range and the default."""
        return {self._name: msgspec.to_builtins(self._options)}

    def _filled(self, numbers: np.ndarray) -> np.ndarray:
        return np.broadcast_to(numbers.reshape(-1, *(1 for _ in self._shape)), (len(numbers), *self._shape))

    def _expected(self) -> str:
        noun = "a whole number" if self._dtype.kind == "i" else "a number"
        return f"{noun} from {self._options.low:g} to {self._options.high:g}"


def _fits(number: float, dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "i":
        # Beyond 2**53 a float64 no longer tells neighbouring integers apart.
        return number == math.floor(number) and abs(number) <= min(2**53, np.iinfo(dtype).max)
    return abs(number) <= float(np.finfo(dtype).max)
