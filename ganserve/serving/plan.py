"""Which steps of a task one kind of request needs, as stages and loops in order.

Requests that give the same tensors and values and want the same tensors share one :class:`Plan`, and with it the stages in
which their rows meet.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import msgspec
import numpy as np

from ganserve.codecs.seeds import draw
from ganserve.engines import Session
from ganserve.errors import InvalidArgument
from ganserve.spec import Graph, Input, Loop, Noise, Step, Task

Arrays: TypeAlias = Mapping[str, np.ndarray]


class LoadedGraph(msgspec.Struct, frozen=True, eq=False):
    """A graph of a model with the engine session that runs it."""

    graph: Graph
    engine: str
    session: Session


class GraphRun(msgspec.Struct, frozen=True, eq=False):
    """One graph in a stage: which of the stage's tensors go in, and which outputs are kept under which name."""

    loaded: LoadedGraph
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


class Stage(msgspec.Struct, frozen=True, eq=False):
    """Graphs that run as one batch on one engine; between them the tensors stay where the engine has them."""

    model: str
    engine: str
    max_rows: int
    runs: tuple[GraphRun, ...]
    reads: tuple[str, ...]
    gives: tuple[str, ...]

    def run(self, feeds: Arrays) -> Arrays:
        """Run the graphs on ``feeds`` (every tensor of ``reads``, rows first) and fetch the tensors of ``gives``."""
        first = self.runs[0].loaded.session
        values = {name: first.upload(np.ascontiguousarray(array)) for name, array in feeds.items()}
        for step in self.runs:
            wanted = step.outputs
            made = step.loaded.session.run({port: values[name] for port, name in step.inputs.items()}, tuple(wanted))
            values.update({wanted[port]: value for port, value in made.items()})
        return {name: self.runs[-1].loaded.session.download(values[name]) for name in self.gives}


