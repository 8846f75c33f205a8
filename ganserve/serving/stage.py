"""What runs as one batch: graphs in a row, each with the session that runs it."""

import math
from collections.abc import Callable, Mapping

import msgspec
import numpy as np

from ganserve.engines import Session
from ganserve.errors import EngineError
from ganserve.serving.jobs import Arrays, Feeds
from ganserve.spec import Graph


class LoadedGraph(msgspec.Struct, eq=False):
    """A graph of a model, of which ``version``, with the engine session that runs it, which may be replaced.

    ``again`` loads another such session, proven as this one was; while ``ready`` is false, rows wait for it.
    """

    graph: Graph
    engine: str
    session: Session
    version: int = 1
    again: Callable[[], Session] | None = None
    ready: bool = True


class GraphRun(msgspec.Struct, frozen=True, eq=False):
    """One graph in a stage: which of the stage's tensors go in, and which outputs are kept under which name."""

    loaded: LoadedGraph
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


class Stage(msgspec.Struct, frozen=True, eq=False):
    """Graphs that run as one batch on one engine; between them the tensors stay where the engine has them.

    ``max_pixels`` are the most pixels that the pictures of one batch have together, by their tensor. Equal rows of a ``shared`` stage run once.
    """

    model: str
    engine: str
    max_rows: int
    runs: tuple[GraphRun, ...]
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    max_pixels: Mapping[str, int] = {}
    shared: bool = False

    @property
    def version(self) -> int:
        """The model's version."""
        return self.runs[0].loaded.version

    @property
    def ready(self) -> bool:
        """Whether its graphs have sessions that run."""
        return all(run.loaded.ready for run in self.runs)

    def same(self, other: "Stage") -> bool:
        """Whether this is the work of ``other``, so that rows of either may meet."""
        mine, theirs = (
            ([(id(run.loaded), run.inputs, run.outputs) for run in stage.runs], stage.reads, stage.gives)
            for stage in (self, other)
        )
        return mine == theirs

    def most_rows(self, feeds: Feeds) -> int:
        """The most rows of one batch of such ``feeds``: fewer than ``max_rows`` where each is a large picture, but one."""
        if not self.max_pixels:
            return self.max_rows
        areas = {name: math.prod(feeds[name].shape[1:3]) for name in self.max_pixels}
        return max(1, min([self.max_rows, *(most // areas[name] for name, most in self.max_pixels.items())]))

    def run(self, feeds: Arrays, ran: Callable[[str], None] | None = None) -> Arrays:
        """Run the graphs on ``feeds`` (every tensor of ``reads``, rows first) and fetch the tensors of ``gives``.

        ``ran`` is told the name of each graph when it has run; an engine that only queues its work may still be at it.
        """
        # Taken once: a run that hangs may come back after its sessions have been replaced.
        sessions = [step.loaded.session for step in self.runs]
        values = {name: sessions[0].upload(np.ascontiguousarray(array)) for name, array in feeds.items()}
        for step, session in zip(self.runs, sessions, strict=True):
            wanted = step.outputs
            made = session.run({port: values[name] for port, name in step.inputs.items()}, tuple(wanted))
            values.update({wanted[port]: value for port, value in made.items()})
            if ran is not None:
                ran(step.loaded.graph.name)
        outputs = {name: sessions[-1].download(values[name]) for name in self.gives}
        rows = len(feeds[self.reads[0]])
        if wrong := [name for name, array in outputs.items() if array.shape[:1] != (rows,)]:
            raise EngineError(f"{self.engine} made {outputs[wrong[0]].shape} for {wrong[0]!r} of {rows} rows")
        return outputs
