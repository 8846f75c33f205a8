"""The server process: ports, health, reflection, metrics and probes over HTTP, and a clean end.

Order of a start: ports open, health says NOT_SERVING, bundles load in a thread, health says SERVING. Order of an end (SIGTERM
or SIGINT): health says NOT_SERVING, new calls are refused, running and queued rows finish within the grace period; a second
signal stops at once.
"""

import asyncio
import contextlib
import gc
import logging
import math
import os
import signal
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import grpc
import msgspec
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from ganserve import inference
from ganserve.codecs import PictureLimits, Signer
from ganserve.metrics import Metrics
from ganserve.plugins import Plugins
from ganserve.serving.access import Gate
from ganserve.serving.batcher import Batcher
from ganserve.serving.call import Workers
from ganserve.serving.calls import Logged
from ganserve.serving.cores import take_turns
from ganserve.serving.crowd import Crowd
from ganserve.serving.executor import Executor
from ganserve.serving.gates import MANAGEMENT_HOST, Access, gates
from ganserve.serving.health import Health
from ganserve.serving.interceptor import Interceptor
from ganserve.serving.inversion import MOST_STEPS, Bounds
from ganserve.serving.model import Settings
from ganserve.serving.otlp import OtlpTracer
from ganserve.serving.policy import Lifecycle
from ganserve.serving.ports import Connections, Services, bind, make_server
from ganserve.serving.probes import over_http
from ganserve.serving.prompts import MOST_CHARACTERS, Guard, PolicyChoice, load_policies
from ganserve.serving.repository import Repository
from ganserve.serving.service import Generation
from ganserve.serving.service_inversion import Inversion
from ganserve.serving.service_latents import Latents
from ganserve.serving.service_models import Models
from ganserve.serving.service_oip import OpenInference
from ganserve.serving.service_text import Text
from ganserve.serving.tls import server_credentials
from ganserve.serving.tracing import Otlp
from ganserve.serving.traffic import Traffic
from ganserve.serving.watch import watch
from ganserve.triton_metrics import TritonMetrics
from ganserve.v1 import (
    generation_pb2,
    generation_pb2_grpc,
    inversion_pb2,
    inversion_pb2_grpc,
    latents_pb2,
    latents_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    text_pb2,
    text_pb2_grpc,
)

log = logging.getLogger(__name__)

OWN_SERVICES = (
    generation_pb2.DESCRIPTOR.services_by_name["Generation"].full_name,
    latents_pb2.DESCRIPTOR.services_by_name["Latents"].full_name,
    inversion_pb2.DESCRIPTOR.services_by_name["Inversion"].full_name,
    text_pb2.DESCRIPTOR.services_by_name["Text"].full_name,
    models_pb2.DESCRIPTOR.services_by_name["Models"].full_name,
)
SERVICES = (*OWN_SERVICES, inference.SERVICE)

REFLECTED = (*OWN_SERVICES, "grpc.health.v1.Health", reflection.SERVICE_NAME)


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that an operator may set. Port 0 takes a free one; a metrics port of None serves no metrics."""

    bundles: tuple[Path, ...]
    host: str = "127.0.0.1"
    port: int = 8001
    metrics_port: int | None = 8002
    triton_metrics: bool = False
    """Whether the metrics are also told by the names that Triton has for them."""
    otlp: Otlp | None = None
    """Where traces of calls are sent; None traces none."""
    models: Settings = Settings()
    lifecycle: Lifecycle = Lifecycle()
    max_rows: int = 1024
    """The most rows of one request."""
    queue_rows: int = 4096
    """The most rows that wait; beyond it calls are refused with RESOURCE_EXHAUSTED."""
    queue_bytes: int = 1 << 30
    """The most bytes of pictures that calls hold, as they were sent and as the graph takes them; beyond it they are refused likewise."""
    max_request_bytes: int = 64 << 20
    """The largest request; a picture of 3840x2160 pixels takes up to 25 MB as PNG."""
    max_picture_pixels: int = 64 << 20
    """The most pixels of one picture in a request."""
    max_steps: int = MOST_STEPS
    """The most steps of one inversion."""
    stream_frames: int = 8
    """The most frames of one TranslateStream that are read and not answered."""
    encode_threads: int = os.cpu_count() or 1
    """Threads that decode and encode pictures."""
    connections: Connections = Connections()
    """What clients' connections may cost."""
    access: Access = Access()
    """Who may reach what."""
    provenance: bool = True
    """Whether files of pictures say that a model made them, which one, and from which seed."""
    signer: Signer | None = None
    """Who signs that."""
    prompt_policy: tuple[PolicyChoice, ...] = ()
    """Who is asked whether a prompt is served."""
    max_prompt_characters: int = MOST_CHARACTERS
    """The longest prompt, whatever a model takes."""
    log_prompts: bool = False
    """Whether prompts are written to the log; nothing else tells them."""
    log_calls: Logged = "off"
    """Which calls have a line in the log when they end."""
    grace: float = 20.0
    """Seconds that running calls get to finish after SIGTERM."""