class LoopSegment(msgspec.Struct, frozen=True, eq=False):
    """A loop: one stage that each row passes again and again, with the row's own count of runs."""

    loop: Loop
    stage: Stage
    graph: Graph

    def start(self, tensors: Arrays, rows: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The stage's first feeds for ``rows`` rows, and each row's number of runs."""
        feeds = {port: tensors[name] for port, name in self.loop.reads(self.graph).items()}
        return feeds, self._limits(tensors, rows)

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

    def _limits(self, tensors: Arrays, rows: int) -> np.ndarray:
        loop = self.loop
        if isinstance(loop.steps, int):
            return np.full(rows, loop.steps, np.int64)
        limits = tensors[loop.steps]
        if wrong := [int(limit) for limit in limits if not 1 <= limit <= loop.max_steps]:
            raise InvalidArgument.of(loop.steps, f"{wrong[0]} steps asked for; expected 1 to {loop.max_steps}")
        return limits


Segment: TypeAlias = Stage | LoopSegment


class Plan(msgspec.Struct, frozen=True, eq=False):
    """What one kind of request needs: inputs to decode, then segments in order. ``reads`` are the request values that are used."""

    decodes: tuple[Input, ...]
    segments: tuple[Segment, ...]
    reads: frozenset[str]
    gives: frozenset[str]
    uses: frozenset[str]


def make_plan(
    task: Task,
    graphs: Mapping[str, LoadedGraph],
    *,
    model: str,
    max_rows: int,
    given: frozenset[str],
    values: frozenset[str],
    wanted: frozenset[str],
) -> Plan:
    """The plan for a request that gives the tensors ``given`` and the values ``values`` and wants ``wanted``.

    Raises :class:`InvalidArgument` where a wanted tensor cannot be made from what is given, naming what is missing.
    """
    search = _Search(task, graphs, given, values)
    for name in sorted(wanted):
        search.make(name)
    steps = [step for step in task.steps if id(step) in search.steps]
    decodes = tuple(source for source in task.inputs if source.tensor in search.decodes)
    reads = {name for source in decodes for name in source.reads}
    if any(isinstance(step, Loop) and step.noise for step in steps):
        reads.add("seed")
    segments = _segments(steps, graphs, model, max_rows, wanted, search.origin)
    return Plan(decodes, tuple(segments), frozenset(reads), wanted, frozenset(search.uses))


class _Search:
    """Walks back from wanted tensors to what is given. Where two steps make one tensor, the first that can run wins."""

    def __init__(
        self, task: Task, graphs: Mapping[str, LoadedGraph], given: frozenset[str], values: frozenset[str]
    ) -> None:
        self.task, self.graphs, self.given, self.values = task, graphs, given, values
        self.steps: set[int] = set()
        self.decodes: set[str] = set()
        self.uses: set[str] = set()
        self.origin: dict[str, int] = {}

    def make(self, name: str) -> None:
        """Choose what makes ``name``."""
        if name in self.given:
            self.uses.add(name)
            return
        if name in self.origin or name in self.decodes:
            return
        for step in self._makers(name):
            if self._can_run(step, ()):
                self.steps.add(id(step))
                self.origin[name] = id(step)
                for need in self._needs(step):
                    self.make(need)
                return
        if not self._decodable(name):
            raise InvalidArgument.of(name, self._missing(name))
        self.decodes.add(name)

    def _can_have(self, name: str, trail: tuple[int, ...]) -> bool:
        return (
            name in self.given
            or self._decodable(name)
            or any(self._can_run(step, trail) for step in self._makers(name) if id(step) not in trail)
        )

    def _can_run(self, step: Step | Loop, trail: tuple[int, ...]) -> bool:
        return all(self._can_have(need, (*trail, id(step))) for need in self._needs(step))

    def _decodable(self, name: str) -> bool:
        return any(
            source.tensor == name and (source.optional or not self.values.isdisjoint(source.reads))
            for source in self.task.inputs
        )

    def _makers(self, name: str) -> list[Step | Loop]:
        return [step for step in self.task.steps if name in step.makes(self._graph(step)).values()]

    def _needs(self, step: Step | Loop) -> list[str]:
        graph = self._graph(step)
        return sorted(step.needs(graph) if isinstance(step, Loop) else set(step.reads(graph).values()))

    def _graph(self, step: Step | Loop) -> Graph:
        return self.graphs[step.graph].graph

    def _missing(self, name: str) -> str:
        reads = [value for source in self.task.inputs if source.tensor == name for value in source.reads]
        if reads:
            return f"task {self.task.name!r} needs {' or '.join(reads)}, or the tensor {name!r} itself; the request has neither"
        for step in self._makers(name):
            for need in self._needs(step):
                if not self._can_have(need, ()):
                    return self._missing(need)
        return f"task {self.task.name!r} has no tensor {name!r}"


def _segments(
    steps: Sequence[Step | Loop],
    graphs: Mapping[str, LoadedGraph],
    model: str,
    max_rows: int,
    wanted: frozenset[str],
    origin: Mapping[str, int],
) -> Iterable[Segment]:
    group: list[Step] = []
    for position, step in enumerate(steps):
        later = steps[position + 1 :]
        loaded = graphs[step.graph]
        if isinstance(step, Loop):
            yield _loop_segment(step, loaded, model, max_rows)
            continue
        group.append(step)
        follower = later[0] if later else None
        if (
            follower is None
            or isinstance(follower, Loop)
            or step.cut
            or graphs[follower.graph].engine != loaded.engine
            or not (loaded.graph.batchable and graphs[follower.graph].graph.batchable)
        ):
            yield _stage(group, graphs, model, max_rows, _needed(later, graphs) | wanted, origin)
            group = []


def _stage(
    group: Sequence[Step],
    graphs: Mapping[str, LoadedGraph],
    model: str,
    max_rows: int,
    needed: set[str] | frozenset[str],
    origin: Mapping[str, int],
) -> Stage:
    inside = {name for step in group for name in step.reads(graphs[step.graph].graph).values()}
    runs: list[GraphRun] = []
    made: list[str] = []
    for step in group:
        graph = graphs[step.graph].graph
        outputs = {
            port: name
            for port, name in step.makes(graph).items()
            if name in inside | needed and origin.get(name, id(step)) == id(step)
        }
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
    )


def _loop_segment(loop: Loop, loaded: LoadedGraph, model: str, max_rows: int) -> LoopSegment:
    graph = loaded.graph
    ports = {tensor.name: tensor.name for tensor in graph.outputs}
    run = GraphRun(loaded, {tensor.name: tensor.name for tensor in graph.inputs}, ports)
    rows = max_rows if graph.batchable else 1
    return LoopSegment(loop, Stage(model, loaded.engine, rows, (run,), tuple(run.inputs), tuple(ports)), graph)


def _needed(steps: Sequence[Step | Loop], graphs: Mapping[str, LoadedGraph]) -> set[str]:
    names: set[str] = set()
    for step in steps:
        graph = graphs[step.graph].graph
        names |= step.needs(graph) if isinstance(step, Loop) else set(step.reads(graph).values())
    return names


def _draw_steps(noise: Noise, seeds: np.ndarray, shape: tuple[int | str, ...], counters: np.ndarray) -> np.ndarray:
    fixed = tuple(size for size in shape if isinstance(size, int))
    return draw(noise, seeds, fixed, step=counters)
