"""Codecs: request values → tensors (decoders), rows of tensors → media (encoders). What they share is this contract."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec
import numpy as np

from ganserve import hookimpl
from ganserve.errors import InvalidArgument, Violation
from ganserve.spec import Codec

MOST_VIOLATIONS = 8
"""How many wrong elements of one value an error names: its details travel in a gRPC trailer, which is small."""


class Decoder(Protocol):
    """Makes one input tensor of a task from request values. Loaded once a model; called for every request, maybe from threads."""

    def decode(self, values: Mapping[str, Sequence[Any]], rows: int) -> np.ndarray:
        """The tensor ``[rows, ...]``.

        ``values`` holds what the request gave among the names the input reads: each a sequence of ``rows`` elements.
        Raises :class:`ganserve.errors.InvalidArgument` whose violations name the value (``label[3]``) and what was expected.
        """

    def describe(self) -> Mapping[str, Any]:
        """JSON-able facts a caller wants to know before asking (label names, ranges), by value name."""


class EncodeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the caller wants media: a format of the encoder's, and a quality from 1 to 100 for lossy ones (0: the default)."""

    format: str = ""
    quality: int = 0


class Media(msgspec.Struct, frozen=True, kw_only=True):
    """One encoded result. ``attributes`` are the facts that a reader needs beside the bytes (width, height, channels)."""

    kind: Literal["image", "array"]
    format: str
    data: bytes
    attributes: Mapping[str, int]


class Encoder(Protocol):
    """Turns one row of a task's output tensor into media. Thread-safe; may be called off the event loop."""

    def check(self, options: EncodeOptions) -> EncodeOptions:
        """``options`` with defaults filled in; :class:`ganserve.errors.InvalidArgument` for a format or quality unknown here."""

    def encode(self, row: np.ndarray, options: EncodeOptions) -> Media:
        """``row`` as media in checked ``options``."""

    def cheap(self, options: EncodeOptions) -> bool:
        """Whether encoding is a mere copy, not worth a thread."""

    def most_bytes(self, shape: tuple[int, ...], options: EncodeOptions) -> int:
        """An upper bound of the encoded size of one row of ``shape``."""


def refused(value: str, rows: Sequence[int], explain: Callable[[int], str]) -> InvalidArgument:
    """The error for the elements ``rows`` of the request value ``value``; ``explain(row)`` says what is wrong with one."""
    violations = [Violation(f"{value}[{row}]", explain(row)) for row in rows[:MOST_VIOLATIONS]]
    if more := len(rows) - len(violations):
        violations.append(Violation(value, f"{more} more elements are wrong, the last of them {value}[{rows[-1]}]"))
    return InvalidArgument(violations)


@hookimpl
def ganserve_codecs() -> Iterable[Codec]:
    """The codecs that come with ganserve."""
    return [
        Codec(name="noise", summary="seed (and truncation) → noise", decode="ganserve.codecs.seeds:NoiseDecoder"),
        Codec(name="label", summary="class index or name → int64", decode="ganserve.codecs.label:LabelDecoder"),
        Codec(
            name="number", summary="a number a row → float32 or int64", decode="ganserve.codecs.number:NumberDecoder"
        ),
        Codec(
            name="image",
            summary="uint8 [H,W,C] → PNG, JPEG, WebP, raw, NPY",
            encode="ganserve.codecs.image:ImageEncoder",
        ),
        Codec(
            name="array",
            summary="any tensor → raw little-endian bytes, NPY",
            encode="ganserve.codecs.array:ArrayEncoder",
        ),
    ]
