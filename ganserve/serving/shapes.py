"""How large the tensors of a call will be, as far as it can be told before it runs."""

from collections.abc import Iterable, Mapping

from ganserve.errors import InvalidArgument
from ganserve.serving.plan import LoopSegment, Plan
from ganserve.serving.stage import Stage
from ganserve.spec import Graph


def known_shapes(
    plan: Plan, given: Mapping[str, tuple[int, ...]], fields: Mapping[str, str]
) -> dict[str, tuple[int, ...]]:
    """The shapes of one row that are known before ``plan`` runs: those ``given``, and what follows from them graph by graph.

    Free sizes to which a graph gives one name are equal; :class:`InvalidArgument` for tensors whose are not, by their ``fields``.
    """
    shapes = dict(given)
    for graph, reads, makes in _signatures(plan):
        sizes: dict[str, tuple[int, str]] = {}
        for port, name in reads.items():
            for want, have in zip(graph.input(port).shape, shapes.get(name, ()), strict=False):
                size, other = sizes.setdefault(want, (have, name)) if isinstance(want, str) else (have, name)
                if size != have:
                    raise InvalidArgument.of(
                        fields.get(name, f"tensors[{name}]"),
                        f"its {want} is {have} and that of {other!r} is {size}; give both one size",
                    )
        for port, name in makes.items():
            declared = graph.output(port).shape
            shape = [
                size if isinstance(size, int) else sizes[size][0]
                for size in declared
                if size in sizes or isinstance(size, int)
            ]
            if len(shape) == len(declared):
                shapes[name] = tuple(shape)
    return shapes


def _signatures(plan: Plan) -> Iterable[tuple[Graph, Mapping[str, str], Mapping[str, str]]]:
    """Each graph of ``plan`` in order, with the tensors that it reads and makes by its ports."""
    for segment in plan.segments:
        if isinstance(segment, LoopSegment):
            yield segment.graph, segment.loop.reads(segment.graph), segment.outputs
        elif isinstance(segment, Stage):
            for run in segment.runs:
                yield run.loaded.graph, run.inputs, run.outputs
