"""Images of composed latents: points of a latent space → what is composed of them (a walk, mixtures, a sum) → images.

The points of a request are rows that go through the task as far as the latent, and the composed latents are rows that enter the
task there. Both are batched, bounded and dropped like any others.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, TypeAlias

import msgspec
import numpy as np

from ganserve.errors import InvalidArgument, Violation
from ganserve.serving.call import SEED, Ask, Call, Way, Workers, in_lane
from ganserve.serving.results import Result
from ganserve.serving.runner import Flow, Times
from ganserve.serving.task import LoadedTask
from ganserve.serving.told import told_by

Field: TypeAlias = Callable[[str], str]
"""Makes the field of a request of what the inside calls a value or tensor."""


class Source(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Where a point comes from: ``values`` to make it with (the seed among them, as a pair), or the latent itself, one row without its axis.

    It is then moved along ``directions``. ``field`` names its parts in the request.
    """

    values: Mapping[str, Any] = {}
    tensor: np.ndarray | None = None
    directions: Mapping[str, float] = {}
    field: Field


class _Group(msgspec.Struct, frozen=True, eq=False):
    """Points that need the same steps: their places among all, the way to the latent, and the tensors that were given for it."""

    places: Sequence[int]
    way: Way
    tensors: Mapping[str, np.ndarray]

    def decoded(self) -> dict[str, np.ndarray]:
        """The tensors that the way starts from."""
        return {**self.tensors, **self.way.decode(self.tensors)}


class Points:
    """Points of the latent ``tensor``. :meth:`decode` raises :class:`InvalidArgument` about each that cannot be; nothing has been computed then.

    ``ask`` is that of the images, for the same model and task: the points are its caller's. ``times`` is added to as they are made.
    """

    def __init__(
        self, ask: Ask, tensor: str, sources: Sequence[Source], workers: Workers, times: Times | None = None
    ) -> None:
        self._ask, self._tensor, self._sources, self._workers = ask, tensor, sources, workers
        self._times = times
        self._tensors: list[dict[str, np.ndarray]] | None = None
        kinds: dict[tuple[bool, frozenset[str]], list[int]] = {}
        for place, source in enumerate(sources):
            kinds.setdefault((source.tensor is None, frozenset(source.values)), []).append(place)
        wrong: list[Violation] = []
        self._groups: list[_Group] = []
        for places in kinds.values():
            try:
                self._groups.append(self._group(places))
            except InvalidArgument as error:
                wrong += error.violations
        if wrong:
            raise InvalidArgument(wrong)

    def decode(self) -> list[dict[str, np.ndarray]]:
        """What codecs make of the values of each group. Once: :meth:`rows` asks again. Work for the lane of the task, if it has one."""
        if self._tensors is None:
            wrong: list[Violation] = []
            tensors = []
            for group in self._groups:
                try:
                    with told_by(partial(self._field, group.places)):
                        tensors.append(group.decoded())
                except InvalidArgument as error:
                    wrong += error.violations
            if wrong:
                raise InvalidArgument(wrong)
            self._tensors = tensors
        return self._tensors

    def __len__(self) -> int:
        return len(self._sources)

    @property
    def engines(self) -> tuple[str, ...]:
        """The engine of each graph on the longest way to a point."""
        return max((group.way.plan.engines for group in self._groups), key=len)

    @property
    def bit_exact(self) -> bool:
        """Whether the same points are the same bits next time."""
        return all(group.way.plan.bit_exact for group in self._groups)

    async def rows(self) -> np.ndarray:
        """The latents ``[points, ...]``, made once; what still waits is dropped when the caller goes. Raises what :meth:`decode` does."""
        tensors = self._tensors
        if tensors is None:
            tensors = await in_lane(self._ask.task, self.decode)
        rows = np.empty((len(self), *latent_shape(self._ask.task, self._tensor)), np.float32)
        with ExitStack() as stack:
            flows: list[tuple[_Group, Flow]] = []
            for group, given in zip(self._groups, tensors, strict=True):
                flow = group.way.flow(given)
                stack.callback(flow.cancel)
                with told_by(partial(self._field, group.places)):
                    flow.pieces()
                flows.append((group, flow))
            for group, flow in flows:
                with told_by(partial(self._field, group.places)):
                    async for piece in flow:
                        rows[[group.places[row] for row in piece.rows.tolist()]] = piece.tensors[self._tensor]
        return rows

    def _group(self, places: list[int]) -> _Group:
        sources = [self._sources[place] for place in places]
        values: dict[str, Any] = {name: [source.values[name] for source in sources] for name in sources[0].values}
        if SEED in values:
            values[SEED] = np.array(values[SEED], np.uint64)
        given = [source.tensor for source in sources if source.tensor is not None]
        names = dict.fromkeys(name for source in sources for name in source.directions)
        ask = Ask(
            model=self._ask.model,
            task=self._ask.task,
            rows=len(places),
            values=values,
            tensors={self._tensor: np.stack(given)} if given else {},
            draws=False,
            directions={
                name: np.array([source.directions.get(name, 0.0) for source in sources], np.float32) for name in names
            },
            caller=self._ask.caller,
            deadline=self._ask.deadline,
        )
        with told_by(partial(self._field, places)):
            way = Way(ask, frozenset((self._tensor,)), self._workers, self._times)
            return _Group(places, way, ask.tensors)

    def _field(self, places: Sequence[int], name: str) -> str:
        """The field for what a group calls ``name``: of the row that it names, else of the first source that it is true of."""
        base, _, key = name.partition("[")
        key = key.rstrip("]")
        if base == "directions":
            place = next(place for place in places if key in self._sources[place].directions)
            return self._sources[place].field(name)
        row = int(key) if key.isdecimal() else 0
        return self._sources[places[row]].field(name if base == "tensors" else base)


