"""The metrics port, over HTTP: ``/metrics`` for Prometheus, ``/live`` and ``/ready`` for probes that cannot ask ``grpc.health.v1``.

Requests are answered by threads of their own. What they ask of the server is asked on its event loop, so a loop that hangs is told as what
it is. A probe is told yes (200) or no (503), and nothing else.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from ganserve.errors import GanserveError
from ganserve.serving.health import Health

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

LIVE_SECONDS = 4.0
"""How long an event loop may take to answer before it counts as hanging; less than the chart's probes wait."""


@contextlib.asynccontextmanager
async def over_http(host: str, port: int, registry: CollectorRegistry, health: Health) -> AsyncIterator[int]:
    """Answer on the port until the block is left; gives its number."""
    questions = {"/live": lambda: True, "/ready": lambda: health.serves("")}
    app = _app(make_wsgi_app(registry), asyncio.get_running_loop(), questions)
    try:
        server = make_server(host, port, app, _server_of(host, port), handler_class=_Silent)
    except OSError as error:
        raise GanserveError(f"cannot serve metrics on {host}:{port}: {error}; choose another --metrics-port") from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()


def _app(
    metrics: "WSGIApplication", loop: asyncio.AbstractEventLoop, questions: Mapping[str, Callable[[], bool]]
) -> "WSGIApplication":
    """Asks one of ``questions`` on ``loop`` where the path is its own; the other paths are the metrics'."""

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        question = questions.get(environ["PATH_INFO"])
        if question is None:
            return metrics(environ, start_response)
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [("Allow", "GET, HEAD"), ("Content-Length", "0")])
        else:
            status = "200 OK" if _ask(loop, question) else "503 Service Unavailable"
            start_response(status, [("Content-Length", "0"), ("Cache-Control", "no-store")])
        return []

    return app


def _ask(loop: asyncio.AbstractEventLoop, question: Callable[[], bool]) -> bool:
    """What ``question`` answers on ``loop``; no, if that does not get to it."""

    async def answer() -> bool:
        return question()

    asked = asyncio.run_coroutine_threadsafe(answer(), loop)
    try:
        return asked.result(LIVE_SECONDS)
    except (TimeoutError, CancelledError):
        asked.cancel()
        return False


def _server_of(host: str, port: int) -> type[ThreadingWSGIServer]:
    """A server of the address family that ``host`` has."""
    (family, *_), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return type("Server", (ThreadingWSGIServer,), {"address_family": family})


class _Silent(WSGIRequestHandler):
    """Logs no request: there is one every few seconds."""

    def log_message(self, *_: Any) -> None:
        """Nothing."""
