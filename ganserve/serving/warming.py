"""Runs a session at every size that callers may need, before any of them does."""

import numpy as np

from ganserve import golden
from ganserve.bundle import Bundle, ExportedGraph
from ganserve.engines import Session


def warm(bundle: Bundle, graph: ExportedGraph, session: Session, max_rows: int) -> None:
    """Run every batch size up to ``max_rows`` that an engine may compile for, so that no caller waits for a compiler.

    A graph of free sizes is compiled for all of them at once, and the golden rows have run already.
    """
    if any(isinstance(size, str) for tensor in graph.inputs for size in tensor.shape):
        return
    rows = golden.inputs(bundle, graph)
    size = 1
    while size < 2 * max_rows:
        feeds = {
            name: session.upload(np.resize(array, (min(size, max_rows), *array.shape[1:])))
            for name, array in rows.items()
        }
        session.run(feeds, [tensor.name for tensor in graph.outputs])
        size *= 2
