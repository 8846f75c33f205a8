"""Codecs: request values → tensors (decoders), rows of tensors → media (encoders). What they share is this contract."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

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

    def example(self, pairs: np.ndarray) -> np.ndarray:
        """Rows of the tensor, one for each (seed, index) of ``pairs`` uint64 [n, 2], such as requests make: export proves graphs on them."""

    def describe(self) -> Mapping[str, Any]:
        """JSON-able facts a caller wants to know before asking (label names, ranges), by value name."""


@runtime_checkable
class ChoosingDecoder(Decoder, Protocol):
    """A decoder that reads some of its values only where a request lacks another."""

    instead: Mapping[str, tuple[str, ...]]
    """Request value → those that are not read beside it."""


class LateRows(Protocol):
    """Rows of a tensor that a :class:`LateDecoder` has yet to make."""

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the array, the rows first."""

    @property
    def decoder(self) -> "LateDecoder":
        """Who makes them."""

    def __getitem__(self, rows: slice | np.ndarray) -> "LateRows":
        """Some of them, picked as from an array."""


@runtime_checkable
class LateDecoder(Decoder, Protocol):
    """A decoder that checks its values at once and makes the rows when they run, in the device's thread, a batch of them in one go.

    So a request of many rows does not keep others waiting while they are made.
    """

    def late(self, values: Mapping[str, Sequence[Any]], rows: int) -> LateRows:
        """What :meth:`decode` would make of ``values``; raises what that does."""

    def make(self, parts: Sequence[LateRows]) -> np.ndarray:
        """The rows of ``parts``, all its own, one after the other: each the bits that :meth:`decode` makes, whatever it is made with."""


class GivenImage(msgspec.Struct, frozen=True, kw_only=True):
    """A picture as a request brings it, and how it is to be fitted: the element of the request value that a picture decoder reads.

    ``format`` is ``raw`` for uint8 [height, width, channels] without a header, ``npy`` for a NPY file of uint8 [H, W, C], or empty for
    a PNG, JPEG or WebP file, whose first bytes tell which; ``png``, ``jpeg`` or ``webp`` must then be true. So must ``width`` and
    ``height`` unless they are 0; ``channels`` is read of ``raw`` alone. ``size`` is one of :data:`SIZES`; empty is ``native`` for a
    graph that takes any size, else ``resize``. Transparency is flattened on ``background``. ``restore`` scales the result back to
    the size of this picture.
    """

    data: bytes
    format: str = ""
    width: int = 0
    height: int = 0
    channels: int = 0
    size: str = ""
    background: tuple[int, int, int] = (255, 255, 255)
    restore: bool = False


class PictureLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one picture may be at most: ``pixels`` as sent and on the canvas, ``bytes`` as sent. A server's setting."""

    pixels: int = 64 << 20
    bytes: int = 64 << 20


SIZES = ("exact", "resize", "letterbox", "native")
"""How a picture meets the size that a graph takes.

``exact`` refuses any other size. ``resize`` scales both sides to it. ``letterbox`` scales without distortion and fills the rest with
the background. ``native`` takes the picture as it is, mirrored outwards to the next multiple of the graph; the result is cut back.
"""


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """Where a picture lies on the canvas that a graph saw, all in pixels, so that a result can be put back.

    ``canvas`` is (width, height) of what the graph saw and ``box`` (left, top, right, bottom) the picture's own part of it. A result
    is cut to ``box`` if ``cut``, then scaled to ``size`` (width, height) if there is one. ``sent`` is (width, height) of the
    picture as it was sent, upright; ``pictures`` how many the file held (frames of an animation), of which the first was used.
    """

    canvas: tuple[int, int]
    box: tuple[int, int, int, int]
    cut: bool = False
    size: tuple[int, int] | None = None
    sent: tuple[int, int]
    pictures: int = 1


class Picture(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A decoded picture: ``pixels`` [H, W, C] as the graph takes them, maybe read-only, and its frame."""

    pixels: np.ndarray
    frame: Frame


@runtime_checkable
class PictureDecoder(Decoder, Protocol):
    """A decoder of pictures: each element of its request value is a :class:`GivenImage`. Its work is done off the event loop."""

    value: str
    """The request value that it reads."""

    max_pixels: int
    """The most pixels that a graph with free sizes is run at in one piece; a larger picture is decoded all the same."""

    def picture(self, given: GivenImage, limits: PictureLimits) -> Picture:
        """``given`` decoded and fitted; :class:`ganserve.errors.InvalidArgument` names the fault, with field ``images[VALUE]``.

        A picture beyond ``limits`` is refused before its pixels are decoded.
        """


class Origin(NamedTuple):
    """Where a result comes from: the model and its version, and the (seed, index) that it was drawn from, if it was."""

    model: str
    version: int
    drawn: tuple[int, int] | None = None


class Signer(Protocol):
    """Signs files, so that a reader can tell whether one was changed since and whose it is."""

    def signed(self, data: bytes, name: str, origin: Origin) -> bytes:
        """``data``, a file of the format ``name``, with a signed statement of its ``origin``."""

    def most_bytes(self, origin: Origin) -> int:
        """An upper bound of what that adds, whatever results of the model were drawn from."""


class GivenPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt as a request brings it: the element of the request value that a prompt decoder reads.

    One with more tokens than the model reads is cut, unless ``whole`` says that it must not be.
    """

    text: str
    whole: bool = False


@runtime_checkable
class PromptDecoder(Decoder, Protocol):
    """A decoder of prompts: each element of its request value is a :class:`GivenPrompt`. Its work is done off the event loop."""

    value: str
    """The request value that it reads."""

    def cuts(self, given: GivenPrompt) -> bool:
        """Whether the model reads only the beginning of ``given``, which has been decoded."""


class EncodeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the caller wants media: a format of the encoder's, and a quality from 1 to 100 for lossy ones (0: the default).

    ``origin`` is what a file that has room for it says of itself; None says nothing. With a ``signer`` that is signed too.
    """

    format: str = ""
    quality: int = 0
    origin: Origin | None = None
    signer: Signer | None = None

    def drawn_from(self, seed: int, index: int) -> "EncodeOptions":
        """These options for the row that was drawn from (``seed``, ``index``)."""
        if self.origin is None:
            return self
        origin = Origin(self.origin.model, self.origin.version, (seed, index))
        return EncodeOptions(format=self.format, quality=self.quality, origin=origin, signer=self.signer)


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
        Codec(
            name="fixed-noise",
            summary="noise_seed → noise, the same for every row without one",
            decode="ganserve.codecs.fixed_noise:FixedNoiseDecoder",
        ),
        Codec(name="label", summary="class index or name → int64", decode="ganserve.codecs.label:LabelDecoder"),
        Codec(
            name="number",
            summary="a number a row → a tensor filled with it",
            decode="ganserve.codecs.number:NumberDecoder",
        ),
        Codec(
            name="tokens",
            summary="prompt → token ids or their mask, by a tokenizer.json",
            decode="ganserve.codecs.tokens:TokensDecoder",
        ),
        Codec(
            name="image",
            summary="PNG, JPEG, WebP, raw, NPY → uint8 [H,W,C], and back",
            decode="ganserve.codecs.picture:ImageDecoder",
            encode="ganserve.codecs.image:ImageEncoder",
        ),
        Codec(
            name="array",
            summary="any tensor → raw little-endian bytes, NPY",
            encode="ganserve.codecs.array:ArrayEncoder",
        ),
    ]
