"""A bulk run: so many images of one seed, cut into parts that shards share out and a restart need not make again.

Part k holds the images from k·size up to (k+1)·size, and shard i of n makes the parts i, i+n, i+2n, … A part is made whole or not at all
and depends on nothing but the run, so the shards' parts are disjoint and together those of the unsharded run, byte for byte where the
engine is bit-exact.
"""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import msgspec

from ganserve.errors import GanserveError

Container = Literal["files", "tar"]

Marks = Literal["none", "told", "signed"]
"""What files say of where their images come from: nothing, the model and the seed, or that with a signature."""

DIGITS = 9
"""Of the number in an image's name."""

MOST = 10**DIGITS
"""The most images of a run."""


class Part(NamedTuple):
    """The images from ``start`` up to ``stop``, the ``number``-th such piece of its run."""

    number: int
    start: int
    stop: int


class Shard(NamedTuple):
    """The ``number``-th of ``of`` workers that share a run, counted from 0."""

    number: int = 0
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard written I/N; ValueError for another."""
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and int(number) < int(of)):
            raise ValueError(
                f"{text!r} is no shard; expected I/N with I from 0 to N - 1, such as 0/8 for the first of eight"
            )
        return cls(int(number), int(of))


class Run(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that the images of a run depend on, and how they are stored. ``bundle`` is the digest of the bundle's manifest.

    Image i is drawn from (``seed``, i). ``labels`` are given to the images in turn; everything else holds for all of them.
    """

    model: str
    version: int
    bundle: str
    task: str
    seed: int
    count: int
    part: int
    """Images of a part; the last one may have fewer."""
    container: Container
    format: str
    quality: int = 0
    labels: tuple[int | str, ...] = ()
    truncation: float | None = None
    numbers: Mapping[str, float] = {}
    directions: Mapping[str, float] = {}
    engines: tuple[str, ...]
    device: str
    marks: Marks = "told"

    def parts(self, shard: Shard) -> Iterator[Part]:
        """The parts that ``shard`` makes."""
        for number in range(shard.number, -(-self.count // self.part), shard.of):
            yield Part(number, number * self.part, min((number + 1) * self.part, self.count))

    def label(self, index: int) -> int | str:
        """The label of image ``index``, where labels are given."""
        return self.labels[index % len(self.labels)]

    def check_same(self, before: "Run", where: str) -> None:
        """Raise :class:`GanserveError`, naming what differs, if ``where`` holds parts of another run, ``before``."""
        ours, theirs = msgspec.to_builtins(self), msgspec.to_builtins(before)
        if differ := [f"{name} {theirs[name]!r}, now {ours[name]!r}" for name in ours if ours[name] != theirs[name]]:
            raise GanserveError(
                f"{where} holds parts of another run ({'; '.join(differ)}); choose another --out, or ask for that run again"
            )
