"""What a server answers: one :class:`Sample` a row, and :class:`Samples`, the sequence of them."""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, overload

import msgspec
import numpy as np
from PIL import Image

from ganserve.client.enums import name_of
from ganserve.client.tensors import AnyArray, array_of
from ganserve.v1 import generation_pb2, media_pb2

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


class Sample(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One result: ``data`` in ``format``, where its noise came from, and the tensors that were asked for."""

    kind: Literal["image", "array"]
    format: str
    """Of an image: png, jpeg, webp, raw, npy or npy-float; of an array: npy."""
    data: bytes
    shape: tuple[int, ...] = ()
    """Of an image: height, width, channels; () for an array, whose data tell it."""
    seed: int | None = None
    index: int | None = None
    """(seed, index) gives the same result again; None if no noise was drawn."""
    tensors: Mapping[str, AnyArray] = {}
    """By name, without the row axis."""
    served: Served
    """In a stream, timings are those up to this row."""

    def array(self) -> AnyArray:
        """The result as an array: of an image uint8 [H, W, C], or float32 in [-1, 1] for npy-float."""
        if self.format in ("npy", "npy-float"):
            array: AnyArray = np.load(io.BytesIO(self.data), allow_pickle=False)
            return array
        if self.format == "raw":
            return np.frombuffer(self.data, np.uint8).reshape(self.shape)
        return np.asarray(self.image()).reshape(self.shape)

    def image(self) -> Image.Image:
        """The result as a picture; ValueError for an array that is none."""
        if self.kind != "image":
            raise ValueError(f"{self.served.model} makes arrays, not images; use array()")
        if self.format in ("raw", "npy", "npy-float"):
            pixels = self.array()
            if self.format == "npy-float":
                pixels = np.rint((pixels + 1) * 127.5).astype(np.uint8)
            return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        with Image.open(io.BytesIO(self.data)) as image:
            # WebP knows no grey, and drops an alpha channel that hides nothing.
            return image.convert(_MODES[self.shape[2]])


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


def fields_of(message: generation_pb2.Sample | generation_pb2.Translation) -> dict[str, Any]:
    """The fields of a :class:`Sample` that ``message`` has."""
    drawn = message.seed if message.HasField("seed") else None
    fields = {
        "seed": drawn.seed if drawn else None,
        "index": drawn.index if drawn else None,
        "tensors": {name: array_of(tensor) for name, tensor in message.tensors.items()},
    }
    if message.media.WhichOneof("kind") == "image":
        image = message.media.image
        name = name_of("IMAGE_FORMAT_", media_pb2.ImageFormat, image.format)
        shape = (image.height, image.width, image.channels)
        return {"kind": "image", "format": name, "data": image.data, "shape": shape, **fields}
    return {"kind": "array", "format": "npy", "data": message.media.array.npy, **fields}


def served_of(message: generation_pb2.Served) -> Served:
    """What served a call."""
    return Served(
        model=message.model,
        version=message.version,
        engines=tuple(message.engines),
        determinism=name_of("DETERMINISM_", generation_pb2.Determinism, message.determinism),
        seconds=dict(message.seconds),
    )
