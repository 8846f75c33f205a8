"""Example rows for every graph of a spec: what the server would feed it, and what torch makes of that."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
import torch

from ganserve.codecs.seeds import draw
from ganserve.errors import ExportError
from ganserve.spec import Graph, Input, Loop, Noise, Spec, Step, Tensor, tensors_of
from ganserve_trainers.onnx_trace import Traced

SEED = 0
"""Row i of noise is drawn from (SEED, i)."""

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
    """``rows`` rows for every graph: each task's dataflow is run once, a loop for one step."""
    found: dict[str, Examples] = {}
    pairs = np.array([(SEED, row) for row in range(rows)], np.uint64)
    graphs = {graph.name: graph for graph in spec.graphs}
    for task in spec.tasks:
        declared = tensors_of(graphs, task)
        tensors = {source.tensor: example(source, declared[source.tensor], pairs) for source in task.inputs}
        noise = {
            source.tensor: msgspec.convert(dict(source.options), Noise)
            for source in task.inputs
            if source.codec == "noise"
        }
        for step in task.steps:
            graph = graphs[step.graph]
            needs = step.needs(graph) if isinstance(step, Loop) else set(step.reads(graph).values())
            if not needs <= tensors.keys():
                continue  # another step makes the same tensors from what is there
            feeds, drawn = _feeds(step, graph, tensors, noise, pairs)
            made = run_module(modules[graph.name], graph, feeds, drawn)
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


def _feeds(
    step: Step | Loop, graph: Graph, tensors: Mapping[str, np.ndarray], noise: Mapping[str, Noise], pairs: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, Noise]]:
    feeds = {port: tensors[name] for port, name in step.reads(graph).items()}
    drawn = {port: noise[name] for port, name in step.reads(graph).items() if name in noise}
    if isinstance(step, Loop):
        steps = tensors[step.steps] if isinstance(step.steps, str) else np.full(len(pairs), step.steps, np.int64)
        feeds |= {step.counter: np.zeros(len(pairs), np.int64)} if step.counter else {}
        feeds |= {step.limit: steps} if step.limit else {}
        feeds |= {port: draw(how, pairs, _fixed(graph.input(port))) for port, how in step.noise.items()}
        drawn |= step.noise
    return feeds, drawn


def _fixed(tensor: Tensor) -> tuple[int, ...]:
    return tuple(size for size in tensor.shape if isinstance(size, int))