class Server:
    """A server that is up: its ports are open; ``ready`` is set when its bundles have been loaded."""

    def __init__(
        self,
        settings: ServerSettings,
        repository: Repository,
        traffic: Traffic,
    ) -> None:
        self.settings = settings
        self.repository = repository
        self.traffic = traffic
        self.metrics = traffic.metrics
        self.ready = asyncio.Event()
        self.port = 0
        self.management_port: int | None = None
        self.metrics_port = 0
        self.health = Health()
        self.ends = math.inf
        """When the grace period of a server that drains is over, by the monotonic clock."""
        self._servers: list[grpc.aio.Server] = []
        self._draining = False

    async def listen(self, services: Services) -> None:
        """Open the ports."""
        settings, access = self.settings, self.settings.access
        found = await gates(access, settings.host, settings.port)
        credentials = None if access.tls is None else server_credentials(access.tls)
        public = self._add(found.public, services)
        self.port = bind(public, f"{settings.host}:{settings.port}", "--port", credentials)
        if found.management is not None:
            management = self._add(found.management, services)
            address = f"{MANAGEMENT_HOST}:{access.management_port}"
            self.management_port = bind(management, address, "--management-port", None)

    def _add(self, gate: Gate, services: Services) -> grpc.aio.Server:
        interceptor, most = Interceptor(self.traffic, gate), self.settings.max_request_bytes
        server = make_server(interceptor, services, self.settings.connections, most)
        self._servers.append(server)
        return server

    async def start(self) -> None:
        """Begin to answer, health checks at first."""
        for server in self._servers:
            await server.start()

    async def load(self) -> None:
        """Load the bundles off the event loop, then begin to answer, unless it is time to end by then."""
        await self.repository.start()
        for entry in self.repository:
            self._tell_health(entry.name)
        self.repository.on_change = self._tell_health
        for service in ("", *SERVICES):
            self.health.set(service, True)
        self.traffic.accepting = not self._draining
        self.ready.set()

    async def watch(self) -> None:
        """Watch the folders of the bundles once they have been loaded, if asked to; until cancelled."""
        await self.ready.wait()
        if (seconds := self.settings.lifecycle.watch) is not None:
            await watch(self.repository, seconds)

    async def thin(self) -> None:
        """Shut down connections of addresses that have too many; until cancelled."""
        ports = [self.port] if self.management_port is None else [self.port, self.management_port]
        most, shut = self.settings.connections.client_connections, self.metrics.connections_shut
        await Crowd(ports, most, shut.inc).watch()

    async def drain(self) -> None:
        """Turn unready, let running calls finish within the grace period, then stop."""
        self._close()
        self.ends = time.monotonic() + self.settings.grace
        # gRPC cancels calls that it has received but not handed over; while it still runs, they are told UNAVAILABLE.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.traffic.idle.wait(), self.settings.grace)
        await self._stop(max(0.0, self.ends - time.monotonic()))

    async def stop(self) -> None:
        """Turn unready and stop; calls that run are cancelled."""
        self._close()
        await self._stop(0)

    async def _stop(self, grace: float) -> None:
        await asyncio.gather(*[server.stop(grace) for server in self._servers])

    def _tell_health(self, model: str) -> None:
        self.health.set(model, self.repository.serves(model))
        self.health.set("", not self.repository.lost)

    def _close(self) -> None:
        self._draining = True
        self.traffic.accepting = False
        self.repository.stop_loading()
        self.health.close()


