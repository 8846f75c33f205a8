"""One request, free of protobuf: checked, decoded, run and encoded; every front makes an :class:`Ask` of it and reads :class:`Result` s."""

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from concurrent.futures import Executor as Pool
from typing import Any, TypeVar, TypeVarTuple

import msgspec
import numpy as np

from ganserve.codecs import EncodeOptions, Encoder, Frame, LateRows, Media, Picture, PictureLimits, Signer
from ganserve.codecs.frame import put_back
from ganserve.errors import InvalidArgument, Violation
from ganserve.metrics import Metrics
from ganserve.serving.edits import strengths_name
from ganserve.serving.executor import Executor
from ganserve.serving.marks import encoding, marked
from ganserve.serving.model import Model
from ganserve.serving.pictures import Reader
from ganserve.serving.plan import LoopSegment, Plan
from ganserve.serving.results import Result, Results
from ganserve.serving.runner import Flow, Piece, Times
from ganserve.serving.shapes import known_shapes
from ganserve.serving.task import LoadedTask
from ganserve.serving.tiles import Tiling, tiling

SEED = "seed"

COPY_BYTES = 1 << 20
"""How much is copied on the event loop at most: a tenth of a millisecond's work or so, where a thread would take longer to be told."""

T = TypeVar("T")
Given = TypeVarTuple("Given")


class Ask(msgspec.Struct, kw_only=True):
    """What a caller asks of a task. ``values`` and ``tensors`` hold what was given, a sequence of ``rows`` elements each.

    An ask with pictures (:class:`ganserve.codecs.GivenImage`) has one row.
    """

    model: Model
    task: LoadedTask
    rows: int
    values: Mapping[str, Sequence[Any] | np.ndarray]
    tensors: Mapping[str, np.ndarray]
    returns: tuple[str, ...] = ()
    encode: EncodeOptions = EncodeOptions()
    seed: int | None = None
    """What to draw from where the caller gave no seed; None lets each call choose one."""
    draws: bool = True
    """Whether a seed may be chosen at all; else what needs one that was not given is refused."""
    directions: Mapping[str, np.ndarray] = {}
    """How far each row is moved along the task's named directions: float32 [rows]."""
    readers: Mapping[str, Reader] = {}
    """By value, who reads a picture that other asks have too; the others are the call's own."""
    caller: Hashable = None
    deadline: float = math.inf


class Workers(msgspec.Struct, frozen=True):
    """What calls run on: the device's executor, a pool of threads for decoding and encoding, the metrics; how large a picture may be."""

    executor: Executor
    pool: Pool
    metrics: Metrics
    limits: PictureLimits = PictureLimits()
    provenance: bool = True  # whether files say where their pictures come from
    signer: Signer | None = None  # who signs that


