"""Every Prometheus series, in one table. ``docs/metrics.md`` is generated from it.

Called from the traffic (requests, latency), the executor (batches), calls (rows) and the repository (loading) only. Labels
hold names that the operator chose, never a caller's text. The same observations fill ``statistics``, which tell versions apart.
"""

import platform
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from ganserve import __version__
from ganserve.statistics import Statistics

if TYPE_CHECKING:
    from ganserve.serving.jobs import Batch

M = TypeVar("M", Counter, Gauge, Histogram)

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Bucket bounds of every duration: from one row of a small generator to a long inversion."""

ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Bucket bounds of batch sizes."""


class Metrics:
    """The series of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._children: dict[tuple[Any, tuple[str, ...]], Any] = {}
        self.statistics = Statistics()
        self.requests = Counter("ganserve_requests", "Finished calls.", ("model", "task", "code"), registry=registry)
        self.latency = Histogram(
            "ganserve_latency_seconds",
            "Whole time of a call in the server.",
            ("model", "task"),
            buckets=SECONDS,
            registry=registry,
        )
        self.queue_time = Histogram(
            "ganserve_queue_seconds",
            "Time that rows waited for a batch.",
            ("model",),
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_rows = Histogram(
            "ganserve_batch_rows", "Rows in a batch.", ("model",), buckets=ROWS, registry=registry
        )
        self.engine_time = Histogram(
            "ganserve_engine_seconds",
            "Time of a batch on its engine, with drawing its noise.",
            ("model", "engine"),
            buckets=SECONDS,
            registry=registry,
        )
        self.decode_time = Histogram(
            "ganserve_decode_seconds", "Time to decode one picture.", ("format",), buckets=SECONDS, registry=registry
        )
        self.encode_time = Histogram(
            "ganserve_encode_seconds", "Time to encode one result.", ("format",), buckets=SECONDS, registry=registry
        )
        self.queue_rows = Gauge("ganserve_queue_rows", "Rows that wait for a batch.", ("device",), registry=registry)
        self.in_flight = Gauge("ganserve_in_flight_requests", "Calls that are being served.", registry=registry)
        self.rejected = Counter(
            "ganserve_rejected_requests", "Calls refused before anything was computed.", ("reason",), registry=registry
        )
        self.stream_frames = Gauge(
            "ganserve_stream_frames",
            "Frames and requests of streams that have been read and not answered.",
            registry=registry,
        )
        self.connections_shut = Counter(
            "ganserve_connections_shut",
            "Connections shut down because their address had too many.",
            registry=registry,
        )
        self.cancelled_rows = Counter(
            "ganserve_cancelled_rows", "Rows never run because their caller had gone.", registry=registry
        )
        self.images = Counter("ganserve_images", "Results made.", ("model",), registry=registry)
        self.pixels = Counter("ganserve_pixels", "Pixels made.", ("model",), registry=registry)
        self.inversion_steps = Counter(
            "ganserve_inversion_steps",
            "Steps of inversions, those that try samples among them.",
            ("model",),
            registry=registry,
        )
        self.engine_in_use = Gauge(
            "ganserve_engine_in_use",
            "1 for the engine that serves a graph.",
            ("model", "graph", "engine"),
            registry=registry,
        )
        self.engine_preferred = Gauge(
            "ganserve_engine_preferred", "1 for the engine that is tried first.", ("engine",), registry=registry
        )
        self.engine_refusals = Counter(
            "ganserve_engine_refusals",
            "Times that an engine was not taken for a graph: unavailable here, failed to load it, or golden rows differed.",
            ("model", "engine", "reason"),
            registry=registry,
        )
        self.engine_hangs = Counter(
            "ganserve_engine_hangs",
            "Batches that were given up because their engine did not come back.",
            ("model", "engine"),
            registry=registry,
        )
        self.load_time = Histogram(
            "ganserve_model_load_seconds",
            "Time to verify, load and golden-test a model.",
            ("model",),
            buckets=SECONDS,
            registry=registry,
        )
        self.load_failures = Counter(
            "ganserve_model_load_failures", "Bundles that could not be loaded.", registry=registry
        )
        self.reload_failures = Counter(
            "ganserve_model_reload_failures",
            "Times that a new bundle or engine of a model failed and what served before stayed.",
            ("model",),
            registry=registry,
        )
        self.loads = Counter("ganserve_model_loads", "Times that a model was loaded.", ("model",), registry=registry)
        self.unloads = Counter(
            "ganserve_model_unloads", "Times that a loaded model was put away.", ("model",), registry=registry
        )
        self.models_in_memory = Gauge(
            "ganserve_models_in_memory",
            "Loaded models, those that only finish their last calls among them.",
            registry=registry,
        )
        self.model_bytes = Gauge(
            "ganserve_model_bytes", "Bytes that the weights of models in memory take.", registry=registry
        )
        self.build = Info("ganserve_build", "Version of the server.", registry=registry)
        self.build.info({"version": __version__, "python": platform.python_version()})

    def child(self, metric: M, *labels: str) -> M:
        """``metric.labels(*labels)``, remembered: looking a child up anew takes longer than counting with it."""
        key = (metric, labels)
        if (found := self._children.get(key)) is None:
            found = self._children[key] = metric.labels(*labels)
        return found

    def watch_queue(self, device: str, rows: Callable[[], int]) -> None:
        """Read a device's waiting rows whenever Prometheus asks."""
        self.queue_rows.labels(device).set_function(rows)

    def observe_request(self, model: str, version: int, task: str, code: str, seconds: float) -> None:
        """Record a request that has ended with the status ``code``; version 0 if it ran no model."""
        self.child(self.requests, model, task, code).inc()
        self.child(self.latency, model, task).observe(seconds)
        if version:
            self.statistics.of(model, version).request(code, seconds)

    def observe_call(self, model: str, version: int, rows: int, seconds: Mapping[str, float]) -> None:
        """Record a call that has given all its ``rows``, after these ``seconds`` by part."""
        self.statistics.of(model, version).call(rows, seconds)

    def observe_batch(self, batch: "Batch") -> None:
        """Record one batch that has run."""
        model, engine = batch.stage.model, batch.stage.engine
        queue_time = self.child(self.queue_time, model)
        for piece in batch.slices:
            queue_time.observe(batch.taken - piece.job.submitted)
        self.child(self.batch_rows, model).observe(batch.rows)
        self.child(self.engine_time, model, engine).observe(batch.seconds)
        self.statistics.of(model, batch.stage.version).batch(batch.rows, batch.seconds)