@contextlib.asynccontextmanager
async def running(settings: ServerSettings, plugins: Plugins) -> AsyncIterator[Server]:
    """A server whose ports are open and whose bundles are being loaded; stopped on leaving."""
    metrics = Metrics()
    batcher = Batcher(settings.queue_rows, settings.queue_bytes)
    repository = Repository(
        settings.bundles,
        plugins,
        settings.models,
        metrics,
        settings.lifecycle,
        forget=lambda model: batcher.forget(model.owns),
    )
    metrics.engine_preferred.labels(settings.models.engines[0].name).set(1)
    metrics.watch_queue(settings.models.device, lambda: batcher.waiting)
    if settings.triton_metrics:
        metrics.registry.register(TritonMetrics(metrics.statistics, batcher.pending))
    tracer = None if settings.otlp is None else OtlpTracer(settings.otlp)
    server = Server(settings, repository, Traffic(metrics, tracer, settings.log_calls))
    async with contextlib.AsyncExitStack() as stack:
        if tracer is not None:
            stack.push_async_callback(tracer.close)
        stack.push_async_callback(repository.close)
        pool = stack.enter_context(ThreadPoolExecutor(settings.encode_threads, "encode"))
        executor = Executor(
            batcher,
            metrics,
            device=settings.models.device,
            traced=tracer is not None,
            patience=settings.models.hang_seconds,
            replace=repository.replace,
        )
        stack.push_async_callback(executor.close)
        limits = PictureLimits(pixels=settings.max_picture_pixels, bytes=settings.max_request_bytes)
        workers = Workers(executor, pool, metrics, limits, settings.provenance, settings.signer)
        max_rows = min(settings.max_rows, settings.queue_rows)
        generation = Generation(repository, workers, max_rows, settings.stream_frames)
        policies = load_policies(plugins, settings.prompt_policy)
        guard = Guard(policies, pool, settings.log_prompts, settings.max_prompt_characters)
        latents = Latents(repository, workers, max_rows, guard)
        text = Text(repository, workers, max_rows, guard)
        bounds = Bounds(settings.max_steps, lambda: server.ends)
        inversion = Inversion(repository, workers, max_rows, bounds)
        stack.push_async_callback(server.stop)
        open_inference = OpenInference(
            repository,
            workers,
            server.traffic,
            server.health,
            max_rows=max_rows,
            max_batch=settings.models.max_batch,
            window=settings.stream_frames,
            guard=guard,
            bounds=bounds,
        )
        offered = services(generation, latents, inversion, text, Models(repository), open_inference, server.health)
        await server.listen(offered)
        if settings.metrics_port is not None:
            answering = over_http(settings.host, settings.metrics_port, metrics.registry, server.health)
            server.metrics_port = await stack.enter_async_context(answering)
        await server.start()
        loading = asyncio.create_task(server.load())
        watching = [asyncio.create_task(server.watch()), asyncio.create_task(server.thin())]
        try:
            yield server
        finally:
            for task in watching:
                task.cancel()
            await server.stop()
            await loading


def services(
    generation: Generation,
    latents: Latents,
    inversion: Inversion,
    text: Text,
    models: Models,
    open_inference: OpenInference,
    health: Health,
) -> Services:
    """Every service that a server offers; each rpc of theirs is classified in :mod:`ganserve.serving.methods`."""
    names = (*REFLECTED, inference.SERVICE)
    reflected = reflection.aio.ReflectionServicer(names, pool=inference.pool_with(REFLECTED))
    return (
        partial(generation_pb2_grpc.add_GenerationServicer_to_server, generation),
        partial(latents_pb2_grpc.add_LatentsServicer_to_server, latents),
        partial(inversion_pb2_grpc.add_InversionServicer_to_server, inversion),
        partial(text_pb2_grpc.add_TextServicer_to_server, text),
        partial(models_pb2_grpc.add_ModelsServicer_to_server, models),
        partial(health_pb2_grpc.add_HealthServicer_to_server, health),
        lambda port: port.add_generic_rpc_handlers((inference.handlers(open_inference),)),
        partial(reflection_pb2_grpc.add_ServerReflectionServicer_to_server, reflected),
    )


async def serve(settings: ServerSettings, plugins: Plugins) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal stops at once."""
    take_turns()
    signals = _signals()
    async with running(settings, plugins) as server:
        log.info("listening on %s:%d, metrics on port %d", settings.host, server.port, server.metrics_port)
        if server.management_port is not None:
            log.info("management calls on %s:%d", MANAGEMENT_HOST, server.management_port)
        announce = asyncio.create_task(_announce(server))
        await signals.get()
        log.info("draining for at most %.0f s; signal again to stop at once", settings.grace)
        again = asyncio.create_task(_stop_at_once(signals))
        announce.cancel()
        await server.drain()
    again.cancel()
    log.info("stopped")


def _signals() -> asyncio.Queue[int]:
    """The SIGTERMs and SIGINTs from now on."""
    signals: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # asyncio learns of a signal from a byte in a pipe, and loses it where the pipe is full. Its handler only wakes the
        # loop here; the one below is Python's own, which runs whatever the pipe holds.
        loop.add_signal_handler(number, lambda: None)
        signal.signal(number, lambda number, _: loop.call_soon_threadsafe(signals.put_nowait, number))
    return signals


async def _stop_at_once(signals: asyncio.Queue[int]) -> None:
    """End the process on the next signal, whatever it is doing: a batch or an engine's build cannot be interrupted."""
    number = await signals.get()
    log.warning("stopping at once")
    logging.shutdown()
    os._exit(128 + number)


async def _announce(server: Server) -> None:
    await server.ready.wait()
    # What has been loaded mostly stays: without this the collector walks all of it again and again, in the middle of calls. A model that is
    # put away later needs no collector, for nothing in it refers to itself; one that is loaded later is small beside all that is frozen.
    gc.collect()
    gc.freeze()
    states = [f"{entry.name} {entry.version or ''} {entry.state}".replace("  ", " ") for entry in server.repository]
    log.info("ready: %s", ", ".join(states) or "no bundle was found")
