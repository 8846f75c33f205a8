"""Servers behind client-side round robin and behind nginx: calls spread evenly, go to no server that is not ready, and killing one loses none."""

import asyncio
import contextlib
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ganserve import AsyncClient, Client
from ganserve.commands.process import free_port, server
from ganserve.errors import Unavailable
from ganserve.plugins import installed
from ganserve.serving.repository import Repository
from ganserve.serving.server import Server, ServerSettings, running

SERVERS = 3
CALLERS = 6
CALLS = 240

NGINX = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  include {folder}/ganserve.conf;
}}
"""
CONFIGURATION = Path(__file__).parent.parent / "deploy" / "nginx" / "ganserve.conf"


class Running(msgspec.Struct, frozen=True):
    """A server process, where it answers and where its metrics are."""

    process: subprocess.Popen[bytes]
    address: str
    metrics_port: int

    def calls(self) -> int:
        """How many Samples it has answered well."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        counted = [line for line in lines if line.startswith("ganserve_requests_total{") and 'code="OK"' in line]
        return int(sum(float(line.rpartition(" ")[2]) for line in counted))


@pytest.fixture
def servers(echo: Path, tmp_path: Path) -> Iterator[list[Running]]:
    with contextlib.ExitStack() as stack:
        started = []
        for number in range(SERVERS):
            metrics = free_port()
            # The last --metrics-port counts.
            options = ("--threads", "1", "--max-batch", "8", "--metrics-port", str(metrics))
            process, address = stack.enter_context(server(echo, tmp_path / f"{number}.log", *options))
            started.append(Running(process, address, metrics))
        for one in started:
            with Client(one.address) as client:
                client.wait_ready(60, model="echo")
        yield started


@contextlib.contextmanager
def behind_nginx(servers: list[Running], folder: Path, tool: str) -> Iterator[str]:
    """nginx as we ship its configuration, but for the addresses."""
    port = free_port()
    upstream = "\n".join(f"server {one.address};" for one in servers)
    configuration = CONFIGURATION.read_text()
    for shipped, here in (("server 127.0.0.1:8001;", upstream), ("127.0.0.1:8000", f"127.0.0.1:{port}")):
        assert shipped in configuration
        configuration = configuration.replace(shipped, here)
    (folder / "ganserve.conf").write_text(configuration)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
    command = [tool, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    with subprocess.Popen(command) as process:
        try:
            with Client(f"127.0.0.1:{port}") as client:
                client.wait_ready(20)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


async def test_calls_spread_evenly_and_killing_servers_loses_none(
    servers: list[Running], tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    # What the name of a headless Service resolves to.
    every = "ipv4:" + ",".join(one.address for one in servers)
    with behind_nginx(servers, tmp_path, needs_tool("nginx")) as proxy:
        async with AsyncClient(every) as client, AsyncClient(proxy) as proxied:
            expected = (await client.sample("echo", task="sample", n=CALLS, seed=7)).arrays()
            for balanced in (client, proxied):
                before = [one.calls() for one in servers]
                await call(balanced, expected)
                spread = [one.calls() - was for one, was in zip(servers, before, strict=True)]
                assert sum(spread) == CALLS
                assert max(spread) - min(spread) <= CALLERS, spread

            # In the middle of calls: one server goes at once, another when it is asked to.
            calls = asyncio.gather(call(client, expected), call(proxied, expected))
            await asyncio.sleep(0.1)
            servers[0].process.send_signal(signal.SIGKILL)
            await asyncio.sleep(0.1)
            servers[1].process.send_signal(signal.SIGTERM)
            await calls
            assert await asyncio.to_thread(servers[1].process.wait, 30) == 0

            servers[2].process.kill()
            await asyncio.to_thread(servers[2].process.wait)
            for balanced in (client, proxied):
                with pytest.raises(Unavailable):
                    await balanced.sample("echo", task="sample", n=1)


async def call(client: AsyncClient, expected: np.ndarray) -> None:
    """A call for each row of ``expected``, by a few callers at once; each answers, and with the image of its index."""
    indices = iter(range(len(expected)))

    async def caller() -> None:
        for index in indices:
            (sample,) = await client.sample("echo", task="sample", n=1, seed=7, first_index=index)
            assert sample.index == index
            assert (sample.array() == expected[index]).all()

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


async def test_a_server_that_takes_long_to_start_or_to_drain_is_not_called_meanwhile(
    echo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is open all the while: a call that met it four times would fail, though another server could answer."""
    begin = threading.Event()
    load = Repository.load
    settings = ServerSettings(bundles=(echo,), port=0, metrics_port=None)
    async with running(settings, installed()) as ready:
        await ready.ready.wait()
        monkeypatch.setattr(Repository, "load", lambda self: (begin.wait(60), load(self)))
        async with (
            running(settings, installed()) as other,
            AsyncClient(f"ipv4:127.0.0.1:{ready.port},127.0.0.1:{other.port}") as client,
        ):

            async def calls() -> None:
                for _ in range(40):
                    await client.sample("echo", task="sample")

            await calls()
            assert requests(other, "UNAVAILABLE") == 0
            begin.set()
            async with asyncio.timeout(30):
                while not requests(other, "OK"):
                    await client.sample("echo", task="sample")
            held = other.traffic.start()
            draining = asyncio.create_task(other.drain())
            await calls()
            # One or another may have been on its way; every second would be refused.
            assert requests(other, "UNAVAILABLE") <= 4
            assert not draining.done()
            other.traffic.finish(held, "OK")
            await draining


def requests(server: Server, code: str) -> float:
    """How many requests ``server`` has ended with the status ``code``."""
    families = server.metrics.registry.collect()
    samples = [sample for family in families if family.name == "ganserve_requests" for sample in family.samples]
    return sum(one.value for one in samples if one.name.endswith("_total") and one.labels["code"] == code)
