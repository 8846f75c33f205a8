"""The proof of a graph's radius: nothing farther than that from a changed input pixel may change."""

from collections.abc import Iterator, Mapping

import numpy as np

from ganserve.errors import ExportError
from ganserve.spec import Graph
from ganserve_trainers.examples import Examples, run_module
from ganserve_trainers.onnx_sizes import at_sizes, free, multiples
from ganserve_trainers.onnx_trace import Traced

ROUNDING = 1e-5
"""The most that a float may change, relative to values above 1, and count as unchanged: neighbours in a fast convolution share roundings."""


def check_radius(graph: Graph, module: Traced, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise :class:`ExportError` where an output pixel changes with an input pixel that is more than ``graph.radius`` away from it.

    ``arrays`` are two or more example rows of the inputs. Along each free axis, a strip of them as narrow as the graph allows is run
    as it is, then with the pixels across one place taken from another row, for each of the places that ``multiple`` tells apart.
    """
    smallest = multiples(graph)
    if graph.radius is None or not smallest:
        return
    for tensor in graph.outputs:
        if len(list(free(tensor))) != len(smallest):
            raise ExportError(
                f"graph {graph.name!r} declares radius={graph.radius}, but its output {tensor.name!r} {list(tensor.shape)} is not spread over "
                f"the free axes of its inputs ({', '.join(smallest)}), so no part of it belongs to a part of the picture: declare radius=None"
            )
    for order, (name, step) in enumerate(smallest.items()):
        length = step * (4 + 2 * -(-graph.radius // step))
        strip = at_sizes(graph, arrays, {**smallest, name: length})
        before = run_module(module, graph, {key: array[:1] for key, array in strip.items()})
        for pixel in range(length // 2, length // 2 + step):
            after = run_module(module, graph, _with_changed(graph, strip, name, pixel))
            for changed in _changes(graph, order, before, after):
                _check_reach(graph, name, changed, pixel, length)


def _with_changed(graph: Graph, strip: Mapping[str, np.ndarray], name: str, pixel: int) -> dict[str, np.ndarray]:
    """The first row of ``strip``, whose pixels at ``pixel`` of axis ``name`` are those of the second."""
    made = {key: array[:1].copy() for key, array in strip.items()}
    for tensor in graph.inputs:
        for axis, other in free(tensor):
            if other == name:
                np.moveaxis(made[tensor.name], axis, 0)[pixel] = np.moveaxis(strip[tensor.name][1:2], axis, 0)[pixel]
    return made


def _changes(graph: Graph, order: int, before: Examples, after: Examples) -> Iterator[np.ndarray]:
    """For every output and probe, which places along its free axis number ``order`` changed."""
    for tensor in graph.outputs:
        one, two = before.outputs[tensor.name], after.outputs[tensor.name]
        yield _changed(one, two, [axis for axis, _ in free(tensor)][order])
    for one, two in zip(before.probes, after.probes, strict=True):
        yield _changed(one, two, 2 + order)


def _changed(before: np.ndarray, after: np.ndarray, axis: int) -> np.ndarray:
    # A rounding may turn into one step of a byte; the floats before it are probes.
    allowed = ROUNDING * max(1.0, float(np.abs(before).max())) if before.dtype.kind == "f" else before.dtype == np.uint8
    apart = np.abs(after.astype(np.float64) - before.astype(np.float64)) > allowed
    across = tuple(other for other in range(apart.ndim) if other != axis)
    return np.asarray(apart.any(axis=across))


def _check_reach(graph: Graph, name: str, changed: np.ndarray, pixel: int, length: int) -> None:
    size = len(changed)
    if size % length and length % size:
        raise ExportError(
            f"graph {graph.name!r} declares radius={graph.radius}, but makes {size} pixels of {length} along {name!r}: tiles can only be put "
            "together where one size is a whole multiple of the other; pad the convolutions, or declare radius=None"
        )
    found = np.flatnonzero(changed)
    # An output pixel lies on the input pixels that it covers once both have the same extent.
    first, last = found * length // size, -(-(found + 1) * length // size) - 1
    reach = int(np.maximum(first - pixel, pixel - last).max(initial=0))
    if reach > (graph.radius or 0):
        raise ExportError(
            f"graph {graph.name!r} declares radius={graph.radius}, but a changed input pixel changes outputs {reach} pixels away along "
            f"{name!r}: declare the true radius (half the receptive field, in input pixels), or None where a layer looks at the whole "
            "picture (instance norm, attention)"
        )
