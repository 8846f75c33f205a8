"""The requests that a server is serving, on all its ports: whether more are accepted, when none is left, how each ended, and their metrics."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar

import msgspec

from ganserve.errors import (
    InternalError,
    InvalidArgument,
    PermissionDenied,
    QueueFull,
    QuotaExceeded,
    RequestError,
    Unauthenticated,
    Unavailable,
)
from ganserve.metrics import Metrics
from ganserve.serving.calls import UNKNOWN, Logged, Origin, id_of, write
from ganserve.serving.tracing import Trace, Tracer, begin
from ganserve.serving.untold import untold

log = logging.getLogger(__name__)

LATE_SECONDS = 0.05
"""A caller that goes with less time left has met its deadline: its own clock ends the call before the server's does."""

REASONS: Mapping[type[RequestError], str] = {
    InvalidArgument: "invalid",
    PermissionDenied: "denied",
    QueueFull: "queue_full",
    QuotaExceeded: "quota",
    Unauthenticated: "unauthenticated",
    Unavailable: "unavailable",
}
"""What the metric of refused calls calls each refusal."""


class Watch(msgspec.Struct):
    """A request that is being served: when it came, by which ``rpc`` and from where, and what it has found so far.

    One that ``is_stream`` is a connection for requests which are watched on their own, and not counted itself. ``ended`` is called when
    nothing of it runs any more. ``client`` is who asks, by the name that quotas know. Once the log has told of it, it is ``told``.
    """

    started: float
    rpc: str = ""
    origin: Origin | None = None
    peer: str = ""
    client: str = ""
    model: str = UNKNOWN
    version: int = 0
    task: str = UNKNOWN
    rows: int = 0
    is_stream: bool = False
    told: bool = False
    ended: Callable[[], None] | None = None
    trace: Trace | None = None
    around: "Watch | None" = None
    """The stream that brought it, where it is not a call itself."""
    number: int = 0
    """How many requests a stream has brought so far, or which of them it is."""
    id: str = ""

    def request(self) -> "Watch":
        """One more request of this stream."""
        stream = self.around or self
        stream.number += 1
        told = (stream.rpc, stream.origin, stream.peer, stream.client)
        return Watch(time.monotonic(), *told, around=stream, number=stream.number)

    def request_id(self) -> str:
        """Its id, found when it is first asked for: without a log of calls few are."""
        if not self.id:
            self.id = id_of(self.origin) if self.around is None else f"{self.around.request_id()}-{self.number}"
        return self.id


_watch: ContextVar[Watch] = ContextVar("watch")


def note_target(model: str, task: str, version: int = 0, ended: Callable[[], None] | None = None) -> None:
    """Tell which model and task the running call has found; until then metrics call both ``unknown``.

    A call that runs the model tells its ``version`` too, by which statistics are kept, and what to call when nothing of it runs any more,
    however it ended.
    """
    watch = _watch.get()
    watch.model, watch.task, watch.version, watch.ended = model, task, version, ended


def note_client(name: str) -> None:
    """Tell who makes the running call."""
    _watch.get().client = name


def note_rows(rows: int) -> None:
    """Tell that the running call asks for ``rows`` more."""
    _watch.get().rows += rows


def note_stream() -> None:
    """Tell that the running call brings requests which are watched one by one."""
    _watch.get().is_stream = True


class Traffic:
    """While ``accepting`` is false, requests answer UNAVAILABLE; ``idle`` is set while none of them is served. A ``tracer`` is told of each.

    Those that are ``logged`` have a line in the log.
    """

    def __init__(self, metrics: Metrics, tracer: Tracer | None = None, logged: Logged = "off") -> None:
        self.metrics, self._tracer, self._logged = metrics, tracer, logged
        self.accepting = False
        self.idle = asyncio.Event()
        self.idle.set()
        self._running = 0
        # Read whenever Prometheus asks: cheaper than counting up and down in each call.
        metrics.in_flight.set_function(lambda: self._running)

    def check_open(self) -> None:
        """Raise :class:`Unavailable` unless requests are accepted."""
        if not self.accepting:
            raise Unavailable("the server is starting or draining; try again, or another replica")

    def start(self, rpc: str = "", origin: Origin | None = None) -> Watch:
        """Begin to watch a request, which ends in :meth:`finish` or :meth:`failed`: a call of ``rpc``, or one of the stream that runs."""
        stream = None if rpc else _watch.get(None)
        watch = Watch(time.monotonic(), rpc, origin) if stream is None else stream.request()
        if self._logged != "off" and origin is not None:
            # Once the other end has gone gRPC does not know it any more.
            watch.peer = origin.peer()
        if self._tracer is not None:
            watch.trace = begin(self._tracer, rpc, tuple if origin is None else origin.invocation_metadata)
        _watch.set(watch)
        self._running += 1
        self.idle.clear()
        return watch

    def finish(self, watch: Watch, code: str) -> None:
        """The request has ended with the gRPC status ``code``."""
        if watch.ended is not None:
            watch.ended()
        self._running -= 1
        if not self._running:
            self.idle.set()
        seconds = time.monotonic() - watch.started
        if not watch.is_stream:
            self.metrics.observe_request(watch.model, watch.version, watch.task, code, seconds)
        if self._tracer is not None and watch.trace is not None:
            self._tracer.end(watch.trace, watch, code)
        if self._logged == "all" or (self._logged == "failed" and code != "OK"):
            watch.told = True
            write(watch, code, seconds)

    def failed(self, watch: Watch, error: BaseException, remaining: float | None = None) -> RequestError | None:
        """The request was ended by ``error``, ``remaining`` seconds before its deadline. What its caller is told; None if it has gone."""
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            late = remaining is not None and remaining < LATE_SECONDS
            self.finish(watch, "DEADLINE_EXCEEDED" if late else "CANCELLED")
            return None
        if not isinstance(error, RequestError):
            error_id, watch.told = watch.request_id(), True
            told = {"request_id": error_id, "model": watch.model, "task": watch.task}
            log.error("error %(request_id)s in a call to %(model)s/%(task)s", told, exc_info=untold(error), extra=told)
            error = InternalError(error_id)
            if watch.trace is not None:
                watch.trace.request_id = error_id
        if (reason := REASONS.get(type(error))) is not None:
            self.metrics.rejected.labels(reason).inc()
        self.finish(watch, error.code)
        return error
