"""The one place where errors become gRPC statuses, and calls become metrics.

A caller gets the message of a :class:`ganserve.errors.RequestError`, with ``google.rpc`` details where the protocol has them;
of any other exception it gets an id, under which the log has the traceback.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any, TypeAlias

import grpc
import msgspec
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from ganserve import inference
from ganserve.codecs import MOST_VIOLATIONS
from ganserve.errors import InternalError, InvalidArgument, QueueFull, RequestError, Unavailable
from ganserve.metrics import Metrics

log = logging.getLogger(__name__)

LATE_SECONDS = 0.05
"""A caller that goes with less time left has met its deadline: its own clock ends the call before the server's does."""

Parse: TypeAlias = Callable[[bytes], Message]

# A status travels in a trailer, of which clients accept 8 KiB, and takes up to three times its length there.
_MESSAGE_BYTES, _FIELD_BYTES, _DESCRIPTION_BYTES = 800, 80, 240

PROBES = tuple(f"/{inference.SERVICE}/{name}" for name in ("ServerLive", "ServerReady", "ModelReady"))
"""Methods that answer while a server starts or drains: they tell whether it does."""

_WATCHED = ("/ganserve.", f"/{inference.SERVICE}/")


class Watch(msgspec.Struct):
    """A request that is being served: when it came, and what it has found so far.

    One that ``is_stream`` is a connection for requests which are watched on their own, and not counted itself. ``ended`` is called when
    nothing of it runs any more.
    """

    started: float
    model: str = "unknown"
    version: int = 0
    task: str = "unknown"
    is_stream: bool = False
    ended: Callable[[], None] | None = None


_watch: ContextVar[Watch] = ContextVar("watch")


def note_target(model: str, task: str, version: int = 0, ended: Callable[[], None] | None = None) -> None:
    """Tell the interceptor which model and task the running call has found; until then metrics call both ``unknown``.

    A call that runs the model tells its ``version`` too, by which statistics are kept, and what to call when nothing of it runs any more,
    however it ended.
    """
    watch = _watch.get()
    watch.model, watch.task, watch.version, watch.ended = model, task, version, ended


def note_stream() -> None:
    """Tell the interceptor that the running call brings requests which are watched one by one."""
    _watch.get().is_stream = True


def status_of(error: RequestError) -> status_pb2.Status:
    """The status that tells a caller of ``error``."""
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=_cut(str(error), _MESSAGE_BYTES))
    details: list[Message] = []
    if isinstance(error, InvalidArgument):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(
                field=_cut(field, _FIELD_BYTES), description=_cut(description, _DESCRIPTION_BYTES)
            )
            for field, description in error.violations[:MOST_VIOLATIONS]
        ]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if isinstance(error, QueueFull):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if isinstance(error, InternalError):
        details.append(error_details_pb2.RequestInfo(request_id=error.error_id))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


class Interceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Wraps every call of the services that run models.

    While ``accepting`` is false, they answer UNAVAILABLE, all but :data:`PROBES`; ``idle`` is set while none of them runs.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.accepting = False
        self.idle = asyncio.Event()
        self.idle.set()
        self._running = 0
        self._metrics = metrics
        self._wrapped: dict[str, Any] = {}
        # Read whenever Prometheus asks: cheaper than counting up and down in each call.
        metrics.in_flight.set_function(lambda: self._running)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """The handler of one call, wrapped; a method's is looked up and wrapped once."""
        if (known := self._wrapped.get(details.method)) is not None:
            return known
        handler = await continuation(details)
        if handler is None or not details.method.startswith(_WATCHED) or details.method in PROBES:
            return handler
        wrapped = self._wrapped[details.method] = self._wrap(handler)
        return wrapped

    def _wrap(self, handler: Any) -> Any:
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._both_streaming(handler.stream_stream, handler.request_deserializer),
                response_serializer=handler.response_serializer,
            )
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(handler.unary_stream, handler.request_deserializer),
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(handler.unary_unary, handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )

    # All parse the request themselves: gRPC would log a traceback for bytes that are none, and call them UNKNOWN.

    def _unary(self, inner: Callable[..., Awaitable[Message]], parse: Parse) -> Callable[..., Awaitable[Message]]:
        async def call(data: bytes, context: grpc.aio.ServicerContext) -> Message:
            watch = self.start()
            try:
                self.check_open()
                reply = await inner(_parsed(parse, data), context)
            except BaseException as error:
                await self._abort(watch, error, context)
                raise
            self.finish(watch, "OK")
            return reply

        return call

    def _streaming(self, inner: Callable[..., AsyncGenerator[Message]], parse: Parse) -> Callable[..., Awaitable[None]]:
        async def call(data: bytes, context: grpc.aio.ServicerContext) -> None:
            await self._write(lambda: inner(_parsed(parse, data), context), context)

        return call

    def _both_streaming(
        self, inner: Callable[..., AsyncGenerator[Message]], parse: Parse
    ) -> Callable[..., Awaitable[None]]:
        async def call(_: Any, context: grpc.aio.ServicerContext) -> None:
            await self._write(lambda: inner(_messages(parse, context), context), context)

        return call

    async def _write(self, inner: Callable[[], AsyncGenerator[Message]], context: grpc.aio.ServicerContext) -> None:
        # Writes instead of yielding: gRPC leaves a generator whose caller has gone to the garbage collector.
        watch = self.start()
        try:
            self.check_open()
            async with aclosing(inner()) as replies:
                async for reply in replies:
                    await context.write(reply)
        except BaseException as error:
            await self._abort(watch, error, context)
            raise
        self.finish(watch, "OK")

    def check_open(self) -> None:
        """Raise :class:`Unavailable` while no requests are taken."""
        if not self.accepting:
            raise Unavailable("the server is starting or draining; try again, or another replica")

    def start(self) -> Watch:
        """Begin to watch a request: a call, or one of those that a stream brings. Each ends in :meth:`finish` or :meth:`failed`."""
        watch = Watch(time.monotonic())
        _watch.set(watch)
        self._running += 1
        self.idle.clear()
        return watch

    def finish(self, watch: Watch, code: str) -> None:
        """The request has ended with the status ``code``."""
        self._running -= 1
        if not self._running:
            self.idle.set()
        if watch.ended is not None:
            watch.ended()
        if not watch.is_stream:
            seconds = time.monotonic() - watch.started
            self._metrics.observe_request(watch.model, watch.version, watch.task, code, seconds)

    def failed(self, watch: Watch, error: BaseException, remaining: float | None = None) -> RequestError | None:
        """The request was ended by ``error``, ``remaining`` seconds before its deadline. What its caller is told; None if it has gone."""
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            late = remaining is not None and remaining < LATE_SECONDS
            self.finish(watch, "DEADLINE_EXCEEDED" if late else "CANCELLED")
            return None
        if not isinstance(error, RequestError):
            error_id = secrets.token_hex(6)
            log.error("error %s in a call to %s/%s", error_id, watch.model, watch.task, exc_info=error)
            error = InternalError(error_id)
        if isinstance(error, QueueFull | Unavailable):
            self._metrics.rejected.labels("queue_full" if isinstance(error, QueueFull) else "unavailable").inc()
        elif isinstance(error, InvalidArgument):
            self._metrics.rejected.labels("invalid").inc()
        self.finish(watch, error.code)
        return error

    async def _abort(self, watch: Watch, failure: BaseException, context: grpc.aio.ServicerContext) -> None:
        if (error := self.failed(watch, failure, context.time_remaining())) is None:
            return
        status = rpc_status.to_status(status_of(error))
        if isinstance(error, QueueFull):
            # RetryInfo is for people's code; this is what gRPC's own retries obey.
            pushback = ("grpc-retry-pushback-ms", str(round(error.retry_after * 1000)))
            status = status._replace(trailing_metadata=(*status.trailing_metadata, pushback))
        await context.abort_with_status(status)


async def _messages(parse: Parse, context: grpc.aio.ServicerContext) -> AsyncIterator[Message]:
    """The messages of a stream; each is read from the connection when it is asked for, not before."""
    while (data := await context.read()) is not grpc.aio.EOF:
        yield _parsed(parse, data)


def _parsed(parse: Parse, data: bytes) -> Message:
    try:
        return parse(data)
    except DecodeError:
        # `parse` is a message type's FromString.
        name = parse.__self__.DESCRIPTOR.full_name  # type: ignore[attr-defined]
        raise InvalidArgument.of(
            "", f"{len(data)} bytes that are no {name}; make the client from this server's protos"
        ) from None


def _cut(text: str, most: int) -> str:
    data = text.encode("utf-8", "replace")
    return text if len(data) <= most else data[: most - 3].decode("utf-8", "ignore") + "..."
