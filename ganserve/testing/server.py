"""A real server on a free port of this machine, in a thread of the test that uses it."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec

from ganserve.plugins import Plugins, installed
from ganserve.serving.gates import MANAGEMENT_HOST, Access
from ganserve.serving.model import Settings
from ganserve.serving.server import Server, ServerSettings, running

PATIENCE = 60.0
"""Seconds that a server may take to be ready."""


class Serving(msgspec.Struct, frozen=True, eq=False):
    """A server that is ready: where it answers calls and management calls, where its metrics are, and the server itself with its repository."""

    address: str
    management: str
    metrics_port: int
    server: Server


@contextlib.contextmanager
def serving(*bundles: Path, plugins: Plugins | None = None, **settings: Any) -> Iterator[Serving]:
    """Serve ``bundles`` until the block is left; ``settings`` are those of :class:`ServerSettings`, by default one thread.

    >>> with serving(folder) as server, Client(server.address) as client:
    ...     client.sample("echo")
    """
    settings = {
        "port": 0,
        "metrics_port": 0,
        "access": Access(management_port=0),
        "models": Settings(threads=1),
        "encode_threads": 1,
        **settings,
    }
    chosen = ServerSettings(bundles=bundles, **settings)
    started: Future[tuple[Serving, asyncio.AbstractEventLoop, asyncio.Event]] = Future()
    thread = threading.Thread(target=_run, args=(chosen, plugins or installed(), started), name="server", daemon=True)
    thread.start()
    found, loop, stop = started.result(2 * PATIENCE)
    try:
        yield found
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def _run(settings: ServerSettings, plugins: Plugins, started: Future[Any]) -> None:
    async def run() -> None:
        stop = asyncio.Event()
        async with running(settings, plugins) as server:
            await asyncio.wait_for(server.ready.wait(), PATIENCE)
            management = f"{MANAGEMENT_HOST}:{server.management_port}"
            found = Serving(f"{settings.host}:{server.port}", management, server.metrics_port, server)
            started.set_result((found, asyncio.get_running_loop(), stop))
            await stop.wait()

    try:
        asyncio.run(run())
    except BaseException as error:
        if started.done():
            raise
        started.set_exception(error)