class Way:
    """The way from an ask to some of its tensors: planned, and nothing was given in vain; else making one raises :class:`InvalidArgument`.

    ``times`` is added to as its rows are made; ways of one request may share it.
    """

    def __init__(self, ask: Ask, wanted: frozenset[str], workers: Workers, times: Times | None = None) -> None:
        self._ask, self._executor = ask, workers.executor
        values = (*ask.values, SEED) if ask.draws else tuple(ask.values)
        edited = frozenset(ask.task.directions[name].direction.tensor for name in ask.directions)
        self.plan: Plan = ask.model.plan(ask.task.task, frozenset(ask.tensors), values, wanted, edited)
        self._refuse_unused()
        self.seeds = self._choose_seeds()
        self._late: dict[str, LateRows] = {}
        self.times = times or Times()

    def decode(self, have: Container[str]) -> dict[str, np.ndarray]:
        """The tensors that codecs make of the ask's values, but those in ``have``; and how far its latents are moved.

        Rows that may come late are kept for :meth:`flow`, and not among them.

        Raises :class:`InvalidArgument` for values that no codec accepts.
        """
        values: dict[str, Any] = dict(self._ask.values)
        if self.seeds is not None:
            values[SEED] = self.seeds
        task, decoded = self._ask.task, {}
        for name in [source.tensor for source in self.plan.decodes if source.tensor not in have]:
            if name in self.plan.late and name in task.lates:
                self._late[name] = task.lates[name].late(values, self._ask.rows)
            else:
                decoded[name] = task.decoders[name].decode(values, self._ask.rows)
        return decoded | {strengths_name(tensor): self._strengths(tensor) for tensor in self.plan.edits}

    def flow(self, tensors: Mapping[str, np.ndarray], rows: int | None = None) -> Flow:
        """The rows of ``tensors`` on their way: those of the ask, or as many as it was cut into."""
        return Flow(
            self.plan,
            self._executor,
            rows=self._ask.rows if rows is None else rows,
            tensors=tensors,
            seeds=self.seeds,
            times=self.times,
            caller=self._ask.caller,
            late=self._late,
            deadline=self._ask.deadline,
        )

    def _refuse_unused(self) -> None:
        """Nothing that a caller gives is silently ignored."""
        moved = {name: self._ask.task.directions[name].direction.tensor for name in self._ask.directions}
        if (
            self._ask.values.keys() <= self.plan.reads
            and self._ask.tensors.keys() <= self.plan.uses
            and self.plan.edits.issuperset(moved.values())
        ):
            return
        instead = f" because {', '.join(sorted(self._ask.tensors))} was given" if self._ask.tensors else ""
        reads = ", ".join(self._ask.task.task.values()) or "none"
        violations = [
            Violation(name, f"not used{instead}; task {self._ask.task.task.name!r} reads {reads}")
            for name in self._ask.values
            if name not in self.plan.reads
        ]
        violations += [
            Violation(f"tensors[{name}]", "not used: the result does not depend on it")
            for name in self._ask.tensors
            if name not in self.plan.uses
        ]
        violations += [
            Violation(
                f"directions[{name}]", f"not used{instead}: it moves {tensor!r}, on which the result does not depend"
            )
            for name, tensor in moved.items()
            if tensor not in self.plan.edits
        ]
        raise InvalidArgument(violations)

    def _choose_seeds(self) -> np.ndarray | None:
        if SEED not in self.plan.reads:
            return None
        if SEED in self._ask.values:
            return np.asarray(self._ask.values[SEED], np.uint64)
        if not self._ask.draws:
            if any(isinstance(segment, LoopSegment) and segment.loop.noise for segment in self.plan.segments):
                raise InvalidArgument.of(SEED, f"is missing: task {self._ask.task.task.name!r} draws noise on the way")
            return None
        # 32 bits: enough that nobody meets another's images, short enough to type again.
        seeds = np.empty((self._ask.rows, 2), np.uint64)
        seeds[:, 0] = secrets.randbits(32) if self._ask.seed is None else self._ask.seed
        seeds[:, 1] = np.arange(self._ask.rows)
        return seeds

    def _strengths(self, tensor: str) -> np.ndarray:
        """How far each row is moved along each of the directions of ``tensor``: [rows, directions]."""
        unmoved = np.zeros(self._ask.rows, np.float32)
        return np.stack([self._ask.directions.get(name, unmoved) for name in self._ask.task.moves(tensor)], axis=1)


async def in_lane(task: LoadedTask, work: Callable[[], T]) -> T:
    """What ``work`` makes, which decodes values of ``task``: in the thread that is there for it, where prompts may be among them."""
    return work() if task.lane is None else await asyncio.get_running_loop().run_in_executor(task.lane, work)


