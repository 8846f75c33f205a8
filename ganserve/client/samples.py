"""What a server answers: one :class:`Sample` a row, and :class:`Samples`, the sequence of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, overload

import msgspec
import numpy as np
from PIL import Image

from ganserve.client.enums import name_of
from ganserve.client.media import Media, media_fields
from ganserve.client.tensors import AnyArray, array_of
from ganserve.v1 import generation_pb2, latents_pb2, text_pb2

Made: TypeAlias = (
    generation_pb2.Sample
    | generation_pb2.Translation
    | text_pb2.Imagined
    | latents_pb2.InterpolateResponse
    | latents_pb2.MixResponse
    | latents_pb2.CombineResponse
)
"""Messages with a result."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What served a call, and how long each part took."""

    model: str
    version: int
    engines: tuple[str, ...]
    """The engine of each graph that ran, in order."""
    determinism: str
    """What the same request gives next time: ``bit-exact``, or ``tolerance`` (within a grey level or so)."""
    seconds: Mapping[str, float]
    """``queue``, ``engine`` and ``encode``, summed over batches, and ``total``."""


class Sample(Media, frozen=True, kw_only=True, eq=False):
    """One result: ``data`` in ``format``, where its noise came from, and the tensors that were asked for."""

    seed: int | None = None
    index: int | None = None
    """(seed, index) gives the same result again; None if no noise was drawn."""
    tensors: Mapping[str, AnyArray] = {}
    """By name, without the row axis."""
    served: Served
    """In a stream, timings are those up to this row."""


class Samples(Sequence[Sample]):
    """The rows of one call, in order. ``served`` says what made them."""

    def __init__(self, rows: Iterable[Sample], served: Served) -> None:
        self._rows = tuple(rows)
        self.served = served

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "Samples": ...
    def __getitem__(self, index: int | slice) -> "Sample | Samples":
        return Samples(self._rows[index], self.served) if isinstance(index, slice) else self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<{len(self)} samples of {self.served.model} {self.served.version}>"

    @property
    def data(self) -> list[bytes]:
        """The encoded bytes of each row."""
        return [row.data for row in self]

    @property
    def seeds(self) -> list[tuple[int | None, int | None]]:
        """The (seed, index) of each row."""
        return [(row.seed, row.index) for row in self]

    def images(self) -> list[Image.Image]:
        """Each row as a picture."""
        return [row.image() for row in self]

    def arrays(self) -> AnyArray:
        """All rows in one array, [n, H, W, C] for images; ValueError where rows differ in shape."""
        return np.stack([row.array() for row in self])

    def tensor(self, name: str) -> AnyArray:
        """A tensor that was asked for, of all rows: [n, ...]."""
        return np.stack([row.tensors[name] for row in self])


def samples_of(response: generation_pb2.SampleResponse) -> Samples:
    """The rows of a unary reply."""
    served = served_of(response.served)
    return Samples((Sample(**fields_of(sample), served=served) for sample in response.samples), served)


def streamed_sample_of(response: generation_pb2.SampleStreamResponse) -> Sample:
    """The row of one message of a stream."""
    return Sample(**fields_of(response.sample), served=served_of(response.served))


def fields_of(message: generation_pb2.Sample | generation_pb2.Translation | text_pb2.Imagined) -> dict[str, Any]:
    """The fields of a :class:`Sample` that ``message`` has, where its noise came from among them."""
    drawn = message.seed if message.HasField("seed") else None
    return {
        **made_fields_of(message),
        "seed": drawn.seed if drawn else None,
        "index": drawn.index if drawn else None,
    }


def made_fields_of(message: Made) -> dict[str, Any]:
    """The fields of a :class:`Sample` that every result has."""
    tensors = {name: array_of(tensor) for name, tensor in message.tensors.items()}
    return {**media_fields(message.media), "tensors": tensors}


def served_of(message: generation_pb2.Served) -> Served:
    """What served a call."""
    return Served(
        model=message.model,
        version=message.version,
        engines=tuple(message.engines),
        determinism=name_of("DETERMINISM_", generation_pb2.Determinism, message.determinism),
        seconds=dict(message.seconds),
    )
