"""Inversion: the search for the latent from which a model makes a given picture. Where it starts, what it tells, when it ends.

A search is up to three flows of one request: rows are carried to where it may start; of several samples each takes one step, and
the one with the least loss is the start; from there the loop runs. Its steps are rows like any others, batched with those of other
searches and run between other calls.
"""

import asyncio
import math
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar, TypeVarTuple

import msgspec
import numpy as np

from ganserve.codecs import Frame, Media
from ganserve.errors import InvalidArgument, Violation
from ganserve.quality import Quality, quality_of
from ganserve.serving.access import charge
from ganserve.serving.call import SEED, Ask, Way, Workers, in_lane
from ganserve.serving.jobs import Arrays
from ganserve.serving.lookout import Lookout, Progress
from ganserve.serving.marks import encoding
from ganserve.serving.pictures import Reader
from ganserve.serving.plan import LoopSegment, Plan
from ganserve.serving.runner import Flow, Watch
from ganserve.serving.task import LoadedTask

Start: TypeAlias = Literal["average", "samples", "encoder", "given"]

PICTURE = "image"
"""The request value that is inverted."""

MOST_STEPS = 10_000
"""The most steps of a search, unless the server is told otherwise."""

SAMPLES = 16
"""How many samples are tried by default."""

_PREFERRED: Sequence[Literal["encoder", "samples", "average"]] = ("encoder", "samples", "average")

T = TypeVar("T")
Given = TypeVarTuple("Given")


class InvertAsk(Ask, kw_only=True):
    """What a caller asks of a task of kind ``invert``: one row, whose values hold the picture, and how to seek."""

    start: Start | None = None
    """Where the search starts; None is the first of encoder, samples and average that the task has."""
    samples: int | None = None
    """How many samples are tried, if it starts from the best of them; None is :data:`SAMPLES`."""
    latent: np.ndarray | None = None
    """The start, if it is ``given``: float32 of the latent's shape."""
    seconds: float = math.inf
    """After about how long the search ends with the best so far."""
    every: int = 0
    """Progress is told every so many steps; 0 tells none."""
    previews: bool = False
    """Whether progress carries the picture of the moment."""
    latents: bool = False
    """Whether progress carries the best latent so far."""


class Bounds(msgspec.Struct, frozen=True):
    """What a server gives a search: the most steps, and ``ends()``, the time of the executor's clock before which it is over."""

    steps: int = MOST_STEPS
    ends: Callable[[], float] = lambda: math.inf


UNBOUND = Bounds()


class Found(msgspec.Struct, frozen=True, eq=False):
    """The end of a search: the best latent, its loss, its picture, and how near that is to the target."""

    latent: np.ndarray
    loss: float
    media: Media
    quality: Quality
    perceptual: float | None


