"""Noise that stays the same from row to row: what a style generator adds to its layers, apart from the latent's own seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ganserve.codecs import refused
from ganserve.codecs.seeds import draw, float32_range
from ganserve.errors import SpecError
from ganserve.spec import Input, Noise, Tensor

HIGHEST_SEED = 2**53
"""A float64, as which numbers travel, tells whole numbers apart up to here."""


class FixedNoiseOptions(Noise, frozen=True, kw_only=True):
    """Options of codec ``fixed-noise``: how it is drawn, and the ``default`` seed."""

    default: int = 0


class FixedNoiseDecoder:
    """Codec ``fixed-noise``: the one request value that the input reads, a seed → float32 ``[n, ...]``, drawn from (seed, 0).

    Without a seed every row gets the default's. Raises :class:`SpecError` when made for a tensor that is not float32 of a fixed
    shape, or with options or ``reads`` that do not fit.
    """

    def __init__(self, source: Input, tensor: Tensor, folder: Path) -> None:
        where = f"input {source.tensor!r}, codec fixed-noise"
        try:
            self._options = msgspec.convert(dict(source.options), FixedNoiseOptions)
        except msgspec.ValidationError as error:
            raise SpecError(f"{where}: options {dict(source.options)}: {error}") from error
        if self._options.distribution == "uniform":
            float32_range(self._options.low, self._options.high)
        if len(source.reads) != 1:
            raise SpecError(f"{where}: reads {list(source.reads)}; expected the name of one value")
        if not 0 <= self._options.default <= HIGHEST_SEED:
            raise SpecError(f"{where}: option default is {self._options.default}; expected 0 to {HIGHEST_SEED}")
        self._shape = tuple(size for size in tensor.shape if isinstance(size, int))
        if tensor.dtype != "float32" or len(self._shape) != len(tensor.shape):
            raise SpecError(f"{where}: tensor is {tensor.dtype}{list(tensor.shape)}; noise is float32 of a fixed shape")
        self._name = source.reads[0]
        self._default = self._draw([self._options.default])
        self._default.flags.writeable = False

    def decode(self, values: Mapping[str, Sequence[Any]], rows: int) -> np.ndarray:
        """Noise float32 ``[rows, ...]``; :class:`InvalidArgument` for seeds that are not whole numbers from 0 to 2**53."""
        given = values.get(self._name)
        if given is None:
            return np.broadcast_to(self._default, (rows, *self._shape))
        numbers = np.array(given, dtype=np.float64)
        fits = (numbers >= 0) & (numbers <= HIGHEST_SEED) & (numbers == np.floor(numbers))
        if wrong := np.flatnonzero(~fits).tolist():
            raise refused(
                self._name,
                wrong,
                lambda row: f"{numbers[row]:g} is refused: expected a whole number from 0 to {HIGHEST_SEED}",
            )
        return self._draw([int(number) for number in numbers])

    def example(self, pairs: np.ndarray) -> np.ndarray:
        """The noise of each pair."""
        return draw(self._options, pairs, self._shape)

    def describe(self) -> Mapping[str, Any]:
        """What the seed may be."""
        return {self._name: {"low": 0, "high": HIGHEST_SEED, "default": self._options.default}}

    def _draw(self, seeds: Sequence[int]) -> np.ndarray:
        return draw(self._options, np.array([(seed, 0) for seed in seeds], np.uint64), self._shape)
