"""Seeds → noise. ``docs/seeds.md`` is the recipe, for client authors of any language; this module is its fast form.

Every number comes from Philox4x64-10 with key (seed, index) and counter (block, round, step, stream), blocks counted from 1.
A row therefore depends on its own pair alone: neither on the rows beside it nor on what was drawn before. Only raw 64-bit
words are taken from numpy, whose own distributions may change between versions.
"""

import math
import reprlib
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ganserve.codecs import refused
from ganserve.errors import InvalidArgument, SpecError
from ganserve.spec import Input, Noise, Tensor

LABEL_STREAM = 2**32
"""The stream (highest counter word) of labels drawn from a seed; the streams of noise lie below it."""

LOWEST_TRUNCATION = 0.02
"""The smallest threshold: 1.6 % of normals pass, so that a value takes some 60 rounds and a row of 128 values some 350."""

HIGHEST_TRUNCATION = 10.0
"""The largest threshold worth asking for: no value that this recipe can draw lies beyond 8.6."""

_MANTISSA_SHIFT = np.uint64(12)
_ONE_BITS = np.uint64(0x3FF0000000000000)
_ONE_LESS_HALF_STEP = 1.0 - 2.0**-53
# No array that log, cos or sin sees ends in the middle of a SIMD vector: a kernel may treat such a tail by other code, and
# a value's bits would depend on how many rows are drawn together.
_PAIRS_MULTIPLE = 16


