"""Which steps of a task one kind of request needs, as stages, loops and edits in order.

Requests that give the same tensors and values and want the same tensors share one :class:`Plan`, and with it the stages in
which their rows meet.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import msgspec
import numpy as np

from ganserve.codecs.seeds import draw
from ganserve.errors import InvalidArgument
from ganserve.serving.edits import EditSegment
from ganserve.serving.jobs import Arrays
from ganserve.serving.stage import GraphRun, LoadedGraph, Stage
from ganserve.spec import Graph, Input, Loop, Noise, Step, Task


class LoopSegment(msgspec.Struct, frozen=True, eq=False):
    """A loop: one stage that each row passes again and again, with the row's own count of runs.

    ``outputs`` are the graph's outputs that the loop makes tensors of, with those tensors' names.
    """

    loop: Loop
    stage: Stage
    graph: Graph
    outputs: Mapping[str, str]

    def start(self, tensors: Arrays, rows: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The stage's first feeds for ``rows`` rows, and each row's number of runs."""
        feeds = {port: tensors[name] for port, name in self.loop.reads(self.graph).items()}
        return feeds, self.limits(tensors, rows)

    def feeds(self, feeds: Arrays, counters: np.ndarray, limits: np.ndarray, seeds: np.ndarray | None) -> Arrays:
        """``feeds`` with what the loop itself provides: counter, limit and fresh noise."""
        own: dict[str, np.ndarray] = dict(feeds)
        if self.loop.counter is not None:
            own[self.loop.counter] = counters
        if self.loop.limit is not None:
            own[self.loop.limit] = limits
        for port, noise in self.loop.noise.items():
            assert seeds is not None, "a plan with loop noise reads the seed"
            own[port] = _draw_steps(noise, seeds, self.graph.input(port).shape, counters)
        return own

    def finished(self, outputs: Arrays, counters: np.ndarray, limits: np.ndarray) -> np.ndarray:
        """Which rows have ended, after the run numbered ``counters``."""
        over = counters + 1 >= limits
        return over if self.loop.done is None else over | outputs[self.loop.done]

    def limits(self, tensors: Arrays, rows: int) -> np.ndarray:
        """Each row's number of runs, int64 ``[rows]``; :class:`InvalidArgument` for one that is out of range."""
        loop = self.loop
        if isinstance(loop.steps, int):
            return np.full(rows, loop.steps, np.int64)
        limits = tensors[loop.steps]
        if wrong := [int(limit) for limit in limits if not 1 <= limit <= loop.max_steps]:
            raise InvalidArgument.of(loop.steps, f"{wrong[0]} steps asked for; expected 1 to {loop.max_steps}")
        return limits


Segment: TypeAlias = Stage | LoopSegment | EditSegment


class Plan(msgspec.Struct, frozen=True, eq=False):
    """What one kind of request needs: inputs to decode, then segments in order.

    ``reads`` are the request values that are used, ``uses`` the tensors given that are, ``edits`` those edited. ``engines`` names the
    engine of each graph on the way; ``bit_exact`` says whether all of them give the same bits whatever the batch. ``late`` are the
    tensors to decode that nothing but stages reads, so that their rows need not be there before they run.
    """

    decodes: tuple[Input, ...]
    segments: tuple[Segment, ...]
    reads: frozenset[str]
    uses: frozenset[str]
    engines: tuple[str, ...]
    bit_exact: bool
    edits: frozenset[str] = frozenset()
    late: frozenset[str] = frozenset()


def decodable(task: Task, values: Container[str]) -> frozenset[str]:
    """The tensors of ``task`` that codecs can make when a request carries ``values``."""
    return frozenset(
        source.tensor for source in task.inputs if source.optional or any(name in values for name in source.reads)
    )


