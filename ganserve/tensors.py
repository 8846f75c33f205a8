"""What one tensor is: the records under :mod:`ganserve.spec` that say its shape, how it is made, and what may be done with it.

Shapes are those of one row: the first axis of every tensor counts rows and is never written down.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from ganserve.errors import SpecError
from ganserve.names import Name, check_name

DType: TypeAlias = Literal["float32", "float16", "uint8", "int32", "int64", "bool"]
Distribution: TypeAlias = Literal["normal", "uniform", "sphere"]
Walk: TypeAlias = Literal["lerp", "slerp"]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the serialisable records: immutable, keyword-only; unknown fields in JSON are refused."""


class Tensor(Record, frozen=True, kw_only=True):
    """A named tensor: its dtype and the shape of one row, where a string stands for a size known only at run time.

    Such free sizes are multiples of ``multiple`` (a network that halves its input twice takes multiples of 4).
    """

    name: Name
    dtype: DType
    shape: tuple[int | str, ...] = ()
    multiple: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1

    def __post_init__(self) -> None:
        """Refuse sizes that no tensor can have."""
        check_name("tensor", self.name)
        if any(isinstance(size, int) and size < 1 for size in self.shape):
            raise SpecError(
                f"tensor {self.name!r} has shape {list(self.shape)}: every size must be at least 1; leave the row axis out"
            )

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether one row of ``shape`` fits this declaration."""
        return len(shape) == len(self.shape) and all(
            have % self.multiple == 0 if isinstance(want, str) else want == have
            for want, have in zip(self.shape, shape, strict=True)
        )


class Noise(Record, frozen=True, kw_only=True):
    """How noise is drawn from a (seed, index) pair. ``docs/seeds.md`` is the recipe; ``stream`` keeps two tensors apart.

    ``uniform`` lies in [low, high); ``normal`` is N(0, 1), resampled beyond a row's truncation threshold if one is given;
    ``sphere`` is a normal scaled to root mean square 1 (ProGAN's hypersphere).
    """

    distribution: Distribution = "normal"
    stream: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 0
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        """Refuse an empty interval."""
        if self.distribution == "uniform" and not self.low < self.high:
            raise SpecError(f"uniform noise from {self.low} to {self.high} is empty: low must be below high")


class Input(Record, frozen=True, kw_only=True):
    """A tensor that codec ``codec`` makes from the request values named in ``reads``, with the codec's own ``options`` and ``files``.

    ``reads`` are also the only values that a request for the task may carry; each value is per row. The tensor can be had when
    the request carries one of them, or always if it is ``optional`` (the codec has a default).
    """

    tensor: Name
    codec: Name
    reads: tuple[Name, ...]
    optional: bool = False
    options: Mapping[str, Any] = {}
    files: tuple[Name, ...] = ()


class Output(Record, frozen=True, kw_only=True):
    """The tensor that answers the task and the codec that turns one row of it into media."""

    tensor: Name
    codec: Name
    options: Mapping[str, Any] = {}


class Latent(Record, frozen=True, kw_only=True):
    """A tensor of a task that callers walk, mix and edit, such as the latent z or the style w: float32 of a fixed shape.

    ``walk`` is the way from one to another: ``slerp`` along the sphere that a normal z lies near, ``lerp`` straight. ``layers`` says
    that the first axis counts the layers that read it, so that a mix may take some from one source and the rest from another.
    """

    tensor: Name
    walk: Walk = "lerp"
    layers: bool = False


class Direction(Record, frozen=True, kw_only=True):
    """A named way to move the latent ``tensor``: one unit of strength adds it once. ``source`` says how it was found.

    It is the array of its name in the bundle's ``.npz`` ``file``, float32 of the latent's shape.
    """

    tensor: Name
    file: Name
    source: str = ""


class Inversion(Record, frozen=True, kw_only=True):
    """How a task of kind ``invert`` seeks the latent of a picture: its loop starts at the tensor ``start`` and gives ``latent``.

    ``starts`` names the tensors that may become the start: ``average`` (the mean latent), ``samples`` (drawn from a seed; the best
    of several is taken), ``encoder`` (a network's guess). ``loss`` is the tensor that the loop lowers; rows of it are what
    progress tells. ``preview`` is the loop's picture of the moment.
    """

    start: Name
    starts: Mapping[Literal["average", "samples", "encoder"], Name]
    latent: Name
    loss: Name
    preview: Name
