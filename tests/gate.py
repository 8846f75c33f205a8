"""A graph of a real server whose runs wait for the test."""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ganserve.engines import Session
from ganserve.serving.server import Server
from ganserve.serving.stage import LoadedGraph
from ganserve.testing.server import Serving

PATIENCE = 60.0
LOOK = 0.005


class Gate:
    """A real session whose runs wait while the gate is shut, but for as many as there are ``passes``."""

    def __init__(self, session: Session) -> None:
        self.session, self.batch_invariant = session, session.batch_invariant
        self.open, self.passes = threading.Event(), threading.Semaphore(0)
        self.open.set()
        self.waiting = self.runs = 0

    def upload(self, array: np.ndarray) -> Any:
        return self.session.upload(array)

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str]) -> Mapping[str, Any]:
        self.waiting += 1
        until = time.monotonic() + PATIENCE
        while not self.open.wait(LOOK) and not self.passes.acquire(blocking=False):
            assert time.monotonic() < until, "nobody opened the gate"
        self.waiting -= 1
        self.runs += 1
        return self.session.run(feeds, outputs)

    def download(self, value: Any) -> np.ndarray:
        return self.session.download(value)

    def close(self) -> None:
        self.open.set()
        self.session.close()


def gate_at(server: Server, graph: str, model: str = "echo") -> Gate:
    """A gate before a ``graph`` of a ``model``, open; it stays. Ask for it before any request."""
    graphs = server.repository.get(model).graphs
    assert isinstance(graphs, dict)
    found = Gate(graphs[graph].session)
    graphs[graph] = LoadedGraph(graphs[graph].graph, graphs[graph].engine, found)
    return found


@contextlib.contextmanager
def gate_before(server: Serving, graph: str, model: str = "echo") -> Iterator[Gate]:
    """A gate before a ``graph`` of a ``model``, shut; it is opened on leaving and stays."""
    found = gate_at(server.server, graph, model)
    found.open.clear()
    try:
        yield found
    finally:
        found.open.set()
