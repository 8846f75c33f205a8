"""What connections may cost: how many there are, how many calls each has, and how often it pings. Other limits are tested in their rooms."""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ganserve import Client
from ganserve.serving.crowd import SECONDS
from ganserve.serving.ports import Connections
from ganserve.testing.server import Serving, serving

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
ENHANCE_YOUR_CALM = 11


@pytest.fixture(scope="module")
def server(echo: Path) -> Iterator[Serving]:
    with serving(echo, connections=Connections(max_connections=3, max_streams=2, ping_seconds=0.5)) as found:
        yield found


def frame(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, 0]) + bytes(4) + payload


@contextlib.contextmanager
def connected(address: str) -> Iterator[socket.socket]:
    """An HTTP/2 connection, greeted."""
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as found:
        found.sendall(PREFACE + frame(SETTINGS))
        yield found


def closed(connection: socket.socket, seconds: float) -> bytes | None:
    """All that came in until the server closed ``connection``; None if it stays open so long."""
    came, end = b"", time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        connection.settimeout(left)
        try:
            data = connection.recv(4096)
        except TimeoutError:
            return None
        except ConnectionResetError:
            return came
        if not data:
            return came
        came += data
    return None


def code_of_goaway(data: bytes) -> int | None:
    while len(data) >= 9:
        size = int.from_bytes(data[:3])
        if data[3] == GOAWAY:
            return int.from_bytes(data[13:17])
        data = data[9 + size :]
    return None


def test_connections_beyond_the_limit_are_closed_at_once(server: Serving) -> None:
    with contextlib.ExitStack() as stack:
        first = [stack.enter_context(connected(server.address)) for _ in range(3)]
        assert [closed(one, 0.3) for one in first] == [None] * 3
        host, _, port = server.address.partition(":")
        beyond = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
        assert closed(beyond, 10) is not None
    with Client(server.address, timeout=20) as client:
        client.wait_ready()  # where the others have gone there is room again


def test_an_address_keeps_its_first_connections_and_takes_none_from_others(echo: Path) -> None:
    with serving(echo, connections=Connections(client_connections=2)) as server, contextlib.ExitStack() as stack:
        first = [stack.enter_context(connected(server.address)) for _ in range(2)]
        assert [closed(one, 2 * SECONDS) for one in first] == [None] * 2
        beyond = [stack.enter_context(connected(server.address)) for _ in range(3)]
        assert None not in [closed(one, 20) for one in beyond]
        assert [closed(one, 0.1) for one in first] == [None] * 2
        shut = server.server.metrics.registry.get_sample_value("ganserve_connections_shut_total")
        assert shut == 3
        # Other addresses have room of their own.
        host, _, port = server.address.partition(":")
        other = stack.enter_context(socket.create_connection((host, int(port)), 10, ("127.0.0.2", 0)))
        other.sendall(PREFACE + frame(SETTINGS))
        assert closed(other, 2 * SECONDS) is None
        # Where one goes there is room again.
        first[0].close()
        with Client(server.address, timeout=20) as client:
            client.wait_ready()
            time.sleep(2 * SECONDS)
            assert client.models()
        # The client would have come back by itself.
        assert server.server.metrics.registry.get_sample_value("ganserve_connections_shut_total") == shut


def test_calls_beyond_the_limit_of_a_connection_wait_for_one_to_end(server: Serving) -> None:
    async def ask() -> None:
        request = health_pb2.HealthCheckRequest()
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            watches = [stub.Watch(request) for _ in range(2)]
            for watch in watches:
                await watch.read()
            third = asyncio.ensure_future(stub.Check(request))
            await asyncio.sleep(0.3)
            assert not third.done()
            watches[0].cancel()
            async with asyncio.timeout(20):
                assert (await third).status == health_pb2.HealthCheckResponse.SERVING
            watches[1].cancel()

    asyncio.run(ask())


def test_of_many_calls_that_wait_grpc_answers_some_and_refuses_the_others(server: Serving) -> None:
    async def ask() -> None:
        request = health_pb2.HealthCheckRequest()
        async with grpc.aio.insecure_channel(server.address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            answers = await asyncio.gather(*(check(request, timeout=20) for _ in range(200)), return_exceptions=True)
            refused = [answer for answer in answers if isinstance(answer, BaseException)]
            assert len(refused) < len(answers)
            for error in refused:
                assert isinstance(error, grpc.aio.AioRpcError)
                assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert (await check(request, timeout=20)).status == health_pb2.HealthCheckResponse.SERVING

    asyncio.run(ask())


def test_a_connection_that_pings_too_often_is_closed(server: Serving) -> None:
    with connected(server.address) as patient:
        for _ in range(4):
            patient.sendall(frame(PING, bytes(8)))
            assert closed(patient, 0.7) is None
    with connected(server.address) as hasty:
        for _ in range(8):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                hasty.sendall(frame(PING, bytes(8)))
            time.sleep(0.02)
        assert (came := closed(hasty, 10)) is not None
        assert code_of_goaway(came) == ENHANCE_YOUR_CALM
