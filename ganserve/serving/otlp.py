"""Traces as OpenTelemetry's spans, sent to a collector by OTLP. The only room that imports OpenTelemetry, and only when asked to trace.

Spans wait in a bounded queue, which a thread of the SDK sends away in batches: a collector that is slow or dead costs spans, never calls.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ganserve import __version__
from ganserve.errors import GanserveError
from ganserve.serving.tracing import Metadata, Otlp, Target, Trace

if TYPE_CHECKING:
    from opentelemetry.context import Context

FLUSH_SECONDS = 3.0
"""How long the end of a server waits for a collector to take the last spans."""

FAULTS = frozenset(("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"))
"""Statuses that are a server's fault; with the others a span is not marked as failed (OpenTelemetry's conventions for gRPC servers)."""

_NANOSECONDS = 1_000_000_000


class OtlpTracer:
    """Makes spans of traces and sends them to a collector. The variables ``OTEL_*`` set what ``settings`` leave open."""

    def __init__(self, settings: Otlp) -> None:
        try:
            from opentelemetry import propagate, trace
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
        except ImportError as error:
            raise GanserveError("traces need OpenTelemetry: pip install 'ganserve[otel]'") from error
        own = {"service.name": "ganserve", "service.version": __version__}
        resource = Resource.create({**own, **OTELResourceDetector().detect().attributes})
        sampler = None if settings.sample is None else ParentBasedTraceIdRatio(settings.sample)
        self._provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.endpoint)))
        self._tracer = self._provider.get_tracer("ganserve", __version__)
        self._extract: Callable[[Mapping[str, str]], Context] = propagate.extract
        self._within, self._status = trace.set_span_in_context, trace.Status
        self._kinds, self._codes = trace.SpanKind, trace.StatusCode
        # Spans tell the time of day, which the clock of the parts does not.
        self._epoch = time.time_ns() - round(time.monotonic() * _NANOSECONDS)

    def begin(self, name: str, metadata: Metadata, around: Trace | None) -> Trace | None:
        """The trace of a call, as its caller's ``traceparent`` or the sampler decides."""
        if around is None:
            given = {key: value for key, value in metadata() or () if isinstance(value, str)}
            context, kind = self._extract(given), self._kinds.SERVER
        else:
            context, kind = self._within(around.span), self._kinds.INTERNAL
        started = time.monotonic()
        told = {} if around is not None else {"rpc.system.name": "grpc", "rpc.method": name}
        span = self._tracer.start_span(name, context, kind, told, start_time=self._time(started))
        return Trace(span, around, started) if span.is_recording() else None

    def end(self, trace: Trace, target: Target, code: str) -> None:
        """Make the spans of ``trace``."""
        within = self._within(trace.span)
        for part in trace.parts:
            told = {f"ganserve.{name}": value for name, value in part.attributes.items()}
            span = self._tracer.start_span(part.name, within, attributes=told, start_time=self._time(part.started))
            span.end(self._time(part.ended))
        trace.span.set_attributes(
            {
                "rpc.response.status_code": code,
                "ganserve.model": target.model,
                "ganserve.version": target.version,
                "ganserve.task": target.task,
                "ganserve.rows": target.rows,
            }
        )
        if trace.left_out:
            trace.span.set_attribute("ganserve.parts_left_out", trace.left_out)
        if trace.request_id:
            trace.span.set_attribute("ganserve.request_id", trace.request_id)
        if code in FAULTS:
            trace.span.set_status(self._status(self._codes.ERROR, code))
        trace.span.end(self._time(time.monotonic()))

    async def close(self) -> None:
        """Send what is left, for :data:`FLUSH_SECONDS` at most."""
        # In a thread that does not keep the process from ending: the SDK waits up to half a minute for a collector that is dead.
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            if not loop.is_closed():
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=shut_down, name="otlp", daemon=True).start()
        try:
            await asyncio.wait_for(done.wait(), FLUSH_SECONDS)
        except TimeoutError:
            return

    def _time(self, monotonic: float) -> int:
        """Nanoseconds since 1970."""
        return self._epoch + round(monotonic * _NANOSECONDS)