class Search:
    """An :class:`InvertAsk` that has been checked. Making one raises :class:`InvalidArgument`; nothing has been computed then.

    ``start`` is where it starts, ``pair`` the (seed, index) that this was drawn from, if it was; ``frame`` tells of the picture once
    it has been read.
    """

    def __init__(self, ask: InvertAsk, workers: Workers, bounds: Bounds = UNBOUND) -> None:
        self._ask, self._workers, self._max_steps = ask, workers, bounds.steps
        self._clock = workers.executor.clock
        self._came = self._clock()
        task, metrics = ask.task.task, workers.metrics
        assert task.inversion is not None, "a task of kind invert has one"
        self._inversion = task.inversion
        self._options = encoding(ask, workers)
        self.start = _start_of(ask)
        self._rows = (ask.samples or SAMPLES) if self.start == "samples" else 1
        self._values = _values_of(ask, self._rows)
        self._begin = self._given()
        self._ends = (task.output.tensor, self._inversion.latent, self._inversion.loss)
        self._seeking = self._way({self._inversion.start: self._begin}, self._ends)
        self._starting = None if self.start == "given" else self._way({}, (self._inversion.starts[self.start],))
        self._refuse_unused()
        self._loop = next(
            place for place, one in enumerate(self._seeking.plan.segments) if isinstance(one, LoopSegment)
        )
        self._counter = metrics.child(metrics.inversion_steps, ask.model.name)
        self._lookout = Lookout(ask, self._clock, self._counter.inc, bounds.ends)
        self._reader = Reader(workers)
        self._admitted = False
        self._decode_seconds = self._encode_seconds = 0.0
        self.frame: Frame | None = None
        self.pair: tuple[int, int] | None = None

    @property
    def latent(self) -> str:
        """What the latent is called."""
        return self._inversion.latent

    @property
    def steps(self) -> int:
        """Steps done."""
        return self._lookout.steps

    @property
    def stopped_early(self) -> bool:
        """Whether its time ran out, or its server's, before its steps were done."""
        return self._lookout.stopped_early

    @property
    def engines(self) -> Sequence[str]:
        """The engine of each graph that runs, in order."""
        return [engine for way in self._ways() for engine in way.plan.engines]

    @property
    def bit_exact(self) -> bool:
        """Whether the same request gives the same bits next time, unless time ends it."""
        return all(way.plan.bit_exact for way in self._ways())

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds spent so far: decoding the picture, in the queue, on the engine, encoding, and in all."""
        return {
            "decode": self._decode_seconds,
            "queue": sum(way.times.queue for way in self._ways()),
            "engine": sum(way.times.engine for way in self._ways()),
            "encode": self._encode_seconds,
            "total": self._clock() - self._came,
        }

    async def messages(self) -> AsyncGenerator[Progress | Found]:
        """Progress as it comes, the newest where the reader is slow, and what was found at the end. Close it when the caller goes.

        Raises :class:`QueueFull` before anything is decoded, :class:`InvalidArgument` for values that no codec accepts.
        """
        told, news = self._lookout.told, self._lookout.news
        running = asyncio.ensure_future(self._run())
        running.add_done_callback(lambda _: news.set())
        try:
            over = False
            while not over:
                await news.wait()
                news.clear()
                over = running.done()
                while told:
                    yield await self._shown(*told.popleft())
            yield running.result()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            self._reader.close()

    async def _run(self) -> Found:
        self._workers.executor.check_room(self._rows)
        target = await self._read()
        have = {name: np.broadcast_to(target, (self._rows, *target.shape)) for name in self._ask.task.pictures}
        # All is decoded before anything is computed, so that what is refused has cost nothing.
        before, tensors = await in_lane(self._ask.task, partial(self._decode, have))
        loop = self._seeking.plan.segments[self._loop]
        assert isinstance(loop, LoopSegment)
        steps = int(loop.limits(tensors, self._rows)[0])
        if steps > self._max_steps:
            raise InvalidArgument.of("steps", f"{steps}; this server takes at most {self._max_steps} steps of a search")
        charge(steps + self._rows)
        if self._starting is not None and self.start != "given":
            name = self._inversion.starts[self.start]
            found = await self._carry(self._starting, before, (name,))
            tensors[self._inversion.start] = found[name]
        row = await self._best(tensors) if self._rows > 1 else 0
        if self._is_drawn():
            seed, index = self._values[SEED][row]
            self.pair = int(seed), int(index)
        one = {name: array[row : row + 1].copy() for name, array in tensors.items()}
        watch = self._lookout.begin(loop, steps, target.size)
        found = await self._carry(self._seeking, one, self._ends, row=row, watch=watch)
        return await self._compare(target, *(found[name][0] for name in self._ends))

    def _decode(self, have: Arrays) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The tensors of the way to where it starts, and of the search."""
        before = {} if self._starting is None else {**have, **self._starting.decode(have)}
        return before, {**have, **self._seeking.decode(have), self._inversion.start: self._begin}

    async def _read(self) -> np.ndarray:
        """The target as the model sees it, uint8 [H, W, C]."""
        started = self._clock()
        (name,) = (name for name, decoder in self._ask.task.pictures.items() if decoder.value == PICTURE)
        (given,) = self._ask.values[PICTURE]
        task = self._ask.task
        picture = await self._reader.read(task.tensors[name], task.pictures[name], given)
        self.frame = picture.frame
        self._decode_seconds = self._seeking.times.took("decode", started, self._clock())
        return picture.pixels

    async def _best(self, tensors: Arrays) -> int:
        """The row of ``tensors`` whose start has the least loss, which one step tells."""

        def ends(rows: np.ndarray, runs: np.ndarray, outputs: Arrays) -> np.ndarray:
            self._counter.inc(len(rows))
            return np.ones(len(rows), bool)

        # With the search's own stage, so that the rows of both meet in batches.
        plan = msgspec.structs.replace(self._seeking.plan, segments=self._seeking.plan.segments[: self._loop + 1])
        loss = self._inversion.loss
        losses = (await self._carry(self._seeking, tensors, (loss,), plan=plan, watch=ends))[loss]
        return int(np.argmin(np.where(np.isnan(losses), np.inf, losses)))

    async def _carry(
        self,
        way: Way,
        tensors: Arrays,
        names: Sequence[str],
        *,
        plan: Plan | None = None,
        row: int | None = None,
        watch: Watch | None = None,
    ) -> dict[str, np.ndarray]:
        """The tensors ``names`` that ``way`` makes of all its rows, or of the ``row`` alone that ``tensors`` are of."""
        plan, rows = plan or way.plan, self._rows if row is None else 1
        flow = Flow(
            plan,
            self._workers.executor,
            rows=rows,
            tensors=tensors,
            seeds=way.seeds if row is None or way.seeds is None else way.seeds[row : row + 1],
            times=way.times,
            caller=self._ask.caller,
            deadline=self._ask.deadline,
            watch=watch,
            admitted=self._admitted,
        )
        try:
            pieces = [piece async for piece in flow.pieces()]
        finally:
            flow.cancel()
        # A start that a codec makes has put no row in the queue.
        self._admitted = self._admitted or bool(plan.segments)
        order = np.argsort(np.concatenate([piece.rows for piece in pieces]))
        return {name: np.concatenate([piece.tensors[name] for piece in pieces])[order] for name in names}

    async def _compare(self, target: np.ndarray, picture: np.ndarray, latent: np.ndarray, loss: np.ndarray) -> Found:
        def work() -> tuple[Media, Quality]:
            return self._encode(picture), quality_of(picture, target)

        started = self._clock()
        media, quality = await self._in_pool(work)
        self._encode_seconds += self._seeking.times.took("encode", started, self._clock())
        metrics, model = self._workers.metrics, self._ask.model.name
        metrics.child(metrics.images, model).inc()
        metrics.child(metrics.pixels, model).inc(picture.shape[0] * picture.shape[1])
        metrics.observe_call(model, self._ask.model.manifest.version, 1, self.seconds)
        return Found(latent, float(loss), media, quality, self._lookout.perceptual)

    async def _shown(self, progress: Progress, preview: np.ndarray | None) -> Progress:
        """``progress`` with its picture."""
        if preview is None:
            return progress
        started = self._clock()
        media = await self._in_pool(self._encode, preview)
        self._encode_seconds += self._seeking.times.took("encode", started, self._clock())
        return msgspec.structs.replace(progress, preview=media)

    def _encode(self, picture: np.ndarray) -> Media:
        metrics = self._workers.metrics
        started = time.monotonic()
        media = self._ask.task.encoder.encode(picture, self._options)
        metrics.child(metrics.encode_time, self._options.format).observe(time.monotonic() - started)
        return media

    async def _in_pool(self, work: Callable[[*Given], T], *given: *Given) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._workers.pool, work, *given)

    def _way(self, tensors: Mapping[str, np.ndarray], wanted: Sequence[str]) -> Way:
        """The way to ``wanted``, with those of the ask's values that it reads."""
        ask, names = self._ask, frozenset(wanted)
        reads = ask.model.plan(ask.task.task, frozenset(tensors), self._values, names).reads
        values = {name: value for name, value in self._values.items() if name in reads}
        some = msgspec.structs.replace(ask, rows=self._rows, values=values, tensors=tensors)
        return Way(some, names, self._workers)

    def _ways(self) -> Sequence[Way]:
        return [self._seeking] if self._starting is None else [self._starting, self._seeking]

    def _given(self) -> np.ndarray:
        """The latent given for every row; until it is made, any of its shape."""
        shape = tuple(int(size) for size in self._ask.task.tensors[self._inversion.start].shape)
        latent = np.zeros(shape, np.float32) if self._ask.latent is None else self._ask.latent
        return np.broadcast_to(latent, (self._rows, *shape))

    def _is_drawn(self) -> bool:
        """Whether the result depends on the seed. The mean latent does not, though a graph that makes it may read noise too."""
        ways = [self._seeking] if self.start == "average" else self._ways()
        return any(SEED in way.plan.reads for way in ways)

    def _refuse_unused(self) -> None:
        """Nothing that a caller gives is silently ignored."""
        reads = frozenset[str]().union(*(way.plan.reads for way in self._ways()))
        if not self._is_drawn():
            reads -= {SEED}
        known = ", ".join(name for name in self._ask.task.task.values()) or "none"
        if wrong := [name for name in self._ask.values if name not in reads]:
            because = f"not used by a search from start {self.start}; task {self._ask.task.task.name!r} reads {known}"
            raise InvalidArgument([Violation(name, because) for name in wrong])


