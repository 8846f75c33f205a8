"""The server process: ports, health, reflection, metrics over HTTP, and a clean end.

Order of a start: ports open, health says NOT_SERVING, bundles load in a thread, health says SERVING. Order of an end (SIGTERM
or SIGINT): health says NOT_SERVING, new calls are refused, running and queued rows finish within the grace period; a second
signal stops at once.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import msgspec
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from ganserve.errors import GanserveError
from ganserve.metrics import Metrics
from ganserve.plugins import Plugins
from ganserve.serving.batcher import Batcher
from ganserve.serving.call import Workers
from ganserve.serving.executor import Executor
from ganserve.serving.interceptor import Interceptor
from ganserve.serving.model import Settings
from ganserve.serving.repository import Repository
from ganserve.serving.service import Generation, Models
from ganserve.v1 import generation_pb2, generation_pb2_grpc, models_pb2, models_pb2_grpc

log = logging.getLogger(__name__)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

SERVICES = (
    generation_pb2.DESCRIPTOR.services_by_name["Generation"].full_name,
    models_pb2.DESCRIPTOR.services_by_name["Models"].full_name,
)


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that an operator may set. Port 0 takes a free one; a metrics port of None serves no metrics."""

    bundles: tuple[Path, ...]
    host: str = "127.0.0.1"
    port: int = 8001
    metrics_port: int | None = 8002
    models: Settings = Settings()
    max_rows: int = 1024
    """The most rows of one request."""
    queue_rows: int = 4096
    """The most rows that wait; beyond it calls are refused with RESOURCE_EXHAUSTED."""
    max_request_bytes: int = 4 << 20
    encode_threads: int = os.cpu_count() or 1
    grace: float = 20.0
    """Seconds that running calls get to finish after SIGTERM."""


class Server:
    """A server that is up: its ports are open; ``ready`` is set when its bundles have been loaded."""

    def __init__(
        self, server: grpc.aio.Server, settings: ServerSettings, repository: Repository, interceptor: Interceptor
    ) -> None:
        self.settings = settings
        self.repository = repository
        self.ready = asyncio.Event()
        self.port = 0
        self.metrics_port = 0
        self.health = health.aio.HealthServicer()
        self._server = server
        self._interceptor = interceptor

    async def load(self) -> None:
        """Load the bundles off the event loop, then begin to answer."""
        await asyncio.to_thread(self.repository.load)
        self._interceptor.accepting = True
        for entry in self.repository:
            await self.health.set(entry.name, SERVING if entry.state == "ready" else NOT_SERVING)
        for service in ("", *SERVICES):
            await self.health.set(service, SERVING)
        self.ready.set()

    async def drain(self) -> None:
        """Turn unready, let running calls finish within the grace period, then stop."""
        self._interceptor.accepting = False
        await self.health.enter_graceful_shutdown()
        await self._server.stop(self.settings.grace)

    async def stop(self) -> None:
        """Stop at once."""
        await self._server.stop(0)


@contextlib.asynccontextmanager
async def running(settings: ServerSettings, plugins: Plugins) -> AsyncIterator[Server]:
    """A server whose ports are open and whose bundles are being loaded; stopped on leaving."""
    metrics = Metrics()
    repository = Repository(settings.bundles, plugins, settings.models, metrics)
    batcher = Batcher(settings.queue_rows)
    metrics.watch_queue(settings.models.device, lambda: batcher.waiting)
    interceptor = Interceptor(metrics)
    grpc_server = grpc.aio.server(
        interceptors=(interceptor,),
        options=(
            ("grpc.max_receive_message_length", settings.max_request_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ),
    )
    server = Server(grpc_server, settings, repository, interceptor)
    with ThreadPoolExecutor(settings.encode_threads, "encode") as pool:
        executor = Executor(batcher, metrics, device=settings.models.device)
        workers = Workers(executor, pool, metrics)
        max_rows = min(settings.max_rows, settings.queue_rows)
        generation_pb2_grpc.add_GenerationServicer_to_server(Generation(repository, workers, max_rows), grpc_server)
        models_pb2_grpc.add_ModelsServicer_to_server(Models(repository), grpc_server)
        health_pb2_grpc.add_HealthServicer_to_server(server.health, grpc_server)
        reflection.enable_server_reflection((*SERVICES, "grpc.health.v1.Health", reflection.SERVICE_NAME), grpc_server)
        await server.health.set("", NOT_SERVING)
        server.port = _bind(grpc_server, settings)
        await grpc_server.start()
        http = _serve_metrics(metrics, settings)
        loading = asyncio.create_task(server.load())
        try:
            if http is not None:
                server.metrics_port = http.server_port
            yield server
        finally:
            await grpc_server.stop(0)
            with contextlib.suppress(asyncio.CancelledError):
                await loading
            await executor.close()
            repository.close()
            if http is not None:
                await asyncio.to_thread(http.shutdown)
                http.server_close()


async def serve(settings: ServerSettings, plugins: Plugins) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal stops at once."""
    async with running(settings, plugins) as server:
        signals: asyncio.Queue[int] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signals.put_nowait, number)
        log.info("listening on %s:%d, metrics on port %d", settings.host, server.port, server.metrics_port)
        announce = asyncio.create_task(_announce(server))
        await signals.get()
        log.info("draining for at most %.0f s; signal again to stop at once", settings.grace)
        again = asyncio.create_task(signals.get())
        draining = asyncio.create_task(server.drain())
        await asyncio.wait((again, draining), return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            log.warning("stopping at once")
            await server.stop()
        for task in (again, announce):
            task.cancel()
        await draining


async def _announce(server: Server) -> None:
    await server.ready.wait()
    states = [f"{entry.name} {entry.version or ''} {entry.state}".replace("  ", " ") for entry in server.repository]
    log.info("ready: %s", ", ".join(states) or "no bundle was found")


def _bind(server: grpc.aio.Server, settings: ServerSettings) -> int:
    address = f"{settings.host}:{settings.port}"
    try:
        return int(server.add_insecure_port(address))
    except RuntimeError as error:
        raise GanserveError(
            f"cannot listen on {address}: {error}; is another server there? choose another --port"
        ) from error


def _serve_metrics(metrics: Metrics, settings: ServerSettings):  # type: ignore[no-untyped-def]
    if settings.metrics_port is None:
        return None
    try:
        server, _ = start_http_server(settings.metrics_port, settings.host, metrics.registry)
    except OSError as error:
        raise GanserveError(
            f"cannot serve metrics on {settings.host}:{settings.metrics_port}: {error}; choose another --metrics-port"
        ) from error
    return server
