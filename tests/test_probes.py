"""``/live`` and ``/ready`` beside ``/metrics``, over a server's life, as the kubelet asks them."""

import asyncio
import http.client
import socket
import threading
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ganserve.errors import GanserveError
from ganserve.metrics import Metrics
from ganserve.plugins import installed
from ganserve.serving import probes
from ganserve.serving.gates import Access
from ganserve.serving.model import Settings
from ganserve.serving.repository import Repository
from ganserve.serving.server import Server, ServerSettings, running
from ganserve.serving.tls import Tls

from .certificates import CertificateAuthority


def settings_of(folder: Path, **settings: object) -> ServerSettings:
    fixed = {"port": 0, "metrics_port": 0, "models": Settings(threads=1), "encode_threads": 1, "access": Access()}
    return ServerSettings(bundles=(folder,), **{**fixed, **settings})


def ask(port: int, path: str, method: str = "GET", host: str = "127.0.0.1") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=20)
    connection.request(method, path)
    reply = connection.getresponse()
    return reply.status, reply.read()


async def asked(server: Server) -> dict[str, int]:
    """The status of each probe; neither says a word more."""
    found = {}
    for path in ("/live", "/ready"):
        found[path], body = await asyncio.to_thread(ask, server.metrics_port, path)
        assert body == b""
    return found


async def test_probes_tell_the_start_the_readiness_and_the_end(echo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = threading.Event()
    load = Repository.load

    def slow(self: Repository) -> None:
        assert begin.wait(60)
        load(self)

    monkeypatch.setattr(Repository, "load", slow)
    async with running(settings_of(echo), installed()) as server:
        assert await asked(server) == {"/live": 200, "/ready": 503}
        begin.set()
        await server.ready.wait()
        assert await asked(server) == {"/live": 200, "/ready": 200}
        held = server.traffic.start()
        draining = asyncio.create_task(server.drain())
        await asyncio.sleep(0)
        assert await asked(server) == {"/live": 200, "/ready": 503}
        server.traffic.finish(held, "OK")
        await draining
        assert await asked(server) == {"/live": 200, "/ready": 503}


async def test_probes_are_answered_where_grpc_is_encrypted(echo: Path, tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    cert, key = authority.issue("localhost")
    access = Access(tls=Tls(cert=cert, key=key, client_ca=authority.file))
    async with running(settings_of(echo, access=access), installed()) as server:
        await server.ready.wait()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            with pytest.raises(grpc.aio.AioRpcError):
                await check(health_pb2.HealthCheckRequest(), timeout=5)
        assert await asked(server) == {"/live": 200, "/ready": 200}
        status, page = await asyncio.to_thread(ask, server.metrics_port, "/metrics")
        assert (status, b"ganserve_build_info" in page) == (200, True)


async def test_a_server_that_hangs_is_not_live(echo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "LIVE_SECONDS", 0.2)
    async with running(settings_of(echo), installed()) as server:
        await server.ready.wait()
        asking = [
            asyncio.create_task(asyncio.to_thread(ask, server.metrics_port, path)) for path in ("/live", "/ready")
        ]
        await asyncio.sleep(0)
        time.sleep(1.0)  # the event loop does nothing else meanwhile
        assert [(await one)[0] for one in asking] == [503, 503]
        assert await asked(server) == {"/live": 200, "/ready": 200}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_probes_take_the_methods_that_ask(echo: Path, host: str) -> None:
    if host == "::1":
        with socket.socket(socket.AF_INET6) as trial:
            try:
                trial.bind((host, 0))
            except OSError:
                pytest.skip("this machine has no IPv6")
    health, registry = probes.Health(), Metrics().registry
    async with probes.over_http(host, 0, registry, health) as port:
        statuses = {
            (method, path): (await asyncio.to_thread(ask, port, path, method, host))[0]
            for method in ("GET", "HEAD", "POST", "DELETE")
            for path in ("/live", "/ready")
        }
        assert statuses == {
            ("GET", "/live"): 200,
            ("GET", "/ready"): 503,
            ("HEAD", "/live"): 200,
            ("HEAD", "/ready"): 503,
            **{(method, path): 405 for method in ("POST", "DELETE") for path in ("/live", "/ready")},
        }
        with pytest.raises(GanserveError, match=f"cannot serve metrics on {host}:{port}"):
            async with probes.over_http(host, port, registry, health):
                pass