def starts_of(task: LoadedTask) -> Sequence[Start]:
    """Where a search of ``task`` may start, the best first; none for a task of another kind."""
    inversion = task.task.inversion
    return [] if inversion is None else [start for start in _PREFERRED if start in inversion.starts]


def _start_of(ask: InvertAsk) -> Start:
    """Where ``ask`` starts; :class:`InvalidArgument` for a start that the task has not, and for what another start would need."""
    name, has = ask.task.task.name, starts_of(ask.task)
    if ask.start is None and not has:
        raise InvalidArgument.of("start", f"task {name!r} has none of its own; give a latent, from which to start")
    start = ask.start or has[0]
    if start != "given" and start not in has:
        raise InvalidArgument.of("start", f"task {name!r} has no {start}; it starts from {', '.join((*has, 'given'))}")
    if start == "given" and ask.latent is None:
        raise InvalidArgument.of("latent", "missing: it is where a search from start given starts")
    for other, field, value in (("given", "latent", ask.latent), ("samples", "samples", ask.samples)):
        if value is not None and start != other:
            raise InvalidArgument.of(field, f"not used by a search from start {start}; it is for start {other}")
    return start


def _values_of(ask: InvertAsk, rows: int) -> dict[str, Any]:
    """The values of ``ask`` for each of ``rows``, and what these are drawn from: (seed, 0), (seed, 1) ..."""
    values: dict[str, Any] = {name: [*value] * rows for name, value in ask.values.items()}
    # 32 bits: enough that nobody meets another's samples, short enough to type again.
    seed = int(ask.values[SEED][0][0]) if SEED in ask.values else secrets.randbits(32)
    return {**values, SEED: np.array([(seed, index) for index in range(rows)], np.uint64)}