class Call:
    """An :class:`Ask` that has been checked. Making one raises :class:`InvalidArgument`; nothing has been computed then."""

    def __init__(self, ask: Ask, workers: Workers, times: Times | None = None) -> None:
        self._ask, self._workers = ask, workers
        self.rows = ask.rows
        self._encoder: Encoder = ask.task.encoder
        self._options = encoding(ask, workers)
        self._output = ask.task.task.output.tensor
        self._way = Way(ask, frozenset((self._output, *ask.returns)), workers, times)
        self.plan, self.seeds = self._way.plan, self._way.seeds
        self.frames: dict[str, Frame] = {}
        self.decode_seconds = 0.0
        self.encode_seconds = 0.0
        self._unread = [source.tensor for source in self.plan.decodes if source.tensor in ask.task.pictures]
        self._tensors: dict[str, np.ndarray] = dict(ask.tensors)
        self._reader = Reader(workers)
        self._decoded: dict[str, np.ndarray] | None = None
        self._tiles: Tiling | None = None
        self._whole: dict[str, np.ndarray] = {}
        self._started = time.monotonic()

    async def read(self) -> None:
        """Decode the pictures, off the event loop; afterwards ``frames`` tells of each, by its name. Close the call then.

        Raises :class:`QueueFull` before anything is decoded, :class:`InvalidArgument` for a picture that is none or does not fit.
        """
        self._workers.executor.check_room(self._ask.rows)
        if not self._unread:
            return
        started = time.monotonic()
        pictures = await asyncio.gather(*[self._picture(name) for name in self._unread])
        self.decode_seconds += self._way.times.took("decode", started, time.monotonic())
        for name, picture in zip(self._unread, pictures, strict=True):
            self._tensors[name] = picture.pixels[None]
            self.frames[self._ask.task.pictures[name].value] = picture.frame
        self._unread = []

    def decode(self) -> dict[str, np.ndarray]:
        """What codecs make of the values; :class:`InvalidArgument` for those that none accepts. Once: :meth:`results` asks again.

        Where the task reads prompts, this is work for its lane.
        """
        if self._decoded is None:
            started = time.monotonic()
            self._decoded = self._way.decode(self._tensors)
            self._way.times.took("decode", started, time.monotonic())
        return self._decoded

    def give(self, tensor: str, rows: np.ndarray) -> None:
        """Put ``rows`` in the place of a tensor of the ask whose shape alone was known when the call was made."""
        self._tensors[tensor] = rows

    def close(self) -> None:
        """Give back the room of its pictures."""
        self._reader.close()

    def most_reply_bytes(self) -> int | None:
        """An upper bound of what all rows take in a reply; None where a size is known only afterwards."""
        names = (self._output, *self._ask.returns)
        shapes = self._ask.task.fixed
        if not shapes.keys() >= set(names):
            shapes = {**shapes, **self._known_shapes()}
            if not shapes.keys() >= set(names):
                return None
        row = 64 + self._encoder.most_bytes(self._shape_put_back(shapes[self._output]), self._options)
        for name in self._ask.returns:
            numbers = math.prod(shapes[name]) * np.dtype(self._ask.task.tensors[name].dtype).itemsize
            row += 64 + len(name) + 10 * len(shapes[name]) + numbers
        told = (self._ask.model.name, *self.plan.engines, *self.frames)
        return 512 + sum(map(len, told)) + 64 * len(told) + self._ask.rows * row

    @property
    def engines(self) -> tuple[str, ...]:
        """The engine of each graph that runs, in order."""
        return self.plan.engines

    @property
    def bit_exact(self) -> bool:
        """Whether the same call gives the same bits next time."""
        return self.plan.bit_exact

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds spent so far: decoding pictures (where there are any), in the queue, on the engine, encoding, and in all."""
        total, times = time.monotonic() - self._started, self._way.times
        told = {"queue": times.queue, "engine": times.engine, "encode": self.encode_seconds, "total": total}
        return {"decode": self.decode_seconds} | told if self.frames else told

    def results(self) -> Results:
        """The rows in order, each as soon as it and those before it are there. Close it when the caller goes.

        Raises :class:`QueueFull` before anything is decoded, :class:`InvalidArgument` for values that no codec accepts.
        """
        return Results(self)

    async def _begin(self) -> Flow:
        if self._unread:
            await self.read()
        self._workers.executor.check_room(self._ask.rows)
        if self._tensors:
            self._known_shapes()
        decoded = self._decoded
        if decoded is None:
            decoded = await in_lane(self._ask.task, self.decode)
        self._whole = {**self._tensors, **decoded}
        names = (self._output, *self._ask.returns)
        self._tiles = tiling(self._ask.task, self.plan, self._whole, names, self._fields())
        if self._tiles is None:
            return self._way.flow(self._whole)
        rows = await self._in_pool(self._tiles.rows, self._whole)
        return self._way.flow(rows, self._tiles.grid.tiles)

    async def _finish(self, made: Piece) -> list[Result]:
        """The results that are there with ``made``."""
        piece = made if self._tiles is None else await self._in_pool(self._tiles.add, made, self._whole)
        return [] if piece is None else await self._encode(piece)

    def _done(self) -> None:
        manifest = self._ask.model.manifest
        self._workers.metrics.observe_call(manifest.name, manifest.version, self._ask.rows, self.seconds)

    async def _in_pool(self, work: Callable[[*Given], T], *given: *Given) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._workers.pool, work, *given)

    async def _encode(self, piece: Piece) -> list[Result]:
        started = time.monotonic()
        is_small = piece.tensors[self._output].nbytes <= COPY_BYTES
        if is_small and self._encoder.cheap(self._options) and not self.frames:
            media = self._encode_rows(piece)
        else:
            media = await self._in_pool(self._encode_rows, piece)
        self.encode_seconds += self._way.times.took("encode", started, time.monotonic())
        self._count(piece, media)
        returns = self._ask.returns
        return [
            Result(int(row), one, {name: piece.tensors[name][position] for name in returns})
            for position, (row, one) in enumerate(zip(piece.rows, media, strict=True))
        ]

    def _encode_rows(self, piece: Piece) -> list[Media]:
        metrics = self._workers.metrics
        observe = metrics.child(metrics.encode_time, self._options.format).observe
        frame = self._frame()
        made = []
        for number, row in zip(piece.rows, piece.tensors[self._output], strict=True):
            started = time.monotonic()
            options = marked(self._options, self._ask, self.seeds, number)
            made.append(self._encoder.encode(row if frame is None else put_back(row, frame), options))
            observe(time.monotonic() - started)
        return made

    def _count(self, piece: Piece, media: Sequence[Media]) -> None:
        model, metrics = self._ask.model.name, self._workers.metrics
        metrics.child(metrics.images, model).inc(len(media))
        pixels = sum(one.attributes.get("width", 0) * one.attributes.get("height", 0) for one in media)
        metrics.child(metrics.pixels, model).inc(pixels)

    def _picture(self, name: str) -> asyncio.Future[Picture]:
        decoder = self._ask.task.pictures[name]
        (given,) = self._ask.values[decoder.value]
        return self._ask.readers.get(decoder.value, self._reader).read(self._ask.task.tensors[name], decoder, given)

    def _fields(self) -> dict[str, str]:
        """What each tensor with a given size is called in a request."""
        pictures = self._ask.task.pictures
        return {name: f"tensors[{name}]" for name in self._ask.tensors} | {
            name: f"images[{decoder.value}]" for name, decoder in pictures.items() if decoder.value in self.frames
        }

    def _known_shapes(self) -> dict[str, tuple[int, ...]]:
        given = {name: array.shape[1:] for name, array in self._tensors.items()}
        return known_shapes(self.plan, given, self._fields())

    def _frame(self) -> Frame | None:
        """How the result is put back; None where it stays as it is made."""
        task = self._ask.task
        if not self.frames or not task.makes_images or task.ruling is None:
            return None
        return self.frames.get(task.pictures[task.ruling].value)

    def _shape_put_back(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """What :func:`put_back` makes of a result of ``shape``."""
        frame = self._frame()
        if frame is None:
            return shape
        if frame.size is not None:
            return (frame.size[1], frame.size[0], *shape[2:])
        if not frame.cut:
            return shape
        # At most: a cut to a box that is scaled along may round up.
        left, top, right, bottom = frame.box
        width, height = frame.canvas
        return (-(-(bottom - top) * shape[0] // height), -(-(right - left) * shape[1] // width), *shape[2:])