def make_plan(
    task: Task,
    graphs: Mapping[str, LoadedGraph],
    *,
    model: str,
    max_rows: int,
    given: frozenset[str],
    decodable: frozenset[str],
    wanted: frozenset[str],
    needless: Container[tuple[str, str]] = (),
    max_pixels: Mapping[str, int] = MappingProxyType({}),
    edits: Mapping[str, EditSegment] = MappingProxyType({}),
) -> Plan:
    """The plan for a request that gives the tensors ``given``, and values to decode ``decodable`` from, and wants ``wanted``.

    ``needless`` are (input, request value) that are not read beside others. ``max_pixels`` bounds the pictures of a batch, by tensor. Of ``edits``, by the tensor that each changes, those are made whose tensor
    is on the way; all that reads it, the request too, gets what the edit made of it. Raises :class:`InvalidArgument` where a wanted tensor cannot be made from what is given, naming what is missing.
    """
    search = _Search(task, graphs, given, decodable)
    for name in sorted(wanted):
        search.make(name)
    decodes = tuple(source for source in task.inputs if source.tensor in search.decodes)
    reads = {name for source in decodes for name in source.reads if (source.tensor, name) not in needless}
    if any(isinstance(step, Loop) and step.noise for step in search.steps):
        reads.add("seed")
    ways = [graphs[step.graph] for step in search.steps]
    edits = {name: edit for name, edit in edits.items() if name in search.uses | search.decodes | search.origin.keys()}
    segments = tuple(_segments(search.steps, graphs, model, max_rows, max_pixels, wanted, search.origin, edits))
    return Plan(
        decodes=decodes,
        segments=segments,
        reads=frozenset(reads),
        uses=frozenset(search.uses),
        engines=tuple(loaded.engine for loaded in ways),
        bit_exact=all(loaded.session.batch_invariant for loaded in ways),
        edits=frozenset(edits),
        late=frozenset(search.decodes - wanted).difference(*map(_reads_at_once, segments)),
    )


class _Search:
    """Walks back from wanted tensors to what is given. Where two steps make one tensor, the first that can run wins.

    ``steps`` are those chosen, each after the ones it needs; ``origin`` says which of them makes a tensor. A ``trail`` holds
    the tensors whose making is under way: none of them can be had for it.
    """

    def __init__(
        self, task: Task, graphs: Mapping[str, LoadedGraph], given: frozenset[str], decodable: frozenset[str]
    ) -> None:
        self.task, self.graphs, self.given, self.decodable = task, graphs, given, decodable
        self.steps: list[Step | Loop] = []
        self.decodes: set[str] = set()
        self.uses: set[str] = set()
        self.origin: dict[str, int] = {}

    def make(self, name: str, trail: tuple[str, ...] = ()) -> None:
        """Choose what makes ``name``."""
        if name in self.given:
            self.uses.add(name)
            return
        if name in self.origin or name in self.decodes:
            return
        trail = (*trail, name)
        for step in self._makers(name):
            if self._can_run(step, trail):
                self.origin[name] = id(step)
                for need in self._needs(step):
                    self.make(need, trail)
                if all(step is not chosen for chosen in self.steps):
                    self.steps.append(step)
                return
        if name not in self.decodable:
            raise self._missing(name, ())
        self.decodes.add(name)

    def _can_have(self, name: str, trail: tuple[str, ...]) -> bool:
        if name in trail:
            return False
        return (
            name in self.given
            or name in self.origin
            or name in self.decodable
            or any(self._can_run(step, (*trail, name)) for step in self._makers(name))
        )

    def _can_run(self, step: Step | Loop, trail: tuple[str, ...]) -> bool:
        return all(self._can_have(need, trail) for need in self._needs(step))

    def _makers(self, name: str) -> list[Step | Loop]:
        return [step for step in self.task.steps if name in step.makes(self._graph(step)).values()]

    def _needs(self, step: Step | Loop) -> list[str]:
        return sorted(
            step.needs(self._graph(step)) if isinstance(step, Loop) else step.reads(self._graph(step)).values()
        )

    def _graph(self, step: Step | Loop) -> Graph:
        return self.graphs[step.graph].graph

    def _missing(self, name: str, trail: tuple[str, ...]) -> InvalidArgument:
        """The error for ``name``, which cannot be had: about the first value on the way that would help."""
        reads = [value for source in self.task.inputs if source.tensor == name for value in source.reads]
        if reads:
            ways = f"{' or '.join(reads)}, or the tensor {name!r} itself"
            return InvalidArgument.of(reads[0], f"task {self.task.name!r} needs {ways}; the request has neither")
        for step in self._makers(name):
            for need in self._needs(step):
                if need not in trail and not self._can_have(need, ()):
                    return self._missing(need, (*trail, name))
        return InvalidArgument.of(f"tensors[{name}]", f"task {self.task.name!r} cannot make it from what is given")


