"""What a call's trace is made of: the parts of its way, with their times. What makes spans of them is a :class:`Tracer`.

Parts are kept while the call runs, and told when it has ended: a call that is not traced keeps none. Nothing of the caller's is in them: no
seed, label, prompt, picture or token.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Protocol, TypeAlias
from urllib.parse import urlsplit

import msgspec

from ganserve.errors import SpecError
from ganserve.serving.jobs import Batch

MOST_PARTS = 256
"""How many parts of a call are kept: a long stream or search has more, of which the last are only counted."""

Metadata: TypeAlias = Callable[[], Iterable[tuple[str, str | bytes]] | None]
"""Gives the metadata of a call, when asked."""


class Otlp(msgspec.Struct, frozen=True, kw_only=True):
    """Where traces go: to the collector at the URL ``endpoint``, by OTLP over gRPC.

    ``sample`` is the share of the calls without a decision of their caller's that are traced, 0 to 1; None leaves it to
    ``OTEL_TRACES_SAMPLER``, without which it is 1.
    """

    endpoint: str
    sample: float | None = None

    def __post_init__(self) -> None:
        url = urlsplit(self.endpoint)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise SpecError(
                f"{self.endpoint!r} is no URL of a collector; expected one such as http://localhost:4317, or https:// for TLS"
            )


class Part(msgspec.Struct, frozen=True):
    """One part of a call's way: its name, when it began and ended (seconds of the monotonic clock), and what is told of it."""

    name: str
    started: float
    ended: float
    attributes: Mapping[str, str | int] = {}


class Trace(msgspec.Struct, eq=False):
    """A call that is traced: its ``span``, which is the tracer's own, the ``parts`` so far, and how many more were ``left_out``.

    ``around`` is the call of whose stream this is one request. ``request_id`` is what the caller of a call that failed was told.
    """

    span: Any
    around: "Trace | None" = None
    started: float = msgspec.field(default_factory=time.monotonic)
    parts: list[Part] = []
    left_out: int = 0
    request_id: str = ""

    def add(self, name: str, started: float, ended: float, **attributes: str | int) -> None:
        """Keep a part; what began before the call, as rows that others asked for did, begins with it."""
        if len(self.parts) < MOST_PARTS:
            self.parts.append(Part(name, max(started, self.started), max(ended, self.started), attributes))
        else:
            self.left_out += 1

    def ran(self, submitted: float, batch: Batch, rows: int) -> None:
        """Keep what became of ``rows`` in a ``batch`` that has run: how long they waited, then each graph."""
        self.add("queue", submitted, batch.taken, rows=rows)
        for graph, started, ended in batch.graphs:
            self.add(f"graph {graph}", started, ended, rows=rows, batch_rows=batch.rows, engine=batch.stage.engine)


class Target(Protocol):
    """What a call has found."""

    model: str
    version: int
    task: str
    rows: int


class Tracer(Protocol):
    """What makes spans of traces."""

    def begin(self, name: str, metadata: Metadata, around: Trace | None) -> Trace | None:
        """The trace of a call ``name``, or of one request ``around`` whose call there is a trace; None for one that is not traced."""

    def end(self, trace: Trace, target: Target, code: str) -> None:
        """Tell ``trace``, whose call has ended with the gRPC status ``code``."""

    async def close(self) -> None:
        """Tell what is left, for a few seconds at most."""


_running: ContextVar[Trace | None] = ContextVar("trace", default=None)


def running() -> Trace | None:
    """The trace of the call that runs; None where it is not traced."""
    return _running.get()


def begin(tracer: Tracer, name: str, metadata: Metadata) -> Trace | None:
    """Begin to trace a call, or without a ``name`` one request of the stream that runs."""
    outer = _running.get()
    if name:
        trace = tracer.begin(name, metadata, None)
    else:
        trace = None if outer is None else tracer.begin("request", metadata, outer.around or outer)
    _running.set(trace)
    return trace