def draw(
    noise: Noise,
    seeds: np.ndarray,
    shape: tuple[int, ...],
    step: int | np.ndarray = 0,
    truncation: np.ndarray | None = None,
) -> np.ndarray:
    """Noise float32 ``[n, *shape]`` for ``seeds`` uint64 ``[n, 2]``, each row a (seed, index) pair.

    ``step`` is the loop step, one for all rows or ``[n]``. ``truncation`` float64 ``[n]`` holds each row's threshold: of a
    normal with threshold t every value lies in [-t, t]; ``inf`` truncates nothing. Raises ValueError for a threshold below
    :data:`LOWEST_TRUNCATION` or NaN, or for one on noise that is not normal.
    """
    count, rows = math.prod(shape), len(seeds)
    keys = seeds.tolist()
    steps = [step] * rows if isinstance(step, int) else step.tolist()
    if noise.distribution == "uniform":
        values = _uniform(noise, _rows_of_words(keys, steps, noise.stream, count))
    else:
        padded = 2 * _PAIRS_MULTIPLE * -(-count // (2 * _PAIRS_MULTIPLE))
        normals = _normal(_rows_of_words(keys, steps, noise.stream, padded))[:, :count]
        if noise.distribution == "sphere":
            normals = normals / np.sqrt(np.mean(normals * normals, axis=1, keepdims=True))
        values = normals.astype(np.float32)
    if truncation is not None:
        if noise.distribution != "normal" or not np.all(truncation >= LOWEST_TRUNCATION):
            raise ValueError(
                f"truncation {truncation} of {noise.distribution} noise: expected normal noise and >= 0.02"
            )
        for row in np.flatnonzero((np.abs(values) > truncation[:, None]).any(axis=1)):
            _resample(values[row], float(truncation[row]), keys[row], steps[row], noise.stream)
    return values.reshape(rows, *shape)


MOST_DRAWN = 2**32
"""Classes, or counts of them together, that a label is drawn from at most."""


def draw_labels(seeds: np.ndarray, classes: int, counts: Sequence[int] = ()) -> np.ndarray:
    """A class int64 ``[n]`` in 0 … ``classes`` - 1 for each (seed, index) pair of ``seeds`` uint64 ``[n, 2]``.

    Uniform, or with ``counts`` (one a class) each as often as its count says, out of their sum: as one of so many images is drawn.
    """
    words = _rows_of_words(seeds.tolist(), [0] * len(seeds), LABEL_STREAM, 1)[:, 0]
    drawn = ((words >> np.uint64(32)) * np.uint64(sum(counts) or classes) >> np.uint64(32)).astype(np.int64)
    return np.searchsorted(np.cumsum(counts), drawn, side="right") if len(counts) else drawn


def seed_pairs(pairs: Sequence[Any] | np.ndarray) -> np.ndarray:
    """The request value ``seed`` as uint64 ``[n, 2]``; :class:`InvalidArgument` names the elements that are not (seed, index) pairs."""
    if isinstance(pairs, np.ndarray) and pairs.dtype == np.uint64 and pairs.ndim == 2 and pairs.shape[1] == 2:
        return pairs
    if wrong := [row for row, pair in enumerate(pairs) if not _is_pair(pair)]:
        raise refused(
            "seed",
            wrong,
            lambda row: f"{reprlib.repr(pairs[row])} is not a pair (seed, index) of integers from 0 to 2**64 - 1",
        )
    return np.array(pairs, dtype=np.uint64).reshape(-1, 2)


class Draws(msgspec.Struct, frozen=True, eq=False):
    """Rows of noise that are still to be drawn, from ``seeds`` uint64 [n, 2] and with ``thresholds`` float64 [n], if any."""

    decoder: "NoiseDecoder"
    seeds: np.ndarray
    thresholds: np.ndarray | None

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the noise, the rows first."""
        return (len(self.seeds), *self.decoder.shape)

    def __getitem__(self, rows: slice | np.ndarray) -> "Draws":
        """Some of them."""
        return Draws(self.decoder, self.seeds[rows], None if self.thresholds is None else self.thresholds[rows])


class NoiseDecoder:
    """Codec ``noise``: the request values ``seed`` (pairs (seed, index)) and, for normal noise, ``truncation`` → a float32 tensor.

    The input's options are the fields of :class:`ganserve.spec.Noise`. Raises :class:`SpecError` when made for a tensor that
    is not float32 of a fixed shape, or with options or ``reads`` that do not fit.
    """

    def __init__(self, source: Input, tensor: Tensor, folder: Path) -> None:
        where = f"input {source.tensor!r}, codec noise"
        try:
            self._noise = msgspec.convert(dict(source.options), Noise)
        except msgspec.ValidationError as error:
            raise SpecError(f"{where}: options {dict(source.options)}: {error}") from error
        if self._noise.distribution == "uniform":
            float32_range(self._noise.low, self._noise.high)
        allowed = {"seed", "truncation"} if self._noise.distribution == "normal" else {"seed"}
        if "seed" not in source.reads or not set(source.reads) <= allowed:
            raise SpecError(
                f"{where}: reads {list(source.reads)}; {self._noise.distribution} noise reads 'seed'"
                + (" and may read 'truncation'" if "truncation" in allowed else ", nothing else")
            )
        self.shape = tuple(size for size in tensor.shape if isinstance(size, int))
        if tensor.dtype != "float32" or len(self.shape) != len(tensor.shape):
            raise SpecError(f"{where}: tensor is {tensor.dtype}{list(tensor.shape)}; noise is float32 of a fixed shape")
        self._truncates = "truncation" in source.reads

    def decode(self, values: Mapping[str, Sequence[Any]], rows: int) -> np.ndarray:
        """Noise float32 ``[rows, ...]``; :class:`InvalidArgument` for no pairs, or for pairs or thresholds out of range."""
        return self.make([self.late(values, rows)])

    def late(self, values: Mapping[str, Sequence[Any]], rows: int) -> Draws:
        """What :meth:`decode` draws, before it is drawn."""
        if "seed" not in values:
            raise InvalidArgument.of("seed", "is missing: without one there is no noise to truncate")
        seeds = seed_pairs(values["seed"])
        truncates = self._truncates and "truncation" in values
        return Draws(self, seeds, _thresholds(values["truncation"]) if truncates else None)

    def make(self, parts: Sequence[Draws]) -> np.ndarray:
        """The noise of ``parts``, one after the other."""
        truncation = None
        if any(part.thresholds is not None for part in parts):
            truncation = np.concatenate(
                [np.full(len(part.seeds), np.inf) if part.thresholds is None else part.thresholds for part in parts]
            )
        return draw(self._noise, np.concatenate([part.seeds for part in parts]), self.shape, truncation=truncation)

    def example(self, pairs: np.ndarray) -> np.ndarray:
        """The noise of ``pairs``, untruncated."""
        return draw(self._noise, pairs, self.shape)

    def describe(self) -> Mapping[str, Any]:
        """What a seed and a threshold may be."""
        facts: dict[str, Any] = {"seed": {"type": "uint64", "distribution": self._noise.distribution}}
        if self._truncates:
            facts["truncation"] = {"low": LOWEST_TRUNCATION, "high": HIGHEST_TRUNCATION, "default": None}
        return facts


@lru_cache(maxsize=256)
def float32_range(low: float, high: float) -> tuple[np.float32, np.float32]:
    """The smallest and the largest float32 of [low, high); :class:`SpecError` if there is none or a bound is not finite in float32."""
    largest = float(np.finfo(np.float32).max)
    if not (-largest <= low < high <= largest):
        raise SpecError(f"uniform noise in [{low}, {high}): expected low < high, both finite in float32")
    first, last = np.float32(low), np.float32(high)
    if float(first) < low:
        first = np.nextafter(first, np.float32(np.inf))
    if float(last) >= high:
        last = np.nextafter(last, np.float32(-np.inf))
    if first > last:
        raise SpecError(f"uniform noise in [{low}, {high}): no float32 number lies there; widen the interval")
    return first, last


class _Philox(threading.local):
    """A thread's own generator, aimed anew at each use: setting its state costs a thirtieth of making one."""

    def __init__(self) -> None:
        self.generator: Any = np.random.Philox(0)

    def words(self, key: Sequence[int], round_: int, step: int, stream: int, count: int) -> np.ndarray:
        """The first ``count`` words of blocks 1, 2, … under ``key``."""
        # numpy counts up before it makes a block: counter word 0 set to 0 makes block 1 the first one.
        self.generator.state = {
            "bit_generator": "Philox",
            "state": {"counter": (0, round_, step, stream), "key": key},
            "buffer": (0, 0, 0, 0),
            "buffer_pos": 4,
            "has_uint32": 0,
            "uinteger": 0,
        }
        words: np.ndarray = self.generator.random_raw(count)
        return words


_philox = _Philox()


def _rows_of_words(keys: list[list[int]], steps: list[int], stream: int, count: int) -> np.ndarray:
    if len(keys) == 1:
        return _philox.words(keys[0], 0, steps[0], stream, count).reshape(1, count)
    words = np.empty((len(keys), count), np.uint64)
    for row, (key, step) in enumerate(zip(keys, steps, strict=True)):
        words[row] = _philox.words(key, 0, step, stream, count)
    return words


def _unit(words: np.ndarray) -> np.ndarray:
    """((word >> 12) + 0.5) / 2**52, exactly: a float64 in (0, 1), never 0 nor 1."""
    # The 52 bits become the mantissa of a number in [1, 2); less 1 and plus half a step, both without rounding.
    numbers: np.ndarray = ((words >> _MANTISSA_SHIFT) | _ONE_BITS).view(np.float64)
    numbers -= _ONE_LESS_HALF_STEP
    return numbers


def _uniform(noise: Noise, words: np.ndarray) -> np.ndarray:
    first, last = float32_range(noise.low, noise.high)
    numbers = _unit(words)
    numbers *= noise.high - noise.low
    numbers += noise.low
    values = numbers.astype(np.float32)
    np.maximum(values, first, out=values)
    np.minimum(values, last, out=values)
    return values


def _normal(words: np.ndarray) -> np.ndarray:
    """Box and Muller's transform of pairs of words ``[..., 2k]``: float64 normals of the same shape."""
    numbers = _unit(words)
    radius = np.log(numbers[..., 0::2])
    radius *= -2.0
    np.sqrt(radius, out=radius)
    angle = numbers[..., 1::2] * (2.0 * math.pi)
    np.multiply(radius, np.cos(angle), out=numbers[..., 0::2])
    np.multiply(radius, np.sin(angle), out=numbers[..., 1::2])
    return numbers


def _resample(values: np.ndarray, threshold: float, key: list[int], step: int, stream: int) -> None:
    """Replace each of one row's ``values`` beyond ``threshold`` by that of the first later round which is not."""
    pending = np.flatnonzero(np.abs(values) > threshold)
    # One in `together` values passes, so that each turn over as many rounds settles two thirds of those pending.
    together = math.ceil(1.0 / math.erf(threshold / math.sqrt(2.0)))
    round_ = 1
    while pending.size:
        pairs, places = pending // 2, np.arange(pending.size)
        words = np.empty((together, 2 * int(pairs[-1]) + 2), np.uint64)
        for turn in range(together):
            words[turn] = _philox.words(key, round_ + turn, step, stream, words.shape[1])
        normals = _normal(words.reshape(together, -1, 2)[:, pairs].reshape(together, -1)).astype(np.float32)
        candidates = normals[:, 2 * places + pending % 2]
        passes = np.abs(candidates) <= threshold
        found = passes.any(axis=0)
        values[pending[found]] = candidates[passes.argmax(axis=0), places][found]
        pending = pending[~found]
        round_ += together


def _is_pair(pair: Any) -> bool:
    return (
        isinstance(pair, Sequence | np.ndarray)
        and len(pair) == 2
        and all(isinstance(part, int | np.integer) and 0 <= part < 2**64 for part in pair)
    )


def _thresholds(thresholds: Sequence[float]) -> np.ndarray:
    array = np.array(thresholds, dtype=np.float64)
    wrong = np.flatnonzero(~((array >= LOWEST_TRUNCATION) & (array <= HIGHEST_TRUNCATION))).tolist()
    if wrong:
        raise refused(
            "truncation",
            wrong,
            lambda row: (
                f"{array[row]} is out of range: expected {LOWEST_TRUNCATION} to {HIGHEST_TRUNCATION}, or no truncation at all"
            ),
        )
    return array
