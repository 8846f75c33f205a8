"""The sizes at which a graph of free sizes is traced and tried: rows of the example's values, cut or repeated to other sizes."""

from collections.abc import Iterator, Mapping

import numpy as np

from ganserve.errors import ExportError
from ganserve.spec import Graph, Tensor

Sizes = Mapping[str, int]
"""Free axis, by name → its size."""


def multiples(graph: Graph) -> dict[str, int]:
    """The free axes of the inputs of ``graph``, by name in order, and what their sizes are multiples of."""
    found: dict[str, int] = {}
    for tensor in graph.inputs:
        for _, name in free(tensor):
            if found.setdefault(name, tensor.multiple) != tensor.multiple:
                raise ExportError(
                    f"graph {graph.name!r}: axis {name!r} is a multiple of {found[name]} and, in input {tensor.name!r}, of {tensor.multiple}; "
                    "axes of one name have one size, so give them one multiple"
                )
    return found


def other_sizes(graph: Graph) -> tuple[Sizes, ...]:
    """The smallest legal sizes, and unequal ones of four multiples and more; none where nothing is free."""
    smallest = multiples(graph)
    unequal = {name: (4 + place) * step for place, (name, step) in enumerate(smallest.items())}
    return (smallest, unequal) if smallest else ()


def sizes_of(graph: Graph, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The sizes that the inputs and outputs among ``arrays`` have; :class:`ExportError` where axes of one name differ."""
    found: dict[str, int] = {}
    for tensor in (*graph.inputs, *graph.outputs):
        for axis, name in free(tensor) if tensor.name in arrays else ():
            size = arrays[tensor.name].shape[axis]
            if found.setdefault(name, size) != size:
                raise ExportError(
                    f"graph {graph.name!r}: axis {name!r} has {found[name]} elements and, in {tensor.name!r}, {size}; axes of one name have "
                    "one size, so name an axis that the network scales otherwise"
                )
    return found


def at_sizes(graph: Graph, arrays: Mapping[str, np.ndarray], sizes: Sizes) -> dict[str, np.ndarray]:
    """The inputs ``arrays`` of ``graph`` cut, or repeated from their start, to ``sizes``: legal values stay legal values."""
    made = dict(arrays)
    for tensor in graph.inputs:
        for axis, name in free(tensor):
            array = made[tensor.name]
            made[tensor.name] = array.take(np.arange(sizes[name]), axis, mode="wrap")
    return made


def free(tensor: Tensor) -> Iterator[tuple[int, str]]:
    """The free axes of ``tensor``: their place in a batch (whose axis 0 counts rows) and their names."""
    return ((axis, size) for axis, size in enumerate(tensor.shape, 1) if isinstance(size, str))


def described(sizes: Sizes) -> str:
    """``sizes`` as an error writes them: ``height 8, width 12``."""
    return ", ".join(f"{name} {size}" for name, size in sizes.items())