def _segments(
    steps: Sequence[Step | Loop],
    graphs: Mapping[str, LoadedGraph],
    model: str,
    max_rows: int,
    max_pixels: Mapping[str, int],
    wanted: frozenset[str],
    origin: Mapping[str, int],
    edits: Mapping[str, EditSegment],
) -> Iterable[Segment]:
    yield from (edit for name, edit in edits.items() if name not in origin)
    group: list[Step] = []
    for position, step in enumerate(steps):
        later = steps[position + 1 :]
        loaded = graphs[step.graph]
        edited = [edit for name, edit in edits.items() if origin.get(name) == id(step)]
        if isinstance(step, Loop):
            yield _loop_segment(step, loaded, model, max_rows, origin)
            yield from edited
            continue
        group.append(step)
        follower = later[0] if later else None
        if (
            follower is None
            or isinstance(follower, Loop)
            or any((step.cut, step.shared, follower.shared, edited))
            or graphs[follower.graph].engine != loaded.engine
            or not (loaded.graph.batchable and graphs[follower.graph].graph.batchable)
        ):
            yield _stage(group, graphs, model, max_rows, max_pixels, _needed(later, graphs) | wanted, origin)
            yield from edited
            group = []


def _reads_at_once(segment: Segment) -> set[str]:
    """The tensors of which ``segment`` needs the rows before any of them runs."""
    match segment:
        case Stage(shared=shared):
            return set(segment.reads) if shared else set()
        case LoopSegment(loop=loop, graph=graph):
            return loop.needs(graph)
        case _:
            return {segment.tensor}


def _stage(
    group: Sequence[Step],
    graphs: Mapping[str, LoadedGraph],
    model: str,
    max_rows: int,
    max_pixels: Mapping[str, int],
    needed: set[str] | frozenset[str],
    origin: Mapping[str, int],
) -> Stage:
    inside = {name for step in group for name in step.reads(graphs[step.graph].graph).values()}
    runs: list[GraphRun] = []
    made: list[str] = []
    for step in group:
        graph = graphs[step.graph].graph
        outputs = {port: name for port, name in _chosen(step, graph, origin) if name in inside | needed}
        runs.append(GraphRun(graphs[step.graph], step.reads(graph), outputs))
        made.extend(outputs.values())
    reads = dict.fromkeys(name for run in runs for name in run.inputs.values() if name not in made)
    alone = not all(run.loaded.graph.batchable for run in runs)
    return Stage(
        model,
        runs[0].loaded.engine,
        1 if alone else max_rows,
        tuple(runs),
        tuple(reads),
        tuple(name for name in dict.fromkeys(made) if name in needed),
        {name: most for name, most in max_pixels.items() if name in reads},
        group[0].shared,
    )


def _loop_segment(loop: Loop, loaded: LoadedGraph, model: str, max_rows: int, origin: Mapping[str, int]) -> LoopSegment:
    graph = loaded.graph
    ports = {tensor.name: tensor.name for tensor in graph.outputs}
    run = GraphRun(loaded, {tensor.name: tensor.name for tensor in graph.inputs}, ports)
    rows = max_rows if graph.batchable else 1
    stage = Stage(model, loaded.engine, rows, (run,), tuple(run.inputs), tuple(ports))
    return LoopSegment(loop, stage, graph, dict(_chosen(loop, graph, origin)))


def _chosen(step: Step | Loop, graph: Graph, origin: Mapping[str, int]) -> list[tuple[str, str]]:
    """The (output, tensor) pairs of ``step`` that nothing else makes: a tensor that was given stays as it is."""
    return [(port, name) for port, name in step.makes(graph).items() if origin.get(name) == id(step)]


def _needed(steps: Sequence[Step | Loop], graphs: Mapping[str, LoadedGraph]) -> set[str]:
    names: set[str] = set()
    for step in steps:
        graph = graphs[step.graph].graph
        names |= step.needs(graph) if isinstance(step, Loop) else set(step.reads(graph).values())
    return names


def _draw_steps(noise: Noise, seeds: np.ndarray, shape: tuple[int | str, ...], counters: np.ndarray) -> np.ndarray:
    fixed = tuple(size for size in shape if isinstance(size, int))
    return draw(noise, seeds, fixed, step=counters)
