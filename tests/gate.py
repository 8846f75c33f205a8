"""A graph of a real server whose runs wait for the test."""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ganserve.engines import Session
from ganserve.serving.stage import LoadedGraph
from ganserve.testing.server import Serving

PATIENCE = 30.0


class Gate:
    """A real session whose runs wait while the gate is shut."""

    def __init__(self, session: Session) -> None:
        self.session, self.batch_invariant = session, session.batch_invariant
        self.open = threading.Event()
        self.open.set()
        self.waiting = 0

    def upload(self, array: np.ndarray) -> Any:
        return self.session.upload(array)

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str]) -> Mapping[str, Any]:
        self.waiting += 1
        assert self.open.wait(PATIENCE)
        self.waiting -= 1
        return self.session.run(feeds, outputs)

    def download(self, value: Any) -> np.ndarray:
        return self.session.download(value)

    def close(self) -> None:
        self.open.set()
        self.session.close()


@contextlib.contextmanager
def gate_before(server: Serving, graph: str, model: str = "echo") -> Iterator[Gate]:
    """A gate before a ``graph`` of a ``model``, shut; it is opened on leaving and stays."""
    graphs = server.server.repository.get(model).graphs
    assert isinstance(graphs, dict)
    found = Gate(graphs[graph].session)
    graphs[graph] = LoadedGraph(graphs[graph].graph, graphs[graph].engine, found)
    found.open.clear()
    try:
        yield found
    finally:
        found.open.set()