class Composition:
    """Images of what ``compose`` makes of some points, one for each row of ``ask``. Making and decoding it computes nothing.

    ``ask`` says how they are made; ``field`` names its parts in the request. Both raise :class:`InvalidArgument`.
    """

    def __init__(
        self,
        ask: Ask,
        tensor: str,
        sources: Sequence[Source],
        compose: Callable[[np.ndarray], np.ndarray],
        field: Field,
        workers: Workers,
    ) -> None:
        self._rows, self._tensor, self._compose, self._field, self._workers = ask.rows, tensor, compose, field, workers
        times = Times()
        self._points = Points(ask, tensor, sources, workers, times)
        unknown = np.broadcast_to(np.float32(0), (ask.rows, *latent_shape(ask.task, tensor)))
        ask.tensors = {**ask.tensors, tensor: unknown}
        with told_by(field):
            self._call = Call(ask, workers, times)

    def decode(self) -> None:
        """Decode all values, those of the points and those of the images. Work for the lane of the task, if it has one."""
        self._points.decode()
        with told_by(self._field):
            self._call.decode()

    @property
    def engines(self) -> tuple[str, ...]:
        """The engine of each graph that runs, in order."""
        return (*self._points.engines, *self._call.engines)

    @property
    def bit_exact(self) -> bool:
        """Whether the same request gives the same bits next time."""
        return self._points.bit_exact and self._call.bit_exact

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds spent so far, those of the points with those of the images."""
        return self._call.seconds

    def most_reply_bytes(self) -> int | None:
        """An upper bound of what all images take in a reply; None where a size is known only afterwards."""
        return self._call.most_reply_bytes()

    async def results(self) -> AsyncGenerator[Result]:
        """The images in order, each as soon as it and those before it are there. Close it when the caller goes."""
        self._workers.executor.check_room(max(self._rows, len(self._points)))
        points = await self._points.rows()
        in_thread = asyncio.get_running_loop().run_in_executor(self._workers.pool, self._compose, points)
        with told_by(self._field):
            self._call.give(self._tensor, await in_thread)
            with closing(self._call.results()) as results:
                async for result in results:
                    yield result


def latent_shape(task: LoadedTask, tensor: str) -> tuple[int, ...]:
    """The shape of one row of the latent ``tensor``, which is fixed."""
    return tuple(size for size in task.tensors[tensor].shape if isinstance(size, int))
