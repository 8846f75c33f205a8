"""Example rows for every graph of a spec: what the server would feed it, and what torch makes of that."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import numpy as np
import torch

from ganserve.codecs.seeds import draw
from ganserve.errors import ExportError
from ganserve.spec import Graph, Input, Loop, Noise, Spec, Step, Task, Tensor, tensors_of
from ganserve_trainers.onnx_trace import Traced

SEED = 0
"""Row i of noise is drawn from (SEED, i)."""

DRAWN = ("noise", "fixed-noise")
"""The codecs whose example rows are drawn from (:data:`SEED`, row), so that a bundle stores how and not the numbers."""

STARTS: tuple[Literal["average", "samples", "encoder"], ...] = ("samples", "average", "encoder")
"""What a search starts from in an example: where it can, from something else in each row."""

LOOP_STEPS = 4
"""The rows of a loop's graph are what it meets in its first steps, in turn: row 5 is as of step 1."""

Example = Callable[[Input, Tensor, np.ndarray], np.ndarray]
"""A task's input, its declaration and (seed, index) pairs uint64 [n, 2] → the tensor [n, ...]."""


@dataclass(frozen=True)
class Examples:
    """Rows of one graph: its inputs, torch's outputs, torch's probes (see :class:`Traced`), and how its noise inputs were drawn."""

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    probes: tuple[np.ndarray, ...]
    noise: Mapping[str, Noise] = field(default_factory=dict)

    def head(self, rows: int) -> dict[str, np.ndarray]:
        """The first ``rows`` rows of every input and output."""
        return {name: array[:rows] for name, array in {**self.inputs, **self.outputs}.items()}


def make_examples(spec: Spec, modules: Mapping[str, Traced], example: Example, rows: int) -> dict[str, Examples]:
    """``rows`` rows for every graph: each task's dataflow is run once, a loop for :data:`LOOP_STEPS` steps."""
    found: dict[str, Examples] = {}
    pairs = np.array([(SEED, row) for row in range(rows)], np.uint64)
    graphs = {graph.name: graph for graph in spec.graphs}
    for task in spec.tasks:
        declared = tensors_of(graphs, task)
        tensors = {source.tensor: example(source, declared[source.tensor], pairs) for source in task.inputs}
        noise = {source.tensor: _noise(source) for source in task.inputs if source.codec in DRAWN}
        for step in task.steps:
            graph = graphs[step.graph]
            _start(task, tensors)
            needs = step.needs(graph) if isinstance(step, Loop) else set(step.reads(graph).values())
            if not needs <= tensors.keys():
                continue  # another step makes the same tensors from what is there
            feeds, drawn = _feeds(step, graph, tensors, noise, pairs)
            module = modules[graph.name]
            if isinstance(step, Loop):
                made = _run_loop(module, step, graph, feeds, drawn, int(_steps(step, tensors, rows).min()))
            else:
                made = run_module(module, graph, feeds, drawn)
            found.setdefault(graph.name, made)
            for port, name in step.makes(graph).items():
                tensors.setdefault(name, made.outputs[port])
    if missing := graphs.keys() - found.keys():
        raise ExportError(
            f"there are no example rows for the graph {', '.join(sorted(missing))}: let a task run it, or drop it"
        )
    return found


@torch.no_grad()
def run_module(
    module: Traced, graph: Graph, feeds: Mapping[str, np.ndarray], noise: Mapping[str, Noise] | None = None
) -> Examples:
    """What torch makes of ``feeds``, the inputs of ``graph`` by name, of which ``noise`` says how some were drawn."""
    results = module(*(torch.from_numpy(feeds[tensor.name]) for tensor in graph.inputs))
    arrays = [result.numpy() for result in results]
    count = len(arrays) - len(module.probes)
    if count != len(graph.outputs):
        raise ExportError(
            f"graph {graph.name!r}: its module gives {count} outputs, the spec names {[tensor.name for tensor in graph.outputs]}"
        )
    outputs = {tensor.name: array for tensor, array in zip(graph.outputs, arrays, strict=False)}
    return Examples(inputs=dict(feeds), outputs=outputs, probes=tuple(arrays[count:]), noise=dict(noise or {}))


def _run_loop(
    module: Traced, loop: Loop, graph: Graph, feeds: Mapping[str, np.ndarray], noise: Mapping[str, Noise], most: int
) -> Examples:
    """The first steps of ``loop``, of at most ``most``, from ``feeds`` on: each row is as one of them reads and makes it."""
    steps = [run_module(module, graph, feeds, noise)]
    while len(steps) < min(most, LOOP_STEPS):
        fed_back = {port: steps[-1].outputs[made] for made, port in loop.state.items()}
        counted = {loop.counter: feeds[loop.counter] + len(steps)} if loop.counter else {}
        steps.append(run_module(module, graph, {**feeds, **fed_back, **counted}))

    def in_turn(arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([arrays[row % len(arrays)][row] for row in range(len(arrays[0]))])

    return Examples(
        inputs={name: in_turn([step.inputs[name] for step in steps]) for name in feeds},
        outputs={name: in_turn([step.outputs[name] for step in steps]) for name in steps[0].outputs},
        probes=tuple(map(in_turn, zip(*(step.probes for step in steps), strict=True))),
        # What is fed back is drawn from no seed after the first step.
        noise={port: how for port, how in noise.items() if port not in loop.state.values()},
    )


def _start(task: Task, tensors: dict[str, np.ndarray]) -> None:
    """Let the search of ``task`` start from the first of its starts, if it is there."""
    if task.inversion is None:
        return
    name = next(task.inversion.starts[kind] for kind in STARTS if kind in task.inversion.starts)
    if name in tensors:
        tensors.setdefault(task.inversion.start, tensors[name])


def _noise(source: Input) -> Noise:
    """How the codec of ``source`` draws, of whose options this is a part."""
    options = {name: value for name, value in source.options.items() if name in Noise.__struct_fields__}
    return msgspec.convert(options, Noise)


def _feeds(
    step: Step | Loop, graph: Graph, tensors: Mapping[str, np.ndarray], noise: Mapping[str, Noise], pairs: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, Noise]]:
    feeds = {port: tensors[name] for port, name in step.reads(graph).items()}
    drawn = {port: noise[name] for port, name in step.reads(graph).items() if name in noise}
    if isinstance(step, Loop):
        feeds |= {step.counter: np.zeros(len(pairs), np.int64)} if step.counter else {}
        feeds |= {step.limit: _steps(step, tensors, len(pairs))} if step.limit else {}
        feeds |= {port: draw(how, pairs, _fixed(graph.input(port))) for port, how in step.noise.items()}
        drawn |= step.noise
    return feeds, drawn


def _steps(loop: Loop, tensors: Mapping[str, np.ndarray], rows: int) -> np.ndarray:
    return tensors[loop.steps] if isinstance(loop.steps, str) else np.full(rows, loop.steps, np.int64)


def _fixed(tensor: Tensor) -> tuple[int, ...]:
    return tuple(size for size in tensor.shape if isinstance(size, int))
