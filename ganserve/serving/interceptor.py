"""The one place where a call is let in, and where errors become gRPC statuses.

A caller gets the message of a :class:`ganserve.errors.RequestError`, with ``google.rpc`` details where the protocol has them;
of any other exception it gets an id, under which the log has the traceback.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, TypeAlias

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from ganserve.codecs import MOST_VIOLATIONS
from ganserve.errors import (
    InternalError,
    InvalidArgument,
    QueueFull,
    QuotaExceeded,
    RequestError,
)
from ganserve.serving.access import Gate, Guard, until
from ganserve.serving.calls import REQUEST_ID, Origin
from ganserve.serving.methods import METHODS, Kind
from ganserve.serving.traffic import Traffic, Watch

LONGEST_PUSHBACK = 5.0
"""Seconds for which gRPC's own retries wait at most. A client that must wait longer is better told so than kept until its deadline."""

Parse: TypeAlias = Callable[[bytes], Message]

Start: TypeAlias = Callable[[Origin], Watch]
"""Begins to watch a call of one method."""

# A status travels in a trailer, of which clients accept 8 KiB, and takes up to three times its length there.
_MESSAGE_BYTES, _FIELD_BYTES, _DESCRIPTION_BYTES = 800, 80, 240


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
    if isinstance(error, QuotaExceeded):
        failure = error_details_pb2.QuotaFailure.Violation(description=status.message[:_DESCRIPTION_BYTES])
        details.append(error_details_pb2.QuotaFailure(violations=[failure]))
    if isinstance(error, QueueFull | QuotaExceeded) and math.isfinite(error.retry_after):
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


class Interceptor(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The rpcs of one port, each wrapped but those that ask for health: a call has to pass ``gate``, and is counted in ``traffic``.

    Services are added to it as they would be to a server, and it is all that the server has: gRPC's own interceptors would send every
    call through a chain of coroutines to find its handler.
    """

    def __init__(self, traffic: Traffic, gate: Gate | None = None) -> None:
        self._traffic, self._gate = traffic, gate or Gate()
        self._services: list[grpc.GenericRpcHandler] = []
        self._handlers: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Add a service's rpcs."""
        self._services += handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """The same rpcs once more, which generated code tells servers that look them up by name."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """The handler of one call, wrapped; a method's is looked up and wrapped once. None for what no service has."""
        method = details.method
        if (known := self._handlers.get(method)) is not None:
            return known
        handler = next((found for service in self._services if (found := service.service(details)) is not None), None)
        if handler is None:
            return None
        found = handler if METHODS.get(method) is Kind.HEALTH else self._wrap(handler, method)
        self._handlers[method] = found
        return found

    def _wrap(self, handler: Any, method: str) -> Any:
        start, guard = partial(self._traffic.start, method.removeprefix("/")), self._gate.guard(method)
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._both_streaming(handler.stream_stream, handler.request_deserializer, start, guard),
                response_serializer=handler.response_serializer,
            )
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(handler.unary_stream, handler.request_deserializer, start, guard),
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(handler.unary_unary, handler.request_deserializer, start, guard),
            response_serializer=handler.response_serializer,
        )

    # All parse the request themselves: gRPC would log a traceback for bytes that are none, and call them UNKNOWN.

    def _unary(
        self, inner: Callable[..., Awaitable[Message]], parse: Parse, start: Start, guard: Guard | None
    ) -> Callable[..., Awaitable[Message]]:
        async def call(data: bytes, context: grpc.aio.ServicerContext) -> Message:
            watch, visit = start(context), None
            try:
                self._traffic.check_open()
                if guard is not None:
                    visit = await guard(context)
                reply = await inner(_parsed(parse, data), context)
            except BaseException as error:
                await self._abort(watch, error, context)
                raise
            finally:
                if visit is not None:
                    visit.leave()
            self._finish(watch, context)
            return reply

        return call

    def _streaming(
        self, inner: Callable[..., AsyncGenerator[Message]], parse: Parse, start: Start, guard: Guard | None
    ) -> Callable[..., Awaitable[None]]:
        async def call(data: bytes, context: grpc.aio.ServicerContext) -> None:
            await self._write(lambda: inner(_parsed(parse, data), context), context, start, guard)

        return call

    def _both_streaming(
        self, inner: Callable[..., AsyncGenerator[Message]], parse: Parse, start: Start, guard: Guard | None
    ) -> Callable[..., Awaitable[None]]:
        async def call(_: Any, context: grpc.aio.ServicerContext) -> None:
            await self._write(lambda: inner(_messages(parse, context), context), context, start, guard)

        return call

    async def _write(
        self,
        inner: Callable[[], AsyncGenerator[Message]],
        context: grpc.aio.ServicerContext,
        start: Start,
        guard: Guard | None,
    ) -> None:
        # Writes instead of yielding: gRPC leaves a generator whose caller has gone to the garbage collector.
        watch, visit = start(context), None
        try:
            self._traffic.check_open()
            if guard is not None:
                visit = await guard(context)
            async with until(visit and visit.revoked), aclosing(inner()) as replies:
                async for reply in replies:
                    await _send(context, reply)
        except BaseException as error:
            await self._abort(watch, error, context)
            raise
        finally:
            if visit is not None:
                visit.leave()
        self._finish(watch, context)

    def _finish(self, watch: Watch, context: grpc.aio.ServicerContext) -> None:
        self._traffic.finish(watch, "OK")
        if watch.told:
            context.set_trailing_metadata(((REQUEST_ID, watch.request_id()),))

    async def _abort(self, watch: Watch, failure: BaseException, context: grpc.aio.ServicerContext) -> None:
        if (error := self._traffic.failed(watch, failure, context.time_remaining())) is None:
            return
        status = rpc_status.to_status(status_of(error))
        trailers = status.trailing_metadata
        if watch.told:
            trailers = (*trailers, (REQUEST_ID, watch.request_id()))
        if isinstance(error, QueueFull | QuotaExceeded):
            # RetryInfo is for people's code; this is what gRPC's own retries obey. A negative one ends them.
            pushback = round(error.retry_after * 1000) if error.retry_after <= LONGEST_PUSHBACK else -1
            trailers = (*trailers, ("grpc-retry-pushback-ms", str(pushback)))
        await context.abort_with_status(status._replace(trailing_metadata=trailers))


async def _send(context: grpc.aio.ServicerContext, reply: Message) -> None:
    try:
        await context.write(reply)
    except grpc.aio.InternalError as error:
        # gRPC cannot write to a caller that has gone while it did not read, and need not say so in any other way.
        raise asyncio.CancelledError from error


async def _messages(parse: Parse, context: grpc.aio.ServicerContext) -> AsyncIterator[Message]:
    """The messages of a stream; each is read from the connection when it is asked for, not before."""
    while (data := await _read(context)) is not grpc.aio.EOF:
        yield _parsed(parse, data)


async def _read(context: grpc.aio.ServicerContext) -> Any:
    reading = asyncio.ensure_future(context.read())
    try:
        await asyncio.wait((reading,))
    except asyncio.CancelledError:
        # gRPC still writes to what a read waits for, so that is let be; it ends with the call.
        reading.add_done_callback(lambda read: read.cancelled() or read.exception())
        raise
    return reading.result()


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
